"""The whole state of a training after an epoch, so that a retry continues and ends with the same bits."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.documents import Epoch
from mnist_tasks.system.errors import is_transient
from mnist_tasks.system.files import write_atomically
from mnist_tasks.training.image_chunks import Array

if TYPE_CHECKING:
    import keras

    from mnist_tasks.config import TrainConfig

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a training has come: its epochs and, with early stopping, the weights of the best epoch."""

    epochs: list[Epoch] = field(default_factory=list)
    best_weights: list[Array] = field(default_factory=list)

    def add(self, epoch: Epoch, model: keras.Model, config: TrainConfig) -> None:
        """Add an epoch that the model has just been trained for."""
        self.epochs.append(epoch)
        if config.patience and self.best() is epoch:
            self.best_weights = model.get_weights()

    def best(self) -> Epoch:
        """The epoch with the lowest validation loss; the first if there are several."""
        return min(self.epochs, key=lambda epoch: epoch.metrics["val_loss"])

    def is_over(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or the last `patience` of them have brought no lower validation loss."""
        done = len(self.epochs)
        return done == config.epochs or bool(done and config.patience and done - self.best().number >= config.patience)


class Checkpoint:
    """One file, replaced after each epoch: weights, dropout's random state, the optimizer's variables, the progress.

    The order of the images needs no state: it follows from the seed and the number of the epoch. Nor does the learning
    rate's schedule: it follows from the optimizer's count of steps.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        """A checkpoint at `path`. `origin`, plain JSON, identifies the training: recipe, data, versions."""
        self.path = path
        self.origin = dict(origin)

    def save(self, model: keras.Model, progress: Progress) -> None:
        """Write the state of a model that has been trained as far as `progress` says."""
        record = json.dumps({"origin": self.origin, "epochs": [epoch.to_json_value() for epoch in progress.epochs]})
        arrays = {f"state_{index}": np.asarray(variable.value) for index, variable in enumerate(_state(model))}
        arrays |= {f"best_{index}": array for index, array in enumerate(progress.best_weights)}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, record=np.array(record), **arrays)  # type: ignore[arg-type]

        write_atomically(self.path, write)

    def restore(self, model: keras.Model) -> Progress:
        """Put a built model into the saved state and return how far it has come.

        Without a checkpoint, or with one that is damaged or belongs to another training, nothing is changed and the
        progress is empty; the log says so. If it cannot be read now, the error is raised.
        """
        if not self.path.exists():
            return Progress()
        variables = _state(model)
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                record = json.loads(str(saved["record"]))
                other = [name for name, value in self.origin.items() if record["origin"].get(name) != value]
                if other:
                    names = ", ".join(other)
                    log.warning("%s is of another training (%s differs); training starts anew", self.path, names)
                    return Progress()
                arrays = [saved[f"state_{index}"] for index in range(len(variables))]
                best = [saved[name] for name in saved.files if name.startswith("best_")]
            epochs = [Epoch(**epoch) for epoch in record["epochs"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if is_transient(error):
                raise
            log.warning("%s is damaged (%s); training starts anew", self.path, error)
            return Progress()
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return Progress(epochs, best)

    def remove(self) -> None:
        """Delete the checkpoint of a training that is complete."""
        self.path.unlink(missing_ok=True)


def _state(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
