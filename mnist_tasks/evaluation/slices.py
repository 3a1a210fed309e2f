"""Slices of the test images beyond digits: how a digit is drawn, by measured properties of its image.

A slice that is recognized worse than before can hide in an accuracy: each of them is some tenth of MNIST's test set. A
new slice is a new line in `SLICES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import IMAGE_SHAPE, UInt8

INK = 127  # from here on a pixel is part of the stroke

Property = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slice:
    """The images whose property lies in a half-open range."""

    of: str
    low: float = -np.inf
    high: float = np.inf


# The bounds are the 10 % and the 90 % quantiles of MNIST's test images, rounded: fixed, so that a slice means the same
# every night.
SLICES: Mapping[str, Slice] = {
    "thin strokes": Slice("stroke", high=1.45),
    "thick strokes": Slice("stroke", low=2.8),
    "slanted left": Slice("slant", high=-0.23),
    "slanted right": Slice("slant", low=0.44),
    "small": Slice("radius", high=5.8),
    "large": Slice("radius", low=7.6),
    "near the border": Slice("margin", high=2),
}


def properties(images: UInt8) -> dict[str, Property]:
    """Measure images, uint8 of shape (n, 28, 28); each property has shape (n,). A blank image has only zeros.

    - `stroke`: the mean width of the stroke in pixels, as twice its area by its perimeter.
    - `slant`: the tangent of its lean to the right, from the second moments, as digits are deskewed by.
    - `radius`: the root of its mean squared distance from its centre, in pixels.
    - `margin`: the empty pixels between it and the closest edge of the image.
    """
    ink = images > INK
    area = ink.sum(axis=(1, 2))
    framed = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    perimeter = np.sum([np.count_nonzero(np.diff(framed, axis=axis), axis=(1, 2)) for axis in (1, 2)], axis=0)
    rows, columns = (places.reshape(-1) for places in np.indices(IMAGE_SHAPE, np.float32))
    moments = images.reshape(len(images), -1).astype(np.float32) @ np.stack(
        [np.ones_like(rows), rows, columns, rows * rows, columns * columns, rows * columns], axis=1
    )
    total = np.maximum(moments[:, 0], 1)
    y, x, yy, xx, xy = (moments[:, 1:] / total[:, None]).T
    variance = yy - y * y
    covered = [np.any(ink, axis=axis) for axis in (1, 2)]
    margins = [side.argmax(axis=1) for line in covered for side in (line, line[:, ::-1])]
    return {
        "stroke": 2 * area / np.maximum(perimeter, 1),
        "slant": np.divide(x * y - xy, variance, out=np.zeros_like(x), where=variance > 0),
        "radius": np.sqrt(np.maximum(variance + xx - x * x, 0)),
        "margin": np.min(margins, axis=0).astype(np.float32),
    }


def slices(images: UInt8) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Each slice's name, and which of the images belong to it, bool of shape (n,)."""
    measured = properties(images)
    for name, part in SLICES.items():
        values = measured[part.of]
        yield name, (values >= part.low) & (values < part.high)
