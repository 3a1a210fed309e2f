"""`make stack-run`: one run of mnist_training on the stack of docker-compose.yaml, followed to its end.

Runs in a container with the volumes of the stack. Arguments and exit status are those of `make run`. If this command is
interrupted, the run goes on.
"""

from __future__ import annotations

import entry

if __name__ == "__main__":
    entry.start(anew=False)  # the container's packages come from PYTHONPATH

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from airflow_api import LaunchError, Run, require_dag
from process_tree import stop_on_signals
from run import POLL_SECONDS, check, exit_status, follow, parse
from surroundings import USER

from mnist_tasks.workspace import Workspace

AWAY_SECONDS = 180  # longer than a restart of the API server and of Postgres takes


class PatientClient(httpx.Client):
    """A client of Airflow's API that logs in as admin, and waits and logs in again while it or its database is away.

    Args:
        url: the API server's.
        password: the admin's.
    """

    def __init__(self, url: str, password: str) -> None:
        super().__init__(base_url=url, timeout=30, trust_env=False)
        self.password = password

    def request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Response:
        """Send a request. Repeat a GET while the server is away; but not a POST, which may have been carried out."""
        deadline = time.monotonic() + (AWAY_SECONDS if method == "GET" else 0)
        while True:
            try:
                answer = super().request(method, url, **arguments)
                # FAB answers 401 while Postgres is away.
                if (answer.status_code != 401 and not answer.is_server_error) or time.monotonic() > deadline:
                    return answer
                if answer.status_code == 401:
                    self.log_in()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def log_in(self) -> None:
        """Get a token, unless the API server is away."""
        answer = self.post("/auth/token", json={"username": USER, "password": self.password})
        if answer.is_success:
            self.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def main(arguments: list[str]) -> int:
    """Run the DAG once and return the exit status."""
    return exit_status(lambda: run_once(arguments), lambda: "no longer following; the run goes on")


def run_once(arguments: list[str]) -> int:
    """Trigger a run, follow it, and return the exit status."""
    parameters = parse(arguments)
    check(parameters)
    logs = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    with PatientClient("http://api-server:8080", os.environ["ADMIN_PASSWORD"]) as client:
        try:
            client.log_in()
            if paused := require_dag(
                client, lambda *command: shlex.join(["docker", "compose", "exec", "scheduler", "airflow", *command])
            ):
                raise LaunchError(paused)
            return follow(Run.trigger(client, parameters, logs), Workspace.from_environment())
        except httpx.TransportError as error:
            raise LaunchError(str(error)) from error


if __name__ == "__main__":
    stop_on_signals()
    entry.end(main(sys.argv[1:]))
