"""The third task: train a candidate on the normalized training images."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_tasks.config import TrainConfig, recipe_of
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Epoch, Training, TrainingHistory
from mnist_tasks.registry.version import MODEL, SAVED_MODEL
from mnist_tasks.system.files import atomic_folder, remove_staging_folders, write_atomically
from mnist_tasks.system.task_log import log_group, log_resources
from mnist_tasks.system.tensorflow_setup import precision, use_devices, use_threads
from mnist_tasks.training.architectures import export, published_model, weights_sha256
from mnist_tasks.training.checkpoint import Checkpoint
from mnist_tasks.training.epochs import run_epochs, split, what_epochs_depend_on
from mnist_tasks.training.fingerprint import fingerprint
from mnist_tasks.training.provenance import git_commit, hardware, kernel_variables, library_versions

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


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
    checkpoint = Checkpoint(run / "checkpoint.npz", what_epochs_depend_on(config, dataset.digest, libraries, origin))
    model, progress = run_epochs(dataset, config, run, checkpoint, indices, validation_indices)
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
