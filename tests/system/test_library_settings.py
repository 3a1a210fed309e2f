"""The user's own settings of Keras and matplotlib change no weight and no figure, and break no run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_tasks.system.library_settings import environment
from mnist_tasks.workspace import PROJECT, Workspace

TRAIN = """
import json, sys
from pathlib import Path
from mnist_tasks.config import TrainConfig
from mnist_tasks.evaluate import evaluate
from mnist_tasks.train import train
dataset, run, models = map(Path, sys.argv[1:4])
run.mkdir()
config = TrainConfig(epochs=1, **json.loads(sys.argv[4]))
print(train(dataset, config, run).weights_sha256)
print(evaluate(dataset, run, models).accuracy)
import keras
print(keras.config.backend(), keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon())
"""
CNN = {"architecture": "cnn-2", "batch_size": 100, "precision": "mixed_bfloat16"}


def in_a_process(script: str, *arguments: str, **settings: str) -> str:
    """Run a script in a new Python process with additional environment variables and return what it prints."""
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, env={**os.environ, **settings}, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """The environment of a user with settings for both libraries, in files and in variables."""
    home = tmp_path / "hostile"
    (home / ".keras").mkdir(parents=True)
    (home / ".keras" / "keras.json").write_text(
        json.dumps({"backend": "jax", "floatx": "float64", "epsilon": 0.01, "image_data_format": "channels_first"})
    )
    (home / "matplotlibrc").write_text("text.usetex: True\nfigure.dpi: 3\n")
    return {
        "HOME": str(home),
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "none",
        "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [{}, CNN], ids=["classic", "cnn"])
def test_weights_and_figures_are_the_same_in_a_hostile_environment(
    recipe: dict[str, object], hostile: dict[str, str], dataset: Path, workspace: Workspace
) -> None:
    runs = [workspace.root / "runs" / name for name in ("clean", "hostile")]
    outputs = [
        in_a_process(TRAIN, str(dataset), str(run), str(workspace.models), json.dumps(recipe), **settings)
        for run, settings in zip(runs, ({}, hostile), strict=True)
    ]

    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines()[-1] == "tensorflow float32 channels_last 1e-07"
    clean, other = ({path.name: path.read_bytes() for path in (run / "figures").iterdir()} for run in runs)
    assert clean.keys() == other.keys()
    assert clean.keys() >= {"training.png", "confusion.png", "mistakes.png", "recall.png", "calibration.png"}
    for name in clean.keys() - {"training.png"}:
        assert clean[name] == other[name]


@pytest.mark.parametrize("content", ['{"floatx": "float128"}', None])
def test_a_keras_json_that_ends_the_import_of_keras_ends_no_task(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / ".keras" / "keras.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    script = (
        "from mnist_tasks.system.tensorflow_setup import use_devices; use_devices()\n"
        "import keras; print(keras.config.floatx())"
    )

    assert in_a_process(script, HOME=str(tmp_path)) == "float32\n"


def test_keras_on_another_backend_is_named() -> None:
    """A notebook may have imported Keras with another backend before."""
    script = (
        "import keras; keras.config.backend = lambda: 'jax'\n"
        "from mnist_tasks.system.errors import InputError\n"
        "from mnist_tasks.system.tensorflow_setup import use_devices\n"
        "try: use_devices()\n"
        "except InputError as error: print(error)"
    )

    assert in_a_process(script) == "Keras runs on jax in this process; start a new one with KERAS_BACKEND=tensorflow\n"


def test_the_users_variables_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "before")
    monkeypatch.delenv("NOT_HERE", raising=False)

    with environment({"HERE": None, "NOT_HERE": "now"}):
        assert (os.environ.get("HERE"), os.environ.get("NOT_HERE")) == (None, "now")

    assert (os.environ.get("HERE"), os.environ.get("NOT_HERE")) == ("before", None)
