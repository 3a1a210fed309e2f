"""The inbox: a folder that labelled batches are put into at any time, and which of them are complete.

A batch is a file or a folder in any form that a source may have (see `sources`). It is only read: never moved, changed
or removed. A batch that is still being copied must not be read. So a batch is complete when

- its marker is there: the empty file `NAME.done` beside the batch NAME, or `.done` in the batch's folder; or
- nothing in it has changed for `QUIET_SECONDS`. What counts is the time of the last change that the file system keeps
  (ctime), which a copy that preserves the original's dates cannot set.

Names that start with a dot are ignored, as is what file managers leave: a writer may also fill `.NAME` and then
rename it.

This module imports neither NumPy nor TensorFlow, because Airflow's triggerer uses it, too.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import is_clutter, printable, walk

QUIET_SECONDS = 600.0
DONE = ".done"


@dataclass(frozen=True)
class Batch:
    """A file or folder in the inbox, and whether it is complete."""

    path: Path
    complete: bool

    @property
    def name(self) -> str:
        """Its name for logs and JSON: bytes that are not UTF-8 are escaped."""
        return printable(self.path.name)


def find_batches(inbox: Path, now: float | None = None) -> list[Batch]:
    """All batches in the inbox, sorted by name.

    A batch that may not be read counts as complete: reading it then gives the error.

    Args:
        inbox: the folder.
        now: seconds since 1970, to compare the batches' times with; default: the clock's.

    Raises:
        InputError: if the inbox is not a folder or cannot be read.
    """
    if not inbox.is_dir():
        raise InputError(f"inbox: {inbox} is not a folder; make it, name another one, or use inbox=none")
    now = time.time() if now is None else now
    try:
        names = sorted(path.name for path in inbox.iterdir())
    except OSError as error:
        if is_transient(error):
            raise
        raise InputError(
            f"{inbox} cannot be read: {error.strerror}; give the user that runs the tasks access"
        ) from error
    markers = set(names)
    return [
        Batch(inbox / name, f"{name}{DONE}" in markers or _is_complete(inbox / name, now))
        for name in names
        # A marker is not a batch. A marker without a batch counts as one, so that the report names it.
        if not is_clutter(name) and not (name.endswith(DONE) and name.removesuffix(DONE) in markers)
    ]


def complete_batches(inbox: Path) -> dict[str, str]:
    """The complete batches by name, each with a stamp that changes when the batch's files change.

    Without an inbox it is empty.

    Raises:
        InputError: if the inbox cannot be read.
    """
    if not inbox.exists():
        return {}
    found = {}
    for batch in find_batches(inbox):
        if batch.complete:
            try:
                found[batch.name] = _stamp(batch.path)
            except FileNotFoundError:  # it was removed meanwhile
                continue
            except OSError as error:
                if is_transient(error):
                    raise
                found[batch.name] = "cannot be read"
    return found


def _is_complete(path: Path, now: float) -> bool:
    try:
        if path.is_dir() and (path / DONE).exists():
            return True
        changed = max(max(entry.lstat().st_mtime, entry.lstat().st_ctime) for entry in walk(path))
    except FileNotFoundError:  # somebody is still changing the batch
        return False
    except OSError as error:
        if is_transient(error):
            raise
        return True
    return now - changed >= QUIET_SECONDS


def _stamp(path: Path) -> str:
    """A digest of the names, sizes and times of a batch's files; only `load` reads their content."""
    digest = hashlib.sha256()
    # In the order of their paths, as earlier releases had it: a stamp that changes starts a run.
    for entry in sorted(walk(path)):
        status = entry.lstat()
        if not entry.is_dir() and entry.name != DONE:
            digest.update(f"{entry.relative_to(path.parent)!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
