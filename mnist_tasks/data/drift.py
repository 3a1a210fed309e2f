"""Whether digits and pixels are spread as in the champion's data, or as in the source while there is no champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import DIGITS, SPLITS, Split, split_name
from mnist_tasks.data.profile import LEVELS, Profile
from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import Check, DatasetDescription
from mnist_tasks.gate_checks import SLACK, verdict_of

NO_CHAMPION = "no champion's data to compare with"


@dataclass(frozen=True)
class Baseline:
    """What tonight's data is compared with: images of each digit by split, and the histogram of the training pixels."""

    name: str
    digit_counts: Mapping[Split, Sequence[int]]
    pixel_histogram: Sequence[int]

    @classmethod
    def of_champion(cls, data: DatasetDescription) -> Baseline:
        counts: dict[Split, list[int]] = {"train": data.train_images_per_digit, "test": data.test_images_per_digit}
        return cls("the champion's data", counts, data.train_pixel_histogram)

    @classmethod
    def of_source(cls, profiles: Mapping[Split, Profile]) -> Baseline:
        counts = {split: profiles[split].counts() for split in SPLITS}
        return cls("the source", counts, profiles["train"].histogram.tolist())


def class_balance(split: Split, counts: Sequence[int], rules: DataRules) -> Check:
    shares = np.array(counts) / sum(counts)
    digit, bound = int(shares.argmin()), rules.min_digit_share
    share = float(shares[digit])
    passed = share >= bound - SLACK
    message = (
        f"the rarest digit, {digit}, has {share:.2%} of the {split_name(split)} images, "
        f"{'at least' if passed else 'less than'} the minimum of {bound:.2%}"
        + ("" if passed else "; add images of it, or lower min_digit_share")
    )
    return Check("min_digit_share", "share", f"{split} {digit}", share, bound, None, verdict_of(passed), message)


def label_drift(split: Split, counts: Sequence[int], baseline: Baseline | None, rules: DataRules) -> Check:
    bound = rules.max_label_drift
    expected = _shares(baseline.digit_counts[split], DIGITS) if baseline else None
    if baseline is None or expected is None:
        return Check("max_label_drift", "L-infinity", split, None, bound, None, "skipped", NO_CHAMPION)
    differences = np.abs(np.array(counts) / sum(counts) - expected)
    value, digit = float(differences.max()), int(differences.argmax())
    passed = value <= bound + SLACK
    message = (
        f"the share of digit {digit} among the {split_name(split)} images differs most from {baseline.name}, by "
        f"{value:.4f}, {'within' if passed else 'more than'} the allowed {bound:.4f}"
        + ("" if passed else "; if that is meant, raise max_label_drift")
    )
    return Check("max_label_drift", "L-infinity", split, value, bound, None, verdict_of(passed), message)


def batch_drift(split: Split, counts: Sequence[int], baseline: Baseline | None, rules: DataRules) -> Check:
    """Whether a batch by itself is mostly of one digit, however small it is against everything else.

    What is compared with the bound is the lower end of the 95 % interval, so that chance does not judge a handful of
    images.
    """
    bound = rules.max_batch_drift
    expected = _shares(baseline.digit_counts[split], DIGITS) if baseline else None
    if expected is None:
        return Check("max_batch_drift", "share", split, None, bound, None, "skipped", NO_CHAMPION)
    total = sum(counts)
    excesses = [wilson_interval(count, total)[0] - share for count, share in zip(counts, expected, strict=True)]
    digit = int(np.argmax(excesses))
    value = float(excesses[digit])
    passed = value <= bound + SLACK
    message = (
        f"{counts[digit]:,} of the batch's {total:,} {split_name(split)} images are of digit {digit}: with 95 % "
        f"certainty {value:.4f} or more beyond its share of {expected[digit]:.4f}, "
        f"{'within' if passed else 'more than'} the allowed {bound:.4f}"
        + ("" if passed else "; add other digits, or, if that is meant, raise max_batch_drift")
    )
    return Check("max_batch_drift", "share", split, value, bound, None, verdict_of(passed), message)


def pixel_drift(split: Split, histogram: npt.NDArray[np.int64], baseline: Baseline | None, rules: DataRules) -> Check:
    """Test images are compared with training images, too: digits of both have the same pixels."""
    bound = rules.max_pixel_drift
    expected = _shares(baseline.pixel_histogram, LEVELS) if baseline else None
    if baseline is None or expected is None:
        return Check(
            "max_pixel_drift", "Jensen-Shannon", split, None, bound, None, "skipped", "nothing to compare with"
        )
    value = jensen_shannon(histogram / histogram.sum(), expected)
    passed = value <= bound + SLACK
    message = (
        f"the histogram of the {split_name(split)} images' pixels differs from {baseline.name} by {value:.4f} bits, "
        f"{'within' if passed else 'more than'} the allowed {bound:.4f}"
        + ("" if passed else "; if that is meant, raise max_pixel_drift")
    )
    return Check("max_pixel_drift", "Jensen-Shannon", split, value, bound, None, verdict_of(passed), message)


def _shares(counts: Sequence[int], length: int) -> npt.NDArray[np.float64] | None:
    """Counts as shares of their sum; None if an older release did not write them."""
    if len(counts) != length or sum(counts) <= 0:
        return None
    return np.array(counts) / sum(counts)


def jensen_shannon(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """The Jensen-Shannon divergence of two distributions, in bits: 0 if they are the same, 1 if they share nothing."""
    middle = (first + second) / 2
    halves = (
        float((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum()) / 2 for part in (first, second)
    )
    return max(0.0, sum(halves))
