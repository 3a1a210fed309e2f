"""What earlier nights have read from the inbox: `datasets/.batches`, a folder a batch, and the index of it by path.

A batch whose files have not changed is not read again. That is so if their names, sizes, times and inodes are the same,
the time of the last change (ctime) included, which a copy that keeps the original's dates cannot set. What changed just
before it was read is read once more, because a clock has ticks.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from mnist_tasks.data.dataset import BATCHES
from mnist_tasks.data.inbox import Batch
from mnist_tasks.data.pieces import Piece, code_digest, read_if_whole
from mnist_tasks.documents import InboxIndex, KnownBatch
from mnist_tasks.system.files import atomic_folder, remove_staging_folders

log = logging.getLogger(__name__)

INDEX = "index.json"
TICK = 2.0  # seconds: the coarsest clock of a file system in use, that of FAT and some shares


def piece_folder(datasets: Path, content: str) -> Path:
    """Where the batch with this content lies."""
    return datasets / BATCHES / content


class BatchStore:
    """The batches that were read before. The caller holds the lock on the folder of datasets."""

    def __init__(self, datasets: Path) -> None:
        self.datasets = datasets
        self.folder = datasets / BATCHES
        remove_staging_folders(self.folder)
        self._known = _read_index(self.folder / INDEX)
        self._now: dict[str, KnownBatch] = {}

    def look_up(self, batch: Batch, stamp: str) -> KnownBatch | None:
        """What is known about a batch that has not changed since it was read; `stamp` is its `state` now."""
        found = self._known.get(str(batch.path))
        return found if found and found.stamp == stamp else None

    def last_verdict(self, batch: Batch) -> str:
        """The verdict on what lay at this path the last time."""
        found = self._known.get(str(batch.path))
        return found.verdict if found else ""

    def piece(self, content: str) -> Piece | None:
        """The images with this content, if they are there, unchanged."""
        return Piece.known(piece_folder(self.datasets, content), content)

    def keep(self, piece: Piece) -> Piece:
        """Move a piece that has just been read to its own folder, with its profile."""
        folder = piece_folder(self.datasets, piece.content)
        if folder.exists():  # damaged: it was looked for before
            shutil.rmtree(folder)
        self.folder.mkdir(exist_ok=True)
        with atomic_folder(folder) as staging:
            for path in piece.folder.iterdir():
                path.rename(staging / path.name)
            piece.moved(staging).write_profile()
        return piece.moved(folder)

    def remember(self, batch: Batch, found: KnownBatch) -> None:
        """Note what was found at a path."""
        self._now[str(batch.path)] = found

    def write(self) -> None:
        """Write the index: what is no longer in the inbox is forgotten."""
        if self._now == self._known:
            return
        self.folder.mkdir(exist_ok=True)
        InboxIndex(code=code_digest(), batches=self._now).write(self.folder / INDEX)


def _read_index(path: Path) -> dict[str, KnownBatch]:
    index = read_if_whole(InboxIndex, path, "every batch is read again")
    if index is None:
        return {}
    if index.code != code_digest():
        log.info("another release has read the inbox; every batch is read again")
        return {}
    return index.batches
