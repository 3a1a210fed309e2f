"""The end of a sweep: which trials are trained again, and which parameters win."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean
from typing import Any

from mnist_tasks.config import SweepConfig
from mnist_tasks.documents import Sweep, SweepResult, Trial
from mnist_tasks.sweep.records import CLEAR_PLAN, RESULT, SWEEP, read_trials
from mnist_tasks.sweep.study import open_study
from mnist_tasks.system.errors import InputError

log = logging.getLogger(__name__)

TRIALS_FOR_IMPORTANCE = 5


@dataclass(frozen=True)
class Repetition:
    """A further training of a finalist: its number in the sweep, the trial that it repeats, and its seed."""

    number: int
    repeats: int
    seed: int


def finalists(folder: Path) -> list[Repetition]:
    """The trainings of the best trials with other seeds."""
    sweep = Sweep.read(folder / SWEEP, CLEAR_PLAN)
    config = SweepConfig(**sweep.config)
    best = ranked(_complete(folder), config.objective)[: config.finalists]
    wanted = [(trial.number, config.seed + further) for trial in best for further in range(1, config.seeds)]
    return [Repetition(sweep.trials + place, number, seed % 2**32) for place, (number, seed) in enumerate(wanted)]


def choose(folder: Path) -> SweepResult:
    """Write `result.json`: the parameters with the best mean over their seeds.

    A finalist with fewer seeds than another, because the time was over, counts if no finalist has all.

    Raises:
        InputError: if no trial is complete.
    """
    sweep = Sweep.read(folder / SWEEP, CLEAR_PLAN)
    config = SweepConfig(**sweep.config)
    trials = _complete(folder)
    if not trials:
        raise InputError(_why_none(folder, sweep))
    repeated = [trial for trial in read_trials(folder) if trial.repeats is not None and trial.state == "complete"]
    seeds = {trial.number: [trial, *(other for other in repeated if other.repeats == trial.number)] for trial in trials}
    most = max(len(trainings) for trainings in seeds.values())
    candidates = [trial for trial in trials if len(seeds[trial.number]) == most]

    def score(trial: Trial) -> float:
        return mean(float(getattr(training, config.objective)) for training in seeds[trial.number])

    better = max if config.objective == "accuracy" else min
    winner = better(candidates, key=score)
    result = SweepResult(
        winner=winner.number,
        parameters=winner.parameters,
        objective=config.objective,
        mean=score(winner),
        seeds=most,
        importance=importance(folder, sweep, config),
        reason=f"trial {winner.number}: {config.objective} {score(winner):.4f} on the validation images, the best mean "
        f"over {most} seed{'s' if most > 1 else ''} of {len(trials)} complete trials",
        ended=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    result.write(folder / RESULT)
    log.info("%s", result.reason)
    return result


def parameters_of_the_winner(folder: Path, result: SweepResult) -> dict[str, Any]:
    """The parameters of the run of mnist_training that trains what has won on all images."""
    sweep = Sweep.read(folder / SWEEP, CLEAR_PLAN)
    return {**{name: value for name, value in sweep.data.items() if value is not None}, **result.parameters}


def _complete(folder: Path) -> list[Trial]:
    """The trials that can win."""
    return [trial for trial in read_trials(folder) if trial.repeats is None and trial.state == "complete"]


def _why_none(folder: Path, sweep: Sweep) -> str:
    """Why no trial is complete."""
    trials = read_trials(folder)
    if not trials:
        return f"max_minutes: {sweep.config.get('max_minutes')}: the time was over before a trial began; allow more"
    states = sorted({trial.state for trial in trials})
    counted = ", ".join(f"{sum(trial.state == state for trial in trials)} {state}" for state in states)
    reason = next((trial.reason for trial in trials if trial.reason), "its log may say why")
    return f"no trial is complete ({counted}), so nothing is chosen; trial {trials[0].number}: {reason}"


def ranked(trials: Sequence[Trial], objective: str) -> list[Trial]:
    """The trials, the best first; of two that are equally good the earlier one."""
    sign = -1 if objective == "accuracy" else 1
    return sorted(trials, key=lambda trial: (sign * float(getattr(trial, objective)), trial.number))


def importance(folder: Path, sweep: Sweep, config: SweepConfig) -> dict[str, float]:
    """How much each parameter matters for the objective; empty if too few trials are complete to say."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    study = open_study(folder, sweep.space, config)
    if len(study.get_trials(states=(TrialState.COMPLETE,))) < TRIALS_FOR_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all are equally important, which the numbers say as well
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: round(value, 4) for name, value in found.items() if math.isfinite(value)}
