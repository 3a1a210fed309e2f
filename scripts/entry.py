"""How a command of this folder starts and ends, whatever environment it is started in. Imported before all else.

Status 1 says that the model was rejected, and it is also what Python ends with after an uncaught exception. So a
command that does not come to its end, be it because a package cannot be imported, ends with status 2 here.
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
    """Make this process one that is ready for a command; must be called before the other imports.

    What it was started with in variables such as PYTHONPATH, PYTHONWARNINGS and PYTHONIOENCODING is meant for other
    programs, and text is UTF-8 whatever the locale: if need be, and `anew` allows it, it begins again in an interpreter
    of that kind.
    """
    if anew and not (sys.flags.ignore_environment and sys.flags.utf8_mode):
        os.execv(sys.executable, [sys.executable, "-E", "-X", "utf8", *sys.argv])  # noqa: S606 - the same program
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # of the three that everything takes for granted
        pass
    os.close(spare)
    atexit.register(_end)
    sys.stdout, sys.stderr = _output(1), _output(2)


def end(status: int) -> NoReturn:
    """End the process with this status, and no other one."""
    global _status
    _status = status
    sys.exit(status)


def _end() -> None:
    """Registered first, so called last."""
    if _status is None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAILED)


class _Descriptor(io.FileIO):
    """A file descriptor for output that nobody may want any more: of `| head`, of a terminal that is closed."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write, or drop it; the command's work goes on all the same."""
        try:
            written: int = super().write(data)
        except OSError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)
        return written


def _output(descriptor: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(_Descriptor(descriptor, "wb", closefd=False))
    # Each line goes out at once, to a pipe too. What is not text, such as a name in another encoding, is shown escaped.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
