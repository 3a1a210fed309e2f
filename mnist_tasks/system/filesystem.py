"""Try out a file system before any work is done on it: permissions, locks, renames, links."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_tasks.system.disk_space import WAYS_OUT, disk_error
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import fsync

TRIAL, FOLDER = ".trial-", ".folder"
TRIES = 100

CANNOT_WRITE = "cannot be written to"
NO_LOCKS = "has a file system without locks (flock), which two runs at once need"

OTHER_FOLDER = "give it to the user that runs the tasks, or set MNIST_HOME to another folder"
OTHER_FILE_SYSTEM = "set MNIST_HOME to a folder on another file system, such as ext4, XFS or NFS 4"


def try_out(folder: Path, *, links: bool) -> None:
    """Try everything in a folder that writing to it will need, with hidden files that are removed again.

    Hard links are not tried: without them files are copied. Leftovers of a killed trial are removed. Any number of
    processes may try at the same time.

    Args:
        folder: made if needed.
        links: whether symbolic links are needed.

    Raises:
        InputError: naming the folder, what cannot be done there, and the way out.
    """
    with _named(folder, CANNOT_WRITE):
        folder.mkdir(parents=True, exist_ok=True)
    with _named(folder, NO_LOCKS):
        _remove_leftovers(folder)
    with _trial(folder) as trial:
        with _named(folder, CANNOT_WRITE):
            trial.mkdir()
            (trial / "new").write_bytes(b"\0" * 4096)
        with _named(folder, "has a file system that cannot bring files and folders to the disk (fsync)"):
            for path in (trial / "new", trial):
                fsync(path)
        with _named(folder, "has a file system that cannot rename"):
            (trial / "old").write_bytes(b"")
            (trial / "new").replace(trial / "old")
            (trial / "1").mkdir()
            (trial / "1").rename(trial / "2")
        if links:
            with _named(folder, "has a file system without symbolic links, which the champion is"):
                (trial / "champion").symlink_to("1")
                (trial / "next").symlink_to("2")
            with _named(folder, "has a file system that cannot replace a symbolic link in one step"):
                (trial / "next").replace(trial / "champion")
                if (trial / "champion").readlink() != Path("2"):
                    raise OSError(errno.EOPNOTSUPP, "the old link is still there")


@contextmanager
def _named(folder: Path, problem: str) -> Iterator[None]:
    """Turn an error of the system into an `InputError` that says what was tried."""
    try:
        yield
    except OSError as error:
        if error.errno in WAYS_OUT:
            raise InputError(str(disk_error(error.errno, folder))) from error
        way_out = OTHER_FOLDER if problem == CANNOT_WRITE else OTHER_FILE_SYSTEM
        raise InputError(f"{folder} {problem}: {error.strerror}; {way_out}") from error


@contextmanager
def _trial(folder: Path) -> Iterator[Path]:
    """The name of a folder for a trial. A file beside it stays locked during the trial."""
    for _ in range(TRIES):
        with _named(folder, CANNOT_WRITE):
            descriptor, name = tempfile.mkstemp(prefix=TRIAL, dir=folder)
        try:
            with _named(folder, NO_LOCKS):
                # Another process, which looks for leftovers, may have locked or removed the file just now.
                ours = _lock(descriptor) and os.fstat(descriptor).st_nlink
                if ours:
                    _check_lock(Path(name))
            if ours:
                yield Path(name + FOLDER)
                return
        finally:
            _clear(name)
            os.close(descriptor)
    raise InputError(f"{folder} {NO_LOCKS}: none was granted in {TRIES} tries; {OTHER_FILE_SYSTEM}")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed trials have left: everything whose lock nobody holds."""
    for path in folder.glob(f"{TRIAL}*"):
        if path.suffix == FOLDER:
            continue
        try:
            descriptor = os.open(path, os.O_RDWR)
        except (FileNotFoundError, PermissionError):  # the trial has ended meanwhile, or is another user's
            continue
        try:
            if _lock(descriptor):
                _clear(str(path))
        finally:
            os.close(descriptor)


def _clear(name: str) -> None:
    """Remove a trial. Its file is removed last, because it leads to the rest."""
    trial = Path(name + FOLDER)
    shutil.rmtree(trial, ignore_errors=True)
    if not trial.exists():
        Path(name).unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    """Lock an open file as `FileLock` does; False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # some file systems say the latter
            return False
        raise
    return True


def _check_lock(path: Path) -> None:
    """Raise an `OSError` if a locked file can be locked a second time."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _lock(descriptor):
            raise OSError(errno.EOPNOTSUPP, "a second lock on the same file was granted")
    finally:
        os.close(descriptor)
