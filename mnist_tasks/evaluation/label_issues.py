"""Training images that probably bear a wrong label, by confident learning.

C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70, 2021; the same images as `filter_by="confident_learning"` gives in the authors'
library, cleanlab. The paper asks for probabilities of models that have not seen the images. Those of the candidate
have the same effect here, because in a few epochs it does not learn single images by heart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import DIGITS, Float32, UInt8


def label_issues(probabilities: Float32, labels: UInt8) -> npt.NDArray[np.intp]:
    """The images that are confidently another digit than their label says, the surest first.

    Args:
        probabilities: float32 of shape (n, 10).
        labels: uint8 of shape (n,).

    Returns:
        Positions; the first has the lowest probability of its label against that of the likeliest other digit. None if
        a probability is not a number, because then no average is either.
    """
    if not np.isfinite(probabilities).all():
        return np.empty(0, np.intp)
    own = probabilities[np.arange(len(labels)), labels]
    # An image is confidently a digit if it is so more than the images with that label are on average.
    counts = np.bincount(labels, minlength=DIGITS)
    sums = np.bincount(labels, weights=own, minlength=DIGITS)
    thresholds = np.divide(sums, counts, out=np.full(DIGITS, np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    likeliest = confident.argmax(axis=1)
    issues = np.flatnonzero(
        (confident.max(axis=1) >= 0) & (likeliest != labels) & (probabilities.argmax(axis=1) != labels)
    )
    margins = own[issues] - probabilities[issues].max(axis=1)
    return issues[np.argsort(margins, kind="stable")]
