"""Where a training stopped: its whole state after an epoch, so that a retry goes on and ends with the same bits."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.files import write_atomically
from mnist_tasks.fit import Epoch

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


class Checkpoint:
    """One file, replaced after each epoch: weights, dropout's random state, the optimizer's variables, the history.

    The order of the images needs no state: it follows from the seed and the number of the epoch.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        """A checkpoint at `path` of the training that `origin`, plain JSON, stands for: recipe, data, versions."""
        self.path = path
        self.origin = dict(origin)

    def save(self, model: keras.Model, epochs: list[Epoch]) -> None:
        """Write the state of a model that has been trained for `epochs`."""
        record = json.dumps({"origin": self.origin, "epochs": [asdict(epoch) for epoch in epochs]})
        arrays = {str(index): np.asarray(variable.value) for index, variable in enumerate(_state(model))}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, record=np.array(record), **arrays)  # type: ignore[arg-type]

        write_atomically(self.path, write)

    def restore(self, model: keras.Model) -> list[Epoch]:
        """Put a built model into the saved state and return the epochs behind it.

        Nothing is changed, and none returned, if there is no checkpoint, or one that is damaged or of another training;
        the log says so.
        """
        if not self.path.exists():
            return []
        variables = _state(model)
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                record = json.loads(str(saved["record"]))
                arrays = [saved[str(index)] for index in range(len(variables))]
            other = [name for name, value in self.origin.items() if record["origin"].get(name) != value]
            epochs = [Epoch(**epoch) for epoch in record["epochs"]]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("%s is damaged (%s); training starts anew", self.path, error)
            return []
        if other:
            log.warning("%s is of another training (%s differs); training starts anew", self.path, ", ".join(other))
            return []
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return epochs

    def remove(self) -> None:
        """Delete the checkpoint of a training that is complete."""
        self.path.unlink(missing_ok=True)


def _state(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
