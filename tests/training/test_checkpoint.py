"""A killed training continues and ends with the same bits; a checkpoint that cannot be used is reported."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Digits
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.train import train
from mnist_tasks.training.checkpoint import Checkpoint, Progress
from mnist_tasks.workspace import Workspace
from tests.helpers import small_disk

EPOCHS = 250
KILLS = 20

SCRIPT = """
import logging, sys
from pathlib import Path
from mnist_tasks.config import TrainConfig
from mnist_tasks.train import train
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
config = TrainConfig(epochs=int(sys.argv[3]), shift=1, schedule="one_cycle", validation_split=0.1, patience=999)
trained = train(Path(sys.argv[1]), config, Path(sys.argv[2]))
print("digest", trained.weights_sha256)
"""


def start(dataset: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-c", SCRIPT, str(dataset), str(run), str(EPOCHS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest(output: str) -> str:
    return output.split("digest ")[1].split()[0]


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(dataset: Path, workspace: Workspace) -> None:
    """Each try gets a SIGKILL at a random moment after its first epoch line. A failure shows the seed."""
    seed = int(time.time())
    moments = random.Random(seed)  # noqa: S311
    uninterrupted, _ = start(dataset, workspace.run("whole")).communicate(timeout=600)

    run = workspace.run("killed")
    for _ in range(KILLS):
        process = start(dataset, run)
        assert process.stdout
        assert any(line.startswith("epoch ") for line in process.stdout)
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        assert "digest" not in process.communicate()[0], "the training ended before it was killed"
    output, _ = start(dataset, run).communicate(timeout=600)

    assert "continuing after epoch" in output, seed
    assert digest(output) == digest(uninterrupted), seed
    assert [epoch["number"] for epoch in json.loads((run / "history.json").read_text())] == list(range(1, EPOCHS + 1))
    assert not (run / "checkpoint.npz").exists()


@pytest.fixture
def interrupted(dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that stopped after the second of three epochs."""
    run = workspace.run("interrupted")
    save = Checkpoint.save

    def save_twice(self: Checkpoint, *args: object) -> None:
        save(self, *args)  # type: ignore[arg-type]
        if len(args[1].epochs) == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_twice)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, TrainConfig(epochs=3), run)
    return run


def test_a_retry_trains_only_what_is_left(
    dataset: Path, interrupted: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    trained = train(dataset, TrainConfig(epochs=3), interrupted)

    assert "continuing after epoch 2, where an earlier try stopped" in caplog.messages
    assert [line.split(":")[0] for line in caplog.messages if line.startswith("epoch ")] == ["epoch 3/3"]
    assert trained.weights_sha256 == json.loads((run / "training.json").read_text())["weights_sha256"]


def test_a_retry_with_less_memory_streams_the_images_and_ends_with_the_same_bits(
    dataset: Path, interrupted: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    trained = train(dataset, TrainConfig(epochs=3, image_memory=1), interrupted)

    assert "continuing after epoch 2, where an earlier try stopped" in caplog.messages
    assert trained.weights_sha256 == json.loads((run / "training.json").read_text())["weights_sha256"]


def test_a_checkpoint_of_another_dataset_is_refused(
    digits: Digits, interrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "other.npz", **{**vars(digits), "x_test": digits.x_test[:-1], "y_test": digits.y_test[:-1]})
    other = tmp_path / load(str(tmp_path / "other.npz"), tmp_path).digest
    normalize(other)

    train(other, TrainConfig(epochs=3), interrupted)

    assert "is of another training (dataset differs); training starts anew" in caplog.text


def test_a_disk_that_fills_up_later_keeps_the_last_checkpoint(
    dataset: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is no `InputError`, so the DAG retries; the retry continues from the last checkpoint."""
    caplog.set_level(logging.INFO)
    with small_disk(tmp_path / "small", "6M") as folder:
        save = Checkpoint.save

        def fill_up_before_the_second_epoch(self: Checkpoint, model: Any, progress: Progress) -> None:
            if len(progress.epochs) == 2:
                with (folder / "of others").open("wb") as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                        file.flush()
            save(self, model, progress)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoint, "save", fill_up_before_the_second_epoch)
            with pytest.raises(OSError, match="No space left on device"):
                train(dataset, TrainConfig(epochs=3), folder)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.npz", "history.json", "of others"]
        (folder / "of others").unlink()

        trained = train(dataset, TrainConfig(epochs=3), folder)

    assert "continuing after epoch 1, where an earlier try stopped" in caplog.messages
    assert trained.weights_sha256 == json.loads((run / "training.json").read_text())["weights_sha256"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TrainConfig(epochs=4), "config differs"),
        (TrainConfig(epochs=3, seed=1), "config differs"),
        (TrainConfig(epochs=3, optimizer="sgd"), "is damaged|config differs"),
    ],
)
def test_a_checkpoint_of_another_recipe_is_refused(
    config: TrainConfig, words: str, dataset: Path, interrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(dataset, config, interrupted)

    assert "training starts anew" in caplog.text
    assert any(word in caplog.text for word in words.split("|"))
    assert len(json.loads((interrupted / "history.json").read_text())) == config.epochs


def test_a_checkpoint_of_another_version_is_refused(
    dataset: Path, interrupted: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.train.library_versions", lambda: {"tensorflow": "2.99"})

    train(dataset, TrainConfig(epochs=3), interrupted)

    assert "is of another training (library_versions differs); training starts anew" in caplog.text


def test_a_checkpoint_of_other_code_on_another_machine_is_refused(
    dataset: Path, interrupted: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.train.fingerprint", lambda *_: {"code": "another", "machine": "another"})

    train(dataset, TrainConfig(epochs=3), interrupted)

    assert "is of another training (code, machine differs); training starts anew" in caplog.text
    fingerprint = json.loads((interrupted / "training.json").read_text())["fingerprint"]
    assert fingerprint == {"code": "another", "machine": "another"}


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "garbage", "not an archive of arrays"])
def test_a_damaged_checkpoint_is_refused(
    damage: str, dataset: Path, interrupted: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = interrupted / "checkpoint.npz"
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "not an archive of arrays":
        np.savez(path, other=np.zeros(3))
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        damaged = {"empty": b"", "truncated": content[:-500], "flipped": flipped, "garbage": b"garbage" * 99}
        path.write_bytes(damaged[damage])

    trained = train(dataset, TrainConfig(epochs=3), interrupted)

    assert "checkpoint.npz is damaged (" in caplog.text
    assert trained.weights_sha256 == json.loads((run / "training.json").read_text())["weights_sha256"]
