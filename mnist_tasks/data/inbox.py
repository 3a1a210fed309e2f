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
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import is_clutter, printable

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
    return [batch for batch, _ in _look(inbox, time.time() if now is None else now)]


def complete_batches(inbox: Path) -> dict[str, str]:
    """The complete batches by name, each with a stamp that changes when the batch's files change.

    Without an inbox it is empty. Each file is looked at once, so that thousands of batches can be watched.

    Raises:
        InputError: if the inbox cannot be read.
    """
    if not inbox.exists():
        return {}
    found = {}
    for batch, entries in _look(inbox, time.time()):
        if batch.complete:
            try:
                found[batch.name] = _stamp(_entries(batch.path) if entries is None else entries)
            except FileNotFoundError:  # it was removed meanwhile
                continue
            except OSError as error:
                if is_transient(error):
                    raise
                found[batch.name] = "cannot be read"
    return found


@dataclass(frozen=True)
class _Entry:
    """A batch itself, or something in it.

    `parts` are the names that lead to it from the inbox, `status` is its own even if it is a link, and `is_folder` says
    whether it is a folder or a link to one.
    """

    parts: tuple[str, ...]
    status: os.stat_result
    is_folder: bool


def _look(inbox: Path, now: float) -> Iterator[tuple[Batch, list[_Entry] | None]]:
    """Each batch, with its entries if they had to be looked at to know whether it is complete."""
    if not inbox.is_dir():
        raise InputError(f"inbox: {inbox} is not a folder; make it, name another one, or use inbox=none")
    try:
        names = sorted(path.name for path in inbox.iterdir())
    except OSError as error:
        if is_transient(error):
            raise
        raise InputError(
            f"{inbox} cannot be read: {error.strerror}; give the user that runs the tasks access"
        ) from error
    markers = set(names)
    for name in names:
        # A marker is not a batch. A marker without a batch counts as one, so that the report names it.
        if is_clutter(name) or (name.endswith(DONE) and name.removesuffix(DONE) in markers):
            continue
        path = inbox / name
        complete, entries = (True, None) if f"{name}{DONE}" in markers else _has_settled(path, now)
        yield Batch(path, complete), entries


def _has_settled(path: Path, now: float) -> tuple[bool, list[_Entry] | None]:
    """Whether a batch without a marker beside it is complete, with its entries if they could be read."""
    try:
        entries = _entries(path)
    except FileNotFoundError:  # somebody is still changing the batch
        return False, None
    except OSError as error:
        if is_transient(error):
            raise
        return True, None
    marked = any(entry.parts == (path.name, DONE) for entry in entries)
    changed = max(max(entry.status.st_mtime, entry.status.st_ctime) for entry in entries)
    return marked or now - changed >= QUIET_SECONDS, entries


def _entries(path: Path) -> list[_Entry]:
    """A batch and everything in it. Only the batch itself is followed if it is a link."""
    status = path.lstat()
    is_folder = path.is_dir() if stat.S_ISLNK(status.st_mode) else stat.S_ISDIR(status.st_mode)
    batch = _Entry((path.name,), status, is_folder)
    return [batch, *(_inside(path, batch.parts) if batch.is_folder else ())]


def _inside(folder: Path | str, parents: tuple[str, ...]) -> Iterator[_Entry]:
    # Not `walk`, which looks at each entry again; the system tells a folder's entries along with their kinds.
    with os.scandir(folder) as found:
        for entry in found:
            parts = (*parents, entry.name)
            yield _Entry(parts, entry.stat(follow_symlinks=False), entry.is_dir())
            if entry.is_dir(follow_symlinks=False):
                yield from _inside(entry.path, parts)


def _stamp(entries: list[_Entry]) -> str:
    """A digest of the names, sizes and times of a batch's files; only `load` reads their content."""
    digest = hashlib.sha256()
    # In the order and the words of earlier releases: a stamp that changes starts a run.
    for entry in sorted(entries, key=lambda each: each.parts):
        if not entry.is_folder and entry.parts[-1] != DONE:
            path = f"PosixPath({'/'.join(entry.parts)!r})"
            digest.update(f"{path} {entry.status.st_size} {entry.status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
