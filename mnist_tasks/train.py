"""The third task: train a candidate on the normalized training images."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_tasks.checkpoint import Checkpoint
from mnist_tasks.config import TrainConfig
from mnist_tasks.dataset import Dataset, RowReader
from mnist_tasks.errors import InputError
from mnist_tasks.files import write_atomically, write_json
from mnist_tasks.fit import build, fit
from mnist_tasks.models import compiled_model
from mnist_tasks.registry import MODEL
from mnist_tasks.runtime import reported, use_devices

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


LIBRARIES = ("tensorflow", "keras", "numpy", "mnist-tasks")


@dataclass(frozen=True)
class Trained:
    """What `train` hands on: the digests of the dataset and of the weights, the last epoch's loss and accuracy, how."""

    digest: str
    weights_sha256: str
    loss: float
    accuracy: float
    seconds: float
    device: str


@reported
def train(dataset_folder: Path, config: TrainConfig, run: Path) -> Trained:
    """Train the recipe `config` and write `model.keras`, `history.json` and `training.json` into the run's folder.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        config: the recipe.
        run: the run's folder. An earlier try's files in it are replaced; a try that was interrupted is taken up after
            its last complete epoch and ends with the same weights as one that was not.

    Raises:
        InputError: if the batch is larger than the training set, or the dataset cannot be read.
        TrainingDivergedError: if the loss is no longer a finite number; nothing is written then.
    """
    dataset = Dataset(dataset_folder)
    count = dataset.description()["train_images"]
    if config.batch_size > count:
        raise InputError(
            f"batch_size: {config.batch_size:,} is greater than the training set of {count:,} images; use at most that"
        )
    images, labels = RowReader(dataset.normalized_path("train")), np.array(dataset.labels("train"))

    # Not before the checks: it imports TensorFlow, which takes seconds.
    device = use_devices(small_operations=True)
    log.info("training on the %s%s", device, "" if device.startswith("GPU") else ": TensorFlow sees no GPU")
    log.info("%s images, %s", f"{count:,}", ", ".join(f"{name} {value}" for name, value in config))
    model = compiled_model(config)
    build(model, images, labels)
    origin = {"config": config.model_dump(), "dataset": dataset.digest, "library_versions": library_versions()}
    checkpoint = Checkpoint(run / "checkpoint.npz", origin)
    epochs = checkpoint.restore(model)
    if epochs:
        log.info("going on after epoch %d, where an earlier try stopped", len(epochs))
    for epoch in fit(
        model,
        images,
        labels,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        first_epoch=len(epochs) + 1,
    ):
        epochs.append(epoch)
        checkpoint.save(model, epochs)
        log.info(
            "epoch %d/%d: loss %.4f, accuracy %.4f, %s images/s, %.0f s left",
            epoch.number,
            config.epochs,
            epoch.metrics["loss"],
            epoch.metrics["accuracy"],
            f"{epoch.images_per_second:,.0f}",
            epoch.seconds * (config.epochs - epoch.number),
        )
    images.close()
    seconds = sum(epoch.seconds for epoch in epochs)

    weights_digest = weights_sha256(model)
    write_atomically(run / MODEL, model.save)
    write_json(run / "history.json", [asdict(epoch) for epoch in epochs])
    write_json(
        run / "training.json", {**origin, "device": device, "seconds": seconds, "weights_sha256": weights_digest}
    )
    checkpoint.remove()
    log.info("wrote %s, history.json and training.json to %s", MODEL, run)
    final = epochs[-1].metrics
    return Trained(dataset.digest, weights_digest, final["loss"], final["accuracy"], seconds, device)


def library_versions() -> dict[str, str]:
    """The versions that the weights depend on, Python's among them."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over type, shape and bytes of each weight, in the model's order.

    Equal for equal weights, unlike the digest of a `.keras` file, which carries a date, and of weights with their
    names, which Keras numbers through a process.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight)
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
