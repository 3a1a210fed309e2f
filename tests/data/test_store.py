"""What was read once is not read again, and the result is the same as from scratch."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tasks.config import DataRules
from mnist_tasks.data import leakage, pieces, sources, store
from mnist_tasks.data.arrays import write_array
from mnist_tasks.data.batches import CheckedBatch, check_batches
from mnist_tasks.data.dataset import BATCHES, Dataset, Digits
from mnist_tasks.data.drift import Baseline
from mnist_tasks.data.inbox import find_batches
from mnist_tasks.data.pieces import Piece
from mnist_tasks.data.snapshot import merged
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import read_json
from tests.forms import FORMS, done, write_npz

RULES = {
    "default": DataRules(),
    "no duplicates": DataRules(max_duplicates=0),
    "all labels": DataRules(max_wrong_labels=1, max_label_drift=1, max_pixel_drift=1, min_digit_share=0),
    "no test images": DataRules(max_test_share=0),
}


@pytest.fixture(autouse=True)
def clock_without_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests write batches just before they are read."""
    monkeypatch.setattr("mnist_tasks.data.batches.TICK", -3600)


@pytest.fixture(scope="module")
def source_arrays(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name, images in {"train": 600, "test": 200}.items():
        for axis in "xy":
            array = getattr(digits, f"{axis}_{name}")[:images]
            write_array(folder / f"{axis}_{name}.npy", array.shape, [np.ascontiguousarray(array)])
    return folder


class Night:
    """Datasets with a source, and one call of `check_batches` after another."""

    def __init__(self, root: Path, source: Path) -> None:
        self.datasets = root / "datasets"
        content = Piece.read(source).content
        shutil.copytree(source, self.datasets / content)
        self.content = content

    def check(self, inbox: Path, rules: DataRules, baseline: Baseline | None = None) -> list[CheckedBatch]:
        work = self.datasets / ".staging-load"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        source = Piece.known(self.datasets / self.content, self.content)
        assert source
        return check_batches(
            [batch for batch in find_batches(inbox) if batch.complete],
            source,
            rules,
            store=store.BatchStore(self.datasets),
            baseline=baseline,
            fixed_test_images=200,
            work=work,
        )

    def digest(self, checked: list[CheckedBatch]) -> str:
        accepted = [batch for batch in checked if batch.accepted]
        if not accepted:
            return self.content
        description = merged("", self.content, "source", accepted)
        return Dataset(self.datasets / "none", described=description).content_digest()


def outcome(night: Night, checked: list[CheckedBatch]) -> tuple[str, list[dict[str, Any]]]:
    """Return what must be the same as from scratch: the dataset, and each verdict with its reason."""
    reports = [batch.report.model_dump(exclude={"picture", "checks"}) for batch in checked]
    return night.digest(checked), reports


KINDS = ("good", "wrong labels", "leaks", "test images", "leaks into the test set", "twice", "damaged", "blank")
Step = tuple[str, str, str, int]
KEPT = ("index", "profile", "keys", "measurements", "x")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd"), st.sampled_from(KINDS), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.sampled_from("abcd"), st.just(""), st.just(0)),
        st.tuples(st.just("rules"), st.sampled_from(list(RULES)), st.just(""), st.just(0)),
        st.tuples(st.just("baseline"), st.sampled_from(["source", "another"]), st.just(""), st.just(0)),
        st.tuples(
            st.just("damage"),
            st.sampled_from(["index", "profile", "keys", "measurements", "x"]),
            st.just(""),
            st.just(0),
        ),
    ),
    min_size=2,
    max_size=8,
)


def put(inbox: Path, name: str, kind: str, number: int, digits: Digits) -> None:
    """Put a batch into the inbox, or another one in its place, in the form that its number says."""
    remove(inbox, name)
    first = 600 + 50 * number
    images, labels = digits.x_train[first : first + 50].copy(), digits.y_train[first : first + 50].copy()
    split = "test" if "test" in kind else "train"
    if kind == "wrong labels":
        labels[:20] = (labels[:20] + 1) % 10
    elif kind == "leaks":
        images[0], labels[0] = np.roll(digits.x_test[0], 1, 0), digits.y_test[0]
    elif kind == "leaks into the test set":
        images[0], labels[0] = digits.x_train[0], digits.y_train[0]
    elif kind == "twice":
        images[1], labels[1] = images[0], labels[0]
    elif kind == "blank":
        images[3] = 0
    path = list(FORMS.values())[number](inbox / name, images, labels, split)
    if kind == "damaged":
        target = path if path.is_file() else next(file for file in sorted(path.rglob("*")) if file.is_file())
        target.write_bytes(target.read_bytes()[:-9])
    done(path)


def remove(inbox: Path, name: str) -> None:
    for path in inbox.glob(f"{name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def damage(datasets: Path, what: str) -> None:
    """Flip a bit in each file of a kind that is kept."""
    for path in (datasets / BATCHES).rglob(f"{what}*"):
        content = bytearray(path.read_bytes())
        content[len(content) * 2 // 3] ^= 1
        path.write_bytes(content)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS)
def test_any_sequence_of_nights_gives_what_one_from_scratch_gives(
    steps: list[tuple[str, str, str, int]],
    digits: Digits,
    source_arrays: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("nights")
    inbox = root / "inbox"
    inbox.mkdir()
    night = Night(root, source_arrays)
    source = Piece.read(source_arrays)
    another = Baseline("another", {"train": [9, *[1] * 9], "test": [1] * 10}, [1] * 16)
    rules, baseline = DataRules(), None
    for position, (step, name, kind, number) in enumerate(steps):
        if step == "put":
            put(inbox, name, kind, number, digits)
        elif step == "remove":
            remove(inbox, name)
        elif step == "rules":
            rules = RULES[name]
        elif step == "baseline":
            baseline = another if name == "another" else Baseline.of_source(source.profiles)
        else:
            damage(night.datasets, name)

        scratch = Night(root / f"scratch {position}", source_arrays)
        assert outcome(night, night.check(inbox, rules, baseline)) == outcome(
            scratch, scratch.check(inbox, rules, baseline)
        )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the batches that are read."""
    read: list[str] = []
    fetch = sources.fetch

    def noted(path: Path, folder: Path) -> Any:
        read.append(path.name)
        return fetch(path, folder)

    monkeypatch.setattr("mnist_tasks.data.batches.fetch", noted)
    return read


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images are compared with others, for each comparison."""
    found: list[int] = []
    distances_to = leakage.distances_to

    def noted(ours: Any, other: Any) -> Any:
        found.append(len(ours))
        return distances_to(ours, other)

    monkeypatch.setattr("mnist_tasks.data.pieces.distances_to", noted)
    return found


def test_a_night_reads_only_what_is_new_or_has_changed(
    digits: Digits, source_arrays: Path, tmp_path: Path, reads: list[str], compared: list[int]
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    night = Night(tmp_path, source_arrays)
    for name, kind in {"a": "good", "b": "wrong labels", "c": "damaged"}.items():
        put(inbox, name, kind, 0, digits)
    put(inbox, "d", "good", 1, digits)
    first = night.check(inbox, DataRules())
    assert sorted(reads) == ["a.npz", "b.npz", "c.npz", "d"]
    assert [batch.report.verdict for batch in first] == ["merged", "quarantined", "quarantined", "merged"]
    assert all(batch.report.checks for batch in first)

    reads.clear()
    compared.clear()
    second = night.check(inbox, DataRules())
    assert (reads, compared) == ([], [])
    # What is wrong is said again each night; of what is well only that it is.
    assert [bool(batch.report.checks) for batch in second] == [False, True, True, False]
    assert [batch.report.reason for batch in second] == [batch.report.reason for batch in first]

    os.utime(inbox / "a.npz")  # the same images, touched
    put(inbox, "e", "good", 2, digits)
    third = night.check(inbox, DataRules())
    assert reads == ["a.npz", "e.PNG" if (inbox / "e.PNG").exists() else "e"]
    assert compared == [50]
    assert [batch.report.verdict for batch in third] == [*(batch.report.verdict for batch in first), "merged"]

    reads.clear()
    night.check(inbox, RULES["all labels"])
    assert reads == []


def test_a_source_that_has_not_changed_is_not_compared_again(
    digits: Digits, npz: Path, tmp_path: Path, compared: list[int]
) -> None:
    first = load(str(npz), tmp_path / "datasets")
    assert compared == [len(digits.x_train)]

    assert load(str(npz), tmp_path / "datasets") == replace(first, reused=True)
    assert compared == [len(digits.x_train)]


def test_another_release_reads_and_measures_everything_again(
    digits: Digits,
    source_arrays: Path,
    tmp_path: Path,
    reads: list[str],
    compared: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    night = Night(tmp_path, source_arrays)
    put(inbox, "a", "good", 0, digits)
    night.check(inbox, DataRules())
    reads.clear()
    compared.clear()

    for module in (store, pieces):
        monkeypatch.setattr(module, "code_digest", lambda: "another release")
    night.check(inbox, DataRules())

    assert reads == ["a.npz"]
    assert compared == [50]


def test_a_batch_that_has_just_changed_is_read_once_more(
    digits: Digits, source_arrays: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.data.batches.TICK", 3600)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    night = Night(tmp_path, source_arrays)
    put(inbox, "a", "good", 0, digits)

    night.check(inbox, DataRules())
    night.check(inbox, DataRules())

    assert reads == ["a.npz", "a.npz"]


def test_a_batch_that_only_could_not_be_read_here_is_tried_again(
    digits: Digits, source_arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    night = Night(tmp_path, source_arrays)
    done(FORMS["parquet"](inbox / "a", digits.x_train[600:650], digits.y_train[600:650]))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow.parquet", None)
        (first,) = night.check(inbox, DataRules())
    assert "pip install pyarrow" in first.report.reason

    (second,) = night.check(inbox, DataRules())

    assert second.report.verdict == "merged"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_dataset_that_adds_images_to_another_takes_their_space_only(
    digits: Digits, npz: Path, tmp_path: Path
) -> None:
    datasets, inbox = tmp_path / "datasets", tmp_path / "inbox"
    inbox.mkdir()
    load(str(npz), datasets)
    before = size(datasets)
    done(write_npz(inbox / "more", np.roll(digits.x_train[:100], 5, 1), digits.y_train[:100]))

    loaded = load(str(npz), datasets, inbox=inbox, rules=RULES["all labels"])

    assert loaded.train_images == 2_100
    assert size(datasets) - before < 100 * 1000 + 50_000  # the images, and small files about them
    assert Dataset(datasets / loaded.digest).array("x_train").shape == (2_100, 28, 28)


@pytest.mark.parametrize("lost", ["x_train.npy", "keys_train.npy", ""])
def test_a_shared_part_that_is_damaged_is_named_and_written_again(
    lost: str, digits: Digits, npz: Path, tmp_path: Path
) -> None:
    datasets, inbox = tmp_path / "datasets", tmp_path / "inbox"
    inbox.mkdir()
    done(write_npz(inbox / "more", np.roll(digits.x_train[:100], 5, 1), digits.y_train[:100]))
    digest = load(str(npz), datasets, inbox=inbox, rules=RULES["all labels"]).digest
    (folder,) = (path for path in (datasets / BATCHES).iterdir() if path.is_dir())
    if lost:
        (folder / lost).write_bytes((folder / lost).read_bytes()[:-5] + b"?????")
    else:
        shutil.rmtree(folder)

    with pytest.raises(InputError, match="clear the load task"):
        Dataset(datasets / digest).verify("train")
    again = load(str(npz), datasets, inbox=inbox, rules=RULES["all labels"])

    assert again.digest == digest
    assert Dataset(datasets / digest).content_digest() == digest


def test_what_is_kept_about_batches_is_described(digits: Digits, source_arrays: Path, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    night = Night(tmp_path, source_arrays)
    put(tmp_path / "inbox", "a", "good", 0, digits)
    (checked,) = night.check(tmp_path / "inbox", DataRules())

    index = read_json(night.datasets / BATCHES / "index.json", "load")
    assert checked.piece
    assert index["batches"][str(tmp_path / "inbox" / "a.npz")]["content"] == checked.piece.content
    found = json.loads((night.datasets / BATCHES / checked.piece.content / "measurements.json").read_text())
    assert found["contradicted"]["train"]["reference"] == night.content
