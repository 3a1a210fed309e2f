"""McNemar's exact test. Plain Python, because the pages use it too."""

from __future__ import annotations

import math


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
