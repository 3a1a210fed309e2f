"""The metrics agree with those of Keras and with published numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.evaluation.metrics import compute_metrics
from tests.helpers import Array


@pytest.fixture
def probabilities() -> Array:
    logits = np.random.default_rng(1).normal(size=(400, 10)).astype(np.float32) * 3
    exponentials = np.exp(logits)
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


@pytest.fixture
def labels() -> Array:
    return np.random.default_rng(2).integers(0, 10, 400).astype(np.uint8)


def test_loss_and_accuracy_are_those_of_keras(probabilities: Array, labels: Array) -> None:
    probabilities[0] = np.eye(10)[(labels[0] + 1) % 10]  # certain and wrong: the loss is clipped, not infinite

    metrics = compute_metrics(probabilities, labels)

    assert metrics.loss == pytest.approx(
        float(keras.losses.SparseCategoricalCrossentropy()(labels, probabilities)), rel=1e-5
    )
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    accuracy.update_state(labels, probabilities)
    assert metrics.accuracy == pytest.approx(float(accuracy.result()))


def test_confusion_counts_each_image_once(probabilities: Array, labels: Array) -> None:
    confusion = np.array(compute_metrics(probabilities, labels).confusion)

    assert confusion.sum() == 400
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert confusion[3, 7] == np.count_nonzero((labels == 3) & (probabilities.argmax(axis=1) == 7))


def test_precision_recall_and_f1_are_those_of_keras(probabilities: Array, labels: Array) -> None:
    for digit in compute_metrics(probabilities, labels).digits:
        truth, taken = labels == digit.digit, probabilities.argmax(axis=1) == digit.digit
        precision, recall = keras.metrics.Precision(), keras.metrics.Recall()
        precision.update_state(truth, taken)
        recall.update_state(truth, taken)
        p, r = float(precision.result()), float(recall.result())
        assert digit.precision == pytest.approx(p)
        assert digit.recall == pytest.approx(r)
        assert digit.f1 == pytest.approx(2 * p * r / (p + r))
        assert digit.support == truth.sum()


def test_a_digit_that_never_occurs_has_no_recall() -> None:
    probabilities = np.eye(10, dtype=np.float32)[[0, 0, 1]]

    zero, one, two, *_ = compute_metrics(probabilities, np.array([0, 1, 1], np.uint8)).digits

    assert (zero.precision, zero.recall) == (0.5, 1.0)
    assert (one.precision, one.recall) == (1.0, 0.5)
    assert (two.support, two.precision, two.recall, two.f1) == (0, None, None, None)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_as_published(correct: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_a_perfect_score_stays_within_bounds() -> None:
    low, high = wilson_interval(10, 10)

    assert low < high <= 1.0
