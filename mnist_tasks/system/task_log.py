"""What every task writes to its log: a closing line with its duration and peak memory, and lines folded into groups."""

from __future__ import annotations

import functools
import logging
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)


def log_resources(task: Callable[P, R]) -> Callable[P, R]:
    """Log at the end of a task function how long it took and the peak memory of its process."""

    @functools.wraps(task)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        start = time.monotonic()
        result = task(*args, **kwargs)
        logging.getLogger(task.__module__).info(
            "%s took %.1f s; peak memory %.0f MB", task.__name__, time.monotonic() - start, peak_memory_mb()
        )
        return result

    return wrapper


@contextmanager
def log_group(log: logging.Logger, title: str) -> Iterator[None]:
    """Have Airflow's UI fold the log lines of the block into a group with this title."""
    log.info("::group::%s", title)
    try:
        yield
    finally:
        log.info("::endgroup::")


@contextmanager
def best_effort(picture: str) -> Iterator[None]:
    """Log an error in the block, which draws a picture that only people look at, and go on with the task."""
    try:
        yield
    except Exception as error:
        log.warning("%s is not drawn; the task goes on without it: %s: %s", picture, type(error).__name__, error)


def peak_memory_mb() -> float:
    """The largest resident set that this process has had since it was forked or started, in MB (10^6 bytes).

    On Linux it is not `ru_maxrss`, which begins with the peak of the process that started this one.
    """
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes there
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kibibytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kibibytes) * 1024 / 1e6
