"""Writing files so that a reader, a kill or a full disk never finds half of one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mnist_tasks.system.disk_space import explained_disk_errors
from mnist_tasks.system.errors import ModelError, is_transient

# In lower case; Windows, macOS' archives, Synology, QNAP, a clone of a data set.
CLUTTER = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "__macosx"),
    *("@eadir", "#recycle", "@recycle", "readme", "readme.md", "readme.txt", "license", "license.txt"),
}


def is_conclusive(error: BaseException) -> bool:
    """Whether a read error says something about the file.

    It does not if it may pass, or if this user may not read the file: for other users the file may be whole.
    """
    return not is_transient(error) and not isinstance(error, PermissionError)


@contextmanager
def explained_read_errors(path: Path) -> Iterator[None]:
    """Name the path in errors of the block, which reads a file, and the way out in permission errors."""
    try:
        yield
    except PermissionError as error:
        text = f"{error.strerror}; give this user the right to read it"
        raise PermissionError(error.errno, text, str(path)) from error
    except OSError as error:
        if error.filename is None:  # the error comes from a file that is open already
            error.filename = str(path)
        raise


def printable(text: str | Path) -> str:
    """A text or a path for a message. Bytes that are not UTF-8 are written with escapes, as no log takes them."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def fsync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fsync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def fsync_descriptor(descriptor: int) -> None:
    """`fsync` of a file that is open.

    On macOS the system's fsync leaves the bytes in the disk's own cache, which a power cut empties (man 2 fsync).
    """
    if sys.platform == "darwin":
        with suppress(OSError):  # a file system that does not know it, such as a share
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A place beside `path`, with the same suffix. The file there becomes `path` when the block ends without an error.

    Args:
        path: where the file ends up, in one step.
        durable: wait until it is on the disk. A file that is verified before use, and can be made again, need not be.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with explained_disk_errors(path):
            yield temporary
            if durable:
                fsync(temporary)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the disk may no longer be writable; the first error is the one that matters
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a file beside `path`, with the same suffix, then move it to `path` in one step."""
    with atomic_file(path) as temporary:
        write(temporary)


def to_json(value: Any) -> str:
    """Indented JSON with a final newline. Raises a `ValueError` for NaN and infinity, which JSON does not have."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON in one step."""
    write_atomically(path, lambda temporary: write_text(temporary, to_json(value)))


def read_json(path: Path, task: str) -> Any:
    """The content of a JSON file that the named task wrote.

    Raises:
        ModelError: if it is missing, or is not JSON.
        OSError: if it cannot be read now, and perhaps can at the next try.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if is_transient(error):
            raise
        raise ModelError(f"{path} cannot be read: {error}; clear the {task} task to write it again") from error


def copy(source: Path, target: Path) -> None:
    """Copy a file's content in place, for `write_atomically`."""
    shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Write text in place, for `write_atomically`."""
    path.write_text(text, encoding="utf-8")


def is_clutter(name: str) -> bool:
    """Whether an entry of a folder is hidden, or left there by a file manager, an archiver or a NAS, or a read-me."""
    return name.startswith(".") or name.lower() in CLUTTER


def walk(path: Path) -> Iterator[Path]:
    """A file, or a folder and everything in it, in a fixed order.

    Links are not followed. Unlike `Path.rglob`, it raises an error for a folder that cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    yield path
    for folder, folders, names in os.walk(path, onerror=fail) if path.is_dir() else ():
        folders.sort()
        for name in sorted([*folders, *names]):
            yield Path(folder, name)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which becomes `target` in one step when the block ends without an error.

    Everything in it is synced to the disk before the rename. The caller holds the lock on the parent folder, has
    removed the staging folders that a killed writer left, and has made sure that `target` does not exist.
    """
    staging = target.with_name(f".staging-{target.name}")
    with explained_disk_errors(target):
        staging.mkdir()
    try:
        with explained_disk_errors(target):
            yield staging
            for path in sorted(staging.rglob("*"), reverse=True):
                fsync(path)
            fsync(staging)
            staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    fsync(target.parent)


def remove_staging_folders(parent: Path) -> None:
    """Remove what a killed writer has left in `parent`. The caller holds the lock on it."""
    for staging in parent.glob(".staging-*"):
        if staging.is_symlink():
            staging.unlink()
        else:
            shutil.rmtree(staging)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with explained_read_errors(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
