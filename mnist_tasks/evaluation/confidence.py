"""Whether a model's probabilities can be believed: calibration error and Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mnist_tasks.data.dataset import Float32, UInt8
from mnist_tasks.documents import CalibrationBin

BINS = 15


@dataclass(frozen=True)
class Confidence:
    """How far the probability of the predicted digit is from how often it is right.

    `calibration_error` is the expected calibration error with bins of equal mass (Nixon et al., "Measuring Calibration
    in Deep Learning", 2019), in [0, 1]. `brier` is the mean squared distance between the probabilities and the label
    (Brier, 1950), in [0, 2].
    """

    brier: float
    calibration_error: float
    calibration: list[CalibrationBin]


def confidence(probabilities: Float32, labels: UInt8) -> Confidence:
    """Compare probabilities, float32 of shape (n, 10), with labels, uint8 of shape (n,)."""
    values = probabilities.astype(np.float64)
    count = len(labels)
    chosen = values[np.arange(count), labels]
    brier = float(((values**2).sum(axis=1) - 2 * chosen + 1).mean())
    highest, right = values.max(axis=1), values.argmax(axis=1) == labels
    parts = [part for part in np.array_split(np.argsort(highest, kind="stable"), BINS) if len(part)]
    bins = [
        CalibrationBin(len(part), min(1.0, float(highest[part].mean())), float(right[part].mean())) for part in parts
    ]
    error = sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / count
    return Confidence(brier, error, bins)
