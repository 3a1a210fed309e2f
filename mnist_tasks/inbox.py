"""The inbox: a folder to which labelled batches are dropped at any time, and which of them are complete.

A batch is a file or a folder in any form of a source of one's own (see `sources`). It is only ever read: never moved,
changed or removed. One half-way through being copied must not be read, so a batch is complete when

- its marker is there: the empty file `NAME.done` beside the batch NAME, or `.done` in the batch's folder; or
- nothing in it has changed for `SETTLED` seconds. What counts is the time of the last change that the file system keeps
  (ctime), which a copy that preserves the original's dates cannot set.

Names that start with a dot are not looked at: a writer may also fill `.NAME` and then rename it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mnist_tasks.errors import InputError
from mnist_tasks.sources import named_errors

SETTLED = 600.0
DONE = ".done"


@dataclass(frozen=True)
class Batch:
    """Something that was dropped into the inbox, and whether it is complete."""

    path: Path
    complete: bool

    @property
    def name(self) -> str:
        """Its name as logs and JSON can take it: bytes that are not UTF-8 are escaped."""
        return self.path.name.encode("utf-8", "backslashreplace").decode()


def find_batches(inbox: Path, now: float | None = None) -> list[Batch]:
    """All batches in the inbox, sorted by name.

    Args:
        inbox: the folder.
        now: seconds since 1970, to compare the batches' times with; default: the clock's.

    Raises:
        InputError: if the inbox is no folder or cannot be read.
    """
    if not inbox.is_dir():
        raise InputError(f"inbox: {inbox} is no folder; make it, name another one, or use inbox=none")
    now = time.time() if now is None else now
    with named_errors(inbox):
        names = sorted(path.name for path in inbox.iterdir())
    markers = set(names)
    return [
        Batch(inbox / name, f"{name}{DONE}" in markers or _is_complete(inbox / name, now))
        for name in names
        # A marker is no batch; one without its batch is, so that the report names it.
        if not name.startswith(".") and not (name.endswith(DONE) and name.removesuffix(DONE) in markers)
    ]


def _is_complete(path: Path, now: float) -> bool:
    if path.is_dir() and (path / DONE).exists():
        return True
    try:
        entries = [path, *path.rglob("*")] if path.is_dir() else [path]
        changed = max(max(status.st_mtime, status.st_ctime) for status in (entry.lstat() for entry in entries))
    except OSError:  # something went away meanwhile: somebody is at it
        return False
    return now - changed >= SETTLED
