"""The last runs on the page of the models, whatever became of them."""

from __future__ import annotations

from airflow.utils.state import DagRunState

from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.workspace import Workspace
from tests.plugins.documents import evaluated_run
from tests.plugins.site import Airflow, Browser, promoted_run


def test_each_run_has_its_verdict_its_accuracy_and_the_reason(
    browser: Browser, home: Workspace, airflow: Airflow, promoted: str
) -> None:
    rejected = airflow.run(promote="skipped")
    promote(evaluated_run(home, rejected, 0.9, (1, 0.98)), home.models, GateConfig())
    failed = airflow.run(state=DagRunState.FAILED, load="failed")
    airflow.hand_on(failed, "load", "the disk is full")
    killed = airflow.run(state=DagRunState.FAILED, train="failed")
    running = airflow.run(state=DagRunState.RUNNING, load="running")
    waiting = airflow.run(state=DagRunState.RUNNING, promote="awaiting_input")

    page = browser.get("/models")
    assert "The last 6 runs" in page.text
    assert promoted in page.text
    assert "02:00 promoted as 1 0.9800 - accuracy 0.9800 reaches the minimum of 0.9700" in page.text
    assert "02:00 rejected 0.9000 -0.0800 accuracy 0.9000 is below the minimum of 0.9700" in page.text
    assert f"02:00 failed - - load: the disk is full {failed}" in page.text
    assert "02:00 failed - - it left no message, as when its process is killed" in page.text
    assert f"02:00 running - - {running}" in page.text
    assert f"02:00 waits for an answer - - {waiting}" in page.text
    assert f'href="/dags/mnist_training/runs/{killed}/plugin/mnist-run"' in page.html


def test_a_failure_after_publishing_does_not_hide_the_version(
    browser: Browser, home: Workspace, airflow: Airflow
) -> None:
    run_id = airflow.run(state=DagRunState.FAILED, promote="failed")
    promote(evaluated_run(home, run_id), home.models, GateConfig())
    airflow.hand_on(run_id, "promote", "too late")
    assert "02:00 promoted as 1 0.9800" in browser.get("/models").text


def test_only_the_newest_thirty_runs_are_shown(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    runs = [airflow.run() for _ in range(31)]
    assert home.root
    text = browser.get("/models").text
    assert "The last 30 runs" in text
    assert runs[-1] in text
    assert f"{runs[0]} " not in text


def test_a_forced_version_is_called_so(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    promoted_run(home, airflow, 0.95, force=True, force_reason="Ada: for the demo")
    assert "02:00 forced as 1 0.9500" in browser.get("/models").text
