"""Each rule fails beyond its bound with its own message; the pictures show the images that were found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_tasks.config import DataRules
from mnist_tasks.data import contact_sheets
from mnist_tasks.data.dataset import Digits, UInt8
from mnist_tasks.data.drift import jensen_shannon
from mnist_tasks.data.neighbours import features
from mnist_tasks.load import load
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from tests.forms import write_npz
from tests.helpers import publish, stand_in

IMAGES = 1000


def blank(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    images[7] = 9
    return images, labels


def inverted(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    images[7] = 255 - images[7]
    return images, labels


def duplicates(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    images[-11:], labels[-11:] = images[:11], labels[:11]
    return images, labels


def conflict(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    images[7], labels[7] = images[8], (labels[8] + 1) % 10
    return images, labels


def no_seven(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    return images[labels != 7], labels[labels != 7]


def many_ones(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    kept = (labels == 1) | (np.arange(len(labels)) % 3 == 0)
    return images[kept], labels[kept]


def faint(images: UInt8, labels: UInt8) -> tuple[UInt8, UInt8]:
    return (images * 0.6).astype(np.uint8), labels


# Changes that break a source, by the rule that they break, each with the expected message.
BROKEN: dict[str, tuple[Callable[[UInt8, UInt8], tuple[UInt8, UInt8]], str]] = {
    "blank": (blank, r"1 of 1,000 training images show nothing: remove them: image 7"),
    "inverted": (inverted, r"1 of 1,000 training images are dark on light: invert them: image 7"),
    "max_duplicates": (duplicates, r"11 of 1,000 training images \(1\.10%\) exist already, more than .* 1\.00%"),
    "conflicts": (conflict, r"1 of 1,000 training images have another label elsewhere: correct them: image 8"),
    "min_digit_share": (no_seven, r"the rarest digit, 7, has 0\.00% of the training images, less than .* 2\.00%"),
    "max_label_drift": (
        many_ones,
        r"the share of digit 1 among the training images differs most from the champion's data, by 0\.1\d+, more than",
    ),
    "max_pixel_drift": (
        faint,
        r"the histogram of the training images' pixels differs from the champion's data by 0\.\d+ bits, more than",
    ),
}


@pytest.fixture
def slice_(mnist: Digits) -> tuple[UInt8, UInt8]:
    return mnist.x_train[:IMAGES].copy(), mnist.y_train[:IMAGES].copy()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a champion that was trained on MNIST."""
    folder = tmp_path_factory.mktemp("validation")
    workspace = Workspace(folder / "home")
    digest = load("builtin", workspace.datasets).digest
    metadata = {**stand_in("first", folder)["metadata"], "dataset": digest}
    publish(ModelDirectory(workspace.models), "first", None, metadata=metadata)
    return workspace


@pytest.mark.parametrize("rule", BROKEN)
def test_a_source_that_breaks_a_rule_fails_the_run(
    rule: str, slice_: tuple[UInt8, UInt8], home: Workspace, tmp_path: Path
) -> None:
    change, words = BROKEN[rule]
    good = write_npz(tmp_path / "good", *slice_)
    load(str(good), home.datasets, models=home.models)
    bad = write_npz(tmp_path / "bad", *change(*slice_))

    with pytest.raises(InputError, match=rf"^{bad}: .*{words}"):
        load(str(bad), home.datasets, models=home.models, run=tmp_path / "run")

    report = json.loads((tmp_path / "run" / "data" / "validation.json").read_text())
    assert rule in {check["rule"] for check in report["checks"] if check["verdict"] == "failed"}
    assert report["dataset"] is None
    for check in report["checks"]:
        assert check["message"]
        assert check["verdict"] in ("passed", "failed")


def test_a_bound_that_is_raised_lets_it_pass(slice_: tuple[UInt8, UInt8], home: Workspace, tmp_path: Path) -> None:
    rules = DataRules(max_duplicates=0.011, min_digit_share=0, max_label_drift=1, max_pixel_drift=1)
    source = write_npz(tmp_path / "bad", *faint(*duplicates(*slice_)))

    assert load(str(source), home.datasets, models=home.models, rules=rules).train_images == IMAGES


def test_a_test_image_among_the_training_images_of_a_source_is_found(
    slice_: tuple[UInt8, UInt8], mnist: Digits, tmp_path: Path
) -> None:
    images, labels = slice_
    images[5], labels[5] = mnist.x_test[3], mnist.y_test[3]

    with pytest.raises(InputError, match=r"1 of 1,000 training images are test images as well: remove them: image 5"):
        load(str(write_npz(tmp_path / "leak", images, labels)), tmp_path / "datasets")


def test_without_a_champion_drift_is_not_judged(slice_: tuple[UInt8, UInt8], tmp_path: Path) -> None:
    load(str(write_npz(tmp_path / "faint", *faint(*slice_))), tmp_path / "datasets", run=tmp_path / "run")

    report = json.loads((tmp_path / "run" / "data" / "validation.json").read_text())
    verdicts = {check["rule"]: check["verdict"] for check in report["checks"]}
    assert (verdicts["max_label_drift"], verdicts["max_pixel_drift"]) == ("skipped", "skipped")


def test_features_are_cosines_of_pooled_images(mnist: Digits) -> None:
    images = mnist.x_train[:20]
    pooled = images.reshape(20, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(20, -1)

    # MNIST's images are centred already, so nothing is moved.
    assert np.allclose(features(images), pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)
    assert np.array_equal(features(np.roll(images, (1, -1), axis=(1, 2))), features(images))
    assert not features(np.zeros((1, 28, 28), np.uint8)).any()


def test_jensen_shannon_is_zero_for_the_same_and_one_for_what_shares_nothing() -> None:
    first, second = np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.5, 0.5])

    assert jensen_shannon(first, first) == 0
    assert jensen_shannon(first, second) == pytest.approx(1)
    # Calculated by hand: the mean of (1, 0) and (1/2, 1/2) is (3/4, 1/4).
    expected = 0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25 * np.log2(2)
    assert jensen_shannon(np.array([1.0, 0]), np.array([0.5, 0.5])) == pytest.approx(expected)


def test_a_contact_sheet_frames_the_doubted(mnist: Digits, tmp_path: Path) -> None:
    images, labels = mnist.x_train[:IMAGES], mnist.y_train[:IMAGES]
    doubted = np.array([3, 4])
    chosen = contact_sheets.choose(labels, doubted)

    contact_sheets.contact_sheet(images[chosen], labels[chosen], np.isin(chosen, doubted), tmp_path / "sheet.png")

    assert set(doubted) <= set(chosen)
    assert np.bincount(labels[chosen]).tolist() == [contact_sheets.COLUMNS] * 10
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    framed = (sheet == (0xD5, 0x5E, 0x00)).all(axis=2).sum()
    assert 2 * 4 * 20 < framed < 2 * 2 * 4 * 32


def test_the_mean_images_are_those_of_the_digits(mnist: Digits, tmp_path: Path) -> None:
    loaded = load("builtin", tmp_path)

    picture = np.asarray(Image.open(tmp_path / loaded.digest / "figures" / "means.png"))[
        :: contact_sheets.SCALE, :: contact_sheets.SCALE
    ]
    for digit in range(10):
        expected = 255 - mnist.x_train[mnist.y_train == digit].mean(axis=0)
        assert np.abs(picture[:, 28 * digit : 28 * digit + 28] - expected).max() <= 0.5
