"""Changes that digits meet in life, such as a shaken hand or faint ink, always the same for the same images.

A new change is a new line in `CHANGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mnist_tasks.data.affine import affine
from mnist_tasks.data.dataset import IMAGE_SHAPE, Float32, UInt8, scaled

CHANGED_IMAGES = 2000  # evenly spread over the test images
SEED = 0
DEGREES = 10
NOISE = 0.1  # the standard deviation, of pixels in [0, 1]
FAINT = 0.4  # of the ink
NEIGHBOURS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def changed(images: UInt8) -> Iterator[tuple[str, Float32]]:
    """Each change's name, and the images after it.

    Args:
        images: uint8 of shape (n, 28, 28).

    Returns:
        Float32 in [0, 1], of the same shape.
    """
    pixels = scaled(images)
    for name, change in CHANGES.items():
        yield name, change(pixels)


def _moved(images: Float32, distance: int) -> Float32:
    """One image up, the next one down, left and right."""
    side, _ = IMAGE_SHAPE
    framed = np.pad(images, ((0, 0), (distance, distance), (distance, distance)))
    moved = np.empty_like(images)
    for turn, (row, column) in enumerate(((2, 1), (0, 1), (1, 2), (1, 0))):
        top, left = row * distance, column * distance
        moved[turn::4] = framed[turn::4, top : top + side, left : left + side]
    return moved


def _rotated(images: Float32) -> Float32:
    """One image clockwise, the next one anticlockwise."""
    rotated = np.empty_like(images)
    for first, degrees in enumerate((DEGREES, -DEGREES)):
        some = images[first::2]
        rotated[first::2] = (some.reshape(len(some), -1) @ affine(degrees)).reshape(some.shape)
    return rotated


def _neighbourhood(images: Float32, combine: np.ufunc) -> Float32:
    """For each pixel the smallest or largest of itself and its four neighbours."""
    side, _ = IMAGE_SHAPE
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifted = [framed[:, 1 + row : 1 + row + side, 1 + column : 1 + column + side] for row, column in NEIGHBOURS]
    result: Float32 = combine.reduce(shifted)
    return result


def _thinner(images: Float32) -> Float32:
    """Halfway to the eroded image, in which thin strokes are gone."""
    thinner: Float32 = (images + _neighbourhood(images, np.minimum)) / np.float32(2)
    return thinner


def _noisy(images: Float32) -> Float32:
    noise = np.random.default_rng(SEED).standard_normal(images.shape, np.float32)
    noisy: Float32 = np.clip(images + np.float32(NOISE) * noise, 0, 1)
    return noisy


CHANGES: Mapping[str, Callable[[Float32], Float32]] = {
    "moved by 1 pixel": lambda images: _moved(images, 1),
    "moved by 2 pixels": lambda images: _moved(images, 2),
    f"rotated by {DEGREES} degrees": _rotated,
    "thinner": _thinner,
    "thicker": lambda images: _neighbourhood(images, np.maximum),
    "noisy": _noisy,
    "faint": lambda images: images * np.float32(FAINT),
}
