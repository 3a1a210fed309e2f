"""Simulate a file system with temporary errors: the n-th access below a folder fails with an error of the system."""

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
    """Count the accesses (open, read, list, stat) below a folder and let one of them fail."""

    def __init__(self, root: Path, fails: int) -> None:
        self.root, self.fails, self.looks = str(root), fails, 0

    def look(self, path: Any) -> None:
        """Count an access; raise an error if it is the one that must fail."""
        if isinstance(path, str | os.PathLike) and str(path).startswith(self.root):
            self.looks += 1
            if self.looks - 1 == self.fails:
                number = ERRORS[self.fails % len(ERRORS)]
                raise OSError(number, os.strerror(number), str(path))


@contextmanager
def hiccups(root: Path, fails: int) -> Iterator[Hiccups]:
    """Let access number `fails` below `root`, counted from 0, fail."""
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
    """Return the error numbers of an error and of all errors in its chain."""
    found = set()
    while error is not None:
        found.add(getattr(error, "errno", None))
        error = error.__cause__ or error.__context__
    return found


def whatever_fails(root: Path, call: Callable[[], Any], *, most: int | None = None) -> int:
    """Call a function repeatedly, each time with another access below `root` failing.

    Each call must either return the same as without a failure or raise an error that is retried.

    Args:
        root: the folder.
        call: the function, which reads below the folder.
        most: the approximate number of accesses that fail, evenly spread; None for all.

    Returns:
        The number of accesses that failed.
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
