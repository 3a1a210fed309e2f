"""Wrong orientation and wrong labels of a source are found; unusual but correct handwriting is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import Digits, UInt8
from mnist_tasks.data.neighbours import TURNS, Reference, features
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError

IMAGES = 300


@pytest.fixture(scope="module")
def reference(mnist: Digits) -> Reference:
    return Reference(features(mnist.x_train[::6]), mnist.y_train[::6])


def each(images: UInt8, change: str) -> UInt8:
    """Return the images as other people may write them: slanted, bold, thin, small or blurred."""
    changes = {
        "as they are": lambda image: image,
        "slanted right": lambda image: image.rotate(-20, Image.Resampling.BILINEAR),
        "slanted left": lambda image: image.rotate(20, Image.Resampling.BILINEAR),
        "far turned": lambda image: image.rotate(30, Image.Resampling.BILINEAR),
        "bold": lambda image: image.filter(ImageFilter.MaxFilter(3)),
        "thin": lambda image: image.resize((56, 56)).filter(ImageFilter.MinFilter(3)).resize((28, 28)),
        "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    }
    return np.stack([np.asarray(changes[change](Image.fromarray(image))) for image in images])


@pytest.mark.parametrize(
    "change", ["as they are", "slanted right", "slanted left", "far turned", "bold", "thin", "blurred"]
)
def test_upright_digits_are_upright_however_they_are_drawn(change: str, mnist: Digits, reference: Reference) -> None:
    images, labels = each(mnist.x_test[:IMAGES], change), mnist.y_test[:IMAGES]

    way_up = reference.way_up(images, labels)

    assert not way_up.wrong, way_up
    assert way_up.upright > 1.5 * way_up.turned
    assert len(reference.contradicted([features(images)], labels)) / IMAGES < DataRules().max_source_wrong_labels


@pytest.mark.parametrize("words", TURNS)
def test_digits_another_way_up_are_seen_and_what_the_message_says_mends_them(
    words: str, mnist: Digits, reference: Reference
) -> None:
    images, labels = mnist.x_test[:IMAGES], mnist.y_test[:IMAGES]
    mend = re.findall(r"(?:x|numpy)[.\[].*", words)[0]
    # Try every change to find the one that undoes the fault.
    turned = next(
        turn(images)
        for turn in TURNS.values()
        if np.array_equal(eval(mend, {"numpy": np, "x": turn(images)}), images)  # noqa: S307 - words of ours
    )

    way_up = reference.way_up(turned, labels)

    assert way_up.wrong
    assert way_up.words == words
    assert len(reference.contradicted([features(turned)], labels)) / IMAGES > DataRules().max_source_wrong_labels


def test_noise_stands_no_way_up(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)

    assert not reference.way_up(noise, rng.integers(0, 10, IMAGES).astype(np.uint8)).wrong


def source(path: Path, images: UInt8, labels: UInt8) -> Path:
    """Write a source with 1,000 training images and its own 500 test images, both changed in the same way."""
    np.savez(path, x_train=images[:1000], y_train=labels[:1000], x_test=images[1000:1500], y_test=labels[1000:1500])
    return path


def test_a_transposed_source_with_its_own_test_set_is_refused_with_the_way_out(digits: Digits, tmp_path: Path) -> None:
    images = np.ascontiguousarray(digits.x_train.swapaxes(1, 2))
    path = source(tmp_path / "emnist.npz", images, digits.y_train)

    with pytest.raises(InputError, match=r"the digits look transposed, as EMNIST stores them: .*x\.swapaxes\(1, 2\)"):
        load(str(path), tmp_path / "datasets", rules=DataRules(max_source_wrong_labels=1))
    np.savez(path, **{name: array.swapaxes(1, 2) if "x_" in name else array for name, array in np.load(path).items()})
    assert load(str(path), tmp_path / "datasets").test_images == 500


def test_a_source_with_other_labels_than_mnist_is_refused_unless_that_is_meant(digits: Digits, tmp_path: Path) -> None:
    path = source(tmp_path / "shifted.npz", digits.x_train, (digits.y_train + 1) % 10)

    with pytest.raises(InputError, match=r"labels of test images .* nearest images of MNIST, more than the allowed 10"):
        load(str(path), tmp_path / "datasets")
    rules = DataRules(max_source_wrong_labels=1)
    assert load(str(path), tmp_path / "datasets", rules=rules).test_images == 500
