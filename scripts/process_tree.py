"""Stopping: the signals that ask the launcher to end, and the end of every process that it has started."""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import FrameType

import psutil

STOP_SECONDS = 15  # from SIGTERM to SIGKILL
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


class Stopped(BaseException):
    """A signal has asked the program to end. Not an `Exception`, like `KeyboardInterrupt`."""


def stop_on_signals() -> None:
    """Raise `Stopped` at each signal that asks a program to end, and at Ctrl-C even if the shell has it ignored.

    A hang-up that is ignored stays ignored: `nohup` has started the program, which goes on when the terminal is closed.
    """

    def stop(signum: int, _: FrameType | None) -> None:
        raise Stopped(signal.Signals(signum).name)

    for signum in STOP_SIGNALS:
        if not (signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN):
            signal.signal(signum, stop)


def become_subreaper() -> None:
    """Adopt the processes that a service leaves behind, so that `stop_descendants` finds them.

    Only Linux can do that. Elsewhere `stop_trees` still stops all that it has seen below a service.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER, 1)")


def stop_descendants() -> None:
    """Stop every descendant of this process. Signals that ask it to end are ignored from now on."""
    # A second Ctrl-C must not leave half of them behind.
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    me = psutil.Process()
    while children := me.children():  # more come when a child ends and leaves its own behind
        stop_trees(children)


def stop_trees(roots: Sequence[psutil.Process]) -> None:
    """Send SIGTERM to processes and wait until they and all their descendants have ended.

    After `STOP_SECONDS`, send SIGKILL to what is left. To signal the roots alone is not enough: Airflow's scheduler has
    been seen to wait for ever for one of its own idle workers.
    """
    deadline = time.monotonic() + STOP_SECONDS
    remaining = {*roots, *_running_trees(roots)}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            root.terminate()
    while remaining:
        if time.monotonic() > deadline:
            for process in remaining:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        _, alive = psutil.wait_procs(remaining, timeout=0.2)
        remaining = _running_trees(alive)


def _running_trees(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """The processes that still run, and their descendants. A process that its parent has not waited for has ended."""
    running = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                running |= {process, *process.children(recursive=True)}
    return running
