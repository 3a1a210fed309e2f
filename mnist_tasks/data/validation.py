"""Check data by rules before a model is trained on it, each with value, bound and verdict as in the gate.

A source that breaks a rule fails the run; a batch that breaks one is left out. Every rule is checked, so that the
report names everything that is wrong. The bounds rest on measurements with MNIST (`python -m benchmarks.data`):

- `max_wrong_labels`: a label is contradicted if all nearest images of the source bear one other digit (see
  `neighbours`). Of 3,000 digits held out of MNIST's training set 0.5 to 0.9 % are contradicted (6 draws), with 5 %
  wrong labels 4.7 to 5.3 %. What is compared with the bound is the lower end of the 95 % interval, so that chance does
  not judge a handful of images: with 5 % wrong labels all batches of 1,000 are stopped, 9 in 10 of 300 and 5 to 6 in 10
  of 100; of clean ones 1 in 3,600.
  Batches that are too small to show it are judged together, see `pooled`. Of a source's own labels the same is asked,
  each of a sample compared with the other images: of MNIST's 0.4 to 0.7 % are contradicted, with 2 % wrong labels
  2.1 %, with 5 % 3.2 to 3.8 %.
- `max_source_wrong_labels`: the same of a source's labels, with MNIST as the reference. Of MNIST's digits turned by 30
  degrees 5 % are contradicted, of the UCI's handwritten digits 4.5 %, of printed ones 4 %; of MNIST's with one label in
  ten wrong 10 %, of transposed, mirrored or turned ones 15 to 29 %, of noise 12 to 21 %.
- `orientation`: whether a source's digits agree better with MNIST another way up; one that is seen so is always wrong.
- `max_test_share`: of a batch's labels 2 % may be wrong unseen. As a tenth of the test set they move an accuracy by 0.2
  points at most: as much as chance does, which is 0.14 for a difference.
- `leakage`: see `leakage`.
- `max_pixel_drift`: 1,000 digits drawn from MNIST have 0.00004 at most, ten 0.006; those of a single digit 0.009. JPEG
  with quality 50 has 0.009, faint ink of 70 % 0.08.

Distances are computed in chunks: memory does not grow with the data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import DIGITS, SPLITS, Split, split_name
from mnist_tasks.data.drift import Baseline, batch_drift, class_balance, label_drift, pixel_drift
from mnist_tasks.data.known import Known
from mnist_tasks.data.leakage import TURNED_SAMPLE, leakage, none_of, positions, turned_leakage
from mnist_tasks.data.neighbours import (
    NEIGHBOURS,
    Indices,
    Reference,
    evenly_spread,
    features,
)
from mnist_tasks.data.pieces import Piece
from mnist_tasks.data.profile import Keys, Profile, TestSet
from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import OVERALL, Check, DatasetDescription
from mnist_tasks.gate_checks import SLACK, verdict_of
from mnist_tasks.system.task_log import log_group

log = logging.getLogger(__name__)

SAMPLED_IMAGES = 2000  # of a source, to compare with MNIST and with itself


@dataclass(frozen=True)
class Verdicts:
    """The checks of one source or batch, and the images of each split whose label is doubted."""

    checks: list[Check]
    doubted: dict[Split, Indices] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelReference:
    """What labels are compared with: `images` gives it, and is only called if something is new; `content` names it."""

    content: str
    images: Callable[[], Reference]


def validate(
    new: Piece,
    known: Known,
    rules: DataRules,
    *,
    reference: LabelReference,
    baseline: Baseline | None = None,
    unknown: Sequence[Split] = SPLITS,
    fixed_test_images: int | None = None,
) -> Verdicts:
    """Check new images against each other and against known ones.

    Args:
        new: a source, or a batch, with one or both splits.
        known: the source and the batches accepted before; empty for the source itself.
        rules: the bounds.
        reference: what the labels are compared with: MNIST for a source, the source for a batch.
        baseline: what the shares of the digits and the pixels are compared with; None if there is nothing to compare
            with.
        unknown: the splits of a source that may be others than MNIST's.
        fixed_test_images: how many of the known test images are the source's; for a batch.
    """
    checks = []
    for split, images in new.profiles.items():
        checks += [
            none_of("blank", split, images.blank, len(images), "show nothing: remove them"),
            none_of("inverted", split, images.inverted, len(images), "are dark on light: invert them"),
            *_same_images(split, images, known, rules),
        ]
    for split in new.profiles:
        checks += _leakage(split, new, known)
    test = known.source or new
    if "train" in new.profiles and "test" in test.profiles:
        checks.append(turned_leakage(new.turned(test), min(TURNED_SAMPLE, len(new.profiles["train"]))))
    doubted: dict[Split, Indices] = {}
    for split, images in new.profiles.items():
        if known.source:
            doubted[split] = new.contradicted(split, reference.content, reference.images)
            checks.append(_wrong_labels(split, new, doubted[split], reference, rules))
        elif split in unknown:
            checks += _compared_with_mnist(split, images, reference.images(), rules)
            checks.append(_compared_with_itself(split, new.profiles, rules))
        counts = (known.counts(split) + images.counts()).tolist()
        checks += [
            class_balance(split, counts, rules),
            label_drift(split, counts, baseline, rules),
            *([batch_drift(split, images.counts(), baseline, rules)] if known.source else []),
            pixel_drift(split, images.histogram, baseline, rules),
        ]
    if "test" in new.profiles and fixed_test_images is not None:
        total = int(known.counts("test").sum()) + len(new.profiles["test"])
        checks.append(_test_share(total, fixed_test_images, rules))
    return Verdicts(checks, doubted)


def _leakage(split: Split, new: Piece, known: Known) -> Sequence[Check]:
    """Compare a split with the other one of all that is known and, of training images, of the piece itself."""
    other: Split = "test" if split == "train" else "train"
    keys = new.profiles[split].keys
    known_keys = known.labels(other)
    exact = np.array([key in known_keys for key in keys.tolist()], bool)
    # What is new on both sides is compared once.
    own = [new] if split == "train" and other in new.profiles else []
    if own:
        exact |= np.isin(keys, new.profiles[other].keys)
    nearest = [
        new.nearest(split, [known.source] if known.source else own, source=True),
        new.nearest(split, [*known.batches, *own] if known.source else [], source=False),
    ]
    found = [part for part in nearest if part]
    return leakage(split, exact, found) if found else ()


def compare_test_sets(test_set: TestSet, champion: DatasetDescription | None) -> Check:
    """Note what a source brings to measure models with. It never fails: the gate judges models on MNIST's images, too.

    Args:
        test_set: the source's.
        champion: the champion's dataset.
    """
    images = test_set.fixed_test_images
    message = (
        f"the test set is MNIST's, {images:,} images"
        if test_set.test_set == "mnist"
        else f"the source brings its own test set of {images:,} images; a score on it says nothing about MNIST's"
    )
    if champion and champion.test_set_sha256 not in (None, test_set.test_set_sha256):
        whose = "MNIST's" if champion.test_set == "mnist" else "another one of its source"
        message += (
            f"; that of the champion's data was {whose}, so that scores published until now cannot be compared with "
            "tonight's"
        )
    return Check("test_set", "images", "test", images, None, None, "passed", message)


def log_checks(title: str, checks: Sequence[Check]) -> None:
    """Log checks as a group; failed ones as warnings."""
    with log_group(log, title):
        for check in checks:
            level = logging.WARNING if check.verdict == "failed" else logging.INFO
            log.log(level, "%s %s (%s): %s", check.verdict, check.rule, check.slice, check.message)


def failed_schema(message: str) -> Check:
    """The check of what could not be read as labelled digits."""
    return Check("schema", "readable", OVERALL, None, None, None, "failed", message)


def passed_schema(sizes: Mapping[Split, int]) -> Check:
    """The check of what could."""
    sizes_text = " and ".join(f"{sizes[split]:,} {split_name(split)} images" for split in SPLITS if split in sizes)
    message = f"{sizes_text} of 28x28 pixels from 0 to 255, labels from 0 to {DIGITS - 1}"
    return Check("schema", "readable", OVERALL, None, None, None, "passed", message)


def _same_images(split: Split, new: Profile, known: Known, rules: DataRules) -> tuple[Check, Check]:
    """Images that are there more than once: with one label they weigh double, with two one of them is wrong.

    An image with other ink counts as the same if its outline and its label are the same.
    """
    labels = new.labels.astype(np.int64)
    before = _labels_before(new.keys, labels, known.labels(split))
    drawn_before = _labels_before(new.outlines, labels, known.outlines(split))
    duplicates = np.flatnonzero((before == labels) | (drawn_before == labels))
    conflicts = np.flatnonzero((before >= 0) & (before != labels))
    share, bound = len(duplicates) / len(new), rules.max_duplicates
    passed = share <= bound + SLACK
    message = f"{len(duplicates):,} of {len(new):,} {split_name(split)} images ({share:.2%}) exist already"
    message += (
        ""
        if passed
        else f", more than the allowed {bound:.2%}: {positions(duplicates)}; remove them, or raise max_duplicates"
    )
    duplicate = Check("max_duplicates", "share", split, share, bound, None, verdict_of(passed), message)
    return duplicate, none_of("conflicts", split, conflicts, len(new), "have another label elsewhere: correct them")


def _labels_before(keys: Keys, labels: npt.NDArray[np.int64], known: Mapping[int, int]) -> npt.NDArray[np.int64]:
    """The label that the same image had before: earlier in what is new or, of the first one there, in what is known.

    -1 for an image that was not there before.
    """
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    before = np.concatenate([[-1], labels[order][:-1]])
    first = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])
    before[first] = [known.get(key, -1) for key in sorted_keys[first].tolist()]
    result = np.empty_like(before)
    result[order] = before
    return result


def _wrong_labels(split: Split, new: Piece, doubted: Indices, reference: LabelReference, rules: DataRules) -> Check:
    """Of a batch: whether its labels are those of the images of the source that look like it."""
    images = len(new.profiles[split])
    value, bound = wilson_interval(len(doubted), images)[0], rules.max_wrong_labels
    passed = value <= bound + SLACK
    message = _contradicted(split, len(doubted), images, "the source", value, bound)
    if not passed:
        way_up = new.way_up(split, reference.content, reference.images)
        hint = f"; the digits look {way_up.words}" if way_up.wrong else ""
        message += f": {positions(doubted)}{hint}; correct them, or raise max_wrong_labels"
    return Check("max_wrong_labels", "share", split, value, bound, None, verdict_of(passed), message)


def _compared_with_mnist(split: Split, images: Profile, mnist: Reference, rules: DataRules) -> tuple[Check, Check]:
    """Of a source, by some of its images: whether its digits are labelled, and stand, as MNIST's."""
    sample = evenly_spread(len(images), SAMPLED_IMAGES)
    labels = images.labels[sample]
    doubted = sample[mnist.contradicted([features(images.files[0].rows(sample))], labels)]
    value, bound = wilson_interval(len(doubted), len(sample))[0], rules.max_source_wrong_labels
    passed = value <= bound + SLACK
    message = _contradicted(split, len(doubted), len(sample), "MNIST", value, bound)
    if not passed:
        message += (
            f": {positions(doubted)}; correct them, or, if the digits are meant to be other ones than MNIST's, raise "
            "max_source_wrong_labels"
        )
    way_up = images.way_up(mnist)
    shares = f"MNIST agrees with the labels of {way_up.upright:.0%} of {way_up.images:,} {split_name(split)} images"
    other = ""
    if way_up.wrong:
        other = f", but with {way_up.turned:.0%} if they are put upright: the digits look {way_up.words}"
    elif way_up.turned:
        other = f", and any other way up with {way_up.turned:.0%} at most"
    return (
        Check(
            "orientation",
            "agreement",
            split,
            way_up.upright,
            None,
            None,
            verdict_of(not way_up.wrong),
            shares + other,
        ),
        Check("max_source_wrong_labels", "share", split, value, bound, None, verdict_of(passed), message),
    )


def _compared_with_itself(split: Split, profiles: Mapping[Split, Profile], rules: DataRules) -> Check:
    """Of a source, by some of its images: whether their labels are those of the training images that look like them."""
    train, images = profiles["train"], profiles[split]
    # Each image once: the copies of one agree with each other, whatever they show.
    once = np.sort(np.unique(train.keys, return_index=True)[1])
    own = Reference.of(train.files[0], train.labels, once)
    if split == "train":
        within = evenly_spread(len(own.labels), SAMPLED_IMAGES)
        sample = once[evenly_spread(len(once), len(own.labels))[within]]
        doubted = sample[own.contradicted_by_others(within)]
    else:
        sample = evenly_spread(len(images), SAMPLED_IMAGES)
        doubted = sample[own.contradicted([features(images.files[0].rows(sample))], images.labels[sample])]
    value, bound = wilson_interval(len(doubted), len(sample))[0], rules.max_wrong_labels
    passed = value <= bound + SLACK
    message = _contradicted(split, len(doubted), len(sample), "the source itself", value, bound)
    if not passed:
        message += f": {positions(doubted)}; correct them, or raise max_wrong_labels"
    return Check("max_wrong_labels", "share", split, value, bound, None, verdict_of(passed), message)


def _contradicted(split: Split, doubted: int, images: int, by: str, value: float, bound: float) -> str:
    return (
        f"{doubted:,} of {images:,} labels of {split_name(split)} images ({doubted / images:.2%}, with 95 % certainty "
        f"{value:.2%} or more) are contradicted by all {NEIGHBOURS} nearest images of {by}, "
        f"{'within' if value <= bound + SLACK else 'more than'} the allowed {bound:.2%}"
    )


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
    return Check("max_test_share", "share", "test", share, bound, None, verdict_of(passed), message)
