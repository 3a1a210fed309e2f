"""`python -m mnist_tasks sweeps`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.cli.main import main
from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep with a complete trial, its repetition and one that has diverged."""
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))
    folder = Workspace(tmp_path).sweep_folder("night")
    usual: dict[str, Any] = {"parameters": {"learning_rate": 0.00123}, "seed": 42, "state": "complete", "seconds": 4.5}
    trials = [
        {**usual, "number": 0, "state": "diverged", "reason": "the loss is nan", "seconds": None},
        {**usual, "number": 1, "accuracy": 0.98, "loss": 0.07},
        {**usual, "number": 2, "accuracy": 0.97, "loss": 0.08, "repeats": 1, "seed": 43},
    ]
    for trial in trials:
        (folder / "trials" / str(trial["number"])).mkdir(parents=True)
        write_json(folder / "trials" / str(trial["number"]) / "trial.json", trial)
    sweep = {"run_id": "night", "dataset": "7" * 64, "train_sha256": "8" * 64, "train_images": 60000, "data": {}}
    sweep |= {"config": {}, "space": {"learning_rate": [1]}, "trials": 2, "began": "2026-11-29T02:00:00+00:00"}
    write_json(folder / "sweep.json", sweep)
    return folder


def finish(folder: Path) -> None:
    result = {"winner": 1, "parameters": {"learning_rate": 0.00123}, "objective": "accuracy", "mean": 0.975, "seeds": 2}
    result |= {"importance": {"learning_rate": 1.0}, "reason": "trial 1: accuracy 0.9750", "ended": "2026"}
    write_json(folder / "result.json", result)


def test_a_sweep_is_shown_the_best_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweeps", "show", "night"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [
        ["1", "complete", "0.9800", "0.0700", "4.5", "42", "0.00123"],
        ["2", "(1", "again)", "complete", "0.9700", "0.0800", "4.5", "43", "0.00123"],
        ["0", "diverged", "-", "-", "-", "42", "0.00123"],
    ]

    finish(folder)
    assert main(["sweeps", "show", "night"]) == 0
    text = capsys.readouterr().out
    assert "*  1 " in text
    assert "trial 1: accuracy 0.9750\nwhat matters: learning_rate 100%\n" in text
    assert main(["sweeps", "show", "night", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["winner"] == 1


def test_sweeps_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(folder)
    assert main(["sweeps", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"run": "night", "began": "2026-11-29T02:00:00+00:00", "trials": "2 of 2", "winner": 1, "mean": 0.975}
    ]


@pytest.mark.parametrize(
    ("name", "words"), [("day", "day: there is no such sweep; sweeps list shows"), ("../x", "cannot name a folder")]
)
def test_a_sweep_that_is_not_there_is_named(
    name: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder.is_dir()
    assert main(["sweeps", "show", name]) == 2
    assert words in capsys.readouterr().err


def test_a_damaged_trial_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "trials/1/trial.json").write_text("{")
    assert main(["sweeps", "show", "night"]) == 2
    assert "trials/1/trial.json cannot be read: " in capsys.readouterr().err
