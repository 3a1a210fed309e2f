"""Pixels and labels in the shapes and types that people keep them in, brought into the one that datasets have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import DIGITS, IMAGE_SHAPE, PIXEL_MAX, UInt8
from mnist_tasks.system.errors import InputError

Values = npt.NDArray[Any]

# How far x/255 may be from a whole number after it was stored and multiplied by 255, by the size of the type in bytes.
# Half precision has 11 bits. The others are often written with four digits or more.
ROUNDING = {2: 0.13, 4: 0.02, 8: 0.02}


def check_image_type(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n images.

    The shape may be (n, 28, 28), (n, 784), (n, 28, 28, 1) or (n, 1, 28, 28); the dtype an integer or a float.
    """
    sides = [side for side in shape[1:] if side != 1]
    if not shape or sides not in ([*IMAGE_SHAPE], [math.prod(IMAGE_SHAPE)]):
        raise InputError(
            f"{what} has shape {tuple(shape)}; images need shape (n, 28, 28), (n, 784) or (n, 28, 28, 1): scale other "
            "sizes, or give them as pictures in folders 0 to 9, which are scaled when they are read"
        )
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise InputError(
            f"{what} has dtype {dtype.name}; pixels need dtype uint8, from 0 (background) to 255 (ink), or floats that "
            "are these divided by 255"
        )


def check_label_type(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n labels: (n,), any integer type."""
    if len(shape) != 1:
        hints: dict[tuple[int, ...], str] = {
            (DIGITS,): "; numpy.argmax(labels, axis=1) makes them of one-hot rows",
            (1,): ": use labels.ravel()",
        }
        hint = hints.get(tuple(shape[1:]), "")
        raise InputError(f"{what} has shape {tuple(shape)}; labels need shape (n,){hint}")
    if dtype.kind not in "ui":
        raise InputError(
            f"{what} has dtype {dtype.name}; labels need an integer dtype, with values from 0 to {DIGITS - 1}"
        )


def checked_labels(labels: Values, what: str) -> UInt8:
    """The labels as uint8, once each is a digit."""
    outside = np.flatnonzero((labels < 0) | (labels >= DIGITS))
    if outside.size:
        raise InputError(
            f"{what}[{outside[0]}] is {labels[outside[0]]}, but labels go from 0 to {DIGITS - 1}; "
            f"{outside.size:,} of {len(labels):,} labels are outside"
        )
    return labels.astype(np.uint8)


class Pixels:
    """Turns the pixels of one array, chunk after chunk, into uint8 from 0 to 255.

    Whole numbers stay as they are. Floats of at most 1 are taken for these divided by 255. The first chunk decides
    which of them an array has.
    """

    def __init__(self, what: str) -> None:
        """`what` names the array in messages."""
        self.what = what
        self.read = 0
        self.scale: int | None = None

    def to_bytes(self, values: Values) -> UInt8:
        """The next images, of any shape with n in front, as uint8 of shape (n, 28, 28).

        Raises:
            InputError: naming the first image with another value.
        """
        images = values.reshape(-1, *IMAGE_SHAPE)
        self.read += len(images)
        if images.dtype == np.uint8:
            return images
        scaled, rounding = images, 0.0
        if images.dtype.kind == "f":
            if self.scale is None:
                self.scale = PIXEL_MAX if np.nanmax(images, initial=0) <= 1 else 1
            if self.scale == PIXEL_MAX:
                scaled, rounding = images.astype(np.float64) * PIXEL_MAX, ROUNDING[images.dtype.itemsize]
        with np.errstate(invalid="ignore"):  # NaN and infinity are none of these either
            whole = abs(scaled - np.rint(scaled)) <= rounding
        good = whole & (scaled >= -rounding) & (scaled <= PIXEL_MAX + rounding)
        if not good.all():
            position = np.flatnonzero(~good.ravel())[0]
            image = self.read - len(images) + position // math.prod(IMAGE_SHAPE)
            raise InputError(
                f"{self.what}: image {image} has a pixel of {images.ravel()[position]:g}; pixels are whole numbers "
                f"from 0 (background) to {PIXEL_MAX} (ink), or each of these divided by {PIXEL_MAX}"
            )
        return np.rint(scaled).astype(np.uint8)
