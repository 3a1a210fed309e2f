"""Find the known images that a new one is closest to, to check its label and which way up it stands.

Images are compared by their cosine, centred and pooled to 14x14. What the numbers below rest on was measured with
10,000 of MNIST's training images as the reference (`python -m benchmarks.data`): all five neighbours bear the
label of 83 % of MNIST's test images, and of 49 % of the UCI's handwritten digits, which other people wrote with other
pens (scikit-learn's `load_digits`, enlarged and prepared as pictures are). Of the same digits transposed, mirrored or
turned by 90 or 180 degrees they do so for at most 28 and 19 %. So another way up is better only if the digits stand
that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.arrays import CHUNK, ArrayFile
from mnist_tasks.data.dataset import IMAGE_SHAPE, Float32, UInt8
from mnist_tasks.data.statistics import wilson_interval

REFERENCE_IMAGES, NEIGHBOURS = 10_000, 5
ROWS = 512  # of a matrix of distances at a time: 20 MB with 10,000 columns
TURNED_IMAGES = 300  # that are compared each way up
MIN_AGREEMENT = 0.33  # from here on digits stand that way up
UPRIGHT_AGREEMENT = 0.6  # from here on no other way up needs to be tried: twice what any can reach

Indices = npt.NDArray[np.intp]

# How to bring images upright that stand another way, by the words for it.
TURNS: dict[str, Callable[[UInt8], UInt8]] = {
    "transposed, as EMNIST stores them: transpose them, x.swapaxes(1, 2)": lambda x: x.swapaxes(1, 2),
    "mirrored left to right: mirror them, x[:, :, ::-1]": lambda x: x[:, :, ::-1],
    "mirrored top to bottom: mirror them, x[:, ::-1]": lambda x: x[:, ::-1],
    "turned by 90 degrees: turn them, numpy.rot90(x, 1, (1, 2))": lambda x: np.rot90(x, 1, (1, 2)),
    "turned by 180 degrees: turn them, numpy.rot90(x, 2, (1, 2))": lambda x: np.rot90(x, 2, (1, 2)),
    "turned by 90 degrees: turn them, numpy.rot90(x, 3, (1, 2))": lambda x: np.rot90(x, 3, (1, 2)),
    "transposed and turned: fix them with numpy.rot90(x, 2, (1, 2)).swapaxes(1, 2)": lambda x: np.rot90(
        x, 2, (1, 2)
    ).swapaxes(1, 2),
}


def features(images: UInt8) -> Float32:
    """Each image centred, pooled to 14x14 and scaled to length 1, so that a product of two is their cosine.

    Centring moves an image by whole pixels until its centre of mass is at pixel 14, as in MNIST. A blank image gives 0.
    """
    side, *_ = IMAGE_SHAPE
    count, weights = len(images), images.reshape(len(images), -1).astype(np.float32)
    places = np.indices(IMAGE_SHAPE).reshape(2, -1).astype(np.float32)
    total = weights.sum(axis=1, keepdims=True)
    centre = np.divide(weights @ places.T, total, out=np.full((count, 2), 14, np.float32), where=total > 0)
    rows, columns = ((np.arange(side) + offset) % side for offset in np.rint(centre - 14).astype(np.intp).T[..., None])
    images = images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    # Sums of slices: a tenth of the time of a mean over two axes of a reshaped array.
    corners = (images[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
    pooled = sum(corners, np.uint16(0)).reshape(count, -1).astype(np.float32)
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    units: Float32 = np.divide(pooled, length, out=np.zeros_like(pooled), where=length > 0)
    return units


def in_batches(chunks: Iterable[Float32]) -> Iterator[Float32]:
    """Chunks of features cut into `ROWS` at a time."""
    for chunk in chunks:
        for start in range(0, len(chunk), ROWS):
            yield chunk[start : start + ROWS]


def evenly_spread(count: int, limit: int) -> Indices:
    """At most so many positions, spread evenly over all."""
    return np.linspace(0, count - 1, min(limit, count)).astype(np.intp)


@dataclass(frozen=True)
class Reference:
    """Features and labels of known images, evenly spread over all of them, to compare new labels with."""

    features: Float32
    labels: UInt8

    @classmethod
    def of(cls, images: ArrayFile, labels: UInt8, among: Indices | None = None) -> Reference:
        """Choose images; `among` has the positions to choose from, if not all."""
        positions = np.arange(len(labels)) if among is None else among
        chosen = positions[evenly_spread(len(positions), REFERENCE_IMAGES)]
        parts = (images.rows(chosen[i : i + CHUNK]) for i in range(0, len(chosen), CHUNK))
        return cls(np.concatenate([features(part) for part in parts]), labels[chosen])

    def contradicted(self, new: Iterable[Float32], labels: UInt8) -> Indices:
        """The positions of the images whose nearest neighbours all bear one digit that is not their label."""
        digits, unanimous = self.nearest(new)
        return np.flatnonzero(unanimous & (digits != labels))

    def contradicted_by_others(self, positions: Indices) -> Indices:
        """Those of the reference's own images, at these positions in it, whose label all nearest others contradict.

        What is returned are places in `positions`.
        """
        found, count = [], min(NEIGHBOURS, len(self.labels) - 1)
        for start in range(0, len(positions) if count else 0, ROWS):
            some = positions[start : start + ROWS]
            cosines = self.features[some] @ self.features.T
            cosines[np.arange(len(some)), some] = -np.inf
            digits, unanimous = self._nearest(cosines, count)
            found.append(start + np.flatnonzero(unanimous & (digits != self.labels[some])))
        return np.concatenate([np.empty(0, np.intp), *found])

    def way_up(self, images: UInt8, labels: UInt8) -> WayUp:
        """Whether the images agree better with the reference if they are turned another way."""
        upright = self._agreement(images, labels)
        if upright >= UPRIGHT_AGREEMENT:
            return WayUp(upright, 0, "", len(labels))
        shares = [self._agreement(turn(images), labels) for turn in TURNS.values()]
        best = int(np.argmax(shares))
        return WayUp(upright, shares[best], list(TURNS)[best], len(labels))

    def _agreement(self, images: UInt8, labels: UInt8) -> float:
        """The share of the images whose nearest neighbours all bear their label."""
        digits, unanimous = self.nearest(in_batches([features(np.ascontiguousarray(images))]))
        return float((unanimous & (digits == labels)).mean())

    def nearest(self, new: Iterable[Float32]) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """For each image the digit of one of its nearest neighbours, and whether all of them bear it."""
        first: list[UInt8] = []
        unanimous: list[npt.NDArray[np.bool_]] = []
        count = min(NEIGHBOURS, len(self.labels))
        for chunk in in_batches(new):
            digits, agree = self._nearest(chunk @ self.features.T, count)
            first.append(digits)
            unanimous.append(agree)
        return np.concatenate(first), np.concatenate(unanimous)

    def _nearest(self, cosines: Float32, count: int) -> tuple[UInt8, npt.NDArray[np.bool_]]:
        """As `nearest`, from the cosines with all images of the reference."""
        digits = self.labels[np.argpartition(-cosines, count - 1, axis=1)[:, :count]]
        return digits[:, 0], (digits == digits[:, :1]).all(axis=1)


@dataclass(frozen=True)
class WayUp:
    """The share of images whose labels the reference agrees with, as they stand and in the best other way up."""

    upright: float
    turned: float  # 0 if no other way was tried
    words: str  # what they look like that way, and how to fix them
    images: int

    @property
    def wrong(self) -> bool:
        """Whether the other way up is better beyond chance, and good."""
        lower, _ = wilson_interval(round(self.turned * self.images), self.images)
        _, upper = wilson_interval(round(self.upright * self.images), self.images)
        return lower > upper and self.turned >= MIN_AGREEMENT
