"""The tasks that tell other places of the champion: they are there if a setting asks, and decide nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagbundle import DagBundleModel
from airflow.sdk import DAG
from airflow.utils.session import create_session

from mnist_tasks.mirror import mirror_problems
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import retire
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import DAGS, parse, states
from tests.dags.test_mnist_training import FAST
from tests.helpers import LENIENT

pytestmark = pytest.mark.usefixtures("dags", "home")

AWAY = "http://127.0.0.1:9"


def read_again() -> dict[str, DAG]:
    """The DAGs as they are with the settings of this moment, also in Airflow's database."""
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert bag.import_errors == {}
    with create_session() as session:
        if not session.get(DagBundleModel, "dags-folder"):
            session.add(DagBundleModel(name="dags-folder"))
    sync_bag_to_db(bag, "dags-folder", None)
    for dag in bag.dags.values():
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
    return dict(bag.dags)


@pytest.fixture
def there(tmp_path: Path) -> str:
    return f"file://{tmp_path}/there"


@pytest.fixture
def elsewhere(there: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, DAG]]:
    """The DAGs with a mirror in a folder and an MLflow that is away."""
    with monkeypatch.context() as settings:
        settings.setenv("MNIST_MIRROR", there)
        settings.setenv("MNIST_MLFLOW", AWAY)
        yield read_again()
    read_again()


def test_without_the_settings_there_are_no_such_tasks_and_nothing_is_imported() -> None:
    facts = "'tasks': sorted(dag.task_ids)"
    settings = {"MNIST_MIRROR": "s3://conn@bucket/models", "MNIST_MLFLOW": "https://conn@mlflow.example.com"}

    without, with_them = parse(facts), parse(facts, **settings)

    assert set(with_them["tasks"]) - set(without["tasks"]) == {"mirror", "mlflow"}
    assert set(with_them["modules"]) == set(without["modules"])
    assert not {"mlflow", "s3fs", "botocore", "mnist_tasks.mirror", "mnist_tasks.track"} & set(without["modules"])


@pytest.mark.slow
def test_a_promotion_and_a_rejection_bring_the_mirror_up_to_date(
    elsewhere: dict[str, DAG], home: Workspace, npz: Path, there: str
) -> None:
    dag = elsewhere["mnist_training"]
    run = dag.test(run_conf={**FAST, "source": str(npz)})

    # MLflow is away, and nothing else depends on it.
    assert (states(run)["promote"], states(run)["mirror"], states(run)["mlflow"]) == ("success", "success", "failed")
    assert run.state == "success"
    assert {task.task_id: task.try_number for task in run.get_task_instances()}["mlflow"] == 3
    assert mirror_problems(home.models, there) == []

    Path(there.removeprefix("file://"), "1", "model.keras").unlink()  # as if that night had been interrupted
    run = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99})
    assert (states(run)["promote"], states(run)["mirror"], run.state) == ("skipped", "success", "success")
    assert mirror_problems(home.models, there) == []


@pytest.mark.slow
def test_a_mirror_that_fails_says_so_and_leaves_the_champion(
    elsewhere: dict[str, DAG], home: Workspace, npz: Path, there: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(there.removeprefix("file://"))
    folder.mkdir()
    (folder / "report.csv").touch()

    run = elsewhere["mnist_training"].test(run_conf={**FAST, "source": str(npz)})

    assert (states(run)["promote"], states(run)["mirror"], run.state) == ("success", "failed", "failed")
    (mirror,) = [task for task in run.get_task_instances() if task.task_id == "mirror"]
    assert mirror.try_number == 1  # somebody has to do something
    assert f"{there} holds report.csv, which belongs to no mirror" in capfd.readouterr().out
    assert ModelDirectory(home.models).describe_champion() == "version 1 is champion"


def test_a_run_that_fails_before_stays_failed(elsewhere: dict[str, DAG]) -> None:
    run = elsewhere["mnist_training"].test(run_conf={"source": "/no/such/file"})

    assert (states(run)["load"], states(run)["mirror"], run.state) == ("failed", "upstream_failed", "failed")
    assert states(run)["mlflow"] == "failed"  # it has tried to record the failure


def test_a_rollback_is_told_too(
    elsewhere: dict[str, DAG], workspace: Workspace, run: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(workspace.root))
    promote(run, workspace.models, LENIENT)
    retire(ModelDirectory(workspace.models), reason="all are bad", published_by="me")

    done = elsewhere["mnist_rollback"].test(run_conf={"reason": "not all were bad"})

    assert (states(done), done.state) == (
        {"rollback": "success", "mirror": "success", "mlflow": "failed"},
        "success",
    )
    assert Path(there.removeprefix("file://"), "2", "model.keras").exists()
    assert mirror_problems(workspace.models, there) == []
