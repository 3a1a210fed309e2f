"""Stops Airflow's processes should the launcher be killed, which then cannot do so itself.

Reads from standard input the process id of each service that the launcher starts, one a line; the end of the input is
the end of the launcher. Signalling the services alone would not do: Airflow's scheduler has been seen to wait for ever
for an idle worker of its own.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import psutil

STOP_SECONDS = 15


def main() -> None:
    """Wait for the end of the input, then end every service and all that it has started."""
    services = []
    for line in sys.stdin:
        with suppress(psutil.NoSuchProcess):  # it may have ended already
            services.append(psutil.Process(int(line)))
    found: set[psutil.Process] = set()
    deadline = time.monotonic() + STOP_SECONDS
    for service in services:
        found |= _with_descendants(service)
        with suppress(psutil.NoSuchProcess):
            service.terminate()
    while found:
        if time.monotonic() > deadline:
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        found = {after for process in found for after in _with_descendants(process)}
        time.sleep(0.2)


def _with_descendants(process: psutil.Process) -> set[psutil.Process]:
    """A process and all below it; nothing once it has ended."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return set()
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


if __name__ == "__main__":
    main()
