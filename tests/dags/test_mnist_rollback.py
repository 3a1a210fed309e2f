"""The rollback DAG: its form, and real rollbacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError

from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import states
from tests.helpers import LENIENT


@pytest.fixture
def dag(dags: dict[str, DAG]) -> DAG:
    return dags["mnist_rollback"]


@pytest.fixture
def models(workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    """A model directory with two versions, for the DAG's task."""
    monkeypatch.setenv("MNIST_HOME", str(workspace.root))
    promote(run, workspace.models, LENIENT)
    second = Path(shutil.copytree(run, run.with_name("second")))
    evaluation = json.loads((second / "evaluation.json").read_text())
    evaluation["champion"] = {**evaluation["candidate"], "version": 1}
    (second / "evaluation.json").write_text(json.dumps(evaluation))
    promote(second, workspace.models, LENIENT)
    return ModelDirectory(workspace.models)


def test_it_runs_by_hand_only(dag: DAG) -> None:
    assert dag.schedule is None
    assert dag.doc_md


def test_the_form_wants_a_reason(dag: DAG) -> None:
    for value in ("", None):
        with pytest.raises(ParamValidationError):
            dag.params.get_param("reason").resolve(value)
    assert dag.params.get_param("version").resolve(None) is None


def test_the_version_before_becomes_champion_again(dag: DAG, models: ModelDirectory) -> None:
    run = dag.test(run_conf={"reason": "it was bad"})

    assert run.state == "success"
    champion = models.champion()
    assert champion
    assert (champion.number, champion.metadata().restores) == (3, 1)
    event = models.history()[-1]
    assert (event.published_by, event.reason) == (run.run_id, "it was bad")


def test_a_version_that_is_not_there_fails_at_once(dag: DAG, models: ModelDirectory) -> None:
    run = dag.test(run_conf={"version": 9, "reason": "it was bad"})

    (task,) = run.get_task_instances()
    assert (states(run), task.try_number) == ({"rollback": "failed"}, 1)
    assert models.link.readlink() == Path("2")


def test_a_version_that_gives_other_answers_than_when_it_was_approved_is_no_way_back(
    dag: DAG, models: ModelDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    """An upgraded library can change the outputs of a model although its files are those that were published."""
    import numpy as np

    from mnist_tasks.system.files import sha256

    golden, metadata_path = models.root / "1" / "golden.npz", models.root / "1" / "metadata.json"
    with np.load(golden) as arrays:
        images, probabilities = arrays["images"], arrays["probabilities"]
    np.savez(golden, images=images, probabilities=probabilities[::-1])
    metadata = json.loads(metadata_path.read_text())
    metadata["sha256"]["golden.npz"] = sha256(golden)
    metadata_path.write_text(json.dumps(metadata))
    models.history_file.path.unlink()  # it holds the digest of the unchanged metadata

    run = dag.test(run_conf={"version": 1, "reason": "it was bad"})

    assert run.state == "failed"
    assert "the model now and when it was approved do not agree on the golden images" in capfd.readouterr().out
    assert models.link.readlink() == Path("2")
