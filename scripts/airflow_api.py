"""Airflow's REST API, as the launchers use it: whether the training can run, and one run of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from mnist_tasks import installation

DAG, SWEEP = "mnist_training", "mnist_sweep"
UNFINISHED = ("queued", "running")


class LaunchError(Exception):
    """Airflow cannot be started, has stopped by itself or cannot run the training.

    The message says why and what to do.
    """


def runs_of(dag: str) -> str:
    """The path of a DAG's runs."""
    return f"/api/v2/dags/{dag}/dagRuns"


def require_dag(client: httpx.Client, by_hand: Callable[..., str], dag_id: str = DAG) -> str | None:
    """Check that Airflow can run a DAG. Return None, or a hint for the user if the DAG is only paused.

    Args:
        client: a client of the API that is logged in.
        by_hand: makes a shell command from the arguments of `airflow`.
        dag_id: which.

    Raises:
        LaunchError: if Airflow does not have the DAG, cannot import its file, or does not have the pool of its tasks.
    """
    answer = client.get(f"/api/v2/dags/{dag_id}")
    if answer.status_code != httpx.codes.NOT_FOUND:
        answer.raise_for_status()
    dag: dict[str, Any] = answer.json()
    if not answer.is_success or dag["has_import_errors"]:
        errors = client.get("/api/v2/importErrors").raise_for_status().json()["import_errors"]
        reasons = [f"\n{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]
        raise LaunchError(f"Airflow cannot import the DAG {dag_id}{':' if reasons else ''}{''.join(reasons)}")
    pool = installation.value("MNIST_GPU_POOL")
    if pool and client.get(f"/api/v2/pools/{quote(pool, safe='')}").status_code == httpx.codes.NOT_FOUND:
        raise LaunchError(
            f"MNIST_GPU_POOL: Airflow has no pool {pool!r}, so train and evaluate would wait for ever; leave the "
            "setting empty, or make the pool, here with one slot:\n"
            + by_hand("pools", "set", pool, "1", "train and evaluate")
        )
    if not dag["is_paused"]:
        return None
    return f"{dag_id} is paused: no run of it is started until you switch it on, in Airflow's UI or with\n" + by_hand(
        "dags", "unpause", "--yes", dag_id
    )


def describe(error: httpx.HTTPStatusError) -> str:
    """The reason that the API gives for refusing a request; the status if it gives none."""
    try:
        detail: Any = error.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return str(error)
    return detail if isinstance(detail, str) else json.dumps(detail)


class Run:
    """One run of a DAG, seen through the REST API.

    Args:
        client: a client of the API that is logged in.
        run_id: the id of the run.
        logs: the folder of Airflow's logs.
        check: called before each request; raises an error if the run cannot go on.
        dag: the DAG's id.
    """

    def __init__(
        self,
        client: httpx.Client,
        run_id: str,
        logs: Path,
        check: Callable[[], None] = lambda: None,
        dag: str = DAG,
    ) -> None:
        self.client, self.id, self.logs, self.check, self.dag = client, run_id, logs, check, dag
        self.path = f"{runs_of(dag)}/{run_id}"

    @classmethod
    def trigger(
        cls,
        client: httpx.Client,
        parameters: dict[str, Any],
        logs: Path,
        check: Callable[[], None] = lambda: None,
        dag: str = DAG,
    ) -> Run:
        """Start a run."""
        body = {"logical_date": None, "conf": parameters}
        created = client.post(runs_of(dag), json=body).raise_for_status().json()
        return cls(client, created["dag_run_id"], logs, check, dag)

    def get(self, below: str = "") -> dict[str, Any]:
        """What the API returns for the run, or for a path below it."""
        self.check()
        answer: dict[str, Any] = self.client.get(self.path + below).raise_for_status().json()
        return answer

    def next_try(self, task: dict[str, Any]) -> str:
        """Describe the next try of a task that waits for it: when it comes, its number, and how many there are."""
        name, number, tries = task["task_id"], task["try_number"], task["max_tries"] + 1
        rule = self.client.get(f"/api/v2/dags/{self.dag}/tasks/{name}").raise_for_status().json()
        delay = timedelta(**{unit: rule["retry_delay"][unit] for unit in ("days", "seconds", "microseconds")})
        least = delay.total_seconds() * (rule["retry_exponential_backoff"] or 1) ** (number - 1)
        # Airflow adds a random part to growing pauses, so that tasks that failed together are not retried together.
        pause = f"{least:.0f} to {2 * least:.0f}" if rule["retry_exponential_backoff"] else f"{least:.0f}"
        return f"; tried again in {pause} s, try {number + 1} of {tries}"

    def log_path(self, task: str, try_number: int) -> Path:
        """The file with the log of a task's try, in JSON lines. The API would first ask a log server; there is none."""
        return self.logs / f"dag_id={self.dag}/run_id={self.id}/task_id={task}/attempt={try_number}.log"

    def fail(self) -> None:
        """Mark the run as failed."""
        self.client.patch(self.path, json={"state": "failed"}).raise_for_status()


def fail_interrupted(client: httpx.Client) -> None:
    """Mark the runs as failed that an earlier, interrupted launcher has left unfinished."""
    for dag in (SWEEP, DAG):  # a sweep first, or it would trigger another run
        for left in client.get(runs_of(dag), params={"state": UNFINISHED}).raise_for_status().json()["dag_runs"]:
            print(f"{left['dag_run_id']} was interrupted; marking it as failed")
            Run(client, left["dag_run_id"], Path(), dag=dag).fail()
