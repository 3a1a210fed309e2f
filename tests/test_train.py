"""Training: its files, log and seeds, and failures that leave no files behind."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.recipes import RECIPES
from mnist_tasks.system.errors import InputError, TrainingDivergedError
from mnist_tasks.train import train
from mnist_tasks.training.epochs import split
from mnist_tasks.workspace import Workspace
from tests.helpers import small_disk

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
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert f"epoch {number}/2: loss " in line
        assert all(part in line for part in (", accuracy ", " images/s, ", " s left"))


@pytest.mark.parametrize(
    ("flags", "resolved"), [({"avx2", "fma"}, "float32"), ({"avx2", "avx512_bf16"}, "mixed_bfloat16")]
)
def test_auto_is_the_precision_that_the_processor_multiplies_in(
    flags: set[str], resolved: str, dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.system.processor.flags", lambda: frozenset(flags))

    train(dataset, TrainConfig(epochs=1, precision="auto", device="cpu"), workspace.run("new"))

    assert json.loads((workspace.run("new") / "training.json").read_text())["config"]["precision"] == resolved


def test_asking_for_bfloat16_where_it_is_emulated_is_done_with_a_warning(
    dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mnist_tasks.system.processor.flags", lambda: frozenset({"avx2"}))

    train(dataset, TrainConfig(epochs=1, precision="mixed_bfloat16", device="cpu"), workspace.run("new"))

    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "is emulated" in warning
    assert "precision=float32" in warning
    assert json.loads((workspace.run("new") / "training.json").read_text())["config"]["precision"] == "mixed_bfloat16"


@pytest.mark.slow
def test_convolutions_use_onednn_and_dense_layers_do_not_unless_the_user_has_decided(
    dataset: Path, workspace: Workspace
) -> None:
    script = (
        "import json, sys; from pathlib import Path\n"
        "from mnist_tasks.config import TrainConfig; from mnist_tasks.train import train\n"
        "run = Path(sys.argv[2]); train(Path(sys.argv[1]), TrainConfig(epochs=1, architecture=sys.argv[3]), run)\n"
        "print(json.loads((run / 'training.json').read_text())['environment'].get('TF_ENABLE_ONEDNN_OPTS'))"
    )

    def chosen(architecture: str, **environment: str) -> str:
        command = [sys.executable, "-c", script, str(dataset), str(workspace.run("new")), architecture]
        clean = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
        result = subprocess.run(command, check=True, capture_output=True, text=True, env={**clean, **environment})
        return result.stdout.strip()

    assert [chosen("mlp"), chosen("cnn-2"), chosen("cnn-2", TF_ENABLE_ONEDNN_OPTS="0")] == ["0", "1", "0"]


def test_it_says_which_device_it_trains_on(
    dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    train(dataset, ONE_EPOCH, workspace.run("new"))

    assert any(line.startswith(("training on the CPU (", "training on the GPU ")) for line in caplog.messages)


TRAINING = """
import os, sys
from pathlib import Path
from mnist_tasks.config import TrainConfig
from mnist_tasks.training.checkpoint import Checkpoint
from mnist_tasks.train import train

dataset, run, config, ending = sys.argv[1:]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if ending == "one core" else os.sched_getaffinity(0))
save = Checkpoint.save

def save_and_die(checkpoint, model, progress):
    save(checkpoint, model, progress)
    if progress.epochs:
        os.kill(os.getpid(), 9)

if ending == "killed":
    Checkpoint.save = save_and_die
print(train(Path(dataset), TrainConfig.model_validate_json(config), Path(run)).weights_sha256)
"""


def train_in_a_process(dataset: Path, run: Path, config: TrainConfig, ending: str = "", onednn: str = "0") -> str:
    """Train in a process of its own: with all cores or with `one core`, to the end or `killed` after an epoch."""
    command = [sys.executable, "-c", TRAINING, str(dataset), str(run), config.model_dump_json(), ending]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == (-signal.SIGKILL if ending == "killed" else 0), result.stderr
    return result.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["0", "1"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("architecture", ["mlp", "cnn-2"])
def test_the_same_seed_gives_the_same_weights_on_any_number_of_cores_and_after_a_kill(
    architecture: str, precision: str, onednn: str, dataset: Path, workspace: Workspace
) -> None:
    config = TrainConfig(epochs=2, architecture=architecture, precision=precision, seed=5)

    def digest(name: str, ending: str = "", **changed: int) -> str:
        changed_config = config.model_copy(update=changed)
        return train_in_a_process(dataset, workspace.run(name), changed_config, ending, onednn)

    whole = digest("whole")
    digest("killed", "killed")

    assert digest("one-core", "one core") == whole
    assert digest("killed") == whole
    assert digest("another-seed", seed=6) != whole


def test_streamed_images_give_the_same_weights(dataset: Path, workspace: Workspace) -> None:
    """The normalized training images take 6.3 MB."""
    config = {"epochs": 2, "validation_split": 0.1, "shift": 1}

    streamed, resident = (
        train(dataset, TrainConfig(**config, image_memory=memory), workspace.run(f"{memory}")) for memory in (1, 1000)
    )

    assert streamed.weights_sha256 == resident.weights_sha256
    assert (streamed.loss, streamed.accuracy) == (resident.loss, resident.accuracy)


def test_memory_that_cannot_hold_a_batch_is_refused(dataset: Path, workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"image_memory: 1\.0 MB cannot hold the 4 batches of 500 images"):
        train(dataset, TrainConfig(batch_size=500, image_memory=1), workspace.run("new"))


def test_a_second_try_replaces_the_first(dataset: Path, workspace: Workspace) -> None:
    run = workspace.run("new")
    (run / "model.keras").write_bytes(b"half")
    for leftover in ("saved_model", ".staging-saved_model"):
        (run / leftover).mkdir()
        (run / leftover / "of an earlier try").touch()

    train(dataset, ONE_EPOCH, run)

    assert keras.saving.load_model(run / "model.keras")
    assert not (run / "saved_model" / "of an earlier try").exists()
    assert sorted(path.name for path in run.iterdir()) == [
        "history.json",
        "model.keras",
        "saved_model",
        "training.json",
    ]


def test_a_batch_larger_than_the_set_is_refused(dataset: Path, workspace: Workspace) -> None:
    with pytest.raises(InputError, match="batch_size: 2,001 is greater than the training set of 2,000 images"):
        train(dataset, TrainConfig(batch_size=2001), workspace.run("new"))


def test_a_loss_that_is_not_finite_fails_and_writes_nothing(
    dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dataset, "verify", lambda *_: None)  # lets the NaN through, as if the training had produced it
    images = np.load(Dataset(dataset).normalized_path("train"), mmap_mode="r+")
    images[1234, 5, 5] = np.nan
    config = TrainConfig(activation="tanh")  # relu would turn the NaN into a zero

    with pytest.raises(
        TrainingDivergedError, match=r"the loss is nan at step \d+ of epoch 1; use a lower learning rate"
    ):
        train(dataset, config, workspace.run("new"))
    assert not (workspace.run("new") / "model.keras").exists()


def test_a_dataset_that_is_not_normalized_is_refused(dataset: Path, workspace: Workspace) -> None:
    Dataset(dataset).normalized_path("train").unlink()

    with pytest.raises(InputError, match=r"x_train_normalized\.npy is missing, .*; clear the normalize task"):
        train(dataset, ONE_EPOCH, workspace.run("new"))


@pytest.mark.parametrize("name", ["x_train_normalized", "y_train"])
def test_what_is_trained_on_is_what_was_loaded(name: str, dataset: Path, workspace: Workspace) -> None:
    array = np.load(dataset / f"{name}.npy", mmap_mode="r+")
    array[len(array) // 2 :] = 0
    array.flush()

    with pytest.raises(
        InputError, match=r"no longer holds the dataset's images|no longer has the content that it is named after"
    ):
        train(dataset, TrainConfig(epochs=1), workspace.run("bad"))
    assert not any(workspace.run("bad").iterdir())


def test_bad_input_is_refused_before_tensorflow_is_imported(dataset: Path, workspace: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.config import TrainConfig; from mnist_tasks.train import train\n"
        "try: train(Path(sys.argv[1]), TrainConfig(batch_size=2001), Path(sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(dataset), str(workspace.run("new"))]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "InputError False\n"


NO_MEMORY = [
    (tf.errors.ResourceExhaustedError, "OOM when allocating tensor with shape[2000,14,14,32] on /device:GPU:0"),
    (tf.errors.InternalError, "Failed copying input tensor to GPU:0: Dst tensor is not initialized."),
]


@pytest.mark.parametrize(("kind", "message"), NO_MEMORY, ids=["while training", "while copying the images"])
def test_too_little_memory_names_the_settings_to_lower(
    kind: Any, message: str, dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's error is faked, because filling the memory of the machine would disturb other programs."""
    monkeypatch.setattr("mnist_tasks.training.epochs.fit", raises(kind(None, None, message)))

    with pytest.raises(InputError) as caught:
        train(dataset, TrainConfig(batch_size=2000), workspace.run("new"))
    assert str(caught.value) == (
        "batch_size: the device has too little memory for batches of 2,000 images; use fewer, such as 1,000, a smaller "
        f"architecture than mlp, or an image_memory below 1,000 MB ({message})"
    )


def test_another_error_inside_the_device_stays_what_it_is(
    dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mnist_tasks.training.epochs.fit", raises(tf.errors.InternalError(None, None, "a kernel is broken"))
    )

    with pytest.raises(tf.errors.InternalError, match="a kernel is broken"):
        train(dataset, ONE_EPOCH, workspace.run("new"))


def raises(error: Exception) -> Callable[..., None]:
    def stand_in(*_: object, **__: object) -> None:
        raise error

    return stand_in


def test_a_folder_that_cannot_hold_a_checkpoint_is_found_out_at_once(dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "full", "256K") as folder:
        with pytest.raises(InputError, match="cannot hold a checkpoint of the training: No space left on device"):
            train(dataset, ONE_EPOCH, folder)

        assert not list(folder.iterdir())


def test_a_gpu_that_is_not_there_is_refused(dataset: Path, workspace: Workspace) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU; the test needs one without")
    with pytest.raises(InputError, match="device: gpu: TensorFlow sees no GPU on this worker; use device=auto"):
        train(dataset, TrainConfig(device="gpu"), workspace.run("new"))


def test_a_last_batch_of_one_image_is_refused_where_it_is_normalized(dataset: Path, workspace: Workspace) -> None:
    with pytest.raises(InputError, match="batch_size: 1,999 leaves a last batch of a single image"):
        train(dataset, TrainConfig(architecture="cnn-2", batch_size=1999), workspace.run("new"))


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if name != "classic" else ()) for name in RECIPES]
)
def test_a_recipe_gives_the_same_bits_twice_and_a_model_of_keras_own_parts(
    recipe: str, dataset: Path, workspace: Workspace
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.run_parameters import RunConfig; from mnist_tasks.train import train\n"
        "config = RunConfig.from_parameters({'recipe': sys.argv[3], 'epochs': 2}).training\n"
        "print(train(Path(sys.argv[1]), config, Path(sys.argv[2])).weights_sha256)"
    )
    commands = [
        [sys.executable, "-c", script, str(dataset), str(workspace.run(name)), recipe] for name in ("first", "again")
    ]
    outputs = [subprocess.run(c, check=True, capture_output=True, text=True).stdout for c in commands]

    assert outputs[0] == outputs[1]
    load = (
        "import sys, keras, numpy as np; model = keras.saving.load_model(sys.argv[1])\n"
        "x, y = np.load(sys.argv[2]), np.load(sys.argv[3])\n"
        "assert 'mnist_tasks' not in sys.modules and model.compute_dtype == 'float32'\n"
        "print(model.evaluate(x, y, verbose=0)[1])"
    )
    arguments = [str(workspace.run("again") / "model.keras"), str(Dataset(dataset).normalized_path("test"))]
    command = [sys.executable, "-W", "error::UserWarning", "-c", load, *arguments, str(dataset / "y_test.npy")]
    accuracy = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    assert float(accuracy) > 0.6  # two epochs on 2,000 images


def test_a_validation_split_is_measured_and_not_trained_on(
    dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    train(dataset, TrainConfig(epochs=1, validation_split=0.1), workspace.run("new"))

    assert "1,800 images; recipe classic but for epochs 1, validation_split 0.1" in caplog.messages
    assert any(", val_loss 0." in message and ", val_accuracy 0." in message for message in caplog.messages)
    rows, held_out = split(2000, TrainConfig(validation_split=0.1))
    assert held_out is not None
    assert sorted([*rows, *held_out]) == list(range(2000))
    other = split(2000, TrainConfig(validation_split=0.1, seed=1))[1]
    assert other is not None
    assert set(held_out) != set(other)


def test_early_stopping_keeps_the_best_epoch(dataset: Path, workspace: Workspace) -> None:
    run = workspace.run("new")
    config = TrainConfig(epochs=200, validation_split=0.2, patience=2, learning_rate=0.01)

    trained = train(dataset, config, run)

    losses = [epoch["metrics"]["val_loss"] for epoch in json.loads((run / "history.json").read_text())]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + config.patience < config.epochs
    assert trained.accuracy == json.loads((run / "history.json").read_text())[best]["metrics"]["accuracy"]
    _, held_out = split(2000, config)
    data = Dataset(dataset)
    model = keras.saving.load_model(run / "model.keras")
    loss, _ = model.evaluate(data.normalized("train")[held_out], data.labels("train")[held_out], verbose=0)
    assert loss == pytest.approx(losses[best], rel=1e-4)


def test_event_files_hold_each_metric_of_each_epoch(dataset: Path, workspace: Workspace) -> None:
    run = workspace.run("new")

    train(dataset, TrainConfig(epochs=2, validation_split=0.1, tensorboard=True), run)

    history = json.loads((run / "history.json").read_text())
    found = {
        (folder.name, value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for folder in (run / "tensorboard").iterdir()
        for file in folder.iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    for step, epoch in enumerate(history):
        assert found["train", "epoch_loss", step] == pytest.approx(epoch["metrics"]["loss"])
        assert found["train", "epoch_learning_rate", step] == pytest.approx(0.001)
        assert found["validation", "epoch_accuracy", step] == pytest.approx(epoch["metrics"]["val_accuracy"])
