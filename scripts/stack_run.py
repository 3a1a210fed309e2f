"""`make stack-run`: one run of mnist_training on the stack of docker-compose.yaml, followed to its end.

Runs in a container that has the volumes. Arguments and exit status are those of `make run`; but when it is interrupted,
the run goes on.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import httpx
from local_airflow import USER, LaunchError, Stopped, describe, stop_on_signals
from run import FAILED, POLL_SECONDS, Run, follow, parse

from mnist_tasks.config import RunConfig
from mnist_tasks.errors import TaskError
from mnist_tasks.workspace import Workspace

URL = "http://api-server:8080"
LOGS = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
AWAY_SECONDS = 180  # of the API server, restarts of it and of Postgres included


class PatientClient(httpx.Client):
    """A client that is logged in, and waits and logs in again while the API server or its database is away."""

    def request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Response:
        """As httpx does, but try again; only what changes nothing, as a trigger may have been taken."""
        deadline = time.monotonic() + (AWAY_SECONDS if method == "GET" else 0)
        while True:
            try:
                answer = super().request(method, url, **arguments)
                # FAB answers 401 while Postgres is away.
                if (answer.status_code != 401 and not answer.is_server_error) or time.monotonic() > deadline:
                    return answer
                if answer.status_code == 401:
                    log_in(self)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)


def log_in(client: httpx.Client) -> None:
    """Get a token, unless the API server is away."""
    answer = client.post("/auth/token", json={"username": USER, "password": os.environ["ADMIN_PASSWORD"]})
    if answer.is_success:
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def main(arguments: list[str]) -> int:
    """Run the DAG once and return the exit status."""
    try:
        parameters = parse(arguments)
        RunConfig.from_parameters(parameters)  # refuses what the DAG would refuse
        with PatientClient(base_url=URL, timeout=30, trust_env=False) as client:
            log_in(client)
            return follow(Run.trigger(client, parameters, LOGS), Workspace.from_environment())
    except (LaunchError, TaskError, httpx.TransportError) as error:
        print(f"failed: {error}", file=sys.stderr)
    except httpx.HTTPStatusError as error:
        print(f"failed: {describe(error)}", file=sys.stderr)
    except Stopped:
        print("no longer following; the run goes on", file=sys.stderr)
    except Exception:
        # An uncaught exception would end with status 1, which says "rejected".
        traceback.print_exc()
    return FAILED


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main(sys.argv[1:]))
