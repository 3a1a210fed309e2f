"""Fixtures for the DAG tests: the DAGs as Airflow parses them, and a workspace for their tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict
from airflow.utils.db import initdb

from mnist_tasks.workspace import PROJECT, Workspace

DAGS = PROJECT / "dags"


@pytest.fixture(scope="session")
def parsed_dags() -> dict[str, DAG]:
    initdb()
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture
def dags(parsed_dags: dict[str, DAG]) -> Iterator[dict[str, DAG]]:
    """The DAGs; what a run of `dag.test` was given does not become the next one's default, as it does in Airflow."""
    owners = [owner for dag in parsed_dags.values() for owner in (dag, *dag.tasks)]
    parameters = [ParamsDict(owner.params).get_param(name) for owner in owners for name in owner.params]
    defaults = [param.value for param in parameters]
    yield parsed_dags
    for param, value in zip(parameters, defaults, strict=True):
        param.value = value


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace for the tasks of one test."""
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))
    return Workspace(tmp_path)


def states(run: DagRun) -> dict[str, str]:
    return {task.task_id: str(task.state) for task in run.get_task_instances()}


def parse(facts: str, **environment: str) -> dict[str, Any]:
    """Parse the training DAG file in a new process and return facts about it.

    The names of the imported modules are under the key `modules`.

    Args:
        facts: the items of a Python dictionary; they may use `dag`.
        environment: environment variables of the process.
    """
    script = (
        "import json, sys; sys.path[:0] = sys.argv[1:]\n"
        "import mnist_training as module\n"
        "dag = module.mnist_training()\n"
        f"print(json.dumps({{'modules': sorted(sys.modules), {facts}}}))"
    )
    command = [sys.executable, "-c", script, str(DAGS), str(DAGS.parent / "plugins")]
    result = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer
