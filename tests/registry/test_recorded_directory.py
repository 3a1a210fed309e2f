"""A model directory that an older release wrote still works in every respect.

`recorded/f58c954.tar.gz` holds what commit f58c954 wrote from 2,000 training and 500 test images of MNIST: four
versions of `Dense(8)` and the JSON documents of the three runs. Versions 1 and 2 were promoted and version 3 was
forced. Version 4 is version 2 again, published by a rollback.
"""

from __future__ import annotations

import json
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from mnist_tasks.cli.main import main
from mnist_tasks.config import TrainConfig
from mnist_tasks.evaluate import evaluate
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.verification import problems
from mnist_tasks.registry.version import Version
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT

RECORDED = Path(__file__).parent / "recorded" / "f58c954.tar.gz"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    with tarfile.open(RECORDED) as archive:
        archive.extractall(tmp_path / "recorded")  # noqa: S202 - our own archive
    monkeypatch.setenv("MNIST_HOME", str(tmp_path / "recorded"))
    return Workspace(tmp_path / "recorded")


@pytest.fixture
def models(home: Workspace) -> ModelDirectory:
    return ModelDirectory(home.models)


def test_it_lists_and_verifies(models: ModelDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert [(row["version"], row["accuracy"], row["champion"]) for row in rows] == [
        (1, 0.54, False),
        (2, 0.682, False),
        (3, 0.446, False),
        (4, 0.682, True),
    ]
    assert problems(models) == []
    assert main(["models", "verify"]) == 0


def test_its_history_and_documents_still_read(models: ModelDirectory) -> None:
    events = [(event.event, event.before, event.to) for event in models.history()]

    assert events == [("promoted", None, 1), ("promoted", 1, 2), ("forced", 2, 3), ("rolled back", 3, 4)]
    noon = datetime.fromisoformat(models.history()[2].time)
    assert models.who_was_champion(noon) == 3
    assert models.version("3").metadata().forced
    assert models.version("3").decision().reason.startswith("forced (Ada: a recorded example)")


def test_it_rolls_back(models: ModelDirectory) -> None:
    restored = roll_back(models, 1, reason="the recorded one was better", published_by="me")

    assert restored == Version(5, models.root / "5")
    assert models.champion() == restored
    assert restored.metadata().restores == 1
    assert problems(models) == []


def test_it_takes_a_new_champion(models: ModelDirectory, home: Workspace, dataset: Path) -> None:
    run = home.run("tonight")
    train(dataset, TrainConfig(epochs=1), run)
    evaluated = evaluate(dataset, run, home.models)

    assert evaluated.champion == 4
    promoted = promote(run, home.models, LENIENT)

    assert promoted.version == 5
    assert models.champion() == models.version("5")
    assert problems(models) == []
