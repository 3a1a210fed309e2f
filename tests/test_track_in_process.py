"""The records of `track` in MLflow's own SQLite store, without a server: the quick part of `test_track`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mnist_tasks import track as tracking
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.store_url import ServerUrl
from mnist_tasks.track import Tracked, track
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT

SERVER = ServerUrl("sqlite", None)  # what its name stands for is in `client`
EXPERIMENT = "mnist_training"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a store in the test's folder, which `track` uses."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    monkeypatch.chdir(folder)  # MLflow keeps artifacts below it
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}", f"sqlite:///{folder / 'mlflow.db'}")

    @contextmanager
    def tracking_server(_: ServerUrl) -> Iterator[MlflowClient]:
        yield client

    monkeypatch.setattr(tracking, "tracking_server", tracking_server)
    return client


def test_a_run_and_its_champion_are_recorded_and_the_alias_follows(
    workspace: Workspace, run: Path, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    models = ModelDirectory(workspace.models)
    (run / "parameters.json").write_text(json.dumps({"epochs": 3}))
    assert promote(run, workspace.models, LENIENT).promoted

    first = track(run, workspace.models, SERVER, EXPERIMENT)

    assert first == track(run, workspace.models, SERVER, EXPERIMENT)
    recorded = client.get_run(str(first.mlflow_run))
    evaluation = json.loads((run / "evaluation.json").read_text())["candidate"]
    assert recorded.data.params == {"epochs": "3"}
    assert recorded.data.metrics["test_accuracy"] == evaluation["accuracy"]
    assert {"loss", "accuracy", "images_per_second", "test_recall_0"} <= set(recorded.data.metrics)
    assert (recorded.info.status, recorded.data.tags["mnist.outcome"]) == ("FINISHED", "promoted")
    assert str(client.get_model_version_by_alias("mnist", "champion").version) == "1"

    retire(models, reason="it is bad", published_by="me")
    assert track(run, workspace.models, SERVER, EXPERIMENT) == Tracked(first.mlflow_run, None)
    assert client.get_registered_model("mnist").aliases == {}
    roll_back(models, reason="it was good", published_by="me", smoke_test=lambda _: None)
    assert track(run, workspace.models, SERVER, EXPERIMENT) == Tracked(first.mlflow_run, "1")
    (version,) = client.search_model_versions("name = 'mnist'")
    assert (version.tags["mnist.version"], version.tags["mnist.version_now"]) == ("1", "2")
    assert "somebody" not in caplog.text

    client.delete_registered_model_alias("mnist", "champion")
    track(run, workspace.models, SERVER, EXPERIMENT)
    assert "it is at version none, and was set to 1 from here; it is set to 1" in caplog.text
