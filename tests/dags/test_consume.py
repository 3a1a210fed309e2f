"""The example of a DAG that uses the champion, as a user would copy it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagbundle import DagBundleModel
from airflow.sdk import DAG
from airflow.utils.session import create_session

from mnist_tasks.data.dataset import Dataset
from mnist_tasks.promote import promote
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import LENIENT

EXAMPLE = PROJECT / "docs" / "examples" / "consume.py"


@pytest.fixture
def dag(dags: dict[str, DAG]) -> DAG:
    """The DAG, from a folder that is not the project's."""
    assert dags
    bag = BundleDagBag(str(EXAMPLE.parent), bundle_path=EXAMPLE.parent, bundle_name="examples")
    assert bag.import_errors == {}
    with create_session() as session:
        if not session.get(DagBundleModel, "examples"):
            session.add(DagBundleModel(name="examples"))
    sync_bag_to_db(bag, "examples", None)
    found: DAG = bag.dags["mnist_consume"]
    return found


def test_it_runs_whenever_there_is_a_new_champion(dag: DAG, dags: dict[str, DAG]) -> None:
    (outlet,) = dags["mnist_training"].get_task("promote").outlets

    condition: Any = dag.timetable.asset_condition
    assert [(asset.name, asset.uri) for asset in condition.objects] == [(outlet.name, outlet.uri)]


def test_it_predicts_what_the_champion_does(
    dag: DAG, workspace: Workspace, run: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(workspace.root))
    promote(run, workspace.models, LENIENT)
    images = Dataset(dataset).array("x_test")[:20]
    (workspace.root / "to-read").mkdir()
    np.save(workspace.root / "to-read" / "monday.npy", images)

    assert dag.test().state == "success"

    table = np.loadtxt(workspace.root / "predictions/1/monday.csv", delimiter=",", skiprows=1)
    expected = keras.saving.load_model(run / "model.keras").predict(images / 255, verbose=0)
    assert table[:, 0].tolist() == expected.argmax(axis=1).tolist()
    assert table[:, 1] == pytest.approx(expected.max(axis=1), abs=1e-4)


def test_parsing_it_imports_nothing_heavy() -> None:
    script = (
        f"import runpy, sys; runpy.run_path({str(EXAMPLE)!r}); sys.exit(bool({{'keras', 'numpy'}} & set(sys.modules)))"
    )

    subprocess.run([sys.executable, "-c", script], check=True)
