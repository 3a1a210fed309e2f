"""The epochs of a training, from its first step or from its checkpoint to its end; for candidates and for trials."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Epoch, TrainingHistory
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.tensorflow_setup import distribution
from mnist_tasks.training.architectures import trainable_model
from mnist_tasks.training.checkpoint import Checkpoint, Progress
from mnist_tasks.training.fingerprint import SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS
from mnist_tasks.training.image_chunks import Indices
from mnist_tasks.training.loop import build, fit
from mnist_tasks.training.progress import ProgressFile
from mnist_tasks.training.tensorboard import EventFiles

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MB = 10**6


def split(count: int, config: TrainConfig) -> tuple[Indices, Indices | None]:
    """The indices of the images to train on and of those to validate on, drawn by the seed; None for no validation.

    Raises:
        InputError: if a batch does not fit the images to train on.
    """
    held_out = round(count * config.validation_split)
    order = np.random.default_rng(config.seed).permutation(count) if held_out else np.arange(count)
    indices = order[held_out:]
    if config.batch_size > len(indices):
        raise InputError(
            f"batch_size: {config.batch_size:,} is greater than the training set of {len(indices):,} images; use at "
            "most that"
        )
    if config.architecture != "mlp" and len(indices) % config.batch_size == 1:
        raise InputError(
            f"batch_size: {config.batch_size:,} leaves a last batch of a single image, which batch normalization "
            f"cannot use; use {config.batch_size + 1:,}"
        )
    return indices, np.sort(order[:held_out]) if held_out else None


def what_epochs_depend_on(
    config: TrainConfig, dataset: str, libraries: Mapping[str, str], fingerprint: Mapping[str, str]
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued.

    Epochs of other code, or on another kind of machine, would make the fingerprint wrong.
    """
    return {
        "config": config.model_dump(exclude=SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS),
        "dataset": dataset,
        "library_versions": dict(libraries),
        "code": fingerprint["code"],
        "machine": fingerprint["machine"],
    }


def run_epochs(
    dataset: Dataset,
    config: TrainConfig,
    run: Path,
    checkpoint: Checkpoint,
    indices: Indices,
    validation_indices: Indices | None,
    after_epoch: Callable[[list[Epoch]], None] = lambda _: None,
) -> tuple[keras.Model, Progress]:
    """Train the model to its end, with a checkpoint after each epoch; continue an earlier try.

    Args:
        dataset: normalized.
        config: the recipe, with the precision that it is trained in.
        run: the folder for `history.json`, `progress.json` and TensorBoard's files.
        checkpoint: of this training.
        indices: of the images to train on.
        validation_indices: of those to measure after each epoch; None for none.
        after_epoch: called with all epochs after each one, and once before the first if an earlier try is continued. An
            error that it raises ends the training; its checkpoint stays.

    Raises:
        InputError: if the batch cannot be split over the devices, memory does not suffice, or the folder cannot hold a
            checkpoint.
        TrainingDivergedError: if the loss is no longer a finite number.
    """
    with _out_of_memory_named(config):
        images, labels = dataset.normalized("train"), dataset.labels("train")
        with distribution(config.strategy).scope():
            model = trainable_model(config, len(indices))
        build(model, images, labels)
        progress = _restore(checkpoint, model)
        if progress.epochs:
            after_epoch(progress.epochs)
        epochs = fit(
            model,
            images,
            labels,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            first_epoch=len(progress.epochs) + 1,
            indices=indices,
            validation_indices=validation_indices,
            image_memory=config.image_memory * MB,
            watcher=ProgressFile(run / "progress.json", config.epochs),
        )
        events = EventFiles(run / "tensorboard", progress.epochs) if config.tensorboard else None
        while not progress.is_over(config):
            epoch = next(epochs)
            progress.add(epoch, model, config)
            if events:  # before the checkpoint: a kill between the two then repeats an event, and loses none
                events.write(epoch, float(model.optimizer.learning_rate))
            checkpoint.save(model, progress)
            TrainingHistory(progress.epochs).write(run / "history.json")  # for those who watch the run
            _log_epoch(epoch, config)
            after_epoch(progress.epochs)
        return model, progress


def _restore(checkpoint: Checkpoint, model: keras.Model) -> Progress:
    """Restore an earlier try; without one, save a first checkpoint, so that a folder that cannot hold it fails now."""
    progress = checkpoint.restore(model)
    if progress.epochs:
        log.info("continuing after epoch %d, where an earlier try stopped", len(progress.epochs))
        return progress
    try:
        checkpoint.save(model, progress)
    except OSError as error:
        raise InputError(
            f"{checkpoint.path.parent} cannot hold a checkpoint of the training: {error.strerror}; free space there, "
            "or set MNIST_HOME to another folder"
        ) from error
    return progress


def _log_epoch(epoch: Epoch, config: TrainConfig) -> None:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in epoch.metrics.items())
    log.info(
        "epoch %d/%d: %s, %s images/s, %.0f s left",
        epoch.number,
        config.epochs,
        metrics,
        f"{epoch.images_per_second:,.0f}",
        epoch.seconds * (config.epochs - epoch.number),
    )


@contextmanager
def _out_of_memory_named(config: TrainConfig) -> Iterator[None]:
    """Say which setting to lower where TensorFlow only says what it could not allocate."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.ResourceExhaustedError, tf.errors.InternalError) as error:
        # "Dst tensor is not initialized": the images could not even be copied to the device.
        if isinstance(error, tf.errors.InternalError) and "Dst tensor is not initialized" not in error.message:
            raise
        raise InputError(
            f"batch_size: the device has too little memory for batches of {config.batch_size:,} images; use fewer, "
            f"such as {max(1, config.batch_size // 2):,}, a smaller architecture than {config.architecture}, or an "
            f"image_memory below {config.image_memory:,} MB ({error.message.splitlines()[0]})"
        ) from error
