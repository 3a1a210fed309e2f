"""The third task: train a candidate on the normalized training images."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.config import TrainConfig, recipe_of
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Epoch, Training, TrainingHistory
from mnist_tasks.registry.version import MODEL, SAVED_MODEL
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import atomic_folder, remove_staging_folders, write_atomically
from mnist_tasks.system.task_log import log_group, log_resources
from mnist_tasks.system.tensorflow_setup import distribution, precision, use_devices, use_threads
from mnist_tasks.training.architectures import export, published_model, trainable_model, weights_sha256
from mnist_tasks.training.checkpoint import Checkpoint, Progress
from mnist_tasks.training.fingerprint import SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS, fingerprint
from mnist_tasks.training.image_chunks import Indices
from mnist_tasks.training.loop import build, fit
from mnist_tasks.training.progress import ProgressFile
from mnist_tasks.training.provenance import git_commit, hardware, kernel_variables, library_versions
from mnist_tasks.training.tensorboard import EventFiles

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MB = 10**6


@dataclass(frozen=True)
class Trained:
    """What `train` hands on: digests of dataset and weights, the last epoch's loss and accuracy, seconds and device.

    With early stopping, loss and accuracy are those of the epoch whose weights were kept.
    """

    digest: str
    weights_sha256: str
    loss: float
    accuracy: float
    seconds: float
    device: str


@log_resources
def train(dataset_folder: Path, config: TrainConfig, run: Path) -> Trained:
    """Train the recipe; write `model.keras`, `saved_model`, `history.json` and `training.json` into the run's folder.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        config: the recipe.
        run: the run's folder. Files of an earlier try are replaced. A try that was interrupted is continued after its
            last complete epoch, and ends with the same weights as one that was not interrupted.

    Raises:
        InputError: if the batch is larger than the training set or cannot be split over the devices, the dataset
            cannot be read, the device is missing or too small, or the folder cannot hold a checkpoint.
        TrainingDivergedError: if the loss is no longer a finite number; no model is written then.
    """
    log.info("reading the training images in %s", dataset_folder)
    dataset = Dataset(dataset_folder)
    indices, validation_indices = split(dataset.description().train_images, config)
    dataset.verify("train")

    origin = fingerprint(dataset.digest, config)
    environment = kernel_variables(config.architecture)
    os.environ.update(environment)
    # Not before the checks: it imports TensorFlow, which takes seconds.
    device = use_devices(config.device)
    config = config.model_copy(update={"precision": precision(config.precision, device)})
    use_threads(intra_op=1, inter_op=2)  # two halves of a batch or of a layer side by side
    _log_start(config, device, environment, len(indices))

    libraries = library_versions()
    checkpoint = Checkpoint(run / "checkpoint.npz", _what_epochs_depend_on(config, dataset.digest, libraries, origin))
    with _out_of_memory_named(config):
        model, progress = _run_epochs(dataset, config, run, checkpoint, indices, validation_indices)
    final = progress.epochs[-1]
    if config.patience:
        final = progress.best()
        model.set_weights(progress.best_weights)
        log.info("keeping the weights of epoch %d, whose validation loss is the lowest", final.number)

    seconds = sum(epoch.seconds for epoch in progress.epochs)
    training = Training(
        dataset=dataset.digest,
        library_versions=libraries,
        config=config.model_dump(),
        fingerprint=origin,
        device=device,
        hardware=hardware(),
        environment=environment,
        git_commit=git_commit(),
        seconds=seconds,
    )
    digest = _write(run, published_model(config, model), training, progress.epochs)
    checkpoint.remove()
    (run / "progress.json").unlink(missing_ok=True)
    loss, accuracy = final.metrics["loss"], final.metrics["accuracy"]
    return Trained(dataset.digest, digest, loss, accuracy, seconds, device)


def _log_start(config: TrainConfig, device: str, environment: Mapping[str, str], images: int) -> None:
    no_gpu = config.device == "auto" and device.startswith("CPU")
    log.info("training on the %s%s", device, ": TensorFlow sees no GPU" if no_gpu else "")
    log.info("%s images; %s", f"{images:,}", _recipe(config))
    with log_group(log, "the recipe"):
        for name, value in [*config, *environment.items()]:
            log.info("%s: %s", name, value)


def _recipe(config: TrainConfig) -> str:
    """The recipe and what differs from it, in one line."""
    recipe, different = recipe_of(config.model_dump())
    changes = ", ".join(f"{name} {value}" for name, value in different.items())
    return f"recipe {recipe} but for {changes}" if changes else f"recipe {recipe}"


def _what_epochs_depend_on(
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


def _run_epochs(
    dataset: Dataset,
    config: TrainConfig,
    run: Path,
    checkpoint: Checkpoint,
    indices: Indices,
    validation_indices: Indices | None,
) -> tuple[keras.Model, Progress]:
    """Train the model to its end, with a checkpoint after each epoch."""
    images, labels = dataset.normalized("train"), dataset.labels("train")
    with distribution(config.strategy).scope():
        model = trainable_model(config, len(indices))
    build(model, images, labels)
    progress = _restore(checkpoint, model)
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
    return model, progress


def _write(run: Path, model: keras.Model, training: Training, epochs: list[Epoch]) -> str:
    """Write the published model and the documents; return the digest of the weights."""
    write_atomically(run / MODEL, model.save)
    remove_staging_folders(run)
    shutil.rmtree(run / SAVED_MODEL, ignore_errors=True)
    with atomic_folder(run / SAVED_MODEL) as folder:
        export(model, folder)
    TrainingHistory(epochs).write(run / "history.json")
    digest = weights_sha256(model)
    training.model_copy(update={"weights_sha256": digest}).write(run / "training.json")
    log.info("wrote %s, %s, history.json and training.json to %s", MODEL, SAVED_MODEL, run)
    return digest


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
