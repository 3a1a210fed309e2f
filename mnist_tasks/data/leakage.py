"""Whether training images are test images as well, exactly or nearly: one is enough to stop a batch.

The closest of MNIST's 600 million pairs of a training and a test image has distance 0.0036 (1 minus the cosine of their
features, see `neighbours`). Below `NEAR_DISTANCE` are 99.8 % of test images moved by one pixel and 96 % by two, 99.8 %
of those with 70 % of the ink, 90 % with noise of deviation 8, 78 to 87 % of JPEG's with quality 50 to 75, and 99 % of
those that were enlarged sixfold and prepared again (`python -m benchmarks.data`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.affine import affine
from mnist_tasks.data.dataset import PIXEL_MAX, Float32, Split, UInt8, split_name
from mnist_tasks.data.neighbours import Indices, features, in_batches
from mnist_tasks.data.profile import Profile
from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import Check, Nearest
from mnist_tasks.gate_checks import verdict_of

NEAR_DISTANCE = 0.003

# To find test images that were turned or scaled, some images are turned and scaled back. Then 0.35 % of MNIST's
# training images come closer to a test image than this, and 3 % of the ones; of test images turned by 8 to 15 degrees
# 42 to 93 % do, of those scaled to 92 or 85 % 32 or 40 %, of those that are turned as well as scaled none.
TURNED_DISTANCE, MAX_TURNED_SHARE = 0.008, 0.05
TURNED_SAMPLE = 100  # of the images that are looked at
BACK = [(degrees, 1.0) for degrees in (-15, -10, -5, 5, 10, 15)] + [(0, scale) for scale in (0.9, 1.1, 1.18)]
CHUNKS_PER_BLOCK = 5
NAMED_IMAGES = 5  # in a message


def leakage(split: Split, exact: npt.NDArray[np.bool_], nearest: Sequence[Nearest]) -> tuple[Check, Check]:
    """No image may be on the other side of training and test as well, nor nearly.

    Args:
        split: ours.
        exact: of each of our images whether it is on the other side as well.
        nearest: how close our images come to each part of the other side; at least one.
    """
    opposite = split_name("test" if split == "train" else "train")
    near = np.zeros_like(exact)
    near[sorted({position for part in nearest for position in part.near})] = True
    near &= ~exact
    closest = min(part.closest for part in nearest)
    nearly = f"are closer than {NEAR_DISTANCE} to a {opposite} image, the closest {closest:.4f}: remove them"
    return (
        none_of("leakage", split, np.flatnonzero(exact), len(exact), f"are {opposite} images as well: remove them"),
        replace(none_of("leakage", split, np.flatnonzero(near), len(exact), nearly), metric="near images"),
    )


def turned_leakage(found: Nearest, images: int) -> Check:
    """No more images than chance explains may be test images that were turned or scaled.

    Args:
        found: how close they come to a test image after they were turned or scaled back.
        images: how many were looked at.
    """
    share, near = wilson_interval(len(found.near), images)[0], len(found.near)
    passed = share <= MAX_TURNED_SHARE
    message = (
        f"{near:,} of {images:,} training images come closer than {TURNED_DISTANCE} to a test image if they are turned "
        f"or scaled, with 95 % certainty {share:.2%} or more, {'within' if passed else 'more than'} the "
        f"{MAX_TURNED_SHARE:.0%} that digits as alike as MNIST's can have"
        + ("" if passed else "; remove test images that were turned or scaled")
    )
    return Check("leakage", "turned images", "train", share, MAX_TURNED_SHARE, None, verdict_of(passed), message)


def distances_if_turned(images: UInt8, test: Profile) -> Float32:
    """For each image the smallest distance to a test image over all ways to turn or scale it back.

    Args:
        images: uint8 of shape (n, 28, 28).
        test: the test images.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    ways = [np.clip(np.rint(flat @ affine(*way)), 0, PIXEL_MAX).astype(np.uint8) for way in BACK]
    turned = np.concatenate([features(way.reshape(images.shape)) for way in ways])
    best = np.full(len(turned), -1, np.float32)
    for block in _blocks(test.features()):
        np.maximum(best, np.concatenate([(rows @ block.T).max(axis=1) for rows in in_batches([turned])]), out=best)
    nearest: Float32 = 1 - best.reshape(len(BACK), -1).max(axis=0)
    return nearest


def distances_to(ours: Profile, other: Profile) -> Float32:
    """For each of our images 1 minus the cosine to the closest of the others."""
    best = np.full(len(ours), -1, np.float32)
    # The smaller side is held in memory, a block at a time, while the larger one is read.
    small, large = (ours, other) if len(ours) < len(other) else (other, ours)
    start = 0
    for block in _blocks(small.features()):
        position = 0
        for batch in in_batches(large.features()):
            cosines = batch @ block.T
            at, axis = (
                (slice(start, start + len(block)), 0) if small is ours else (slice(position, position + len(batch)), 1)
            )
            np.maximum(best[at], cosines.max(axis=axis), out=best[at])
            position += len(batch)
        start += len(block)
    return 1 - best


def _blocks(chunks: Iterable[Float32]) -> Iterator[Float32]:
    """Some 10,000 images at a time: the test set is one block."""
    remaining = iter(chunks)
    while block := list(islice(remaining, CHUNKS_PER_BLOCK)):
        yield np.concatenate(block)


def none_of(rule: str, split: Split, bad: Indices, images: int, problem: str) -> Check:
    """Whether there are none of a kind of images that there may be none of."""
    passed = not len(bad)
    message = f"{len(bad):,} of {images:,} {split_name(split)} images {problem}: {positions(bad)}"
    if passed:
        message = f"none of {images:,} {split_name(split)} images"
    return Check(rule, "images", split, len(bad), 0, None, verdict_of(passed), message)


def positions(indices: Indices) -> str:
    """The first images, counted from 0 in the batch's own order."""
    more = f" and {len(indices) - NAMED_IMAGES:,} more" if len(indices) > NAMED_IMAGES else ""
    return f"image {', '.join(map(str, indices[:NAMED_IMAGES].tolist()))}{more}"
