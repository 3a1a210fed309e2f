"""A sweep from its plan to its choice, on a slice of MNIST: what is read, what is repeated, and what goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_tasks.config import SweepConfig
from mnist_tasks.documents import Sweep, SweepResult, Trial
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.sweep.choose import choose, finalists, parameters_of_the_winner
from mnist_tasks.sweep.plan import plan
from mnist_tasks.sweep.records import read_trials
from mnist_tasks.sweep.trial import repeat, trial
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace

SPACE: dict[str, Any] = {"learning_rate": {"min": 0.0001, "max": 0.01, "log": True}, "epochs": [1, 2]}


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    return workspace.sweep_folder("night")


def search(folder: Path, dataset: Path, **config: Any) -> SweepResult:
    """A whole sweep, one trial after another."""
    for number in plan(dataset, folder, SweepConfig(**{"space": SPACE, "trials": 3, "seeds": 2, **config}), {}):
        trial(folder, dataset, number)
    for each in finalists(folder):
        repeat(folder, dataset, **asdict(each))
    return choose(folder)


def test_a_sweep_reads_no_test_image_and_touches_no_model(folder: Path, dataset: Path, workspace: Workspace) -> None:
    for path in dataset.glob("*_test*.npy"):
        path.unlink()
    before = ModelDirectory(workspace.models).versions()

    result = search(folder, dataset)

    trials = read_trials(folder)
    assert [(each.state, each.repeats is None) for each in trials] == [("complete", True)] * 3 + [
        ("complete", False)
    ] * 2
    assert (
        trials[0].parameters == {"learning_rate": 0.001, "epochs": 2} or trials[0].parameters["learning_rate"] == 0.001
    )
    assert all(set(each.epochs[-1].metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"} for each in trials)
    assert [each.seed for each in trials] == [42, 42, 42, 43, 43]
    assert result.seeds == 2
    means = {
        number: np.mean([each.accuracy for each in trials if number in (each.number, each.repeats)])
        for number in {each.repeats for each in trials} - {None}
    }
    assert result.mean == pytest.approx(max(means.values()))
    assert result.winner == max(means, key=means.__getitem__)
    assert ModelDirectory(workspace.models).versions() == before
    assert not list(folder.rglob("checkpoint.npz"))


def test_the_same_seed_and_space_give_the_same_trials_and_another_seed_others(
    workspace: Workspace, dataset: Path
) -> None:
    def tried(name: str, seed: int) -> list[tuple[dict[str, Any], str | None]]:
        folder = workspace.sweep_folder(name)
        search(folder, dataset, seed=seed, seeds=1)
        return [(each.parameters, each.weights_sha256) for each in read_trials(folder)]

    assert tried("first", 1) == tried("second", 1)
    assert tried("third", 2)[1:] != tried("fourth", 1)[1:]


SCRIPT = """
import logging, sys
from pathlib import Path
from mnist_tasks.sweep.trial import trial
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
trial(Path(sys.argv[1]), Path(sys.argv[2]), 0)
"""


def test_a_trial_that_is_killed_is_continued_and_ends_with_the_same_bits(
    workspace: Workspace, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    whole, killed = workspace.sweep_folder("whole"), workspace.sweep_folder("killed")
    for folder in (whole, killed):
        plan(dataset, folder, SweepConfig(space={"epochs": [40]}, trials=1), {})
    expected = trial(whole, dataset, 0)
    command = [sys.executable, "-u", "-c", SCRIPT, str(killed), str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        assert process.stdout
        assert any("epoch 3/40" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    caplog.clear()

    again = trial(killed, dataset, 0)

    assert expected
    assert again
    assert any(line.startswith("continuing after epoch") for line in caplog.messages)
    assert (again.weights_sha256, again.accuracy) == (expected.weights_sha256, expected.accuracy)
    assert [epoch.number for epoch in again.epochs] == list(range(1, 41))
    assert again.began == Trial.read(killed / "trials/0/trial.json", "").began
    # What has ended is not trained again.
    assert trial(killed, dataset, 0) == again


def test_trials_that_diverge_or_do_not_fit_are_recorded_and_stop_nothing(folder: Path, dataset: Path) -> None:
    # 60,000 images in a batch are more than there are; a rate of 10 without a limit blows up.
    space = {"optimizer": ["sgd"], "learning_rate": [10], "batch_size": [32, 60_000], "activation": ["elu"]}
    plan(dataset, folder, SweepConfig(space=space, trials=6), {})
    states = {ended.state for number in range(6) if (ended := trial(folder, dataset, number))}

    assert "failed" in states
    assert states <= {"failed", "diverged", "complete", "pruned"}
    reasons = [each.reason for each in read_trials(folder) if each.state == "failed"]
    assert all(reason.startswith("batch_size: 60,000 is greater than the training set") for reason in reasons)


def test_a_sweep_without_a_complete_trial_says_why(folder: Path, dataset: Path) -> None:
    plan(dataset, folder, SweepConfig(space={"batch_size": [60_000]}, trials=2), {})
    for number in range(2):
        trial(folder, dataset, number)

    assert finalists(folder) == []
    with pytest.raises(InputError, match=r"no trial is complete \(2 failed\), .*trial 0: batch_size: 60,000"):
        choose(folder)


def test_a_network_that_is_too_large_or_too_slow_cannot_win(folder: Path, dataset: Path) -> None:
    result = search(folder, dataset, space={"hidden_units": [8, 4096], "epochs": [1]}, trials=6, max_weights=10_000)

    assert result.parameters["hidden_units"] == 8
    large = [each for each in read_trials(folder) if each.parameters["hidden_units"] == 4096]
    assert {each.state for each in large} == {"infeasible"}
    assert large[0].reason == "3,256,330 weights are more than the allowed 10,000"

    with pytest.raises(InputError, match=r"no trial is complete \(3 infeasible\).* are more than the allowed 1e-06 s"):
        search(folder, dataset, max_training_seconds=0.000001)


def test_after_its_time_a_sweep_ends_with_the_best_so_far(folder: Path, dataset: Path) -> None:
    def over(folder: Path) -> None:
        past = (datetime.now(timezone.utc) - timedelta(minutes=1)).isoformat()
        sweep = Sweep.read(folder / "sweep.json", "")
        sweep.model_copy(update={"until": past}).write(folder / "sweep.json")

    plan(dataset, folder, SweepConfig(space=SPACE, trials=3, max_minutes=60), {})
    first = trial(folder, dataset, 0)
    over(folder)
    assert trial(folder, dataset, 1) is None
    assert [repeat(folder, dataset, **asdict(each)) for each in finalists(folder)] == [None, None]
    result = choose(folder)
    assert first
    assert (result.winner, result.mean, result.seeds) == (0, first.accuracy, 1)

    plan(dataset, folder, SweepConfig(space=SPACE, max_minutes=0.5), {})
    over(folder)
    trial(folder, dataset, 0)
    with pytest.raises(InputError, match=r"max_minutes: 0\.5: the time was over before a trial began; allow more"):
        choose(folder)


def test_a_trial_is_ended_if_the_time_runs_out_while_it_trains(
    folder: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(dataset, folder, SweepConfig(space={"epochs": [5]}, trials=1, max_minutes=60), {})
    answers = iter([False, False, True])
    monkeypatch.setattr("mnist_tasks.sweep.trial._time_is_over", lambda _: next(answers))

    ended = trial(folder, dataset, 0)

    assert ended
    assert (ended.state, len(ended.epochs)) == ("stopped", 2)


def test_a_trial_that_is_worse_than_the_median_is_pruned(folder: Path, dataset: Path) -> None:
    plan(dataset, folder, SweepConfig(space={"learning_rate": [0.001, 1e-7], "epochs": [4]}, trials=12), {})
    ended = [trial(folder, dataset, number) for number in range(12)]

    pruned = [each for each in ended if each and each.state == "pruned"]
    assert pruned
    assert all(each.parameters["learning_rate"] == 1e-7 and len(each.epochs) < 4 for each in pruned)
    assert "worse than the median" in pruned[0].reason


def test_training_images_that_change_in_the_middle_are_noticed(folder: Path, dataset: Path) -> None:
    plan(dataset, folder, SweepConfig(space=SPACE, trials=2), {})
    trial(folder, dataset, 0)
    labels = np.load(dataset / "y_train.npy")
    labels[0] = (labels[0] + 1) % 10
    np.save(dataset / "y_train.npy", labels)

    with pytest.raises(InputError, match="have changed since the sweep began; clear the plan task"):
        trial(folder, dataset, 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "journal.log is missing; clear the plan task"),
        (lambda path: path.write_text('{"op_code": 0}\nno json\n{}\n'), "is damaged or belongs to another sweep"),
        (lambda path: path.write_text(""), "is damaged or belongs to another sweep"),
    ],
    ids=["missing", "damaged", "empty"],
)
def test_a_study_that_cannot_be_used_is_named(folder: Path, dataset: Path, damage: Any, words: str) -> None:
    plan(dataset, folder, SweepConfig(space=SPACE, trials=2), {})
    damage(folder / "journal.log")

    with pytest.raises(InputError, match=words):
        trial(folder, dataset, 0)


def test_a_study_of_another_space_is_named(workspace: Workspace, folder: Path, dataset: Path) -> None:
    plan(dataset, folder, SweepConfig(space=SPACE, trials=2), {})
    other = workspace.sweep_folder("other")
    plan(dataset, other, SweepConfig(space={"epochs": [1, 2, 3]}, trials=2), {})
    trial(other, dataset, 0)
    trial(other, dataset, 1)
    (folder / "journal.log").write_bytes((other / "journal.log").read_bytes())

    with pytest.raises(InputError, match="is damaged or belongs to another sweep"):
        trial(folder, dataset, 0)


def test_the_winners_run_gets_the_sweeps_source(folder: Path, dataset: Path) -> None:
    plan(dataset, folder, SweepConfig(space=SPACE, trials=1, finalists=0), {"source": "/data/x.npz", "inbox": None})
    trial(folder, dataset, 0)

    winner = choose(folder)

    assert parameters_of_the_winner(folder, winner) == {"source": "/data/x.npz", **winner.parameters}
