"""What a command prints while it waits: something every few seconds, so that it never looks as if it hung."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENCE_SECONDS = 4.0

_said = time.monotonic()


def say(text: str) -> None:
    """Print a line at once."""
    global _said
    _said = time.monotonic()
    print(text, flush=True)


@contextmanager
def waiting(what: Callable[[float], str]) -> Iterator[None]:
    """Say in the block what it waits for, whenever nothing has been said for some seconds.

    Args:
        what: the line, from the seconds since the block began.
    """
    start, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(max(0.1, _said + SILENCE_SECONDS - time.monotonic())):
            if time.monotonic() - _said >= SILENCE_SECONDS:
                say(what(time.monotonic() - start))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
