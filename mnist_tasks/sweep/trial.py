"""One trial of a sweep: a training on some of the training images, measured on the others after each epoch."""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tasks.config import SweepConfig, TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Epoch, Sweep, Trial
from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.sweep.plan import train_digest
from mnist_tasks.sweep.records import CLEAR_PLAN, FILE, SWEEP, TRIALS
from mnist_tasks.sweep.space import distributions, run_parameters
from mnist_tasks.sweep.study import open_study
from mnist_tasks.system.errors import InputError, TrainingDivergedError, is_transient
from mnist_tasks.system.task_log import log_resources
from mnist_tasks.system.tensorflow_setup import precision, use_devices, use_threads
from mnist_tasks.training.architectures import trainable_model, weights_sha256
from mnist_tasks.training.checkpoint import Checkpoint
from mnist_tasks.training.epochs import run_epochs, split, what_epochs_depend_on
from mnist_tasks.training.fingerprint import fingerprint
from mnist_tasks.training.provenance import kernel_variables, library_versions

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class TrialEnded(Exception):  # noqa: N818 - it is not an error
    """A trial ends before its last epoch: its new state, and why."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


@log_resources
def trial(folder: Path, dataset_folder: Path, number: int) -> Trial | None:
    """Ask the study what to try, train it, and tell the study how good it is.

    A try that was interrupted is continued after its last complete epoch; one that has ended is not repeated. If the
    training diverges or needs too much memory, the trial has failed, and the sweep goes on.

    Args:
        folder: `sweeps/<run>`.
        dataset_folder: `datasets/<digest>`, normalized. Only its training images are read.
        number: the trial's, from 0.

    Returns:
        The trial, or None if the sweep's time was over before it began.

    Raises:
        InputError: if the sweep, its study or the dataset cannot be read, or the training images have changed.
    """
    sweep = Sweep.read(folder / SWEEP, CLEAR_PLAN)
    config = SweepConfig(**sweep.config)
    path = folder / TRIALS / str(number) / FILE
    known = Trial.read(path, CLEAR_PLAN) if path.exists() else None
    if known and known.state != "running":
        log.info("trial %d has ended before: %s", number, known.state)
        return known
    if known is None and _time_is_over(sweep):
        log.info("the sweep's time of %s minutes is over: trial %d is left out", config.max_minutes, number)
        return None
    study = open_study(folder, sweep.space, config, number=number)
    if known is None:
        asked = study.ask(distributions(sweep.space))
        path.parent.mkdir(parents=True, exist_ok=True)
        known = Trial(
            number=number,
            parameters=run_parameters(asked.params),
            seed=config.seed,
            study_number=asked.number,
            worker=socket.gethostname(),
            began=_now(),
        )
        known.write(path)
    return _finish(sweep, config, known, dataset_folder, path, study)


@log_resources
def repeat(folder: Path, dataset_folder: Path, number: int, repeats: int, seed: int) -> Trial | None:
    """Train a finalist again with another seed, on the same images; otherwise as `trial`.

    Args:
        folder: `sweeps/<run>`.
        dataset_folder: `datasets/<digest>`, normalized.
        number: the number of this training among all of the sweep.
        repeats: the trial's number.
        seed: for the weights, the order of the images, dropout and shifts.
    """
    sweep = Sweep.read(folder / SWEEP, CLEAR_PLAN)
    path = folder / TRIALS / str(number) / FILE
    known = Trial.read(path, CLEAR_PLAN) if path.exists() else None
    if known and known.state != "running":
        return known
    if known is None and _time_is_over(sweep):
        log.info("the sweep's time is over: trial %d is not repeated with seed %d", repeats, seed)
        return None
    if known is None:
        first = Trial.read(folder / TRIALS / str(repeats) / FILE, CLEAR_PLAN)
        path.parent.mkdir(parents=True, exist_ok=True)
        known = Trial(
            number=number,
            parameters=first.parameters,
            seed=seed,
            repeats=repeats,
            worker=socket.gethostname(),
            began=_now(),
        )
        known.write(path)
    return _finish(sweep, SweepConfig(**sweep.config), known, dataset_folder, path, None)


def _finish(
    sweep: Sweep, config: SweepConfig, known: Trial, dataset_folder: Path, path: Path, study: optuna.Study | None
) -> Trial:
    """Train, write the trial down, and tell the study."""
    log.info("trial %d: %s", known.number, ", ".join(f"{name} {value}" for name, value in known.parameters.items()))
    dataset = Dataset(dataset_folder)
    if train_digest(dataset) != sweep.train_sha256:
        raise InputError(f"the training images in {dataset_folder} have changed since the sweep began; {CLEAR_PLAN}")
    try:
        ended = _train(sweep, config, known, dataset, path, study)
    except TrialEnded as error:
        ended = _with_epochs(known, path).model_copy(update={"state": error.state, "reason": str(error)})
    except TrainingDivergedError as error:
        ended = _with_epochs(known, path).model_copy(update={"state": "diverged", "reason": str(error)})
    except InputError as error:  # a batch that does not fit, too little memory
        if is_transient(error):
            raise
        ended = _with_epochs(known, path).model_copy(update={"state": "failed", "reason": str(error)})
    ended = ended.model_copy(update={"ended": _now()})
    if study is not None and known.study_number is not None:
        _tell(study, known.study_number, ended, config.objective)
    ended.write(path)
    for leftover in ("checkpoint.npz", "history.json", "progress.json"):
        (path.parent / leftover).unlink(missing_ok=True)
    result = f"accuracy {ended.accuracy:.4f}, loss {ended.loss:.4f}" if ended.accuracy is not None else ended.reason
    log.info("trial %d: %s: %s", ended.number, ended.state, result)
    return ended


def _train(
    sweep: Sweep, config: SweepConfig, known: Trial, dataset: Dataset, path: Path, study: optuna.Study | None
) -> Trial:
    training = RunConfig.from_parameters(known.parameters).training
    # The split is the sweep's, whatever the seed of the training is.
    held_out = TrainConfig(
        **{**training.model_dump(), "seed": config.seed, "validation_split": config.validation_split}
    )
    indices, validation_indices = split(sweep.train_images, held_out)
    training = held_out.model_copy(update={"seed": known.seed})
    os.environ.update(kernel_variables(training.architecture))  # as `train` does, before TensorFlow is imported
    device = use_devices(training.device)
    training = training.model_copy(update={"precision": precision(training.precision, device)})
    use_threads(intra_op=1, inter_op=2)
    weights = int(trainable_model(training, len(indices)).count_params())
    if config.max_weights and weights > config.max_weights:
        raise TrialEnded("infeasible", f"{weights:,} weights are more than the allowed {config.max_weights:,}")
    origin = what_epochs_depend_on(
        training, sweep.train_sha256, library_versions(), fingerprint(sweep.train_sha256, training)
    )

    def after_epoch(epochs: list[Epoch]) -> None:
        known.model_copy(update={"epochs": list(epochs)}).write(path)
        worse = False
        if study is not None and known.study_number is not None:
            worse = _report(study, known.study_number, epochs, config.objective)
        if len(epochs) == training.epochs:
            return
        if worse:
            raise TrialEnded("pruned", f"after epoch {len(epochs)} it is worse than the median of the others")
        if _time_is_over(sweep):
            raise TrialEnded("stopped", f"the sweep's time of {config.max_minutes} minutes is over")

    checkpoint = Checkpoint(path.parent / "checkpoint.npz", {**origin, "split": config.seed})
    model, progress = run_epochs(dataset, training, path.parent, checkpoint, indices, validation_indices, after_epoch)
    last, seconds = progress.epochs[-1], sum(epoch.seconds for epoch in progress.epochs)
    slow = config.max_training_seconds and seconds > config.max_training_seconds
    return known.model_copy(
        update={
            "state": "infeasible" if slow else "complete",
            "reason": f"{seconds:.1f} s are more than the allowed {config.max_training_seconds} s" if slow else "",
            "accuracy": last.metrics["val_accuracy"],
            "loss": last.metrics["val_loss"],
            "epochs": progress.epochs,
            "seconds": seconds,
            "weights": weights,
            "weights_sha256": weights_sha256(model),
        }
    )


def _report(study: optuna.Study, number: int, epochs: list[Epoch], objective: str) -> bool:
    """Report the epochs that the study does not know yet; return whether the trial is worse than the median so far."""
    from optuna.trial import Trial as Asked

    # One study is in the file, so a trial's id is its number.
    asked, reported = Asked(study, number), study.trials[number].intermediate_values
    for epoch in epochs:
        if epoch.number not in reported:
            asked.report(epoch.metrics[f"val_{objective}"], epoch.number)
    return asked.should_prune()


def _tell(study: optuna.Study, number: int, ended: Trial, objective: str) -> None:
    """Tell the study how a trial has ended, unless an earlier try of the task has."""
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    state = states.get(ended.state, TrialState.FAIL)
    value: Any = getattr(ended, objective) if state == TrialState.COMPLETE else None
    study.tell(number, value, state=state, skip_if_finished=True)


def _with_epochs(known: Trial, path: Path) -> Trial:
    """The trial with the epochs that it has come to."""
    return Trial.read(path, CLEAR_PLAN) if path.exists() else known


def _time_is_over(sweep: Sweep) -> bool:
    return sweep.until is not None and time.time() > datetime.fromisoformat(sweep.until).timestamp()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
