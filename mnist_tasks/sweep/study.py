"""Optuna's study of a sweep: one journal file in a shared folder, appended to under a lock. It needs no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mnist_tasks.config import SweepConfig
from mnist_tasks.system.errors import InputError

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
# Before the median of the others means anything, and before a training has settled.
TRIALS_BEFORE_PRUNING, EPOCHS_BEFORE_PRUNING = 4, 2

NAME = "sweep"


def open_study(
    folder: Path, space: Mapping[str, Any], config: SweepConfig, *, number: int = 0, create: bool = False
) -> optuna.Study:
    """Open the study of a sweep.

    Args:
        folder: `sweeps/<run>`.
        space: what is searched.
        config: names the objective and the seed of the search. Each trial draws by the seed and its own number, so that
            the same trials in the same order give the same values whichever process draws them.
        number: the trial's.
        create: make it if it does not exist.

    Raises:
        InputError: if the journal is missing or damaged, or is that of another space.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    if not create and not path.exists():
        raise InputError(f"{path} is missing; clear the plan task to begin the sweep anew")
    digest = hashlib.sha256(f"{config.seed}/{number}".encode()).digest()
    sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"))
    pruner = optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, EPOCHS_BEFORE_PRUNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        direction: Literal["maximize", "minimize"] = "maximize" if config.objective == "accuracy" else "minimize"
        if create:
            study = optuna.create_study(
                storage=storage, study_name=NAME, direction=direction, sampler=sampler, pruner=pruner
            )
            study.set_user_attr("space", dict(space))
            return study
        study = optuna.load_study(storage=storage, study_name=NAME, sampler=sampler, pruner=pruner)
        if study.user_attrs["space"] != space:
            raise ValueError("its space is another one")
        return study
    except (json.JSONDecodeError, KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"{path} is damaged or belongs to another sweep ({type(error).__name__}: {error}); clear the plan task to "
            "begin the sweep anew"
        ) from error
