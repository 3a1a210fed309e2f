"""A file system that hiccups: the n-th look at anything below a folder fails as the system's errors do."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.system.errors import TaskError, is_transient

ERRORS = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM)


class Hiccups:
    """Counts looks (open, read, list, stat) at what lies below a folder, and lets one of them fail."""

    def __init__(self, root: Path, fails: int) -> None:
        self.root, self.fails, self.looks = str(root), fails, 0

    def look(self, path: Any) -> None:
        """Fail if it is the one."""
        if isinstance(path, str | os.PathLike) and str(path).startswith(self.root):
            self.looks += 1
            if self.looks - 1 == self.fails:
                number = ERRORS[self.fails % len(ERRORS)]
                raise OSError(number, os.strerror(number), str(path))


@contextmanager
def hiccups(root: Path, fails: int) -> Iterator[Hiccups]:
    """Let the look number `fails`, counted from 0, at something below `root` fail."""
    state = Hiccups(root, fails)
    real_open, real_stat, real_scandir, real_listdir = io.open, os.stat, os.scandir, os.listdir

    class File(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            state.look(self.name)
            return super().readinto(buffer)

        def readall(self) -> bytes:
            state.look(self.name)
            return super().readall() or b""

    def open_(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        state.look(file)
        below = isinstance(file, str | os.PathLike) and str(file).startswith(state.root)
        if not below or set(mode) & set("wax+"):
            return real_open(file, mode, buffering, *more, **options)
        raw = File(file)
        if not buffering:
            return raw
        return io.BufferedReader(raw) if "b" in mode else io.TextIOWrapper(io.BufferedReader(raw), encoding="utf-8")

    def wrapped(real: Any) -> Any:
        def call(path: Any = ".", *more: Any, **options: Any) -> Any:
            state.look(path)
            return real(path, *more, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (io, builtins):
            patch.setattr(module, "open", open_)
        for name, real in (("stat", real_stat), ("scandir", real_scandir), ("listdir", real_listdir)):
            patch.setattr(os, name, wrapped(real))
        yield state


def number_of(error: BaseException | None) -> set[int | None]:
    """The system's numbers of an error and of those that it was made from."""
    found = set()
    while error is not None:
        found.add(getattr(error, "errno", None))
        error = error.__cause__ or error.__context__
    return found


def whatever_fails(root: Path, call: Callable[[], Any], *, most: int | None = None) -> int:
    """Call it with each look below `root` failing in turn: it ends as without, or with an error that is retried.

    Args:
        root: the folder.
        call: what looks there.
        most: about how many looks fail, evenly spread; None for all.

    Returns:
        How many looks have failed.
    """
    with hiccups(root, -1) as state:
        expected = call()
    chosen = range(0, state.looks, max(1, state.looks // most) if most else 1)
    raised = 0
    for fails in chosen:
        failure: Exception | None = None
        with hiccups(root, fails):
            try:
                outcome = call()
            except Exception as error:
                failure = error
        if failure:
            assert is_transient(failure), (fails, failure)
            assert not isinstance(failure, TaskError), (fails, failure)
            assert ERRORS[fails % len(ERRORS)] in number_of(failure)
            raised += 1
        else:
            assert outcome == expected, fails
    assert raised
    return len(chosen)
