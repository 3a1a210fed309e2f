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

from mnist_tasks.data.dataset import Float32, Split, split_name
from mnist_tasks.data.neighbours import Indices, in_batches
from mnist_tasks.data.profile import Profile
from mnist_tasks.documents import Check, Nearest
from mnist_tasks.gate_checks import verdict_of

NEAR_DISTANCE = 0.003
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
