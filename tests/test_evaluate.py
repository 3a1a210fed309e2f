"""Evaluation: candidate and champion on the same images, and no score for what cannot be trusted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_tasks.config import TrainConfig
from mnist_tasks.dataset import Dataset
from mnist_tasks.errors import ModelError
from mnist_tasks.evaluate import evaluate, table
from mnist_tasks.gate import Policy
from mnist_tasks.metrics import measure
from mnist_tasks.promote import promote
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace

ANY = Policy(min_accuracy=0, max_regression=1)


@pytest.fixture
def champion(run: Path, workspace: Workspace) -> Path:
    """The trained run as champion: the folder of version 1."""
    promote(run, workspace.models, ANY)
    return workspace.models / "1"


def test_scores_are_those_of_keras(run: Path, dataset: Path) -> None:
    model = keras.saving.load_model(run / "model.keras")
    images, labels = Dataset(dataset).normalized("test"), Dataset(dataset).labels("test")
    loss, accuracy = model.evaluate(images, labels, verbose=0)

    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["candidate"]["accuracy"] == pytest.approx(accuracy)
    assert evaluation["candidate"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert evaluation["test_images"] == 500
    assert evaluation["dataset"] == dataset.name
    assert evaluation["champion"] is None


def test_the_champion_is_measured_on_the_same_images(
    dataset: Path, workspace: Workspace, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = json.loads((champion / "evaluation.json").read_text())["candidate"]
    run = workspace.run("second")
    train(dataset, TrainConfig(epochs=1, seed=1), run)

    evaluated = evaluate(dataset, run, workspace.models)

    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["champion"]["version"] == evaluated.champion == 1
    assert evaluation["champion"]["confusion"] == before["confusion"]
    assert evaluated.champion_accuracy == before["accuracy"] != evaluated.accuracy
    header = next(line for line in caplog.messages if line.split() == ["candidate", "champion", "1"])
    accuracy = next(line for line in caplog.messages if line.startswith("accuracy"))
    assert len(header) == len(accuracy)
    assert accuracy.split()[1:] == [f"{evaluated.accuracy:.4f}", f"{evaluated.champion_accuracy:.4f}"]


def test_the_table_is_aligned() -> None:
    labels = np.arange(10, dtype=np.uint8)
    perfect = measure(np.eye(10, dtype=np.float32)[labels], labels)
    always_zero = measure(np.eye(10, dtype=np.float32)[np.zeros(10, int)], labels)

    lines = list(table({"candidate": perfect, "champion 7": always_zero}))

    assert len({len(line) for line in lines[:15]}) == 1
    assert lines[6].split() == ["1", "(1", "images)", "1.000", "1.000", "1.000", "-", "0.000", "0.000"]
    assert lines[-1].split() == ["9", *"........."[:9], "1"]


def save(path: Path, *layers: keras.Layer) -> None:
    keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *layers]).save(path)


def test_a_candidate_without_ten_outputs_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    save(run / "model.keras", keras.layers.Dense(9, "softmax"))

    with pytest.raises(ModelError, match=r"the candidate gives \(9,\) an image, but 10 probabilities are needed"):
        evaluate(dataset, run, workspace.models)


def test_a_candidate_that_gives_nan_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    save(run / "model.keras", keras.layers.Dense(10, kernel_initializer=keras.initializers.Constant(np.nan)))

    with pytest.raises(ModelError, match="the candidate gives NaN or infinity for 500 of 500 test images"):
        evaluate(dataset, run, workspace.models)


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated"])
def test_a_candidate_that_cannot_be_loaded_is_refused(
    damage: str, run: Path, dataset: Path, workspace: Workspace
) -> None:
    model = run / "model.keras"
    content = model.read_bytes()
    model.unlink()
    if damage != "missing":
        model.write_bytes(b"garbage" if damage == "garbage" else content[:-1000])

    with pytest.raises(ModelError, match=r"the candidate cannot be used: .*model\.keras"):
        evaluate(dataset, run, workspace.models)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_champion_fails_loudly_and_stays(
    damage: str, run: Path, dataset: Path, workspace: Workspace, champion: Path
) -> None:
    if damage == "missing":
        (champion / "model.keras").unlink()
    else:
        save(champion / "model.keras", keras.layers.Dense(10, "softmax"))

    with pytest.raises(ModelError, match=r"version 1 is damaged: .*/models/1/model\.keras .*; restore it"):
        evaluate(dataset, run, workspace.models)
    assert (workspace.models / "champion").readlink() == Path("1")


def test_a_champion_that_keras_cannot_load_fails_loudly(
    run: Path, dataset: Path, workspace: Workspace, champion: Path
) -> None:
    """As after an upgrade of Keras that no longer reads an old format: the file is the published one."""
    (champion / "model.keras").write_bytes(b"from another age")
    metadata = json.loads((champion / "metadata.json").read_text())
    from mnist_tasks.files import sha256

    metadata["sha256"]["model.keras"] = sha256(champion / "model.keras")
    (champion / "metadata.json").write_text(json.dumps(metadata))

    with pytest.raises(ModelError, match="the champion, version 1, cannot be used"):
        evaluate(dataset, run, workspace.models)
