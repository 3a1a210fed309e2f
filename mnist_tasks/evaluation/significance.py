"""Whether two models differ by more than chance, by the images that only one of them gets right."""

from __future__ import annotations

import math

import numpy as np

from mnist_tasks.data.dataset import Float32, UInt8
from mnist_tasks.documents import Disagreements
from mnist_tasks.evaluation.measurement import worst_mistakes


def disagreements(candidate: Float32, champion: Float32 | None, labels: UInt8) -> Disagreements | None:
    """Find the images that only one of two models gets right; None without a champion.

    Args:
        candidate: probabilities, float32 of shape (n, 10).
        champion: the same of the champion.
        labels: uint8 of shape (n,).
    """
    if champion is None:
        return None
    ours, theirs = (probabilities.argmax(axis=1) == labels for probabilities in (candidate, champion))
    only_ours, only_theirs = np.flatnonzero(ours & ~theirs), np.flatnonzero(theirs & ~ours)
    return Disagreements(
        only_candidate=len(only_ours),
        only_champion=len(only_theirs),
        p_value=mcnemar(len(only_ours), len(only_theirs)),
        gained=worst_mistakes(champion, labels, only_ours),
        lost=worst_mistakes(candidate, labels, only_theirs),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test (Q. McNemar, Psychometrika 12, 1947).

    Args:
        only_first: how many images only the first model gets right.
        only_second: how many only the second.

    Returns:
        How likely chance alone makes a difference at least as large, if the two models are equally good.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    # The sum of the binomial coefficients, as integers: exact for any number of images.
    tail = term = 1
    for drawn in range(1, fewer + 1):
        term = term * (count - drawn + 1) // drawn
        tail += term
    return min(1.0, math.exp(math.log(2 * tail) - count * math.log(2)))
