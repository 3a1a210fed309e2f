"""Remove Airflow's own logs, and its rows about what has ended, that are older than MNIST_KEEP_LOGS.

`make up` runs it once a day, and so does the team stack. It needs the environment of the Airflow that it cleans.
"""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from mnist_tasks import installation


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


def main() -> int:
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
    sys.exit(main())
