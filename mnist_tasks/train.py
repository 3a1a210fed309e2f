"""The third task: train a candidate on the normalized training images."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.registry.version import MODEL, SAVED_MODEL
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import atomic_folder, remove_staging_folders, write_atomically, write_json
from mnist_tasks.system.task_log import log_group, log_resources
from mnist_tasks.system.tensorflow_setup import distribution, is_chief, precision, use_devices, use_threads
from mnist_tasks.training.architectures import export, published_model, trainable_model, weights_sha256
from mnist_tasks.training.checkpoint import Checkpoint, Progress
from mnist_tasks.training.fingerprint import SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS, fingerprint
from mnist_tasks.training.loop import Epoch, Rows, build, fit
from mnist_tasks.training.provenance import git_commit, hardware, kernel_variables, library_versions
from mnist_tasks.training.tensorboard import EventFiles

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MB = 10**6


@dataclass(frozen=True)
class Trained:
    """What `train` hands on: the digests of dataset and weights, loss and accuracy while training, how long, on what.

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
        run: the run's folder. An earlier try's files in it are replaced; a try that was interrupted is taken up after
            its last complete epoch and ends with the same weights as one that was not. With the strategy
            `multi_worker` all workers share the folder, and the first of them writes.

    Raises:
        InputError: if the batch is larger than the training set or cannot be split over the devices, the dataset
            cannot be read, the device is not there or too small, or the folder cannot hold a checkpoint.
        TrainingDivergedError: if the loss is no longer a finite number; no model is written then.
    """
    log.info("reading the training images in %s", dataset_folder)
    dataset = Dataset(dataset_folder)
    rows, validation_rows = split(dataset.description().train_images, config)
    dataset.verify("train")
    images, labels = dataset.normalized("train"), dataset.labels("train")

    traits = fingerprint(dataset.digest, config)
    chosen = kernel_variables(config.architecture)
    os.environ.update(chosen)
    # Not before the checks: it imports TensorFlow, which takes seconds.
    device = use_devices(config.device)
    config = config.model_copy(update={"precision": precision(config.precision, device)})
    use_threads(intra_op=1, inter_op=1 if config.architecture == "mlp" else 2)
    strategy = distribution(config.strategy)
    writes = config.strategy != "multi_worker" or is_chief()
    fallen_back = config.device == "auto" and device.startswith("CPU")
    log.info("training on the %s%s", device, ": TensorFlow sees no GPU" if fallen_back else "")
    log.info("%s images", f"{len(rows):,}")
    with log_group(log, "the recipe"):
        for name, value in config:
            log.info("%s: %s", name, value)
        for name, value in chosen.items():
            log.info("%s: %s", name, value)
    recipe = config.model_dump(exclude=SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS)
    origin = {"config": recipe, "dataset": dataset.digest, "library_versions": library_versions()}
    # Epochs of other code, or on another kind of machine, would make the fingerprint untrue.
    beside = {name: traits[name] for name in ("code", "machine")}
    checkpoint = Checkpoint(run / "checkpoint.npz", {**origin, **beside}, writable=writes)

    with _out_of_memory_named(config):
        with strategy.scope():
            model = trainable_model(config, len(rows))
        build(model, images, labels)
        progress = _prepare(checkpoint, model)
        training = fit(
            model,
            images,
            labels,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            first_epoch=len(progress.epochs) + 1,
            rows=rows,
            validation_rows=validation_rows,
            image_memory=config.image_memory * MB,
        )
        events = EventFiles(run / "tensorboard", progress.epochs) if config.tensorboard and writes else None
        while not progress.is_over(config):
            epoch = next(training)
            progress.add(epoch, model, config)
            if events:  # before the checkpoint: a kill between the two then repeats an event, and loses none
                events.write(epoch, float(model.optimizer.learning_rate))
            checkpoint.save(model, progress)
            if writes:  # for those who watch the run
                write_json(run / "history.json", [asdict(done) for done in progress.epochs])
            _report(epoch, config)
    final = progress.epochs[-1]
    if config.patience:
        final = progress.best()
        model.set_weights(progress.best_weights)
        log.info("keeping the weights of epoch %d, whose validation loss is the lowest", final.number)

    published = published_model(config, model)
    digest = weights_sha256(published)
    seconds = sum(epoch.seconds for epoch in progress.epochs)
    if writes:
        write_atomically(run / MODEL, published.save)
        remove_staging_folders(run)
        shutil.rmtree(run / SAVED_MODEL, ignore_errors=True)
        with atomic_folder(run / SAVED_MODEL) as folder:
            export(published, folder)
        write_json(run / "history.json", [asdict(epoch) for epoch in progress.epochs])
        write_json(
            run / "training.json",
            {
                **origin,
                "config": config.model_dump(),
                "fingerprint": traits,
                "device": device,
                "hardware": hardware(),
                "environment": chosen,
                "git_commit": git_commit(),
                "seconds": seconds,
                "weights_sha256": digest,
            },
        )
        checkpoint.remove()
        log.info("wrote %s, %s, history.json and training.json to %s", MODEL, SAVED_MODEL, run)
    return Trained(dataset.digest, digest, final.metrics["loss"], final.metrics["accuracy"], seconds, device)


def split(count: int, config: TrainConfig) -> tuple[Rows, Rows | None]:
    """The indices of the images to train on and of those to validate on, drawn by the seed; None for no validation.

    Raises:
        InputError: if a batch does not fit the images to train on.
    """
    held_out = round(count * config.validation_split)
    order = np.random.default_rng(config.seed).permutation(count) if held_out else np.arange(count)
    rows = order[held_out:]
    if config.batch_size > len(rows):
        raise InputError(
            f"batch_size: {config.batch_size:,} is greater than the training set of {len(rows):,} images; use at most "
            "that"
        )
    if config.architecture != "mlp" and len(rows) % config.batch_size == 1:
        raise InputError(
            f"batch_size: {config.batch_size:,} leaves a last batch of a single image, which batch normalization "
            f"cannot use; use {config.batch_size + 1:,}"
        )
    return rows, np.sort(order[:held_out]) if held_out else None


def _prepare(checkpoint: Checkpoint, model: keras.Model) -> Progress:
    """What an earlier try has done; or a first checkpoint, so that a folder that cannot hold it is found out now."""
    progress = checkpoint.restore(model)
    if progress.epochs:
        log.info("going on after epoch %d, where an earlier try stopped", len(progress.epochs))
        return progress
    try:
        checkpoint.save(model, progress)
    except OSError as error:
        raise InputError(
            f"{checkpoint.path.parent} cannot hold a checkpoint of the training: {error.strerror}; free space there, "
            "or set MNIST_HOME to another folder"
        ) from error
    return progress


def _report(epoch: Epoch, config: TrainConfig) -> None:
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
