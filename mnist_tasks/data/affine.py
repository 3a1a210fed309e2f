"""Turn and scale images around their centre, as one multiplication by a matrix."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from mnist_tasks.data.dataset import IMAGE_SHAPE, Float32


@cache
def affine(degrees: float, scale: float = 1) -> Float32:
    """A matrix that turns and scales flat images, with bilinear interpolation; float32 of shape (784, 784).

    Args:
        degrees: how far to turn, clockwise.
        scale: how many times as large.
    """
    side, _ = IMAGE_SHAPE
    centre = (side - 1) / 2
    cosine, sine = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    rows, columns = (places.reshape(-1) - centre for places in np.indices(IMAGE_SHAPE))
    from_rows, from_columns = cosine * rows - sine * columns + centre, sine * rows + cosine * columns + centre
    matrix = np.zeros((side * side, side * side), np.float32)
    targets = np.arange(side * side)
    for down in (0, 1):
        for right in (0, 1):
            row, column = np.floor(from_rows).astype(int) + down, np.floor(from_columns).astype(int) + right
            weights = (1 - np.abs(from_rows - row)) * (1 - np.abs(from_columns - column))
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            matrix[row[inside] * side + column[inside], targets[inside]] = weights[inside]
    return matrix
