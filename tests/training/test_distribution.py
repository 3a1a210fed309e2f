"""Several devices give the result of one device up to the order of summation; an uneven batch is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mnist_tasks.config import TrainConfig
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace

pytestmark = pytest.mark.slow

CONFIG = {"epochs": 2, "dropout": 0, "batch_size": 40, "validation_split": 0.1}

# Arguments: dataset, run, configuration, number of virtual devices.
SCRIPT = """
import json, sys
from pathlib import Path
from typing import Any
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[4])
)
from mnist_tasks.config import TrainConfig
from mnist_tasks.system.errors import TaskError
from mnist_tasks.train import train
try:
    print(train(Path(sys.argv[1]), TrainConfig(**json.loads(sys.argv[3])), Path(sys.argv[2])).weights_sha256)
except TaskError as error:
    print(error)
"""


def start(dataset: Path, run: Path, devices: int, **config: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, str(dataset), str(run), json.dumps({**CONFIG, **config}), str(devices)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def output(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out.strip()


@pytest.fixture
def single(dataset: Path, workspace: Workspace) -> Path:
    run = workspace.run("single")
    train(dataset, TrainConfig.model_validate(CONFIG), run)
    return run


def check_same(run: Path, single: Path) -> None:
    """Check that the weights and the metrics of each epoch agree up to float32 rounding."""
    one, other = (keras.saving.load_model(folder / "model.keras") for folder in (run, single))
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        assert np.allclose(mine, theirs, atol=1e-4)
    histories = [json.loads((folder / "history.json").read_text()) for folder in (run, single)]
    for epoch, expected in zip(*histories, strict=True):
        assert epoch["metrics"] == pytest.approx(expected["metrics"], rel=1e-3)


@pytest.mark.parametrize("devices", [2, 4])
def test_mirrored_devices_give_the_result_of_one(
    devices: int, dataset: Path, workspace: Workspace, single: Path
) -> None:
    run = workspace.run("mirrored")

    output(start(dataset, run, devices, strategy="mirrored"))

    check_same(run, single)


def test_mirrored_devices_give_the_same_bits_from_streamed_images(dataset: Path, workspace: Workspace) -> None:
    resident, streamed = (
        output(start(dataset, workspace.run(f"{memory}"), 2, strategy="mirrored", image_memory=memory))
        for memory in (1000, 1)
    )

    assert streamed == resident


@pytest.mark.parametrize(
    ("config", "images"),
    [({"batch_size": 25}, 25), ({"validation_split": 0.1055}, 29)],
    ids=["batch", "last batch"],
)
def test_a_batch_that_cannot_be_split_evenly_is_refused(
    config: dict[str, Any], images: int, dataset: Path, workspace: Workspace
) -> None:
    words = output(start(dataset, workspace.run("odd"), 2, strategy="mirrored", **config))

    assert words.startswith(f"a batch of {images} images cannot be split evenly over 2 devices; use a batch_size")
