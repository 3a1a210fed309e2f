"""Calibration error and Brier score, against numbers worked out by hand and a second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_tasks.evaluation.confidence import confidence


def test_a_model_that_is_sure_and_right_has_neither_error() -> None:
    labels = np.arange(10, dtype=np.uint8)

    found = confidence(np.eye(10, dtype=np.float32), labels)

    assert (found.brier, found.calibration_error) == (0, 0)


def test_the_brier_score_is_the_squared_distance_from_the_label() -> None:
    probabilities = np.zeros((2, 10), np.float32)
    probabilities[0, :2] = 0.5, 0.5
    probabilities[1, 3] = 1

    found = confidence(probabilities, np.array([0, 4], np.uint8))

    assert found.brier == pytest.approx((0.5 + 2) / 2)


def test_a_model_that_is_always_as_sure_as_0_9_and_right_in_0_7_is_off_by_0_2() -> None:
    labels = np.arange(1000) % 10
    probabilities = np.full((1000, 10), 0.1 / 9, np.float32)
    probabilities[np.arange(1000), labels] = 0.9
    wrong = np.random.default_rng(0).choice(1000, 300, replace=False)

    found = confidence(
        probabilities, np.where(np.isin(np.arange(1000), wrong), (labels + 1) % 10, labels).astype(np.uint8)
    )

    assert found.calibration_error == pytest.approx(0.2, abs=1e-6)
    assert sum(entry.images for entry in found.calibration) == 1000
    assert len(found.calibration) == 15


def test_bins_hold_as_many_images_each_and_fewer_images_than_bins_are_fine() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.full(10, 0.2), 100).astype(np.float32)
    labels = random.integers(0, 10, 100).astype(np.uint8)

    many, few = confidence(probabilities, labels), confidence(probabilities[:3], labels[:3])

    assert {entry.images for entry in many.calibration} == {6, 7}
    assert [entry.confidence for entry in many.calibration] == sorted(entry.confidence for entry in many.calibration)
    assert [entry.images for entry in few.calibration] == [1, 1, 1]
