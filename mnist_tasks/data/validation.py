"""The rules that data must pass before a model is trained on it, each with value, bound and verdict as in the gate.

A source that breaks one fails the run, a batch is left out of it. Every rule is checked, so that the report names all
that is wrong. What the bounds rest on was measured on MNIST (`python -m benchmarks.data`):

- `max_wrong_labels`: a label is contradicted if all nearest images of the source bear one other digit (see
  `neighbours`). Of 3,000 digits held out of MNIST's training set 0.5 to 0.9 % are contradicted (6 draws), with 5 %
  wrong labels 4.7 to 5.3 %. What is compared with the bound is the lower end of the 95 % interval, so that chance does
  not judge a handful of images: with 5 % wrong labels all batches of 1,000 are stopped, 9 in 10 of 300 and 5 to 6 in 10
  of 100; of clean ones 1 in 3,600.
- `max_source_wrong_labels`: the same of a source's labels, with MNIST as the reference. Of MNIST's digits turned by 30
  degrees 5 % are contradicted, of the UCI's handwritten digits 4.5 %, of printed ones 4 %; of MNIST's with one label in
  ten wrong 10 %, of transposed, mirrored or turned ones 15 to 29 %, of noise 12 to 21 %.
- `orientation`: whether a source's digits agree better with MNIST another way up; one that is seen so is always wrong.
- `max_test_share`: of a batch's labels 2 % may be wrong unseen. As a tenth of the test set they move an accuracy by 0.2
  points at most: as much as chance does, which is 0.14 for a difference.
- `leakage`: the closest of MNIST's 600 million pairs of a training and a test image has distance 0.0036 (1 minus the
  same cosine). Below `NEAR`, 0.003, are 99.8 % of test images moved by one pixel and 96 % by two, 99.8 % of those with
  70 % of the ink, 90 % with noise of deviation 8, 78 to 87 % of JPEG's with quality 50 to 75, and 99 % of those that
  were enlarged sixfold and prepared again. One is enough to stop a batch.
- `max_pixel_drift`: 1,000 digits drawn from MNIST have 0.00004 at most, ten 0.006; those of a single digit 0.009. JPEG
  with quality 50 has 0.009, faint ink of 70 % 0.08.

Distances are computed in chunks: memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import DIGITS, PIXEL_MAX, SPLITS, ArrayFile, Float32, Split, UInt8
from mnist_tasks.data.neighbours import LOOKED_AT, NEIGHBOURS, Indices, Reference, WayUp, features, pieces, spread
from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import OVERALL, Check, Verdict
from mnist_tasks.gate_checks import SLACK

NEAR = 0.003
LEVELS = 16  # of the histogram of the pixels
LEAST_CONTRAST = 16  # of 255, as in `images`
BLOCK = 5  # chunks of images to hold
NAMED = 5  # images that a message names
SAMPLE = 1000  # images of a source that are compared with MNIST
NO_CHAMPION = "no champion's data to compare with"

Keys = npt.NDArray[np.uint64]


def keys(images: UInt8) -> Keys:
    """64 bits of a hash of each image: among a million, two different ones agree once in 40 million data sets."""
    digests = b"".join(hashlib.blake2b(image.data, digest_size=8).digest() for image in np.ascontiguousarray(images))
    return np.frombuffer(digests, np.uint64)


@dataclass
class Profile:
    """What is known of the labelled images of one split, for all rules to share; the images stay on the disk."""

    labels: UInt8 = field(default_factory=lambda: np.empty(0, np.uint8))
    keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    files: tuple[ArrayFile, ...] = ()
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    blank: Indices = field(default_factory=lambda: np.empty(0, np.intp))
    inverted: Indices = field(default_factory=lambda: np.empty(0, np.intp))

    @classmethod
    def of(cls, images: ArrayFile, labels: UInt8) -> Profile:
        """Read the images once."""
        found: list[Keys] = []
        blank, inverted, histogram, start = [], [], np.zeros(LEVELS, np.int64), 0
        for chunk in images.chunks():
            found.append(keys(chunk))
            histogram += np.bincount((chunk >> 4).reshape(-1), minlength=LEVELS)
            flat = chunk.reshape(len(chunk), -1)
            blank.append(start + np.flatnonzero(np.ptp(flat, axis=1) < LEAST_CONTRAST))
            edge = np.concatenate([chunk[:, 0], chunk[:, -1], chunk[:, :, 0], chunk[:, :, -1]], axis=1)
            inverted.append(start + np.flatnonzero(np.median(edge, axis=1) > PIXEL_MAX / 2))
            start += len(chunk)
        return cls(labels, np.concatenate(found), (images,), histogram, *map(np.concatenate, (blank, inverted)))

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.keys, other.keys]),
            self.files + other.files,
            self.histogram + other.histogram,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> list[int]:
        """Images of each digit."""
        return [int(count) for count in np.bincount(self.labels, minlength=DIGITS)]

    def features(self) -> Iterator[Float32]:
        """The features of all images, `CHUNK` at a time."""
        for file in self.files:
            for chunk in file.chunks():
                yield features(chunk)


@dataclass(frozen=True)
class Verdicts:
    """The checks of one source or batch, and the images of each split whose label is doubted."""

    checks: list[Check]
    doubted: dict[Split, Indices] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return [check.message for check in self.checks if check.verdict == "failed"]


def validate(
    new: Mapping[Split, Profile],
    known: Mapping[Split, Profile],
    rules: DataRules,
    *,
    reference: Reference,
    champion: Mapping[str, Any] | None = None,
    unknown: Sequence[Split] = SPLITS,
    fixed_test_images: int | None = None,
) -> Verdicts:
    """Check what is new against itself and against what is known.

    Args:
        new: a source's splits, or a batch's, with one or both of them.
        known: the source's splits and those of the batches before; empty for the source itself.
        rules: the bounds.
        reference: what the labels are compared with: MNIST for a source, the source for a batch.
        champion: `dataset.json` of the champion's dataset, or of the source if there is no champion yet; None if the
            one cannot be read.
        unknown: the splits of a source that may be others than MNIST's.
        fixed_test_images: how many of the known test images are the source's; for a batch.
    """
    empty = Profile()
    checks = []
    for split, images in new.items():
        checks += [
            _count("blank", split, images.blank, len(images), "show nothing: remove them"),
            _count("inverted", split, images.inverted, len(images), "are dark on light: invert them"),
            *_same_images(split, images, known.get(split, empty), rules),
        ]
    train, test = new.get("train", empty), new.get("test", empty)
    for split, images, other in (
        ("train", train, known.get("test", empty) + test),
        # What is new on both sides was compared above.
        ("test", test, known.get("train", empty)),
    ):
        if len(images) and len(other):
            checks += _leakage(split, images, other)
    doubted: dict[Split, Indices] = {}
    for split, images in new.items():
        if known:
            doubted[split] = reference.contradicted(images.features(), images.labels)
            checks.append(_wrong_labels(split, images, doubted[split], reference, rules))
        elif split in unknown:
            checks += _compared_with_mnist(split, images, reference, rules)
        counts = (known.get(split, empty) + images).counts()
        checks += [
            _class_balance(split, counts, rules),
            _label_drift(split, counts, champion, rules),
            _pixel_drift(split, images.histogram, champion, rules),
        ]
    if len(test) and fixed_test_images is not None:
        checks.append(_test_share(len(known["test"]) + len(test), fixed_test_images, rules))
    return Verdicts(checks, doubted)


def compared_test_sets(ours: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Check:
    """The note on what a source brings to measure models with: never failed, as the gate judges models on MNIST's too.

    Args:
        ours: the source's part of `dataset.json`.
        champion: `dataset.json` of the champion's dataset.
    """
    images = ours["fixed_test_images"]
    message = (
        f"the test set is MNIST's, {images:,} images"
        if ours["test_set"] == "mnist"
        else f"the source brings its own test set of {images:,} images; a score on it says nothing about MNIST's"
    )
    before = (champion or {}).get("test_set_sha256")
    if before and before != ours["test_set_sha256"]:
        whose = "MNIST's" if (champion or {}).get("test_set") == "mnist" else "another one of its source"
        message += (
            f"; that of the champion's data was {whose}, so that scores published until now cannot be compared with "
            "tonight's"
        )
    return Check("test_set", "images", "test", images, None, None, "passed", message)


def failed_schema(message: str) -> Check:
    """The check of what could not be read as labelled digits."""
    return Check("schema", "readable", OVERALL, None, None, None, "failed", message)


def passed_schema(sizes: Mapping[Split, int]) -> Check:
    """The check of what could."""
    sizes_text = " and ".join(f"{sizes[split]:,} {_named(split)} images" for split in SPLITS if split in sizes)
    message = f"{sizes_text} of 28x28 pixels from 0 to 255, labels from 0 to {DIGITS - 1}"
    return Check("schema", "readable", OVERALL, None, None, None, "passed", message)


def _count(rule: str, split: Split, bad: Indices, images: int, problem: str) -> Check:
    """Whether there are none of a kind of images that there may be none of."""
    passed = not len(bad)
    message = f"{len(bad):,} of {images:,} {_named(split)} images {problem}: {_positions(bad)}"
    if passed:
        message = f"none of {images:,} {_named(split)} images"
    return Check(rule, "images", split, len(bad), 0, None, _verdict(passed), message)


def _same_images(split: Split, new: Profile, known: Profile, rules: DataRules) -> tuple[Check, Check]:
    """Images that are there more than once: with one label they weigh double, with two one of them is wrong."""
    both = known + new
    order = np.argsort(both.keys, kind="stable")
    same = both.keys[order][1:] == both.keys[order][:-1]
    other_label = both.labels[order][1:] != both.labels[order][:-1]
    # The later one of a pair; the sort is stable, so that it is of what is new if either is.
    later = order[1:]
    duplicates, conflicts = (
        np.sort(later[same & condition & (later >= len(known))] - len(known))
        for condition in (~other_label, other_label)
    )
    share, bound = len(duplicates) / len(new), rules.max_duplicates
    passed = share <= bound + SLACK
    message = f"{len(duplicates):,} of {len(new):,} {_named(split)} images ({share:.2%}) are there already"
    message += (
        ""
        if passed
        else f", more than the allowed {bound:.2%}: {_positions(duplicates)}; remove them, or raise max_duplicates"
    )
    duplicate = Check("max_duplicates", "share", split, share, bound, None, _verdict(passed), message)
    return duplicate, _count("conflicts", split, conflicts, len(new), "have another label elsewhere: correct them")


def _leakage(split: Split, ours: Profile, other: Profile) -> tuple[Check, Check]:
    """No image may be on the other side of training and test as well, nor nearly."""
    opposite = _named("test" if split == "train" else "train")
    exact = np.isin(ours.keys, other.keys)
    distances = distances_to(ours, other)
    near = (distances < NEAR) & ~exact
    nearly = f"are closer than {NEAR} to a {opposite} image, the closest {max(0.0, distances.min()):.4f}: remove them"
    return (
        _count("leakage", split, np.flatnonzero(exact), len(ours), f"are {opposite} images as well: remove them"),
        replace(_count("leakage", split, np.flatnonzero(near), len(ours), nearly), metric="near images"),
    )


def distances_to(ours: Profile, other: Profile) -> Float32:
    """For each of our images 1 minus the cosine to the closest of the others."""
    best = np.full(len(ours), -1, np.float32)
    # The smaller side is held in memory, a block at a time, while the larger one is read.
    small, large = (ours, other) if len(ours) < len(other) else (other, ours)
    start = 0
    for block in _blocks(small.features()):
        position = 0
        for piece in pieces(large.features()):
            cosines = piece @ block.T
            at, axis = (
                (slice(start, start + len(block)), 0) if small is ours else (slice(position, position + len(piece)), 1)
            )
            np.maximum(best[at], cosines.max(axis=axis), out=best[at])
            position += len(piece)
        start += len(block)
    return 1 - best


def _blocks(chunks: Iterator[Float32]) -> Iterator[Float32]:
    """Some 10,000 images at a time: the test set is one block."""
    while block := list(islice(chunks, BLOCK)):
        yield np.concatenate(block)


def _wrong_labels(split: Split, images: Profile, doubted: Indices, reference: Reference, rules: DataRules) -> Check:
    """Of a batch: whether its labels are those of the images of the source that look like it."""
    value, bound = wilson_interval(len(doubted), len(images))[0], rules.max_wrong_labels
    passed = value <= bound + SLACK
    message = _contradicted(split, len(doubted), len(images), "the source", value, bound)
    if not passed:
        way_up = _way_up(images, reference)
        hint = f"; the digits look {way_up.words}" if way_up.wrong else ""
        message += f": {_positions(doubted)}{hint}; correct them, or raise max_wrong_labels"
    return Check("max_wrong_labels", "share", split, value, bound, None, _verdict(passed), message)


def _compared_with_mnist(split: Split, images: Profile, mnist: Reference, rules: DataRules) -> tuple[Check, Check]:
    """Of a source, by some of its images: whether its digits are labelled, and stand, as MNIST's."""
    sample = spread(len(images), SAMPLE)
    labels = images.labels[sample]
    doubted = sample[mnist.contradicted([features(images.files[0].rows(sample))], labels)]
    value, bound = wilson_interval(len(doubted), len(sample))[0], rules.max_source_wrong_labels
    passed = value <= bound + SLACK
    message = _contradicted(split, len(doubted), len(sample), "MNIST", value, bound)
    if not passed:
        message += (
            f": {_positions(doubted)}; correct them, or, if the digits are meant to be other ones than MNIST's, raise "
            "max_source_wrong_labels"
        )
    way_up = _way_up(images, mnist)
    shares = f"MNIST agrees with the labels of {way_up.upright:.0%} of {way_up.images:,} {_named(split)} images"
    other = ""
    if way_up.wrong:
        other = f", but with {way_up.turned:.0%} if they are put upright: the digits look {way_up.words}"
    elif way_up.turned:
        other = f", and any other way up with {way_up.turned:.0%} at most"
    return (
        Check(
            "orientation", "agreement", split, way_up.upright, None, None, _verdict(not way_up.wrong), shares + other
        ),
        Check("max_source_wrong_labels", "share", split, value, bound, None, _verdict(passed), message),
    )


def _contradicted(split: Split, doubted: int, images: int, by: str, value: float, bound: float) -> str:
    return (
        f"{doubted:,} of {images:,} labels of {_named(split)} images ({doubted / images:.2%}, with 95 % certainty "
        f"{value:.2%} or more) are contradicted by all {NEIGHBOURS} nearest images of {by}, "
        f"{'within' if value <= bound + SLACK else 'more than'} the allowed {bound:.2%}"
    )


def _way_up(images: Profile, reference: Reference) -> WayUp:
    some = spread(len(images), LOOKED_AT)
    return reference.way_up(images.files[0].rows(some), images.labels[some])


def _test_share(total: int, fixed: int, rules: DataRules) -> Check:
    """Whether the source's own test images stay the most of what models are measured on."""
    added, bound = total - fixed, rules.max_test_share
    share = added / total
    passed = share <= bound + SLACK
    message = (
        f"{added:,} of {total:,} test images ({share:.2%}) come from batches with this one, "
        f"{'within' if passed else 'more than'} the allowed {bound:.2%}"
        + ("" if passed else "; put some of them into a training set, or raise max_test_share")
    )
    return Check("max_test_share", "share", "test", share, bound, None, _verdict(passed), message)


def _class_balance(split: Split, counts: Sequence[int], rules: DataRules) -> Check:
    shares = np.array(counts) / sum(counts)
    digit, bound = int(shares.argmin()), rules.min_digit_share
    share = float(shares[digit])
    passed = share >= bound - SLACK
    message = (
        f"the rarest digit, {digit}, has {share:.2%} of the {_named(split)} images, "
        f"{'at least' if passed else 'less than'} the minimum of {bound:.2%}"
        + ("" if passed else "; add images of it, or lower min_digit_share")
    )
    return Check("min_digit_share", "share", f"{split} {digit}", share, bound, None, _verdict(passed), message)


def _label_drift(split: Split, counts: Sequence[int], champion: Mapping[str, Any] | None, rules: DataRules) -> Check:
    bound = rules.max_label_drift
    before = _histogram(champion, f"{split}_images_per_digit", DIGITS)
    if before is None:
        return Check("max_label_drift", "L-infinity", split, None, bound, None, "skipped", NO_CHAMPION)
    differences = np.abs(np.array(counts) / sum(counts) - before)
    value, digit = float(differences.max()), int(differences.argmax())
    passed = value <= bound + SLACK
    message = (
        f"the share of digit {digit} among the {_named(split)} images differs most from {_whose(champion)}, by "
        f"{value:.4f}, {'within' if passed else 'more than'} the allowed {bound:.4f}"
        + ("" if passed else "; if that is meant, raise max_label_drift")
    )
    return Check("max_label_drift", "L-infinity", split, value, bound, None, _verdict(passed), message)


def _pixel_drift(
    split: Split, histogram: npt.NDArray[np.int64], champion: Mapping[str, Any] | None, rules: DataRules
) -> Check:
    """Test images are compared with training images, too: digits of both have the same pixels."""
    bound = rules.max_pixel_drift
    before = _histogram(champion, "train_pixel_histogram", LEVELS)
    if before is None:
        return Check(
            "max_pixel_drift", "Jensen-Shannon", split, None, bound, None, "skipped", "nothing to compare with"
        )
    value = jensen_shannon(histogram / histogram.sum(), before)
    passed = value <= bound + SLACK
    message = (
        f"the histogram of the {_named(split)} images' pixels differs from {_whose(champion)} by {value:.4f} bits, "
        f"{'within' if passed else 'more than'} the allowed {bound:.4f}"
        + ("" if passed else "; if that is meant, raise max_pixel_drift")
    )
    return Check("max_pixel_drift", "Jensen-Shannon", split, value, bound, None, _verdict(passed), message)


def _whose(data: Mapping[str, Any] | None) -> str:
    """Whose data was compared with: the source, which is no dataset yet, has no digest."""
    return "the champion's data" if data and "digest" in data else "the source"


def _histogram(champion: Mapping[str, Any] | None, name: str, length: int) -> npt.NDArray[np.float64] | None:
    """A histogram in `dataset.json` as shares; None if an older release wrote none."""
    counts = (champion or {}).get(name)
    if not isinstance(counts, list) or len(counts) != length or sum(counts) <= 0:
        return None
    return np.array(counts) / sum(counts)


def jensen_shannon(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """The Jensen-Shannon divergence of two distributions, in bits: 0 if they are the same, 1 if they share nothing."""
    middle = (first + second) / 2
    halves = (
        float((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum()) / 2 for part in (first, second)
    )
    return max(0.0, sum(halves))


def _verdict(passed: bool) -> Verdict:
    return "passed" if passed else "failed"


def _named(split: Split) -> str:
    return "training" if split == "train" else "test"


def _positions(indices: Indices) -> str:
    """The first images, counted from 0 in the batch's own order."""
    more = f" and {len(indices) - NAMED:,} more" if len(indices) > NAMED else ""
    return f"image {', '.join(map(str, indices[:NAMED].tolist()))}{more}"
