"""The files of a sweep, and reading its trials. Needs neither NumPy nor Optuna."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mnist_tasks.documents import Trial

SWEEP, RESULT, TRIALS, FILE = "sweep.json", "result.json", "trials", "trial.json"
CLEAR_PLAN = "clear the plan task to begin the sweep anew"


def read_trials(folder: Path) -> list[Trial]:
    """All trials of a sweep that have begun, by number."""
    paths = (folder / TRIALS).glob(f"*/{FILE}")
    return sorted((Trial.read(path, CLEAR_PLAN) for path in paths), key=lambda trial: trial.number)


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Trials as people look at them: by accuracy, those without one last."""
    return sorted(trials, key=lambda trial: (trial.accuracy is None, -(trial.accuracy or 0), trial.number))
