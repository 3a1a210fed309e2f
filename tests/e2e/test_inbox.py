"""A real scheduler and triggerer watch an inbox; nightly runs end early when nothing has changed.

An `airflow_local_settings` module records each process that imports TensorFlow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import Workspace
from tests.helpers import COUNTS, HANG_SECONDS, logged_in, served

pytestmark = pytest.mark.slow

RUNS = "/api/v2/dags/mnist_training/dagRuns"
BATCHES = 5000
SKIPPED = {
    **dict.fromkeys(("load", "normalize"), "success"),
    **dict.fromkeys(("train", "evaluate", "promote"), "skipped"),
}
WITNESS = """
import sys

class Witness:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            with open({path!r}, "a") as file:
                print(" ".join(sys.argv), file=file)

sys.meta_path.insert(0, Witness())
"""


class Airflow:
    """Access to a `make up` with a watched inbox through its API."""

    def __init__(self, client: httpx.Client, home: Workspace) -> None:
        self.client, self.home = client, home

    def runs(self, run_type: str) -> list[dict[str, Any]]:
        """Return the runs of one type, oldest first."""
        answer = self.client.get(RUNS, params={"run_type": run_type, "order_by": "run_after"}).raise_for_status().json()
        runs: list[dict[str, Any]] = answer["dag_runs"]
        return runs

    def ended(self, run_type: str, number: int) -> dict[str, Any]:
        """Wait until run number `number` of a type, counted from 1, has ended; return it."""
        deadline = time.monotonic() + HANG_SECONDS
        while len(runs := self.runs(run_type)) < number or runs[number - 1]["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, runs
            time.sleep(0.3)
        return runs[number - 1]

    def states(self, run: dict[str, Any]) -> dict[str, str]:
        answer = self.client.get(f"{RUNS}/{run['dag_run_id']}/taskInstances").raise_for_status().json()
        return {task["task_id"]: task["state"] for task in answer["task_instances"]}

    def events(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the asset events that have started a run."""
        path = f"{RUNS}/{run['dag_run_id']}/upstreamAssetEvents"
        events: list[dict[str, Any]] = self.client.get(path).raise_for_status().json()["asset_events"]
        return events

    def logs(self, run: dict[str, Any], task: str) -> str:
        (path,) = (self.home.root / "airflow" / "logs").glob(
            f"*/run_id={run['dag_run_id']}/task_id={task}/attempt=1.log"
        )
        return path.read_text()


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    (tmp_path / "home").mkdir()
    return Workspace(tmp_path / "home")


@pytest.fixture
def witness(tmp_path: Path, home: Workspace) -> Path:
    """The file that gets a line from each process that imports TensorFlow."""
    config = home.root / "airflow" / "config"
    config.mkdir(parents=True)
    (config / "airflow_local_settings.py").write_text(WITNESS.format(path=str(tmp_path / "seen")))
    (tmp_path / "seen").touch()
    return tmp_path / "seen"


@contextmanager
def up(home: Workspace, schedule: str) -> Iterator[Airflow]:
    with served(home, MNIST_SCHEDULE=schedule, MNIST_WATCH_INBOX="1s") as url, logged_in(url, home) as client:
        yield Airflow(client, home)


def drop(home: Workspace, name: str) -> None:
    """Put a batch into the inbox and add its marker, which completes it, only after 3 s."""
    inbox = home.root / "inbox"
    inbox.mkdir(exist_ok=True)
    (inbox / name).write_bytes(b"no archive")  # it is quarantined, so the data do not change
    time.sleep(3)
    (inbox / f"{name}.done").touch()


def test_a_batch_makes_one_run_whatever_restarts_and_unchanged_nights_need_no_tensorflow(
    home: Workspace, witness: Path
) -> None:
    with up(home, schedule="") as airflow:
        drop(home, "first.npz")
        trained = airflow.ended("asset_triggered", 1)
        assert (trained["state"], set(airflow.states(trained).values())) == ("success", {"success"})
        assert ModelDirectory(home.models).versions()[0].number == 1
        assert witness.read_text()  # proves that the witness works
        witness.write_text("")

        drop(home, "second.npz")
        unchanged = airflow.ended("asset_triggered", 2)
        assert (unchanged["state"], airflow.states(unchanged)) == ("success", SKIPPED)
        for task in ("train", "evaluate", "promote"):
            assert "nothing has changed since version 1" in airflow.logs(unchanged, task)
        time.sleep(5)
        assert len(airflow.runs("asset_triggered")) == 2

    with up(home, schedule="* * * * *") as airflow:  # a nightly run every minute
        night = airflow.ended("scheduled", 1)
        assert (night["state"], airflow.states(night)) == ("success", SKIPPED)
        assert len(airflow.runs("asset_triggered")) == 2  # a restart reports no batch again

    assert witness.read_text() == ""
    decision = json.loads((home.run(night["dag_run_id"]) / "decision.json").read_text())
    assert (decision["outcome"], decision["champion_version"]) == ("unchanged", 1)
    assert [version.number for version in ModelDirectory(home.models).versions()] == [1]
    took = [seconds(run) for run in (unchanged, night)]
    COUNTS.append(f"runs on which nothing had changed took {took[0]:.1f} and {took[1]:.1f} s")
    assert not list((home.root / "airflow" / "logs").rglob("attempt=2.log"))


def test_thousands_of_batches_make_one_run_and_one_more_makes_another_after_a_restart(home: Workspace) -> None:
    inbox = home.root / "inbox"
    inbox.mkdir()
    for number in range(BATCHES):
        (inbox / f"{number}.npz").write_bytes(b"no archive")
        (inbox / f"{number}.npz.done").touch()

    with up(home, schedule="") as airflow:
        first = airflow.ended("asset_triggered", 1)
        assert (first["state"], airflow.states(first)["load"]) == ("success", "success")
        (event,) = airflow.events(first)
        assert event["extra"]["payload"]["number"] == BATCHES
        assert len(json.dumps(event["extra"])) < 2000
        time.sleep(10)
        assert len(airflow.runs("asset_triggered")) == 1

    with up(home, schedule="") as airflow:
        drop(home, "one-more.npz")
        second = airflow.ended("asset_triggered", 2)
        (event,) = airflow.events(second)
        assert event["extra"]["payload"] == {"batches": ["one-more.npz"], "number": 1}
        time.sleep(10)
        assert len(airflow.runs("asset_triggered")) == 2
    took = [seconds(run) for run in (first, second)]
    COUNTS.append(f"runs with {BATCHES:,} batches in the inbox took {took[0]:.1f} and {took[1]:.1f} s")


def seconds(run: dict[str, Any]) -> float:
    """Return the seconds from the queueing of a run to its end."""
    asked, ended = (datetime.fromisoformat(run[key].replace("Z", "+00:00")) for key in ("queued_at", "end_date"))
    return (ended - asked).total_seconds()
