"""The sweep DAG: its structure, its form, and a whole sweep in this process."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.session import create_session
from sqlalchemy import select

from mnist_tasks.sweep.records import read_trials
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import parse

SPACE = {"learning_rate": [0.001, 0.002], "epochs": [1]}


@pytest.fixture
def dag(dags: dict[str, DAG]) -> DAG:
    return dags["mnist_sweep"]


def test_the_tasks_end_with_the_training_of_what_wins(dag: DAG) -> None:
    assert dag.get_task("trial").upstream_task_ids == {"normalize", "plan"}
    assert dag.get_task("repeat").upstream_task_ids == {"normalize", "finalists"}
    assert dag.get_task("choose").downstream_task_ids == {"train_the_winner"}
    assert vars(dag.get_task("train_the_winner"))["trigger_dag_id"] == "mnist_training"
    assert dag.schedule is None


def test_a_trial_is_placed_as_a_training_is_and_as_many_run_at_a_time_as_is_set() -> None:
    facts = (
        "'placed': [[t.task_id, t.queue, t.pool, t.partial_kwargs.get('max_active_tis_per_dagrun')]"
        " for t in __import__('mnist_sweep').mnist_sweep().tasks if t.task_id in ('trial', 'repeat')],"
        "'training': [[t.queue, t.pool] for t in dag.tasks if t.task_id == 'train']"
    )

    found = parse(facts, MNIST_GPU_QUEUE="gpu", MNIST_GPU_POOL="gpus", MNIST_SWEEP_PARALLEL="2")

    assert found["placed"] == [["trial", "gpu", "gpus", 2], ["repeat", "gpu", "gpus", 2]]
    assert found["training"] == [["gpu", "gpus"]]
    assert {"tensorflow", "keras", "numpy", "optuna"} & set(found["modules"]) == set()


@pytest.mark.parametrize(("name", "value"), [("trials", 0), ("trials", 10_000), ("objective", "speed"), ("space", [1])])
def test_the_form_refuses_what_a_sweep_refuses(dag: DAG, name: str, value: object) -> None:
    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def sweep(dag: DAG, npz: Path, **conf: object) -> DagRun:
    run: DagRun = dag.test(run_conf={"source": str(npz), "inbox": "none", "finalists": 1, "seeds": 2, **conf})
    return run


def handed_on(run: DagRun, task: str, key: str) -> Any:
    """What a task of a run has handed on."""
    with create_session() as session:
        wanted = (XComModel.run_id == run.run_id, XComModel.task_id == task, XComModel.key == key)
        value = session.scalars(select(XComModel.value).where(*wanted)).one()
    return json.loads(value) if key == "return_value" and isinstance(value, str) else value


def test_what_wins_is_handed_to_the_training(dag: DAG, home: Workspace, npz: Path) -> None:
    run = sweep(dag, npz, space=SPACE, trials=2)

    trials = read_trials(home.sweep_folder(run.run_id))
    assert [(trial.state, trial.repeats is None) for trial in trials] == [
        ("complete", True),
        ("complete", True),
        ("complete", False),
    ]
    # Those who are told of the end are told what has won.
    context = {"run_id": run.run_id, "ti": SimpleNamespace(dag_id="mnist_sweep")}
    notification = import_module("mnist_notify")._sweep(context)
    assert notification.title == "mnist_sweep: the sweep has ended"
    assert "the best mean over 2 seeds of 2 complete trials: learning_rate 0.00" in notification.text

    parameters = handed_on(run, "choose", "return_value")
    assert parameters["source"] == str(npz)
    assert parameters["learning_rate"] in (0.001, 0.002)


@pytest.mark.parametrize(
    ("conf", "task", "words"),
    [
        ({"space": {}}, "load", "space: it has no parameter"),
        ({"space": {"learning_rat": [1]}}, "load", "did you mean learning_rate?"),
        ({"space": {"batch_size": [60_000]}, "trials": 2}, "choose", "no trial is complete (2 failed)"),
    ],
)
def test_a_sweep_that_cannot_end_well_fails_and_says_why(
    conf: dict[str, object],
    task: str,
    words: str,
    dag: DAG,
    home: Workspace,
    npz: Path,
) -> None:
    assert home.root
    run = sweep(dag, npz, **conf)

    states = {each.task_id: str(each.state) for each in run.get_task_instances()}
    assert (run.state, states[task]) == ("failed", "failed")
    assert states["train_the_winner"] == "upstream_failed"
    assert words in handed_on(run, task, "failure")
