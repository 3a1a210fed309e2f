"""The training DAG: its structure, its form, its imports when parsed, and whole runs in this process."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.exceptions import ParamValidationError
from airflow.utils.session import create_session

from mnist_tasks.data.dataset import Digits
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import REPAIR
from mnist_tasks.run_parameters import RunConfig, run_form
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import parse, states
from tests.forms import done, write_npz
from tests.helpers import ANYTHING
from tests.test_config import BAD_VALUES

FAST = {"epochs": 1, **ANYTHING}


@pytest.fixture
def dag(dags: dict[str, DAG]) -> DAG:
    return dags["mnist_training"]


PLACEMENT = "'schedule': str(dag.schedule), 'placement': {task.task_id: [task.queue, task.pool] for task in dag.tasks}"


def test_parsing_imports_nothing_heavy() -> None:
    heavy = {"tensorflow", "keras", "numpy", "pandas", "mnist_tasks.train", "mnist_tasks.evaluate", "mnist_tasks.load"}

    assert heavy & set(parse(PLACEMENT)["modules"]) == set()


def test_the_tasks_form_a_chain(dag: DAG) -> None:
    downstream = {task.task_id: task.downstream_task_ids for task in dag.tasks}

    assert downstream == {
        "load": {"normalize"},
        "normalize": {"train"},
        "train": {"evaluate"},
        "evaluate": {"promote"},
        "promote": set(),
    }


def test_it_runs_nightly_one_at_a_time_without_catching_up(dag: DAG) -> None:
    assert str(dag.schedule) == "0 2 * * *"
    assert dag.start_date is None  # with a start date, unpausing would run the missed slot
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    assert dag.doc_md
    assert dag.tags == {"mnist", "training"}


def test_every_task_retries_with_backoff_and_has_a_time_limit(dag: DAG) -> None:
    for task in dag.tasks:
        assert task.retries == 2
        assert task.retry_exponential_backoff == 2.0
        assert task.retry_delay == timedelta(seconds=30)
        assert task.execution_timeout


def test_the_model_is_an_asset_of_promote(dag: DAG) -> None:
    (asset,) = dag.get_task("promote").outlets

    # The asset does not depend on the location of the workspace, so the workspace can be moved.
    assert (asset.name, asset.uri) == ("mnist_champion", "mnist_champion")


def test_promote_alone_has_a_button_that_leads_to_the_models_page(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: Any = SimpleNamespace(dag_id="mnist_training", run_id="manual__2026-11-24T12:21:24+00:00")

    promote: Any = dag.get_task("promote")
    (link,) = promote.operator_extra_links
    assert [task.task_id for task in dag.tasks if task.operator_extra_links] == ["promote"]
    path = "/dags/mnist_training/runs/manual__2026-11-24T12%3A21%3A24%2B00%3A00/plugin/mnist-run"
    assert (link.name, link.get_link(promote, ti_key=ended)) == ("Model", path)

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/team/")
    assert link.get_link(promote, ti_key=ended) == f"/team{path}"


def test_schedule_queue_and_pool_come_from_the_environment() -> None:
    answer = parse(PLACEMENT, MNIST_SCHEDULE="0 4 * * 1", MNIST_GPU_QUEUE="gpu", MNIST_GPU_POOL="gpus")

    assert answer["schedule"] == "0 4 * * 1"
    assert answer["placement"] == {
        **{task: ["default", "default_pool"] for task in ("load", "normalize", "promote")},
        **{task: ["gpu", "gpus"] for task in ("train", "evaluate")},
    }
    assert parse(PLACEMENT, MNIST_SCHEDULE="")["schedule"] == "None"


def test_the_form_has_every_parameter_with_its_default(dag: DAG) -> None:
    sections = run_form()

    assert {name: dag.params[name] for name in dag.params} == {
        name: schema["default"] for fields in sections.values() for name, schema in fields.items()
    }
    for section, fields in sections.items():
        for name in fields:
            schema = dag.params.get_param(name).schema
            assert schema["section"] == section
            assert schema["title"]
            assert "`" not in schema["description_md"]
            # With these Airflow's form would replace a bad number by the bound, without a word.
            assert not {key for key in schema if key.lower().endswith("imum")}


@pytest.mark.parametrize(("name", "value", "words"), BAD_VALUES)
def test_the_form_refuses_bad_values_with_the_words_of_the_functions(
    name: str, value: Any, words: str, dag: DAG
) -> None:
    with pytest.raises(ParamValidationError) as form:
        dag.params.get_param(name).resolve(value)
    with pytest.raises(InputError) as function:
        RunConfig.from_parameters({name: value})

    assert str(form.value).startswith(words)
    assert str(form.value).splitlines()[0] == str(function.value).removeprefix(f"{name}: ")


def test_a_run_promotes_and_the_next_one_is_rejected(
    dag: DAG, home: Workspace, npz: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mnist_tasks")

    promoted = dag.test(run_conf={**FAST, "source": str(npz)})

    assert promoted.state == "success"
    assert set(states(promoted).values()) == {"success"}
    reports = [record.getMessage() for record in caplog.records if record.name.startswith("mnist_tasks.")]
    assert [line.split()[0] for line in reports if " took " in line] == [
        "load",
        "normalize",
        "train",
        "evaluate",
        "promote",
    ]
    ends = [0, *(number for number, line in enumerate(reports, start=1) if " took " in line)]
    assert [reports[end].split()[0] for end in ends[:-1]] == ["reading"] * 5  # each log begins with its input files
    champion = ModelDirectory(home.models).champion()
    assert champion
    assert champion.number == 1
    assert champion.metadata().run_id == promoted.run_id

    rejected = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99})

    assert rejected.state == "success"
    assert states(rejected) == {
        **dict.fromkeys(("load", "normalize", "train", "evaluate"), "success"),
        "promote": "skipped",
    }
    decision = json.loads((home.run(rejected.run_id) / "decision.json").read_text())
    assert not decision["promoted"]
    assert "is below the minimum of 0.9900" in decision["reason"]
    assert ModelDirectory(home.models).champion() == champion


def test_a_rejection_fails_the_run_if_that_is_asked_for(dag: DAG, home: Workspace, npz: Path) -> None:
    run = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99, "on_rejection": "fail"})

    assert run.state == "failed"
    (promote,) = (task for task in run.get_task_instances() if task.task_id == "promote")
    assert (promote.state, promote.try_number) == ("failed", 1)
    assert json.loads((home.run(run.run_id) / "decision.json").read_text())["outcome"] == "rejected"


@pytest.mark.slow
def test_a_run_takes_the_inbox_in_and_leaves_a_bad_batch_out(
    dag: DAG, home: Workspace, npz: Path, mnist: Digits
) -> None:
    inbox = home.root / "inbox"
    inbox.mkdir()
    done(write_npz(inbox / "good", mnist.x_train[-100:], mnist.y_train[-100:]))
    done(write_npz(inbox / "leak", mnist.x_test[:100], mnist.y_test[:100]))

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert run.state == "success"
    report = json.loads((home.run(run.run_id) / "data" / "validation.json").read_text())
    assert {batch["name"]: batch["verdict"] for batch in report["batches"]} == {
        "good.npz": "merged",
        "leak.npz": "quarantined",
    }
    champion = ModelDirectory(home.models).champion()
    assert champion
    assert champion.metadata().dataset == report["dataset"]
    strict = dag.test(run_conf={**FAST, "source": str(npz), "on_bad_batch": "fail"})
    assert strict.state == "failed"
    without = dag.test(run_conf={**FAST, "source": str(npz), "on_bad_batch": "fail", "inbox": "none"})
    assert without.state == "success"


@pytest.mark.slow
def test_a_run_on_which_nothing_has_changed_ends_at_train_and_tells_nobody(
    dag: DAG, home: Workspace, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_NOTIFY", json.dumps([{"notifier": "mnist_notify.WebhookNotifier", "url": "http://h"}]))
    conf = {**FAST, "source": str(npz), "when_unchanged": "skip"}
    assert set(states(dag.test(run_conf=conf)).values()) == {"success"}  # there was no champion yet
    capfd.readouterr()

    run = dag.test(run_conf=conf)

    assert run.state == "success"
    skipped = dict.fromkeys(("train", "evaluate", "promote"), "skipped")
    assert states(run) == {"load": "success", "normalize": "success", **skipped}
    output = capfd.readouterr().out
    assert output.count("nothing has changed since version 1") >= 3  # in the log of each skipped task
    assert "MNIST_NOTIFY" not in output
    decision = json.loads((home.run(run.run_id) / "decision.json").read_text())
    assert (decision["outcome"], decision["champion_version"]) == ("unchanged", 1)

    assert set(states(dag.test(run_conf={**conf, "when_unchanged": None})).values()) == {"success"}  # by hand
    assert set(states(dag.test(run_conf={**conf, "seed": 7})).values()) == {"success"}


def test_bad_data_fails_at_once_with_its_message_and_without_a_traceback(
    dag: DAG, home: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    source = home.root / "bad.npz"
    source.write_bytes(b"no archive")

    run = dag.test(run_conf={**FAST, "source": str(source)})

    assert run.state == "failed"
    (load,) = (task for task in run.get_task_instances() if task.task_id == "load")
    assert (load.state, load.try_number) == ("failed", 1)
    assert states(run)["promote"] == "upstream_failed"
    with create_session() as session:
        (row,) = session.scalars(XComModel.get_many(run_id=run.run_id, key="failure"))
        message = XComModel.deserialize_value(row)
    assert f"{source} is not an .npz file" in message
    output = capfd.readouterr().out
    assert message in output
    assert "Traceback" not in output


def test_a_champion_that_cannot_be_read_fails_the_run_and_stays(dag: DAG, home: Workspace, npz: Path) -> None:
    dag.test(run_conf={**FAST, "source": str(npz)})
    (home.models / "1" / "model.keras").write_bytes(b"damaged")

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert run.state == "failed"
    assert (states(run)["evaluate"], states(run)["promote"]) == ("success", "failed")
    decision = json.loads((home.run(run.run_id) / "decision.json").read_text())
    assert decision["outcome"] == "refused"
    assert "version 1 is damaged" in decision["reason"]
    assert f"run {REPAIR}" in decision["reason"]
    assert (home.models / "champion").readlink() == Path("1")
    assert [version.number for version in ModelDirectory(home.models).versions()] == [1]


def test_an_unknown_parameter_fails_before_any_work(dag: DAG, home: Workspace) -> None:
    run = dag.test(run_conf={"epoch": 3})

    assert run.state == "failed"
    assert states(run)["load"] == "failed"
    assert not home.datasets.exists()
