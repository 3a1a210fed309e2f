"""Areas of a picture: what lies in a window around each pixel, and which pixels are connected.

Plain NumPy: SciPy and OpenCV have these too, at 35 MB and more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import Float32

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.intp]


def largest(values: Float32, window: int) -> Float32:
    """The largest value in a square window, of odd side, around each pixel; beyond the edge is nothing."""
    padded = np.pad(values, window // 2, constant_values=-np.inf)
    for _ in range(2):
        reach = 1  # each value stands for so many, from itself on
        while reach < window:
            step = min(reach, window - reach)
            padded = np.maximum(padded[:-step], padded[step:])
            reach += step
        padded = padded.T
    return padded


def closed(values: Float32, window: int) -> Float32:
    """The grey-scale closing: dark areas are filled where no square of that odd side fits into them.

    Beyond the edge the picture goes on as it is there, so an area at the edge counts as a broad one.
    """
    padded = np.pad(values, window, mode="edge")
    return -largest(-largest(padded, window), window)[window:-window, window:-window]


def grown(mask: Mask, window: int) -> Mask:
    """The mask and what lies in a square window, of odd side, around its pixels."""
    return largest(mask.astype(np.float32), window) > 0


def run_lengths(mask: Mask) -> Counts:
    """For each pixel of the mask the length of the vertical run that it is part of; 0 for the others."""
    flat = np.pad(mask, ((1, 1), (0, 0))).T.reshape(-1)
    starts, ends = _runs(flat)
    lengths = np.zeros(flat.shape, np.intp)
    lengths[flat] = np.repeat(ends - starts, ends - starts)
    return lengths.reshape(mask.shape[1], -1)[:, 1:-1].T


@dataclass(frozen=True)
class Areas:
    """The connected areas of a mask, n of them; pixels that touch by a corner are connected."""

    labels: Counts  # of the mask's shape: 0 outside, and 1 to n
    boxes: Counts  # (n, 4): top, left, bottom, right; the last two are exclusive
    sizes: Counts  # (n,): in pixels

    @classmethod
    def of(cls, mask: Mask) -> Areas:
        height, width = mask.shape
        flat = np.pad(mask, ((0, 0), (1, 1))).reshape(-1)
        starts, ends = _runs(flat)
        lengths, rows, lefts = ends - starts, starts // (width + 2), starts % (width + 2) - 1
        numbers = _connected(rows, lefts, lefts + lengths, height)
        count = int(numbers.max(initial=-1)) + 1
        boxes = np.tile(np.array((height, width, 0, 0), np.intp), (count, 1))
        np.minimum.at(boxes[:, 0], numbers, rows)
        np.minimum.at(boxes[:, 1], numbers, lefts)
        np.maximum.at(boxes[:, 2], numbers, rows + 1)
        np.maximum.at(boxes[:, 3], numbers, lefts + lengths)
        labels = np.zeros(flat.shape, np.intp)
        labels[flat] = np.repeat(numbers + 1, lengths)
        sizes = np.bincount(numbers, weights=lengths, minlength=count).astype(np.intp)
        return cls(labels.reshape(height, width + 2)[:, 1:-1], boxes, sizes)

    @property
    def extents(self) -> Counts:
        """The longer side of each area's box."""
        extents: Counts = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0)
        return extents

    @property
    def contacts(self) -> Counts:
        """How many pixels of each area lie at the picture's edge."""
        edge = np.concatenate([self.labels[0], self.labels[-1], self.labels[1:-1, 0], self.labels[1:-1, -1]])
        return np.bincount(edge, minlength=len(self.sizes) + 1)[1:]

    def gaps(self, area: int, axis: int) -> Counts:
        """How many pixels each box is above or below that one (axis 0), or beside it (1); negative if they overlap."""
        first, last = self.boxes[:, axis], self.boxes[:, axis + 2]
        gaps: Counts = np.maximum(first - last[area], first[area] - last)
        return gaps

    def mask(self, chosen: Mask) -> Mask:
        """The mask of the areas that are chosen, by a mask of shape (n,)."""
        return np.append(False, chosen)[self.labels]


def _runs(flat: Mask) -> tuple[Counts, Counts]:
    """Where the runs of a mask of one dimension, which begins and ends outside, start and end."""
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return changes[::2], changes[1::2]


def _connected(rows: Counts, lefts: Counts, rights: Counts, height: int) -> Counts:
    """Number the areas, from 0, that horizontal runs belong to: unions of runs that touch those of the row above."""
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    firsts, left, right = np.searchsorted(rows, np.arange(height + 1)).tolist(), lefts.tolist(), rights.tolist()
    for row in range(1, height):
        above = firsts[row - 1]
        for run in range(firsts[row], firsts[row + 1]):
            while above < firsts[row] and right[above] < left[run]:
                above += 1
            other = above
            while other < firsts[row] and left[other] <= right[run]:
                parents[root(other)] = root(run)
                other += 1
            above = max(above, other - 1)  # it may reach to the next run too
    roots = np.array([root(run) for run in range(len(rows))], np.intp)
    numbers: Counts = np.unique(roots, return_inverse=True)[1]
    return numbers
