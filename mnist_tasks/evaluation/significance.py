"""Whether two models differ by more than chance, by the images that only one of them gets right."""

from __future__ import annotations

import numpy as np

from mnist_tasks.data.dataset import Float32, UInt8
from mnist_tasks.documents import Disagreements
from mnist_tasks.evaluation.mcnemar import mcnemar
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
