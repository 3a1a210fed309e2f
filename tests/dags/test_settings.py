"""The DAG file reads the settings with the launchers' error messages and takes defaults from MNIST_PARAMS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import DAGS
from tests.test_installation import BAD, BAD_BUT_NO_REASON_TO_STOP

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")


@pytest.mark.parametrize(("name", "text", "words"), BAD)
def test_a_bad_setting_is_an_import_error_in_the_words_of_the_launchers(
    name: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)

    dag = "mnist_sweep" if name == "MNIST_SWEEP_PARALLEL" else "mnist_training"
    (error,) = DagBag(str(DAGS / f"{dag}.py")).import_errors.values()

    assert f"{name}: {words}" in error


@pytest.mark.parametrize(("name", "text", "words"), BAD_BUT_NO_REASON_TO_STOP)
def test_what_is_no_reason_to_stop_is_logged(
    name: str, text: str, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, text)

    bag = DagBag(str(DAGS / "mnist_training.py"))

    assert (list(bag.dags), bag.import_errors) == (["mnist_training"], {})
    assert [record.message for record in caplog.records if record.message.startswith(f"{name}: {words}")]


@pytest.fixture
def cnn(monkeypatch: pytest.MonkeyPatch) -> DAG:
    """The DAG with another recipe in MNIST_PARAMS."""
    monkeypatch.setenv("MNIST_PARAMS", '{"recipe": "cnn", "min_accuracy": 0.99}')
    return DagBag(str(DAGS / "mnist_training.py")).dags["mnist_training"]


def test_parameters_of_the_installation_are_the_forms_defaults_and_on_the_dags_page(cnn: DAG, dags: Any) -> None:
    usual = dict(dags["mnist_training"].params)

    assert dict(cnn.params) == {**usual, "recipe": "cnn", "min_accuracy": 0.99}
    assert (cnn.doc_md or "").endswith('\n```json\n{\n  "recipe": "cnn",\n  "min_accuracy": 0.99\n}\n```\n')
    assert "MNIST_PARAMS" not in (dags["mnist_training"].doc_md or "")


@pytest.mark.parametrize(
    ("given", "epochs", "least"), [({}, 3, 0.99), ({"min_accuracy": 0.5}, 3, 0.5), ({"recipe": "classic"}, 5, 0.99)]
)
def test_a_run_uses_them_unless_it_is_told_otherwise(
    given: Mapping[str, Any], epochs: int, least: float, cnn: DAG, home: Workspace
) -> None:
    from mnist_common import keep_parameters, kept_parameters

    assert home.root.is_dir()
    keep_parameters({**dict(cnn.params), **given}, "night")
    config = kept_parameters({}, "night")

    assert (config.training.epochs, config.gate.min_accuracy) == (epochs, least)


def test_a_worker_with_other_parameters_goes_on_with_those_that_the_run_began_with(home: Workspace) -> None:
    from mnist_common import keep_parameters, kept_parameters

    begun = {"recipe": "cnn", "min_accuracy": 0.99}
    keep_parameters(begun, "night")

    assert kept_parameters({"recipe": "classic", "min_accuracy": 0.5}, "night") == RunConfig.from_parameters(begun)
    assert json.loads((home.run("night") / "parameters.json").read_text())["recipe"] == "cnn"
    assert kept_parameters({"min_accuracy": 0.5}, "of_an_older_release").gate.min_accuracy == 0.5
