"""The clean-up DAG: when it runs, its form, and a real clean-up."""

from __future__ import annotations

import os
import time

import pytest
from airflow.sdk import DAG

from mnist_tasks.clean import KEPT_WHOLE
from mnist_tasks.workspace import Workspace


@pytest.fixture
def dag(dags: dict[str, DAG]) -> DAG:
    return dags["mnist_cleanup"]


@pytest.fixture
def old(home: Workspace) -> Workspace:
    """A workspace with runs that are old, one more than are kept in any case."""
    then = time.time() - 100 * 24 * 3600
    for number in range(KEPT_WHOLE + 1):
        run = home.run(f"run-{number:02}")
        for name in ("model.keras", "decision.json"):
            (run / name).write_text("{}")
            os.utime(run / name, (then + number, then + number))
    return home


def test_it_runs_every_day_and_one_at_a_time(dag: DAG) -> None:
    assert (str(dag.schedule), dag.max_active_runs, dag.catchup) == ("0 12 * * *", 1, False)
    assert dag.doc_md


@pytest.mark.parametrize("dry_run", [True, False])
def test_old_runs_lose_their_files_but_not_in_a_dry_run(dry_run: bool, dag: DAG, old: Workspace) -> None:
    run = dag.test(run_conf={"dry_run": dry_run})

    assert run.state == "success"
    assert (old.root / "runs" / "run-00" / "model.keras").exists() == dry_run
    assert (old.root / "runs" / "run-00" / "decision.json").exists()
    assert (old.root / "runs" / "run-01" / "model.keras").exists()


def test_the_settings_decide(dag: DAG, old: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_KEEP_RUNS", "forever")

    assert dag.test().state == "success"
    assert (old.root / "runs" / "run-00" / "model.keras").exists()


def test_a_bad_setting_fails_the_task_at_once(dag: DAG, old: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_KEEP_VERSIONS", "a few")

    run = dag.test()

    assert run.state == "failed"
    assert [task.try_number for task in run.get_task_instances()] == [1]
    assert (old.root / "runs" / "run-00" / "model.keras").exists()
