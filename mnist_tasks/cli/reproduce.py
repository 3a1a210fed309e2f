"""Train a published version again from its own metadata, and say whether the weights are the same, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Training
from mnist_tasks.normalize import normalize
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import MODEL, Version
from mnist_tasks.train import train
from mnist_tasks.training.architectures import LOSS
from mnist_tasks.workspace import Workspace


def reproduce(version: Version, workspace: Workspace) -> list[str]:
    """What differs between a version and a new training of its recipe on its dataset; nothing if it is identical.

    Raises:
        ModelError: if the version is damaged.
        InputError: if its dataset is not in the workspace, or not as it was, or its recipe is unknown to this program.
    """
    ModelDirectory(workspace.models).verify(version)
    metadata = version.metadata()
    # Older releases had a parameter for the loss, with this one value.
    recipe = {name: value for name, value in metadata.config.items() if (name, value) != ("loss", LOSS)}
    config = TrainConfig(**recipe)
    dataset = Dataset(workspace.dataset(str(metadata.dataset)))
    normalize(dataset.folder)  # whose images may have been removed to save space
    with tempfile.TemporaryDirectory(prefix="reproduce-") as run:
        trained = train(dataset.folder, config, Path(run))
        if trained.weights_sha256 == metadata.weights_sha256:
            return []
        training = Training.read(Path(run) / "training.json", "try again")
        now, then = _circumstances(training), _circumstances(metadata)
        changed = [
            f"{name} was {then.get(name, 'not set')}, is {now.get(name, 'not set')}"
            for name in sorted(now.keys() | then.keys())
            if now.get(name) != then.get(name)
        ]
        return [*changed, *_different_weights(version.model, Path(run) / MODEL)]


def _circumstances(training: Training) -> dict[str, str]:
    """What decides the weights beside recipe and data; an older release has not written all of it down."""
    machine = {"device": str(training.device), "processor": training.hardware.get("processor", "unknown")}
    return {**training.library_versions, **training.environment, **machine}


def _different_weights(then: Path, now: Path) -> Iterator[str]:
    import keras

    old, new = (keras.saving.load_model(path, compile=False) for path in (then, now))
    for weight, other in zip(old.weights, new.weights, strict=True):
        difference = np.abs(np.asarray(weight) - np.asarray(other))
        if difference.any():
            yield (
                f"{weight.path}: {np.count_nonzero(difference):,} of {difference.size:,} weights differ, by at most "
                f"{difference.max():.2g}"
            )
