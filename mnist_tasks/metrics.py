"""What a model's probabilities on labelled images are worth: loss, accuracy, and precision, recall and F1 per digit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.dataset import DIGITS, Float32, UInt8

# Keras' sparse categorical cross-entropy clips probabilities to this, so that the loss stays finite.
EPSILON = 1e-7

# The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals.
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class DigitMetrics:
    """How well one digit is recognized; None where the ratio is 0/0."""

    digit: int
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Metrics:
    """One model on one set of images.

    `loss` is the mean cross-entropy in nats, `accuracy` a fraction with its Wilson interval `accuracy_95`;
    `confusion[i][j]` counts the images of digit i that were taken for j.
    """

    loss: float
    accuracy: float
    accuracy_95: tuple[float, float]
    digits: tuple[DigitMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]


def measure(probabilities: Float32, labels: UInt8) -> Metrics:
    """Metrics of predicted probabilities, float32 of shape (n, 10), against labels, uint8 of shape (n,)."""
    count = len(labels)
    confusion = np.bincount(
        labels.astype(np.int64) * DIGITS + probabilities.argmax(axis=1), minlength=DIGITS * DIGITS
    ).reshape(DIGITS, DIGITS)
    correct = int(np.trace(confusion))
    chosen = probabilities[np.arange(count), labels].astype(np.float64)
    return Metrics(
        loss=float(-np.log(np.clip(chosen, EPSILON, 1 - EPSILON)).mean()),
        accuracy=correct / count,
        accuracy_95=wilson_interval(correct, count),
        digits=tuple(_digit(digit, confusion) for digit in range(DIGITS)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _digit(digit: int, confusion: npt.NDArray[np.int64]) -> DigitMetrics:
    hits, support, predicted = confusion[digit, digit], confusion[digit].sum(), confusion[:, digit].sum()
    return DigitMetrics(
        digit,
        int(support),
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + predicted),
    )


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson's score method (E. B. Wilson, JASA 22, 1927), within [0, 1].

    Unlike the interval of plus or minus two standard errors it stays in bounds and holds near 100 %.
    """
    share = correct / count
    scale = 1 + Z_95**2 / count
    centre = (share + Z_95**2 / (2 * count)) / scale
    margin = Z_95 / scale * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)
