"""Remove Airflow's own logs, and its rows about what has ended, that are older than MNIST_KEEP_LOGS.

It needs the environment of the Airflow that it cleans. `make up` runs it once a day. In the team stack, with `--daily`,
it waits for the next day itself, and touches a file that tells that it is alive.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from mnist_tasks import installation

CLEAN_AFTER, CLEAN_EVERY = 600, 24 * 3600  # seconds after the start, and from one clean-up to the next
ALIVE = Path("/tmp/alive")  # noqa: S108 - of a container, whose /tmp nobody else writes to


def remove_logs(folder: Path, before: float) -> int:
    """Remove files that were last written before a time, in seconds since 1970, and folders that become empty."""
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()) and path.stat().st_mtime < before:
                path.rmdir()
        elif path.lstat().st_mtime < before:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def daily() -> NoReturn:
    """Clean some minutes after the start and then once a day, for ever."""
    due = time.monotonic() + CLEAN_AFTER
    while True:
        ALIVE.touch()
        if time.monotonic() >= due:
            due += CLEAN_EVERY
            main()
        time.sleep(60)


def main() -> int:
    """Clean once; return the status of Airflow's command."""
    keep = installation.value("MNIST_KEEP_LOGS")
    if keep is None:
        return 0
    before = time.time() - keep.total_seconds()
    time_text = datetime.fromtimestamp(before, timezone.utc).isoformat(timespec="seconds")
    command = ["db", "clean", "--clean-before-timestamp", time_text, "--skip-archive", "--yes"]
    status = subprocess.run([sys.executable, "-m", "airflow", *command], check=False).returncode

    from airflow.configuration import conf

    removed = remove_logs(Path(conf.get("logging", "base_log_folder")), before)
    print(f"removed {removed:,} log files from before {time_text}")
    return status


if __name__ == "__main__":
    if sys.argv[1:] == ["--daily"]:
        daily()
    sys.exit(main())
