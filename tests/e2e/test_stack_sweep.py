"""A sweep on the stack of docker-compose.yaml, with one GPU worker and with two, of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.test_stack import Run, Stack, docker, service_of, started, wait_until, what_is_missing
from tests.helpers import COUNTS

TRIALS = 8
# Of about the same length, so that two workers can share them evenly.
CONF = {"space": {"learning_rate": {"min": 0.0005, "max": 0.004, "log": True}, "epochs": [8]}, "trials": TRIALS}

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if missing := what_is_missing():
        pytest.skip(missing)
    with started(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def use_gpu_workers(stack: Stack, number: int) -> None:
    """Have this many GPU workers, and as many slots in their pool."""
    stack("up", "--detach", "--wait", "--no-recreate", "--scale", f"worker-gpu={number}")
    stack.shell("scheduler", f"airflow pools set gpu {number} 'train and evaluate'")


def tasks(stack: Stack, run: Run, name: str) -> list[dict[str, Any]]:
    found = stack.api("GET", f"{run.runs}/{run.id}/taskInstances?limit=200")["task_instances"]
    return [task for task in found if task["task_id"] == name]


def seconds(task: dict[str, Any]) -> tuple[float, float]:
    begin, end = (datetime.fromisoformat(task[key].replace("Z", "+00:00")) for key in ("start_date", "end_date"))
    return begin.timestamp(), end.timestamp()


def search(stack: Stack, seed: int) -> tuple[list[dict[str, Any]], float]:
    """Run a sweep to its end; return its trials' tasks, and the seconds from the first's start to the last's end."""
    run = Run(stack, "mnist_sweep", {**CONF, "finalists": 0, "seed": seed})
    assert run.wait() == "success"
    # The training of what wins takes a GPU worker as well.
    wait_until(lambda: not stack.api("GET", "/dags/mnist_training/dagRuns?state=running&state=queued")["dag_runs"])
    found = tasks(stack, run, "trial")
    assert [task["state"] for task in found] == ["success"] * TRIALS
    times = [seconds(task) for task in found]
    return found, max(end for _, end in times) - min(begin for begin, _ in times)


def ended(stack: Stack, run: Run) -> list[dict[str, Any]]:
    each = "for n in *; do tr -d '\\n' < $n/trial.json; echo; done"
    script = f"cd /opt/mnist/home/sweeps/{run.id}/trials 2>/dev/null && {each} || true"
    return [json.loads(line) for line in stack.shell("worker", script).splitlines() if line]


def test_two_workers_share_the_trials_and_one_that_is_killed_loses_at_most_an_epoch(stack: Stack) -> None:
    alone, one = search(stack, 2)
    assert len({task["hostname"] for task in alone}) == 1
    use_gpu_workers(stack, 2)
    shared, two = search(stack, 2)

    times = sorted(seconds(task) for task in shared)
    most = max(sum(begin <= start < end for begin, end in times) for start, _ in times)
    COUNTS.append(f"stack: 8 trials on one worker {one:.0f} s, on two {two:.0f} s: {two / one:.2f}x")
    assert len({task["hostname"] for task in shared}) == 2
    assert most == 2

    run = Run(stack, "mnist_sweep", {**CONF, "finalists": 0, "seed": 3})
    wait_until(lambda: any(task["state"] == "running" for task in tasks(stack, run, "trial")))
    wait_until(lambda: any(len(trial.get("epochs", [])) in (2, 3, 4) for trial in ended(stack, run)))
    hosts = [task["hostname"] for task in tasks(stack, run, "trial") if task["state"] == "running"]
    killed = next(
        container
        for container in stack.containers()
        if service_of(container) == "worker-gpu" and container["Config"]["Hostname"] in hosts
    )
    began = time.monotonic()
    os.kill(killed["State"]["Pid"], signal.SIGKILL)
    assert run.wait() == "success"

    COUNTS.append(f"stack: a sweep with a killed worker ended {time.monotonic() - began:.0f} s later")
    trials = ended(stack, run)
    assert len(trials) == TRIALS
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    again = [task for task in tasks(stack, run, "trial") if task["try_number"] > 1]
    assert again
    logs = [
        stack.api("GET", f"{path}/{task['try_number']}?map_index={task['map_index']}")
        for path in [f"{run.runs}/{run.id}/taskInstances/trial/logs"]
        for task in again
    ]
    assert any("continuing after epoch" in json.dumps(log) for log in logs)
    assert docker("ps", "--quiet", "--filter", f"id={killed['Id']}").strip()  # Docker has restarted it
