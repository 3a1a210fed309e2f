"""Check that a run fits on the disk before it starts, and explain the errors of a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mnist_tasks.system.errors import InputError, TaskError
from mnist_tasks.system.suggestions import CLI

MB = 10**6

# Bytes of a raw image with its label, and of the same image as float32. `dataset` has the shape, but imports NumPy.
RAW, NORMALIZED = 28 * 28 + 1, 4 * 28 * 28

# Bytes that a run of the smallest recipe needs at least: model.keras, SavedModel, checkpoint, golden images and figures
# in its folder, and the copies that are published.
RUN, VERSION = 3 * MB, 2 * MB
FILES = 64  # of a run in all its folders

SPACE = (
    f"free space there, for instance with `{CLI} models prune --keep 3`, or set MNIST_HOME to a folder on a larger disk"
)
WAYS_OUT = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: f"have the quota raised, {SPACE}",
    errno.EROFS: "mount it for writing, or set MNIST_HOME to a folder that can be written to",
}


class DiskError(OSError):
    """A file could not be written: the disk is full, the quota is used up, or it is mounted read-only.

    It has the system's error number, so that it is retried where that may help. `strerror` also says what is free.
    """

    def __str__(self) -> str:
        return f"writing to {self.filename} failed: {self.strerror}; {WAYS_OUT[self.errno or errno.ENOSPC]}"


@contextmanager
def explained_disk_errors(path: Path, *, below: bool = False) -> Iterator[None]:
    """Turn the errors of a full disk in the block, the system's and TensorFlow's, into a `DiskError`.

    The free space is looked up before the caller removes what it has written so far.

    Args:
        path: what is written, for the message.
        below: whether `path` is only the folder that most is written below, so that the error's own path says more.
    """
    try:
        yield
    except (DiskError, TaskError):
        raise
    except Exception as error:
        number = _number(error)
        if number is None:
            raise
        # The target of a copy or a rename comes second.
        names = (getattr(error, "filename2", None), getattr(error, "filename", None)) if below else ()
        raise disk_error(number, next((Path(name) for name in names if isinstance(name, str)), path)) from error


def disk_error(number: int, path: Path) -> DiskError:
    """The error for one of the error numbers in `WAYS_OUT`, with the free space where `path` is."""
    text = os.strerror(number)
    if number == errno.EDQUOT:  # the file system does not say how much of it is left
        text += f" for user {os.geteuid()}"
    if number != errno.EROFS and (free := _free(path)):
        text += f": {free}"
    return DiskError(number, text, str(path))


def _number(error: Exception) -> int | None:
    """The error number in `WAYS_OUT` that an error is about. TensorFlow's errors have only the system's words."""
    if isinstance(error, OSError):
        return error.errno if error.errno in WAYS_OUT else None
    if type(error).__module__.startswith("tensorflow."):
        return next((number for number in WAYS_OUT if os.strerror(number) in str(error)), None)
    return None


def _free(path: Path) -> str:
    """The free space on the file system of a path, which need not exist; empty if it cannot be looked up."""
    try:
        status = os.statvfs(_existing(path))
    except OSError:  # the error that is being described matters, not this one
        return ""
    free, total = (blocks * status.f_frsize for blocks in (status.f_bavail, status.f_blocks))
    text = f"{free / MB:,.1f} of {total / MB:,.1f} MB are free"
    if status.f_files and status.f_favail < FILES:
        text += f", but only {status.f_favail:,} of {status.f_files:,} inodes, of which each file takes one"
    return text


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def space_for_dataset(images: int, folder: Path, work: Path | None = None, *, whole: bool = True) -> int:
    """How many more bytes a dataset needs until it is normalized.

    An image takes 785 bytes with its label and 3,136 as float32; MNIST's 70,000 images take 275 MB. `load` moves the
    arrays from its folder for work: what exists there, and in the dataset's folder, needs no more space.

    Args:
        images: of both splits.
        folder: the dataset's, which may have some of it already.
        work: the folder with the raw arrays that will be moved, and with copies that will be removed.
        whole: whether `folder` can be kept. Otherwise it is removed once the raw images have been read again.
    """
    there = sum(_size(place) for place in (folder, work) if place)
    return max(0 if whole else images * RAW, images * (RAW + NORMALIZED) - there)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_space(needs: Mapping[Path, int]) -> None:
    """Refuse to begin work that does not fit on the disk.

    Args:
        needs: bytes that will be written to each folder. Those on the same file system are added up.

    Raises:
        InputError: naming the folder, what is needed, what is free and the way out.
    """
    disks: dict[int, dict[Path, int]] = {}
    for folder, need in needs.items():
        disks.setdefault(_existing(folder).stat().st_dev, {})[folder] = need
    for parts in disks.values():
        folder = max(parts, key=lambda part: parts[part])
        need = sum(parts.values())
        status = os.statvfs(_existing(folder))
        few_inodes = bool(status.f_files) and status.f_favail < FILES  # some file systems have no bound, and say 0
        if status.f_bavail * status.f_frsize < need or few_inodes:
            files = f" and {FILES} inodes" if few_inodes else ""
            raise InputError(
                f"{folder} has too little space: a run needs {need / MB:,.1f} MB{files} more, but {_free(folder)}; "
                f"{SPACE}"
            )
