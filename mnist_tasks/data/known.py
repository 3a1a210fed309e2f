"""The images that are accepted so far in a night: the source's, then those of one batch after another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import DIGITS, SPLITS, Split
from mnist_tasks.data.pieces import Piece


class Known:
    """What a new batch is compared with. Adding one takes time for its own images only."""

    def __init__(self, source: Piece | None = None) -> None:
        self.source = source
        self.batches: list[Piece] = []
        self._counts = {split: np.zeros(DIGITS, np.int64) for split in SPLITS}
        # Of each image, by the hash of its pixels, the label that it had last.
        self._labels: dict[Split, dict[int, int]] = {split: {} for split in SPLITS}
        self._outlines: dict[Split, dict[int, int]] = {split: {} for split in SPLITS}
        if source:
            self._add(source)

    def add(self, batch: Piece) -> None:
        self.batches.append(batch)
        self._add(batch)

    def counts(self, split: Split) -> npt.NDArray[np.int64]:
        """Images of each digit."""
        return self._counts[split]

    def labels(self, split: Split) -> Mapping[int, int]:
        """The label that each image had last, by its key."""
        return self._labels[split]

    def outlines(self, split: Split) -> Mapping[int, int]:
        """The label that each outline had last, by the outline's key."""
        return self._outlines[split]

    def _add(self, piece: Piece) -> None:
        for split, profile in piece.profiles.items():
            self._counts[split] += profile.counts()
            labels = profile.labels.tolist()
            self._labels[split].update(zip(profile.keys.tolist(), labels, strict=True))
            self._outlines[split].update(zip(profile.outlines.tolist(), labels, strict=True))
