"""Start and end a command of this folder, whatever environment it is started in. Import this module first.

Status 1 says that the model was rejected. Python also ends with 1 after an uncaught exception. So a command that breaks
off, for example because a package cannot be imported, ends with status 2.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from typing import NoReturn

FAILED = 2

_status: int | None = None


def start(anew: bool = True) -> None:
    """Prepare this process for a command. Call it before the other imports.

    Variables such as PYTHONPATH, PYTHONWARNINGS and PYTHONIOENCODING are meant for other programs, and text must be
    UTF-8 whatever the locale is. If this interpreter was started otherwise, replace it by one that ignores them.

    Args:
        anew: whether the interpreter may be replaced.
    """
    if anew and not (sys.flags.ignore_environment and sys.flags.utf8_mode):
        os.execv(sys.executable, [sys.executable, "-E", "-X", "utf8", *sys.argv])  # noqa: S606 - the same program
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # standard input, output and error must be open
        pass
    os.close(spare)
    atexit.register(_end)
    sys.stdout, sys.stderr = _output(1), _output(2)


def end(status: int) -> NoReturn:
    """End the process with this status."""
    global _status
    _status = status
    sys.exit(status)


def _end() -> None:
    """End with status 2 if `end` was not called. Registered first, so that it is called last."""
    if _status is None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAILED)


class _Descriptor(io.FileIO):
    """A file descriptor for output whose reader may go away, such as `head` or a terminal."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write the data, or drop them if nobody reads them any more. The command goes on in both cases."""
        try:
            written: int = super().write(data)
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)
        return written


def _output(descriptor: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(_Descriptor(descriptor, "wb", closefd=False))
    # Each line is written at once, also to a pipe. Bytes that are not UTF-8, such as those of a file name, are escaped.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
