"""`make up`: Airflow with its UI on this machine, until Ctrl-C. The nightly schedule runs as long as it is up."""

from __future__ import annotations

import entry

if __name__ == "__main__":
    entry.start()

import os
import sys
import time

from airflow_api import LaunchError, require_dag
from clean_airflow import CLEAN_AFTER, CLEAN_EVERY
from local_airflow import local_airflow
from process_tree import Stopped, stop_on_signals
from surroundings import HOST, USER

from mnist_tasks import installation
from mnist_tasks.system.errors import TaskError
from mnist_tasks.workspace import Workspace

SERVICES = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


def main() -> int:
    """Serve until a signal comes; return status 0 then, and 2 if Airflow cannot be started or ends by itself."""
    text = os.environ.get("PORT", "8080")
    if not (text.isdecimal() and 1 <= (port := int(text)) <= 65535):
        print(f"failed: PORT={text} is not a port number from 1 to 65535", file=sys.stderr)
        return entry.FAILED
    try:
        installation.check()
        workspace = Workspace.from_environment()
        workspace.prepare()
        passwords = workspace.root / "airflow" / "passwords.json"
        with local_airflow(workspace, port, passwords, SERVICES, {}) as airflow:
            with airflow.client() as client:
                paused = require_dag(client, airflow.by_hand)
                print(f"Airflow is up: http://{HOST}:{port}   (Ctrl-C stops it)")
                print(f"  user      {USER}")
                print(f"  password  {airflow.new_password or f'as shown at the first start; it is in {passwords}'}")
                if paused:
                    print(paused)
            clean_at = time.monotonic() + CLEAN_AFTER
            while True:
                airflow.check_services()
                if time.monotonic() >= clean_at:
                    clean_at += CLEAN_EVERY
                    airflow.spawn_script("clean_airflow")
                time.sleep(1)
    except (LaunchError, TaskError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return entry.FAILED
    except Stopped:
        print("stopped")
        return 0


if __name__ == "__main__":
    stop_on_signals()
    entry.end(main())
