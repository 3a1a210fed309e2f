"""Stops Airflow's processes if the launcher is killed and can no longer do so itself.

Reads the process id of each service that the launcher starts from standard input, one a line. The input ends when the
launcher does.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import psutil
from process_tree import stop_trees


def main() -> None:
    """Wait for the end of the input, then stop every service and all that it has started."""
    services = []
    for line in sys.stdin:
        with suppress(psutil.NoSuchProcess):  # it has ended already
            services.append(psutil.Process(int(line)))
    stop_trees(services)


if __name__ == "__main__":
    main()
