"""What chance explains: the 95 % interval of a proportion."""

from __future__ import annotations

import math

# The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals.
Z_95 = 1.959963984540054


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion by Wilson's score method (E. B. Wilson, JASA 22, 1927), within [0, 1].

    Unlike the interval of plus or minus two standard errors it stays in bounds and holds near 100 %.
    """
    share = correct / count
    scale = 1 + Z_95**2 / count
    centre = (share + Z_95**2 / (2 * count)) / scale
    margin = Z_95 / scale * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)
