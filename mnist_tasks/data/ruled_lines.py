"""Take the lines of ruled or squared paper out of a mask of ink.

As staff lines are taken out of music: a line goes only where it is thin, so a stroke that crosses it stays whole.
"""

from __future__ import annotations

import numpy as np

from mnist_tasks.data.areas import Mask, run_lengths

LEAST_SIDE = 40  # pixels; in a smaller picture a stroke is as thin as a line
STEEPEST, SLOPES = 0.14, 29  # a line rises by at most 8 degrees; so many slopes are tried
THICKEST = 0.02  # of the picture's shorter side
ACROSS = 0.55  # share of the width in which a line shows: no stroke is so long and so straight


def without_lines(mask: Mask) -> Mask:
    """The mask without straight thin lines across most of the picture, lying ones and standing ones."""
    return _without_lying(_without_lying(mask).T).T


def _without_lying(mask: Mask) -> Mask:
    height, width = mask.shape
    if min(mask.shape) < LEAST_SIDE:
        return mask
    thickest = max(2, round(THICKEST * min(mask.shape)))
    thin = mask & (run_lengths(mask) <= thickest)
    if thin.any(axis=0).sum() < ACROSS * width:
        return mask
    near = thin | np.roll(thin, 1, axis=0) | np.roll(thin, -1, axis=0)
    columns, kept = np.arange(width), mask.copy()
    for slope in np.linspace(-STEEPEST, STEEPEST, SLOPES):
        rise = np.round((columns - width / 2) * slope).astype(np.intp)
        reach = int(np.abs(rise).max())
        starts = np.arange(-reach, height + reach)  # the row in which a line is in the middle of the picture
        rows = starts[:, None] + rise
        inside = (rows >= 0) & (rows < height)
        covered = (near[np.clip(rows, 0, height - 1), columns] & inside).sum(axis=1)
        seen = inside.sum(axis=1)
        for start in starts[(seen >= width / 2) & (covered >= ACROSS * seen)]:
            band = start + rise + np.arange(-thickest, thickest + 1)[:, None]
            row, column = band.clip(0, height - 1), np.broadcast_to(columns, band.shape)
            taken = thin[row, column] & (band == row)
            kept[row[taken], column[taken]] = False
    return kept
