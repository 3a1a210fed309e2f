"""The project's DAGs as Airflow parses them, and a workspace for their tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG
from airflow.utils.db import initdb

from mnist_tasks.workspace import PROJECT, Workspace

DAGS = PROJECT / "dags"


@pytest.fixture(scope="session")
def dags() -> dict[str, DAG]:
    initdb()
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace of the test's own for the tasks."""
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))
    return Workspace(tmp_path)


def states(run: DagRun) -> dict[str, str]:
    return {task.task_id: str(task.state) for task in run.get_task_instances()}
