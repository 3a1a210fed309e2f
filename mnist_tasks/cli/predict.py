"""What a published model makes of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mnist_tasks.data import contact_sheets
from mnist_tasks.data.arrays import CHUNK
from mnist_tasks.data.dataset import IMAGE_SHAPE, Float32, UInt8, scaled
from mnist_tasks.data.image_files import Prepared, read_picture
from mnist_tasks.data.neighbours import NEIGHBOURS, Reference, features, in_batches
from mnist_tasks.data.sources import read_source
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import is_clutter, printable
from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow, use_devices

WORTH_NAMING = 0.01


@dataclass(frozen=True)
class Prediction:
    """What a picture shows, or why that is not known. A model always names a digit; the doubts say what is unsure."""

    image: Path
    pixels: UInt8 | None = None  # what the model got, of shape (28, 28)
    digit: int | None = None  # the most probable one
    probabilities: tuple[float, ...] = ()  # of each digit, from 0 to 9
    doubts: tuple[str, ...] = ()
    error: str | None = None  # why the picture cannot be read

    @property
    def status(self) -> Literal["sure", "unsure", "failed"]:
        return "failed" if self.error else "unsure" if self.doubts else "sure"

    def to_json_value(self, version: int) -> dict[str, object]:
        return {
            "version": version,
            "image": str(self.image),
            "status": self.status,
            "digit": self.digit,
            "probabilities": list(self.probabilities),
            "doubts": list(self.doubts),
            "error": self.error,
        }

    def line(self) -> str:
        """The answer as a line of text: the digit, then those that are likely, the most probable first, and doubts."""
        order = sorted(enumerate(self.probabilities), key=lambda pair: -pair[1])
        shares = "  ".join(f"{digit}: {share:.1%}" for digit, share in order if share >= WORTH_NAMING)
        unsure = f"   unsure: {'; '.join(self.doubts)}" if self.doubts else ""
        return f"{self.image}: {self.digit}   {shares}{unsure}"


def pictures(paths: Sequence[Path]) -> list[Path]:
    """The paths, with the files in a folder, by name, instead of it; not those of its folders, nor hidden ones or junk.

    Raises:
        InputError: if a folder cannot be listed or has no such file.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            inside = sorted(entry for entry in path.iterdir() if not is_clutter(entry.name) and not entry.is_dir())
        except OSError as error:
            if is_transient(error):
                raise
            raise InputError(f"{printable(path)} cannot be listed: {error.strerror}") from error
        if not inside:
            raise InputError(f"{printable(path)} has no pictures in it; name a picture, or a folder with some")
        found += inside
    return found


def predict_images(version: Version, paths: Sequence[Path], unsure_below: float) -> list[Prediction]:
    """A prediction for each picture, those that cannot be read included; without any other TensorFlow is not imported.

    An answer is unsure if its probability is below `unsure_below`, if not all of the picture's nearest images among
    MNIST's training images show its digit, or if the picture seems to show more than one digit.

    Raises:
        ModelError: if the model cannot be loaded.
    """
    read = [_read(path) for path in paths]
    prepared = [picture for picture in read if isinstance(picture, Prepared)]
    predictions = iter(answers(version, prepared, unsure_below)) if prepared else iter(())
    return [
        replace(next(predictions), image=path) if isinstance(picture, Prepared) else Prediction(path, error=picture)
        for path, picture in zip(paths, read, strict=True)
    ]


def _read(path: Path) -> Prepared | str:
    """The prepared picture, or why there is none."""
    try:
        return read_picture(path)
    except InputError as error:
        return str(error)


def answers(version: Version, prepared: Sequence[Prepared], unsure_below: float) -> Iterator[Prediction]:
    """A prediction for each prepared picture, without its path; see `predict_images`."""
    images = np.stack([picture.pixels for picture in prepared])
    nearest, unanimous = _reference().nearest(in_batches([features(images)]))
    for picture, row, near, agreed in zip(prepared, _probabilities(version, images), nearest, unanimous, strict=True):
        digit = int(np.argmax(row))
        doubts = []
        if not row[digit] >= unsure_below:  # NaN included
            doubts.append(f"its probability is below {unsure_below:g}")
        if not (agreed and near == digit):
            doubts.append(f"not all of MNIST's {NEIGHBOURS} nearest digits are a {digit}")
        if picture.others:
            doubts.append("the picture seems to show more than one digit")
        yield Prediction(Path(), picture.pixels, digit, tuple(row.tolist()), tuple(doubts))


def _reference() -> Reference:
    """All of MNIST's training images. Of fewer, more pictures that are answered rightly would be called unsure."""
    mnist = read_source("builtin")
    chunks = [features(mnist.x_train[start : start + CHUNK]) for start in range(0, len(mnist.x_train), CHUNK)]
    return Reference(np.concatenate(chunks), mnist.y_train)


def _probabilities(version: Version, images: UInt8) -> Float32:
    with tensorflow_in_airflow():
        use_devices()
        import keras

        try:
            model = keras.saving.load_model(version.model, compile=False)
        except Exception as error:  # Keras lets through whatever its parts raise
            if is_transient(error):
                raise
            raise ModelError(f"version {version.number} cannot be loaded: {version.model}: {error}") from error
        parts = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
        return np.concatenate([np.asarray(model(scaled(part), training=False)) for part in parts])


def draw(predictions: Sequence[Prediction], path: Path) -> None:
    """Draw what the model got from each picture in the row of the digit that it named; the unsure ones framed, first.

    Raises:
        OSError: if the file cannot be written.
    """
    shown = [prediction for prediction in predictions if prediction.pixels is not None]
    images = np.array([prediction.pixels for prediction in shown], np.uint8).reshape(-1, *IMAGE_SHAPE)
    digits = np.array([prediction.digit for prediction in shown], np.uint8)
    unsure = np.array([prediction.status == "unsure" for prediction in shown], bool)
    chosen = contact_sheets.choose(digits, np.flatnonzero(unsure))
    contact_sheets.contact_sheet(images[chosen], digits[chosen], unsure[chosen], path)
