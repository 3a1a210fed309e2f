"""Train a published version again from its own metadata, and say whether the weights are the same, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_tasks.config import TrainConfig
from mnist_tasks.dataset import Dataset
from mnist_tasks.normalize import normalize
from mnist_tasks.provenance import library_versions
from mnist_tasks.registry import MODEL, ModelDirectory, Version
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace


def reproduce(version: Version, workspace: Workspace) -> list[str]:
    """What differs between a version and a new training of its recipe on its dataset; nothing if it is identical.

    Raises:
        ModelError: if the version is damaged.
        InputError: if its dataset is not in the workspace, or not as it was, or its recipe is none of this program.
    """
    ModelDirectory(workspace.models).verify(version)
    metadata = version.metadata()
    config = TrainConfig(**metadata["config"])
    dataset = Dataset(workspace.dataset(metadata["dataset"]))
    normalize(dataset.folder)  # whose images may have been removed to save space
    with tempfile.TemporaryDirectory(prefix="reproduce-") as run:
        trained = train(dataset.folder, config, Path(run))
        if trained.weights_sha256 == metadata["weights_sha256"]:
            return []
        now = {**library_versions(), "device": trained.device}
        then = {**metadata["library_versions"], "device": metadata["device"]}
        changed = [f"{name} was {then.get(name)}, is {now[name]}" for name in now if now[name] != then.get(name)]
        return [*changed, *_different_weights(version.model, Path(run) / MODEL)]


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
