"""Batches of the inbox: when they are complete, the result of each form, and that a bad batch stops no other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import Dataset, Digits, UInt8
from mnist_tasks.data.inbox import QUIET_SECONDS, find_batches
from mnist_tasks.data.neighbours import Reference, features
from mnist_tasks.data.sources import MNIST_DIGEST
from mnist_tasks.load import load
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from tests.forms import FORMS, done, idx, write_npz, write_pngs
from tests.helpers import publish, stand_in

HELD_OUT = 3000


@pytest.fixture(scope="module")
def held_out(mnist: Digits) -> tuple[UInt8, UInt8]:
    """3,000 of MNIST's training digits, which `base` does not contain."""
    return mnist.x_train[:HELD_OUT], mnist.y_train[:HELD_OUT]


@pytest.fixture(scope="module")
def base(mnist: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with 12,000 other training digits. It has no test set, so MNIST's is used."""
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
    assert [batch.name for batch in dataset.description().batches] == ["digits as npz.npz"]
    assert dataset.description().source == f"{base} with 1 of the inbox's batches"


def test_pictures_that_fail_cost_a_line_in_the_log_and_no_batch(
    base: Path,
    held_out: tuple[UInt8, UInt8],
    inbox: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("mnist_tasks.data.contact_sheets.contact_sheet", fail)
    monkeypatch.setattr("mnist_tasks.data.contact_sheets.mean_images", fail)
    images, labels = held_out
    done(write_npz(inbox / "good", images[:500], labels[:500]))

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    assert loaded.batches == 1
    assert (batches(tmp_path / "run")["good.npz"]["verdict"], batches(tmp_path / "run")["good.npz"]["picture"]) == (
        "merged",
        None,
    )
    assert [line for line in caplog.messages if line.endswith("goes on without it: RuntimeError: no font")] == [
        "batch-01.png is not drawn; the task goes on without it: RuntimeError: no font",
        *["means.png is not drawn; the task goes on without it: RuntimeError: no font"] * 2,  # of the source, too
    ]


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
    with pytest.raises(InputError, match=r"batch exact\.npz: .*are test images as well.*; and 2 more; fix or remove"):
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


def test_small_batches_with_few_wrong_labels_are_stopped_together(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    """Each has 2 wrong labels of 30, which alone is within what chance explains."""
    images, labels = held_out
    known, known_labels = (np.load(base)[f"{axis}_train"] for axis in "xy")
    reference = Reference(features(known), known_labels)
    digits, unanimous = reference.nearest([features(images)])
    clear = np.flatnonzero(unanimous & (digits == labels))
    for number in range(6):
        rows = clear[30 * number : 30 * (number + 1)]
        wrong = labels[rows].copy()
        wrong[:2] = (wrong[:2] + 1) % 10
        done(write_npz(inbox / f"night-{number}", images[rows], wrong))
    seen = {}
    for nights in (1, 6):
        rules = DataRules(max_wrong_labels=0.02 if nights == 6 else 0.4)
        loaded = load(str(base), tmp_path / "datasets", inbox=inbox, rules=rules, run=tmp_path / str(nights))
        seen[nights] = (loaded.batches, batches(tmp_path / str(nights)))

    assert seen[1][0] == 6
    stopped = {name for name, batch in seen[6][1].items() if batch["verdict"] == "quarantined"}
    assert len(stopped) >= 3
    assert seen[6][0] == 6 - len(stopped)
    for name in stopped:
        assert failed(seen[6][1][name]) == {"max_wrong_labels"}
        assert "of the origin 'night' together are contradicted" in seen[6][1][name]["reason"]


@pytest.mark.parametrize(("degrees", "scale"), [(8, 1.0), (-12, 1.0), (15, 1.0), (0, 0.85)])
def test_test_images_that_were_turned_or_scaled_are_no_training_images(
    degrees: float, scale: float, base: Path, mnist: Digits, inbox: Path, tmp_path: Path
) -> None:
    pictures = [Image.fromarray(image) for image in mnist.x_test[:300]]
    side = round(28 * scale)
    copies = np.zeros((300, 28, 28), np.uint8)
    for copy, picture in zip(copies, pictures, strict=True):
        start = (28 - side) // 2
        copy[start : start + side, start : start + side] = np.asarray(
            picture.resize((side, side), Image.Resampling.BICUBIC).rotate(degrees, Image.Resampling.BICUBIC)
        )
    done(write_npz(inbox / "leak", copies, mnist.y_test[:300]))

    assert load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run").batches == 0
    batch = batches(tmp_path / "run")["leak.npz"]
    assert "leakage" in failed(batch)
    assert "to a test image if they are turned or scaled" in batch["reason"]


def test_a_batch_of_one_digit_is_stopped_by_itself(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    images, labels = held_out
    sevens = labels == 7
    done(write_npz(inbox / "sevens", images[sevens][:60], labels[sevens][:60]))

    assert load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run").batches == 0
    batch = batches(tmp_path / "run")["sevens.npz"]
    assert failed(batch) == {"max_batch_drift"}
    assert "60 of the batch's 60 training images are of digit 7" in batch["reason"]
    assert "raise max_batch_drift" in batch["reason"]
    meant = DataRules(max_batch_drift=1)
    assert load(str(base), tmp_path / "datasets", inbox=inbox, rules=meant).batches == 1


@pytest.mark.parametrize("change", ["brighter by 1", "less ink"])
def test_images_of_the_source_with_other_ink_are_duplicates(
    change: str, base: Path, inbox: Path, tmp_path: Path
) -> None:
    images, labels = (np.load(base)[f"{axis}_train"][:500] for axis in "xy")
    other = np.clip(images.astype(int) + 1, 0, 255) if change == "brighter by 1" else images * 0.95
    done(write_npz(inbox / "copies", other.astype(np.uint8), labels))

    assert load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run").batches == 0
    assert failed(batches(tmp_path / "run")["copies.npz"]) == {"max_duplicates"}


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (0.05, False)])
def test_a_source_is_judged_by_its_own_nearest_images(
    wrong: float, passes: bool, mnist: Digits, tmp_path: Path
) -> None:
    labels, random = mnist.y_train[:12_000].copy(), np.random.default_rng(0)
    chosen = random.choice(len(labels), int(wrong * len(labels)), replace=False)
    labels[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    source = write_npz(tmp_path / "own", mnist.x_train[:12_000], labels)

    if passes:
        load(str(source), tmp_path / "datasets", run=tmp_path / "run")
    else:
        with pytest.raises(
            InputError, match="are contradicted by all 5 nearest images of the source itself, more than"
        ):
            load(str(source), tmp_path / "datasets", run=tmp_path / "run")
    checks = [check for check in report(tmp_path / "run")["checks"] if check["rule"] == "max_wrong_labels"]
    assert [(check["slice"], check["verdict"]) for check in checks] == [("train", "passed" if passes else "failed")]


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
    assert "digits.npz is not an .npz file, or one cut short" in batches(tmp_path / "run")["digits.npz"]["reason"]

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
    # A copy that keeps the dates of the original counts as new.
    for path in (*batch.glob("*"), batch):
        os.utime(path, (0, 0))
    now = time.time()

    assert [found.complete for found in find_batches(inbox, now)] == [False]
    assert [found.complete for found in find_batches(inbox, now + QUIET_SECONDS + 1)] == [True]
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
        InputError, match=r"^inbox: .*/nowhere is not a folder; make it, name another one, or use inbox=none$"
    ):
        find_batches(tmp_path / "nowhere")


def clothes(count: int) -> UInt8:
    """Draw shirts, trousers, shoes, bags and dresses with a texture, white on black."""
    shapes: list[list[tuple[float, ...]]] = [
        [(8, 4, 19, 25), (2, 6, 8, 12), (19, 6, 25, 12)],
        [(9, 2, 18, 8), (9, 8, 12, 26), (15, 8, 18, 26)],
        [(2, 14, 26, 20), (16, 8, 24, 14)],
        [(5, 10, 23, 25), (9, 5, 19, 10)],
        [(11, 3, 17, 12), (8, 12, 20, 26)],
    ]
    images = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = Image.new("L", (28, 28))
        for shape in shapes[number % len(shapes)]:
            ImageDraw.Draw(image).rectangle(shape, fill=200)
        pixels = np.asarray(image) * (1 + rng.normal(0, 0.15, (28, 28)))
        images.append(np.roll(pixels, rng.integers(-2, 3, 2), (0, 1)).clip(0, 255).astype(np.uint8))
    return np.stack(images)


def noise(count: int) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def shuffled(images: UInt8) -> UInt8:
    """Shuffle the pixels of each image."""
    return np.random.default_rng(0).permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape)


def test_nothing_but_digits_as_they_are_gets_into_the_test_set(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    count = 300
    images, labels = (array[:count] for array in held_out)
    done(write_npz(inbox / "noise", noise(count), labels, "test"))
    done(write_npz(inbox / "shuffled", shuffled(images), labels, "test"))
    done(write_npz(inbox / "clothes", clothes(count), (np.arange(count) % 5).astype(np.uint8), "test"))
    done(write_npz(inbox / "transposed", images.swapaxes(1, 2), labels, "test"))
    done(write_npz(inbox / "mislabelled", images, (labels + 1) % 10, "test"))
    done(write_npz(inbox / "faint", (images * 0.6).astype(np.uint8), labels, "test"))
    done(write_npz(inbox / "zz good", images, labels, "test"))

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    found = batches(tmp_path / "run")
    reasons = {name: failed(batch) for name, batch in found.items()}
    assert reasons.pop("zz good.npz") == set()
    assert all(reasons.values()), reasons
    assert (loaded.test_images, loaded.batches, loaded.quarantined) == (10_000 + count, 1, 6)
    assert reasons["mislabelled.npz"] == {"max_wrong_labels"}
    assert reasons["faint.npz"] == {"max_pixel_drift"}
    transposed = found["transposed.npz"]
    assert "max_wrong_labels" in failed(transposed)
    assert "the digits look transposed, as EMNIST stores them: transpose them" in transposed["reason"]
    assert {check["slice"] for check in transposed["checks"] if check["rule"] == "max_wrong_labels"} == {"test"}


@pytest.mark.parametrize("count", [1, 20])
def test_a_handful_of_honest_test_images_goes_in(
    count: int, base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    for start in (0, 1000, 2000):
        some = slice(start, start + count)
        done(write_npz(inbox / f"from {start}", held_out[0][some], held_out[1][some], "test"))

    assert load(str(base), tmp_path / "datasets", inbox=inbox).test_images == 10_000 + 3 * count


def test_batches_together_bring_a_bounded_share_of_the_test_set(
    base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    for name, start, end in (("a", 0, 600), ("b", 600, 1200), ("c", 1200, 1700)):
        done(write_npz(inbox / name, held_out[0][start:end], held_out[1][start:end], "test"))

    loaded = load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    found = batches(tmp_path / "run")
    assert {name: batch["verdict"] for name, batch in found.items()} == {
        "a.npz": "merged",
        "b.npz": "quarantined",
        "c.npz": "merged",
    }
    words = "1,200 of 11,200 test images (10.71%) come from batches with this one, more than the allowed 10.00%"
    assert words in found["b.npz"]["reason"]
    assert loaded.test_images == 11_100
    raised = load(str(base), tmp_path / "datasets", inbox=inbox, rules=DataRules(max_test_share=0.2))
    assert raised.test_images == 11_700
    assert load(str(base), tmp_path / "datasets", inbox=inbox, rules=DataRules(max_test_share=0)).test_images == 10_000


def test_the_sources_own_test_images_come_first_and_are_counted(
    base: Path, npz: Path, digits: Digits, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    some = slice(2000, 2050)
    done(write_npz(inbox / "more", held_out[0][some], held_out[1][some], "test"))
    mnist = Dataset(tmp_path / load(str(base), tmp_path, inbox=inbox).digest)
    own = Dataset(tmp_path / load(str(npz), tmp_path, inbox=inbox, run=tmp_path / "run").digest)

    assert (len(mnist.labels("test")), len(own.labels("test"))) == (10_050, 550)
    assert [getattr(mnist.description(), key) for key in ("fixed_test_images", "test_set")] == [10_000, "mnist"]
    assert [getattr(own.description(), key) for key in ("fixed_test_images", "test_set")] == [500, "own"]
    assert np.array_equal(own.array("x_test")[:500], digits.x_test)
    (note,) = [check for check in report(tmp_path / "run")["checks"] if check["rule"] == "test_set"]
    assert note["message"].startswith("the source brings its own test set of 500 images")


def test_a_dataset_of_an_older_release_learns_which_test_images_are_the_sources(tmp_path: Path) -> None:
    path = tmp_path / load("builtin", tmp_path).digest / "dataset.json"
    whole = json.loads(path.read_text())
    old = {key: value for key, value in whole.items() if "test_set" not in key and key != "fixed_test_images"}
    path.write_text(json.dumps(old))

    assert load("builtin", tmp_path).reused
    now = json.loads(path.read_text())
    assert now == whole
    assert (now["fixed_test_images"], now["test_set"]) == (10_000, "mnist")


def test_a_source_that_changes_the_test_set_says_so(
    npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Workspace(tmp_path / "home")
    metadata = {**stand_in("first", tmp_path)["metadata"], "dataset": load("builtin", home.datasets).digest}
    publish(ModelDirectory(home.models), "first", None, metadata=metadata)

    load("builtin", home.datasets, models=home.models)
    assert "test set" not in caplog.text
    load(str(npz), home.datasets, models=home.models)

    assert "own test set of 500 images" in caplog.text
    assert (
        "that of the champion's data was MNIST's, so that scores published until now cannot be compared" in caplog.text
    )


KAGGLE = {"train-images-idx3-ubyte": 0, "train-labels-idx1-ubyte": 1}


@pytest.mark.parametrize("form", ["folders", "dots", "dots in folders", "both"])
def test_the_forms_of_kaggles_archive_are_read(
    form: str, base: Path, held_out: tuple[UInt8, UInt8], inbox: Path, tmp_path: Path
) -> None:
    for name, which in KAGGLE.items():
        dotted = name.replace("-idx", ".idx")
        for path in {
            "folders": [f"{name}/{name}"],
            "dots": [dotted],
            "dots in folders": [f"{dotted}/{name}"],
            "both": [f"{name}/{name}", dotted],
        }[form]:
            file = inbox / "archive" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(idx(held_out[which][:100]))
    done(inbox / "archive")

    assert load(str(base), tmp_path / "datasets", inbox=inbox).train_images == 12_100


def test_folders_named_as_idx_files_with_nothing_in_them_are_quarantined_by_name(
    base: Path, inbox: Path, tmp_path: Path
) -> None:
    for name in KAGGLE:
        (inbox / "archive" / name).mkdir(parents=True)
    done(inbox / "archive")

    assert load(str(base), tmp_path / "datasets", inbox=inbox, run=tmp_path / "run").quarantined == 1
    assert (
        "archive has folders with the names of IDX files and no such file"
        in report(tmp_path / "run")["batches"][0]["reason"]
    )
    with pytest.raises(InputError, match="archive has folders with the names of IDX files"):
        load(str(inbox / "archive"), tmp_path / "datasets")


@pytest.mark.parametrize(
    "where",
    [
        "mnist_tasks.data.readers.npz.checked_labels",
        "mnist_tasks.data.batches.validate",
        "mnist_tasks.data.batches.passed_schema",
    ],
)
def test_an_error_that_nobody_thought_of_quarantines_the_batch_and_leaves_a_trace(
    where: str,
    held_out: tuple[UInt8, UInt8],
    inbox: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done(write_npz(inbox / "odd", held_out[0][:100], held_out[1][:100]))
    load("builtin", tmp_path / "datasets")

    def fail(*_: object, **__: object) -> None:
        raise TypeError("what is this?")

    monkeypatch.setattr(where, fail)
    loaded = load("builtin", tmp_path / "datasets", inbox=inbox, run=tmp_path / "run")

    assert (loaded.digest, loaded.quarantined) == (MNIST_DIGEST, 1)
    assert "odd.npz cannot be read: TypeError: what is this?" in report(tmp_path / "run")["batches"][0]["reason"]
    assert "Traceback" in caplog.text
