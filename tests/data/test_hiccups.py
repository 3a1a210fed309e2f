"""A system error while reading is passed on, and no verdict is written about the file that could not be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_tasks.data.dataset import Dataset, Digits
from mnist_tasks.data.image_files import read_digit
from mnist_tasks.data.inbox import complete_batches, find_batches
from mnist_tasks.data.sources import fetch
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.training.checkpoint import Checkpoint, Progress
from mnist_tasks.workspace import Workspace
from tests.forms import FORMS, done, idx, write_npz
from tests.helpers import COUNTS, publish, stand_in
from tests.hiccups import whatever_fails

IMAGES = 12


def counted(what: str, looks: int) -> None:
    COUNTS.append(f"{looks} looks at {what} failed in turn")


@pytest.mark.parametrize("form", [*FORMS, "IDX in folders", "IDX, gzipped"])
def test_a_source_that_cannot_be_read_now_is_not_called_corrupt(form: str, digits: Digits, tmp_path: Path) -> None:
    images, labels = digits.x_train[:IMAGES], digits.y_train[:IMAGES]
    root = tmp_path / "there"
    root.mkdir()
    if form in FORMS:
        path = FORMS[form](root / "digits", images, labels)
    else:
        path = root / "digits"
        for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
            file = path / name / name if "folders" in form else path / f"{name}.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(idx(array) if "folders" in form else gzip.compress(idx(array)))
    (tmp_path / "out").mkdir()

    def call() -> bytes:
        fetch(path, tmp_path / "out")
        return (tmp_path / "out" / "x_train.npy").read_bytes()

    counted(f"a source as {form}", whatever_fails(root, call))


def test_a_picture_that_cannot_be_read_now_is_not_called_unreadable(digits: Digits, tmp_path: Path) -> None:
    for form in ("PNG", "TIFF", "JPEG"):
        path = tmp_path / f"digit.{form}"
        Image.fromarray(digits.x_train[0]).resize((200, 200)).save(path, form)
        counted(f"a picture as {form}", whatever_fails(path, lambda path=path: read_digit(path).tobytes()))  # type: ignore[misc]


@pytest.mark.parametrize("look", [find_batches, complete_batches])
def test_an_inbox_that_cannot_be_looked_at_now_is_not_taken_for_another(look: Any, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "folder" / "3").mkdir(parents=True)
    (inbox / "folder" / "3" / "digit").touch()
    (inbox / "settling").touch()
    done(inbox / "folder")

    counted(f"the inbox by {look.__name__}", whatever_fails(inbox, lambda: look(inbox)))


@pytest.fixture
def small(digits: Digits, tmp_path: Path) -> Path:
    """The folder of a small normalized dataset."""
    arrays = {name: array[:600] for name, array in vars(digits).items()}
    np.savez(tmp_path / "small.npz", **arrays)
    folder = tmp_path / "datasets" / load(str(tmp_path / "small.npz"), tmp_path / "datasets").digest
    normalize(folder)
    return folder


def test_a_dataset_that_cannot_be_read_now_is_not_called_damaged_and_not_written_again(small: Path) -> None:
    dataset = Dataset(small)

    def written() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(small.rglob("*"))}

    before = written()
    for what, call in {
        "normalize": lambda: normalize(small),
        "verify": lambda: dataset.verify("train"),
        "description": dataset.description,
        "labels": lambda: dataset.labels("test").tolist(),
        "normalized": lambda: dataset.normalized("test").shape,
    }.items():
        counted(f"a dataset by {what}", whatever_fails(small, call))
    assert written() == before


@pytest.mark.slow
def test_load_gives_no_verdict_on_what_it_cannot_read_now(digits: Digits, mnist: Digits, tmp_path: Path) -> None:
    """Some accesses to the source, a batch, the existing dataset and the champion's data fail in turn."""
    home = Workspace(tmp_path / "home")
    source = tmp_path / "source" / "digits.npz"
    source.parent.mkdir()
    np.savez(source, **{name: array[:600] for name, array in vars(digits).items()})
    (home.root / "inbox").mkdir(parents=True)
    done(write_npz(home.root / "inbox" / "batch", mnist.x_train[-50:], mnist.y_train[-50:]))
    champion = load(str(source), home.datasets).digest
    metadata = {**stand_in("first", tmp_path)["metadata"], "dataset": champion}
    publish(ModelDirectory(home.models), "first", None, metadata=metadata)
    run = home.run("night")

    def call() -> tuple[str, int, int]:
        loaded = load(str(source), home.datasets, inbox=home.root / "inbox", run=run, models=home.models)
        return loaded.digest, loaded.batches, loaded.quarantined

    merged = call()[0]
    written = sorted(path.name for path in home.datasets.iterdir())
    looks = 0
    for root in (source, home.root / "inbox", home.dataset(champion), home.dataset(merged)):
        looks += whatever_fails(root, call, most=3)
        document = json.loads((run / "data" / "validation.json").read_text())
        assert {batch["verdict"] for batch in document["batches"]} == {"merged"}
        assert sorted(path.name for path in home.datasets.iterdir()) == written
    counted("all that load reads", looks)


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(tmp_path: Path) -> None:
    """Otherwise the training would start again and overwrite its checkpoint."""

    class Variable:
        value = np.arange(1000.0)

        def assign(self, value: Any) -> None:
            self.value = value

    model: Any = SimpleNamespace(variables=[Variable()], optimizer=SimpleNamespace(variables=[Variable()]))
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", {"seed": 1})
    checkpoint.save(model, Progress(best_weights=[np.arange(3.0)]))

    counted("a checkpoint", whatever_fails(tmp_path, lambda: len(checkpoint.restore(model).best_weights)))
