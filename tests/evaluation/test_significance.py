"""McNemar's exact test, and which images only one of two models gets right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mnist_tasks.evaluation.mcnemar import mcnemar
from mnist_tasks.evaluation.significance import disagreements


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 2**5),
        (1, 7, 2 * (1 + 8) / 2**8),
        (2, 10, 2 * (1 + 12 + 66) / 2**12),
        # A. Agresti, Categorical Data Analysis, approval ratings: 86 and 150, here exact.
        (86, 150, 2 * sum(math.comb(236, k) for k in range(87)) / 2**236),
    ],
)
def test_the_p_value_is_that_of_the_binomial_distribution(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_thousands_of_disagreements_are_no_overflow() -> None:
    assert mcnemar(5000, 5000) == 1
    assert mcnemar(0, 20_000) == 0


def test_images_that_only_one_gets_right_are_listed_in_both_directions() -> None:
    labels = np.array([0, 1, 2, 3], np.uint8)
    candidate = np.eye(10, dtype=np.float32)[[0, 1, 7, 9]]
    champion = np.eye(10, dtype=np.float32)[[0, 5, 2, 8]]

    found = disagreements(candidate, champion, labels)

    assert found is not None
    assert (found.only_candidate, found.only_champion, found.p_value) == (1, 1, 1)
    assert [(each.index, each.label, each.predicted) for each in found.gained] == [(1, 1, 5)]
    assert [(each.index, each.label, each.predicted) for each in found.lost] == [(2, 2, 7)]


def test_there_is_nothing_to_compare_without_a_champion() -> None:
    assert disagreements(np.eye(10, dtype=np.float32), None, np.arange(10, dtype=np.uint8)) is None
