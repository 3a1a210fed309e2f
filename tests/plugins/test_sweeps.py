"""The page about a sweep."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.utils.state import DagRunState

from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import Workspace
from tests.plugins.site import Airflow, Browser, plots

SCRIPT = "<script>alert(1)</script>"


def trial(number: int, **values: Any) -> dict[str, Any]:
    epochs = [
        {
            "number": n,
            "metrics": {"loss": 0.3 / n, "val_accuracy": 0.9 + n / 100},
            "seconds": 1.0,
            "images_per_second": 1.0,
        }
        for n in (1, 2)
    ]
    usual = {"number": number, "parameters": {"learning_rate": 0.001 * (1 + number)}, "seed": 42, "epochs": epochs}
    return {**usual, "state": "complete", "accuracy": 0.97, "loss": 0.1, "seconds": 4.5, "worker": "gpu-1", **values}


@pytest.fixture
def run_id(home: Workspace, airflow: Airflow) -> str:
    """A sweep that is running: three trials of eight, one of them diverged, and one that repeats another."""
    run_id = airflow.run(dag_id="mnist_sweep", state=DagRunState.RUNNING, plan="success", trial="running")
    folder = home.sweep_folder(run_id)
    trials = [
        trial(0),
        trial(1, accuracy=0.98, seconds=9.0),
        trial(2, state="diverged", reason=f"the loss is nan {SCRIPT}", accuracy=None, loss=None, seconds=None),
        trial(8, accuracy=0.975, repeats=1, seed=43, seconds=8.0),
    ]
    for each in trials:
        path = folder / "trials" / str(each["number"])
        path.mkdir(parents=True)
        write_json(path / "trial.json", each)
    sweep = {"run_id": run_id, "dataset": "7" * 64, "train_sha256": "8" * 64, "train_images": 60000, "data": {}}
    sweep |= {"config": {"validation_split": 0.1}, "space": {"learning_rate": [1, 2]}, "trials": 8}
    write_json(folder / "sweep.json", {**sweep, "began": "2026-11-29T02:00:00+00:00"})
    return run_id


def test_a_sweep_that_is_running_shows_its_trials_the_best_first(browser: Browser, run_id: str) -> None:
    page = browser.get(f"/runs/mnist_sweep/{run_id}")

    assert "The run is running: 3 of 8 trials have begun. This page reloads itself." in page.text
    assert 'http-equiv="refresh"' in page.html
    assert "3 complete, 1 diverged. Measured on 10 % of the training images" in page.text
    assert "1 complete 0.9800 0.1000 9.0 42 0.002 gpu-1 8 (1 again) complete 0.9750" in page.text
    assert f"2 diverged - - - 42 0.003 gpu-1 the loss is nan {SCRIPT}" in page.text
    front, curves = plots(page)
    assert front["xs"] == [4.5, 8.0, 9.0]
    assert [series["values"] for series in front["series"]] == [[0.97, 0.975, 0.98]] * 2
    assert [series["label"] for series in curves["series"]] == ["trial 1", "trial 8", "trial 0", "trial 2"]


def test_a_sweep_that_has_ended_says_what_wins_and_what_matters(
    browser: Browser, home: Workspace, airflow: Airflow, run_id: str
) -> None:
    result = {"winner": 1, "parameters": {"learning_rate": 0.002}, "objective": "accuracy", "mean": 0.9775, "seeds": 2}
    result |= {"importance": {"learning_rate": 1.0}, "reason": "trial 1: accuracy 0.9775", "ended": "2026"}
    ended = airflow.run(dag_id="mnist_sweep", state=DagRunState.SUCCESS, choose="success")
    home.sweep_folder(run_id).rename(home.sweep_folder(ended))
    write_json(home.sweep_folder(ended) / "result.json", result)

    page = browser.get(f"/runs/mnist_sweep/{ended}")

    assert "The best: trial 1: accuracy 0.9775. A run of mnist_training trains it on all images" in page.text
    assert "learning rate 100 %" in page.text
    assert "1 best 0.9800" in page.text
    assert "refresh" not in page.html


def test_a_sweep_that_failed_says_why(browser: Browser, home: Workspace, airflow: Airflow) -> None:
    assert home.root
    failed = airflow.run(dag_id="mnist_sweep", state=DagRunState.FAILED, choose="failed")
    airflow.hand_on(failed, "choose", "no trial is complete (8 diverged)", "mnist_sweep")

    page = browser.get(f"/runs/mnist_sweep/{failed}")

    assert "choose failed: no trial is complete (8 diverged). Log of choose" in page.text
    assert "The sweep ended without a choice, so nothing is trained." in page.text


def test_a_page_of_a_thousand_trials_draws_the_best_only(browser: Browser, home: Workspace, run_id: str) -> None:
    for number in range(9, 1000):
        path = home.sweep_folder(run_id) / "trials" / str(number)
        path.mkdir()
        write_json(path / "trial.json", trial(number, accuracy=0.5))

    page = browser.get(f"/runs/mnist_sweep/{run_id}")

    assert page.text.count("Epochs of trial") == 6
    assert "994 complete, 1 diverged" in page.text


def test_a_damaged_trial_is_named_and_the_others_are_shown(browser: Browser, home: Workspace, run_id: str) -> None:
    (home.sweep_folder(run_id) / "trials/0/trial.json").write_text("{")

    page = browser.get(f"/runs/mnist_sweep/{run_id}")

    assert "trial.json cannot be read" in page.text
    assert "1 complete 0.9800" in page.text


def test_who_may_not_see_runs_of_the_training_sees_no_sweep(browser: Browser, run_id: str) -> None:
    browser.headers = {}
    assert browser.ask(f"/runs/mnist_sweep/{run_id}").status == 401
