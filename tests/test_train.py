"""Training: files, log, seeds, and failures that leave nothing behind."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mnist_tasks.config import TrainConfig
from mnist_tasks.dataset import Dataset, RowReader
from mnist_tasks.errors import InputError, TrainingDivergedError
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace

ONE_EPOCH = TrainConfig(epochs=1)


def test_the_model_takes_images_and_gives_probabilities(dataset: Path, workspace: Workspace) -> None:
    train(dataset, ONE_EPOCH, workspace.run("new"))

    model = keras.saving.load_model(workspace.run("new") / "model.keras")
    assert model.input_shape == (None, 28, 28)
    probabilities = model.predict(Dataset(dataset).normalized("test")[:20], verbose=0)
    assert probabilities.shape == (20, 10)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_default_model_is_the_classic_one(run: Path) -> None:
    flatten, dense, dropout, output = keras.saving.load_model(run / "model.keras").layers

    assert isinstance(flatten, keras.layers.Flatten)
    assert (dense.units, dense.activation.__name__) == (128, "relu")
    assert dropout.rate == 0.2
    assert (output.units, output.activation.__name__) == (10, "softmax")


def test_it_learns(run: Path) -> None:
    first, *_, last = json.loads((run / "history.json").read_text())

    assert last["metrics"]["accuracy"] > 0.85
    assert last["metrics"]["loss"] < first["metrics"]["loss"]


def test_history_and_record_say_how_it_was_made(
    dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = TrainConfig(epochs=2, hidden_units=16, activation="tanh", optimizer="sgd", batch_size=100)

    trained = train(dataset, config, workspace.run("new"))

    history = json.loads((workspace.run("new") / "history.json").read_text())
    assert [epoch["number"] for epoch in history] == [1, 2]
    assert history[-1]["metrics"] == {"loss": trained.loss, "accuracy": trained.accuracy}
    record = json.loads((workspace.run("new") / "training.json").read_text())
    assert record["config"] == config.model_dump()
    assert record["dataset"] == dataset.name
    assert record["weights_sha256"] == trained.weights_sha256
    assert record["library_versions"]["keras"] == keras.__version__
    lines = [line for line in caplog.messages if line.startswith("epoch")]
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert f"epoch {number}/2: loss " in line
        assert all(part in line for part in (", accuracy ", " images/s, ", " s left"))


def test_it_says_which_device_it_trains_on(
    dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    train(dataset, ONE_EPOCH, workspace.run("new"))

    assert any(line.startswith(("training on the CPU (", "training on the GPU ")) for line in caplog.messages)


def train_in_a_process(dataset: Path, run: Path, seed: int) -> str:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.config import TrainConfig; from mnist_tasks.train import train\n"
        "config = TrainConfig(epochs=1, seed=int(sys.argv[3]))\n"
        "print(train(Path(sys.argv[1]), config, Path(sys.argv[2])).weights_sha256)"
    )
    command = [sys.executable, "-c", script, str(dataset), str(run), str(seed)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_two_processes_with_one_seed_give_the_same_weights(dataset: Path, workspace: Workspace) -> None:
    first, again = (train_in_a_process(dataset, workspace.run(name), 5) for name in ("a", "b"))
    other = train_in_a_process(dataset, workspace.run("c"), 6)

    assert first == again != other


def test_a_second_try_replaces_the_first(dataset: Path, workspace: Workspace) -> None:
    run = workspace.run("new")
    (run / "model.keras").write_bytes(b"half")

    train(dataset, ONE_EPOCH, run)

    assert keras.saving.load_model(run / "model.keras")
    assert sorted(path.name for path in run.iterdir()) == ["history.json", "model.keras", "training.json"]


def test_a_batch_larger_than_the_set_is_refused(dataset: Path, workspace: Workspace) -> None:
    with pytest.raises(InputError, match="batch_size: 2,001 is greater than the training set of 2,000 images"):
        train(dataset, TrainConfig(batch_size=2001), workspace.run("new"))


def test_a_loss_that_is_not_finite_fails_and_writes_nothing(dataset: Path, workspace: Workspace) -> None:
    images = np.load(Dataset(dataset).normalized_path("train"), mmap_mode="r+")
    images[1234, 5, 5] = np.nan
    config = TrainConfig(activation="tanh")  # relu would turn the NaN into a zero

    with pytest.raises(
        TrainingDivergedError, match=r"the loss is nan at step \d+ of epoch 1; use a lower learning rate"
    ):
        train(dataset, config, workspace.run("new"))
    assert not list(workspace.run("new").iterdir())


def test_a_dataset_that_is_not_normalized_is_refused(dataset: Path, workspace: Workspace) -> None:
    Dataset(dataset).normalized_path("train").unlink()

    with pytest.raises(InputError, match=r"x_train_normalized\.npy cannot be read"):
        train(dataset, ONE_EPOCH, workspace.run("new"))


def test_bad_input_is_refused_before_tensorflow_is_imported(dataset: Path, workspace: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.config import TrainConfig; from mnist_tasks.train import train\n"
        "try: train(Path(sys.argv[1]), TrainConfig(batch_size=2001), Path(sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(dataset), str(workspace.run("new"))]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "InputError False\n"


def test_rows_are_read_in_any_order(dataset: Path) -> None:
    path = Dataset(dataset).normalized_path("test")
    rows = np.random.default_rng(0).integers(0, 500, 700)

    reader = RowReader(path)

    assert len(reader) == 500
    assert np.array_equal(reader(rows), np.load(path)[rows])
    reader.close()


def test_rows_of_a_file_cut_while_it_is_read_are_refused(dataset: Path) -> None:
    path = Dataset(dataset).normalized_path("test")
    reader = RowReader(path)
    with path.open("r+b") as file:
        file.truncate(10_000)

    with pytest.raises(InputError, match=r"x_test_normalized\.npy ends before row 499"):
        reader(np.array([0, 499]))
    reader.close()
