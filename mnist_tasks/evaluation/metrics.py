"""Metrics of a model's probabilities on labelled images: loss, accuracy, and precision, recall and F1 of each digit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import DIGITS, Float32, UInt8
from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import DigitMetrics

# Keras' sparse categorical cross-entropy clips probabilities to this, so that the loss stays finite.
EPSILON = 1e-7


@dataclass(frozen=True)
class Metrics:
    """One model on one set of images.

    `loss` is the mean cross-entropy in nats, `accuracy` a fraction with its Wilson interval `accuracy_95`;
    `confusion[i][j]` counts the images of digit i that were taken for j.
    """

    loss: float
    accuracy: float
    accuracy_95: tuple[float, float]
    digits: list[DigitMetrics]
    confusion: list[list[int]]


def compute_metrics(probabilities: Float32, labels: UInt8) -> Metrics:
    """Compute the metrics of probabilities, float32 of shape (n, 10), against labels, uint8 of shape (n,)."""
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
        digits=[_digit(digit, confusion) for digit in range(DIGITS)],
        confusion=confusion.tolist(),
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
