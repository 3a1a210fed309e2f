"""Batches of the inbox: which are complete, what they come to in each form, and that a bad one stops only itself."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_tasks.config import DataRules
from mnist_tasks.dataset import Dataset, Digits, UInt8
from mnist_tasks.errors import InputError
from mnist_tasks.inbox import SETTLED, find_batches
from mnist_tasks.load import load
from mnist_tasks.sources import MNIST_DIGEST
from mnist_tasks.workspace import Workspace
from tests.forms import FORMS, done, write_npz, write_pngs

HELD_OUT = 3000


@pytest.fixture(scope="module")
def held_out(mnist: Digits) -> tuple[UInt8, UInt8]:
    """3,000 of MNIST's training digits, which `base` does not have."""
    return mnist.x_train[:HELD_OUT], mnist.y_train[:HELD_OUT]


@pytest.fixture(scope="module")
def base(mnist: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12,000 other training digits, and MNIST's test set by leaving it out."""
    rest = slice(HELD_OUT, HELD_OUT + 12_000)
    return write_npz(tmp_path_factory.mktemp("base") / "base", mnist.x_train[rest], mnist.y_train[rest])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def report(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "data" / "validation.json").read_text())
    return document


def batches(run: Path) -> dict[str, dict[str, Any]]:
    return {batch["name"]: batch for batch in report(run)["batches"]}


def failed(batch: dict[str, Any]) -> set[str]:
    return {check["rule"] for check in batch["checks"] if check["verdict"] == "failed"}


def test_a_batch_gives_the_same_digest_in_every_form(
    base: Path, held_out: tuple[UInt8, UInt8], mnist: Digits, tmp_path: Path
) -> None:
    images, labels = held_out
    digests = {}
    for form, write in FORMS.items():
        folder = tmp_path / f"inbox of {form}"
        order = np.random.default_rng(len(form)).permutation(len(images))
        folder.mkdir()
        done(write(folder / f"digits as {form}", images[order], labels[order]))
        loaded = load(str(base), tmp_path / "datasets", inbox=folder)
        assert (loaded.train_images, loaded.test_images, loaded.batches) == (15_000, 10_000, 1)
        digests[form] = loaded.digest

    assert len(set(digests.values())) == 1, digests
    dataset = Dataset(tmp_path / "datasets" / digests["npz"])
    assert np.array_equal(dataset.array("x_train")[:12_000], mnist.x_train[HELD_OUT : HELD_OUT + 12_000])
    assert np.array_equal(dataset.array("x_test"), mnist.x_test)
    merged = zip(dataset.array("x_train")[12_000:], dataset.array("y_train")[12_000:], strict=True)
    dropped = zip(images, labels, strict=True)
    assert sorted((x.tobytes(), int(y)) for x, y in merged) == sorted((x.tobytes(), int(y)) for x, y in dropped)
    assert [batch["name"] for batch in dataset.description()["batches"]] == ["digits as npz.npz"]
    assert dataset.description()["source"] == f"{base} with 1 of the inbox's batches"


def test_wrong_labels_and_test_images_are_caught_and_the_rest_goes_on(
    base: Path, held_out: tuple[UInt8, UInt8], mnist: Digits, inbox: Path, tmp_path: Path
) -> None:
    images, labels = held_out
    rng = np.random.default_rng(1)
    wrong = labels.copy()
    changed = rng.choice(len(labels), len(labels) // 20, replace=False)
    wrong[changed] = (wrong[changed] + rng.integers(1, 10, len(changed))) % 10
    dim = np.roll(mnist.x_test[:30] * 0.9, 1, axis=2).astype(np.uint8)
    done(write_npz(inbox / "wrong", images, wrong))
    with_one = np.concatenate([images[:500], mnist.x_test[:1]]), np.concatenate([labels[:500], mnist.y_test[:1]])
    done(write_npz(inbox / "exact", *with_one))
    with_dim = np.concatenate([images[500:1000], dim]), np.concatenate([labels[500:1000], mnist.y_test[:30]])
    done(write_npz(inbox / "near", *with_dim))
    done(write_npz(inbox / "good", mnist.x_train[-1000:], mnist.y_train[-1000:]))
    before = {path: path.read_bytes() for path in inbox.iterdir()}

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    found = batches(tmp_path / "run")
    assert {name: (batch["verdict"], failed(batch)) for name, batch in found.items()} == {
        "wrong.npz": ("quarantined", {"max_wrong_labels"}),
        "exact.npz": ("quarantined", {"leakage"}),
        "near.npz": ("quarantined", {"leakage"}),
        "good.npz": ("merged", set()),
    }
    assert "are contradicted by all 5 nearest images" in found["wrong.npz"]["reason"]
    assert "1 of 501 training images are test images as well" in found["exact.npz"]["reason"]
    assert "30 of 530 training images are closer than 0.003 to a test image" in found["near.npz"]["reason"]
    assert (loaded.train_images, loaded.batches, loaded.quarantined) == (13_000, 1, 3)
    assert {path: path.read_bytes() for path in inbox.iterdir()} == before
    assert {path.name for path in (tmp_path / "run" / "data").iterdir()} == {
        "validation.json",
        "means.png",
        *(f"batch-0{number}.png" for number in range(1, 5)),
    }
    figures = tmp_path / "datasets" / loaded.digest / "figures"
    assert len(list(figures.glob("batch-*.png"))) == 1
    with pytest.raises(InputError, match=r"batch exact\.npz: .*are test images as well.*; and 2 more; mend or remove"):
        load(str(base), tmp_path / "datasets", inbox=inbox, rules=DataRules(on_bad_batch="fail"), run=tmp_path / "run")
    assert report(tmp_path / "run")["dataset"] is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_clean_digits_pass(seed: int, mnist: Digits, tmp_path: Path) -> None:
    order = np.random.default_rng(seed).permutation(60_000)
    source = write_npz(tmp_path / "base", mnist.x_train[order[HELD_OUT:]], mnist.y_train[order[HELD_OUT:]])
    (tmp_path / "inbox").mkdir()
    done(write_npz(tmp_path / "inbox" / "clean", mnist.x_train[order[:HELD_OUT]], mnist.y_train[order[:HELD_OUT]]))

    assert load(str(source), tmp_path / "datasets", inbox=tmp_path / "inbox").batches == 1


def test_an_empty_inbox_changes_nothing(inbox: Path, tmp_path: Path) -> None:
    assert load("builtin", tmp_path / "datasets", inbox=inbox).digest == MNIST_DIGEST


def test_a_batch_for_the_test_set_says_so(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    images, labels = held_out
    done(write_pngs(inbox / "more tests", images[:100], labels[:100], "test"))

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox)

    assert (loaded.train_images, loaded.test_images) == (12_000, 10_100)


def test_training_images_in_a_test_batch_are_caught(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    images, labels = held_out
    done(write_npz(inbox / "a", images[:500], labels[:500]))
    done(write_npz(inbox / "b", images[400:600], labels[400:600], "test"))

    load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    found = batches(tmp_path / "run")
    assert (found["a.npz"]["verdict"], found["b.npz"]["verdict"]) == ("merged", "quarantined")
    assert "100 of 200 test images are training images as well" in found["b.npz"]["reason"]


def test_a_mended_batch_goes_in_the_next_night(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    images, labels = held_out
    batch = done(write_npz(inbox / "digits", images[:500], labels[:500]))
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-100])
    first = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")
    assert "digits.npz is no .npz file, or one cut short" in batches(tmp_path / "run")["digits.npz"]["reason"]

    batch.write_bytes(whole)
    second = load(str(base), tmp_path / "datasets", inbox=inbox)

    assert (first.batches, second.batches) == (0, 1)
    assert first.digest != second.digest


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_batch_is_complete_once_it_is_marked_or_has_settled(kind: str, inbox: Path) -> None:
    batch = inbox / "batch"
    if kind == "folder":
        batch.mkdir()
    (batch / "file" if kind == "folder" else batch).write_bytes(b"half")
    # A copy that keeps the original's dates is as new as any other.
    for path in (*batch.glob("*"), batch):
        os.utime(path, (0, 0))
    now = time.time()

    assert [found.complete for found in find_batches(inbox, now)] == [False]
    assert [found.complete for found in find_batches(inbox, now + SETTLED + 1)] == [True]
    (batch / ".done" if kind == "folder" else inbox / "batch.done").touch()
    assert [(found.name, found.complete) for found in find_batches(inbox, now)] == [("batch", True)]


def test_what_is_not_complete_is_named_and_not_read(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    write_npz(inbox / "half", held_out[0][:100], held_out[1][:100])
    (inbox / ".hidden").write_bytes(b"being written")

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    assert (loaded.batches, loaded.quarantined) == (0, 0)
    assert {name: batch["verdict"] for name, batch in batches(tmp_path / "run").items()} == {"half.npz": "waiting"}


def test_the_inbox_is_in_the_workspace_unless_one_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    assert workspace.inbox(None) is None
    (tmp_path / "inbox").mkdir()
    assert workspace.inbox(None) == tmp_path / "inbox"
    assert workspace.inbox("none") is None
    assert workspace.inbox("/data/in") == Path("/data/in")
    with pytest.raises(
        InputError, match=r"^inbox: .*/nowhere is no folder; make it, name another one, or use inbox=none$"
    ):
        find_batches(tmp_path / "nowhere")
