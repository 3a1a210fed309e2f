"""What the bounds of the rules for data rest on: how often each rule is wrong on real digits.

python -m benchmarks.data [draws]
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from mnist_tasks.config import DataRules
from mnist_tasks.data.affine import affine
from mnist_tasks.data.arrays import ArrayFile
from mnist_tasks.data.dataset import Digits, UInt8
from mnist_tasks.data.drift import jensen_shannon
from mnist_tasks.data.image_files import prepare
from mnist_tasks.data.leakage import NEAR_DISTANCE, TURNED_DISTANCE, distances_if_turned, distances_to
from mnist_tasks.data.neighbours import (
    REFERENCE_IMAGES,
    TURNS,
    Reference,
    evenly_spread,
    features,
    in_batches,
)
from mnist_tasks.data.pooled import Labels, doubted_together
from mnist_tasks.data.profile import LEVELS, Profile
from mnist_tasks.data.sources import read_source
from mnist_tasks.data.statistics import wilson_interval

BATCH, WRONG = 3000, 0.05
SIZES, TRIES = (100, 300, 1000), 200
LOOKED_AT_HERE = 2000
COPIES = 1000  # test images to disguise


def profile(folder: Path, images: UInt8, labels: UInt8) -> Profile:
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, images)
    return Profile.of_images(ArrayFile.open(path), labels)


def wrong_labels(mnist: Digits, folder: Path, draws: int) -> None:
    """Labels contradicted in a clean batch and in one with wrong labels; how often smaller ones are stopped."""
    bound = DataRules().max_wrong_labels
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        order = rng.permutation(len(mnist.x_train))
        held, rest = order[:BATCH], order[BATCH:]
        base = profile(folder, mnist.x_train[rest], mnist.y_train[rest])
        reference = Reference.of(base.files[0], base.labels)
        clean = profile(folder, mnist.x_train[held], mnist.y_train[held])
        labels = clean.labels.copy()
        changed = rng.choice(BATCH, round(WRONG * BATCH), replace=False)
        labels[changed] = (labels[changed] + rng.integers(1, 10, len(changed))) % 10
        for name, doubted in (
            ("clean", reference.contradicted(clean.features(), clean.labels)),
            (f"{WRONG:.0%} wrong", reference.contradicted(clean.features(), labels)),
        ):
            stopped = {
                size: np.mean(
                    [
                        wilson_interval(int(np.isin(rng.choice(BATCH, size, False), doubted).sum()), size)[0] > bound
                        for _ in range(TRIES)
                    ]
                )
                for size in SIZES
            }
            text = ", ".join(f"{share:.1%} of {size}" for size, share in stopped.items())
            print(f"draw {draw}, {name}: {len(doubted) / BATCH:.2%} contradicted; stopped: {text}")


def ways_up(mnist: Digits, folder: Path) -> None:
    """What MNIST's training images say of its test images, as they are, drawn otherwise, and another way up."""
    base = profile(folder, mnist.x_train, mnist.y_train)
    reference = Reference.of(base.files[0], base.labels)
    images, labels = mnist.x_test[:LOOKED_AT_HERE], mnist.y_test[:LOOKED_AT_HERE]
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(len(labels)) < 0.1, (labels + 3) % 10, labels).astype(np.uint8)
    kinds: dict[str, tuple[UInt8, UInt8]] = {
        "as they are": (images, labels),
        **{f"turned by {angle} degrees": (turned(images, angle), labels) for angle in (-20, 20, 30)},
        "one label in ten wrong": (images, wrong),
        "noise": (rng.integers(0, 256, images.shape, dtype=np.uint8), labels),
        "noise of their pixels": (rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape), labels),
        **{words.split(":")[0]: (np.ascontiguousarray(turn(images)), labels) for words, turn in TURNS.items()},
    }
    for name, (some, theirs) in kinds.items():
        way_up = reference.way_up(some, theirs)
        contradicted = len(reference.contradicted([features(some)], theirs)) / len(theirs)
        print(
            f"{name}: {contradicted:.1%} contradicted, {way_up.upright:.0%} agreed with, {way_up.turned:.0%} another "
            f"way up{', which is seen' if way_up.wrong else ''}"
        )


def turned(images: UInt8, angle: float) -> UInt8:
    return np.stack([np.asarray(Image.fromarray(i).rotate(angle, Image.Resampling.BILINEAR)) for i in images])


def leakage(mnist: Digits, folder: Path) -> None:
    """The closest training and test images of MNIST, and how many disguised test images are found."""
    test = profile(folder, mnist.x_test, mnist.y_test)
    train = profile(folder, mnist.x_train, mnist.y_train)
    closest = distances_to(train, test).min()
    print(f"closest of MNIST's training and test images: {closest:.4f}; the bound is {NEAR_DISTANCE}")
    originals = mnist.x_test[:COPIES]
    noise = np.random.default_rng(0).normal(0, 8, originals.shape)
    disguises: dict[str, Callable[[UInt8, int], UInt8]] = {
        "moved by a pixel": lambda image, _: np.roll(image, 1, axis=1),
        "moved by two and one": lambda image, _: np.roll(image, (2, -1), axis=(0, 1)),
        "70 % of the ink": lambda image, _: (image * 0.7).round().astype(np.uint8),
        "noise of 8": lambda image, i: np.clip(image + noise[i], 0, 255).round().astype(np.uint8),
        "JPEG, quality 75": lambda image, _: jpeg(image, 75),
        "JPEG, quality 50": lambda image, _: jpeg(image, 50),
        "enlarged and prepared again": lambda image, _: enlarged(image),
    }
    for name, disguise in disguises.items():
        copies = np.stack([disguise(image, i) for i, image in enumerate(originals)])
        found = (distances_to(profile(folder, copies, mnist.y_test[:COPIES]), test) < NEAR_DISTANCE).mean()
        drift = jensen_shannon(histogram(copies), histogram(mnist.x_train))
        print(f"{name}: {found:.1%} found; drift of the pixels {drift:.4f} bits")
    usual = distances_if_turned(mnist.x_train[: 4 * COPIES], test) < TURNED_DISTANCE
    ones = mnist.y_train[: 4 * COPIES] == 1
    print(
        f"as if turned or scaled: {usual.mean():.2%} of MNIST's training images, {usual[ones].mean():.1%} of the ones"
    )
    for degrees, scale in ((8, 1), (12, 1), (15, 1), (-10, 1), (0, 0.85), (0, 0.92), (7, 0.9)):
        flat = originals.reshape(len(originals), -1).astype(np.float32) @ affine(degrees, scale)
        copies = np.clip(np.rint(flat), 0, 255).astype(np.uint8).reshape(originals.shape)
        found = (distances_if_turned(copies, test) < TURNED_DISTANCE).mean()
        print(f"turned by {degrees} degrees, scaled to {scale:.0%}: {found:.1%} found")


def drift(mnist: Digits) -> None:
    """The drift of the pixels that chance makes, at most, in batches of real digits."""
    usual, rng = histogram(mnist.x_train), np.random.default_rng(0)
    for size in (10, 100, 1000):
        batches = (mnist.x_train[rng.choice(len(mnist.x_train), size, False)] for _ in range(TRIES))
        print(f"{size} digits: {max(jensen_shannon(histogram(batch), usual) for batch in batches):.5f} bits at most")
    single = [jensen_shannon(histogram(mnist.x_train[mnist.y_train == digit]), usual) for digit in range(10)]
    print(f"of a single digit: {max(single):.4f} bits at most")


def together(mnist: Digits) -> None:
    """How soon a year of small batches with wrong labels is noticed, and how often a clean one is."""
    chosen = evenly_spread(len(mnist.x_train), REFERENCE_IMAGES)
    reference = Reference(features(mnist.x_train[chosen]), mnist.y_train[chosen])
    digits, unanimous = reference.nearest(in_batches([features(mnist.x_test)]))
    rng = np.random.default_rng(1)
    for size, wrong in ((30, 0.0), (100, 0.0), (30, WRONG), (100, WRONG), (30, 0.03)):
        days, left_out = [], []
        for _ in range(TRIES):
            batches = []
            for day in range(365):
                rows = rng.integers(len(digits), size=size)
                labels = (mnist.y_test[rows] + (rng.random(size) < wrong) * rng.integers(1, 10, size)) % 10
                batches.append(Labels(f"day-{day:03}", size, int((unanimous[rows] & (digits[rows] != labels)).sum())))
            bound = DataRules().max_wrong_labels
            noticed = (day for day in range(1, 366) if doubted_together(batches[:day], bound))
            days.append(next(noticed, 366))  # not at all
            alone = {each.name for each in batches if wilson_interval(each.contradicted, each.images)[0] > bound}
            left_out.append(len(alone | set(doubted_together(batches, bound))) / 365)
        print(
            f"{size} images a day, {wrong:.0%} of labels wrong: noticed after {np.median(days):.0f} days (median), "
            f"{np.quantile(days, 0.99):.0f} (99 %); {np.mean(left_out):.2%} of batches left out"
        )


def histogram(images: UInt8) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    counts = np.bincount((images >> 4).reshape(-1), minlength=LEVELS)
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = counts / counts.sum()
    return shares


def jpeg(image: UInt8, quality: int) -> UInt8:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def enlarged(image: UInt8) -> UInt8:
    page = Image.new("L", (260, 240), "white")
    page.paste(Image.fromarray(255 - image).resize((168, 168), Image.Resampling.NEAREST), (83, 11))
    return prepare(page)


if __name__ == "__main__":
    machine()
    digits = read_source("builtin")
    with tempfile.TemporaryDirectory() as temporary:
        wrong_labels(digits, Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else 6)
        ways_up(digits, Path(temporary))
        leakage(digits, Path(temporary))
    drift(digits)
    together(digits)
