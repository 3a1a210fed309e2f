"""What a published model makes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_tasks.data.dataset import scaled
from mnist_tasks.data.image_files import read_digit
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import ModelError, is_transient
from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow, use_devices

WORTH_NAMING = 0.01


@dataclass(frozen=True)
class Prediction:
    """The most probable digit, and the probability of each from 0 to 9."""

    digit: int
    probabilities: tuple[float, ...]

    def likely(self) -> list[tuple[int, float]]:
        """Digits and their probabilities, the most probable first; without those that hardly count."""
        order = sorted(enumerate(self.probabilities), key=lambda pair: -pair[1])
        return [pair for pair in order if pair[1] >= WORTH_NAMING]


def predict_images(version: Version, paths: Sequence[Path]) -> list[tuple[Path, Prediction]]:
    """Each image file with its prediction.

    Raises:
        InputError: naming the first file that is not an image or shows nothing; before TensorFlow is imported.
        ModelError: if the model cannot be loaded.
    """
    images = np.stack([read_digit(path) for path in paths])
    with tensorflow_in_airflow():
        use_devices()
        import keras

        try:
            model = keras.saving.load_model(version.model, compile=False)
        except Exception as error:  # Keras lets through whatever its parts raise
            if is_transient(error):
                raise
            raise ModelError(f"version {version.number} cannot be loaded: {version.model}: {error}") from error
        answers = np.asarray(model(scaled(images), training=False)).tolist()
    return [(path, Prediction(int(np.argmax(row)), tuple(row))) for path, row in zip(paths, answers, strict=True)]
