"""The first step of a sweep: check what is asked for, and write down what is searched, on what, and until when."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from mnist_tasks.config import SweepConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Sweep
from mnist_tasks.sweep.records import RESULT, SWEEP, TRIALS
from mnist_tasks.sweep.space import PRESETS, check_space, distributions, first_try
from mnist_tasks.sweep.study import JOURNAL, open_study

log = logging.getLogger(__name__)


def check_sweep(config: SweepConfig) -> tuple[Mapping[str, Any], int]:
    """The space of a sweep and the number of its trials; raises an `InputError` if it cannot be searched."""
    preset = PRESETS[config.preset]
    space = preset.space if config.space is None else config.space
    check_space(space)
    return space, config.trials or preset.trials


def plan(dataset_folder: Path, folder: Path, config: SweepConfig, data: Mapping[str, Any]) -> list[int]:
    """Write `sweep.json` and begin the study; return the numbers of the trials.

    Args:
        dataset_folder: `datasets/<digest>`, normalized. Only its training images are read.
        folder: `sweeps/<run>`. What an earlier try has left there is removed.
        config: what is searched.
        data: the parameters `source` and `inbox` of the sweep, which the winner's run gets.

    Raises:
        InputError: if the space cannot be searched.
    """
    space, trials = check_sweep(config)
    dataset = Dataset(dataset_folder)
    shutil.rmtree(folder / TRIALS, ignore_errors=True)
    for name in (JOURNAL, SWEEP, RESULT):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(folder, space, config, create=True)
    study.enqueue_trial(first_try(space))
    now = datetime.now(timezone.utc)
    until = now + timedelta(minutes=config.max_minutes) if config.max_minutes else None
    Sweep(
        run_id=folder.name,
        dataset=dataset.digest,
        train_sha256=train_digest(dataset),
        train_images=dataset.description().train_images,
        data=dict(data),
        config=config.model_dump(),
        space=dict(space),
        trials=trials,
        began=now.isoformat(timespec="seconds"),
        until=until.isoformat(timespec="seconds") if until else None,
    ).write(folder / SWEEP)
    log.info("%d trials of %s; the study is %s", trials, ", ".join(distributions(space)), folder / JOURNAL)
    return list(range(trials))


def train_digest(dataset: Dataset) -> str:
    """SHA-256 over the training images as they are trained on, and their labels. Test images are not read."""
    total = hashlib.sha256()
    images = dataset.normalized("train")
    for start in range(0, len(images), 1000):
        total.update(images[start : start + 1000].data)
    total.update(dataset.labels("train").tobytes())
    return total.hexdigest()
