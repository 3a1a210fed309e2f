"""Find the digit on paper that is lit unevenly, noisy or lined, and return its ink as if the paper were white and even.

1. The paper's light is what is left when dark strokes are closed, in a window that is wider than a stroke and narrower
   than a shadow (grey-scale closing: Serra, Image Analysis and Mathematical Morphology, 1982). The picture is divided
   by it.
2. Ink is what is darker than a threshold between faint and strong (Otsu, IEEE Transactions on Systems, Man, and
   Cybernetics 9, 1979), without the table that the paper lies on, and without ruled lines.
3. The digit is the largest connected ink, with the parts close to it. What touches the edge rather belongs to something
   else.
4. Two windows are tried, and where strokes may be light on dark, that too. What differs most clearly from its
   surroundings is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mnist_tasks.data.areas import Areas, Mask, closed, grown
from mnist_tasks.data.dataset import PIXEL_MAX, Float32
from mnist_tasks.data.ruled_lines import without_lines

# Pixels that the longer side is reduced to, to find the digit, the light, which changes slowly, or the ink's colour.
WORKING_SIDE, LIGHT_SIDE, COLOUR_SIDE = 400, 100, 64
WINDOWS = (0.25, 0.12)  # of the shorter side: no stroke is so wide, or only one that a narrow shadow does not cross
LEAST_INK = 0.08  # of the paper's light: what is fainter is taken for the paper's own unevenness
NOISES = 4.0  # standard deviations of the noise from which something is ink
BROAD = 0.03  # of the longer side: no ruled line is so thick
LEAST_EXTENT, LEAST_PIXELS = 8, 12  # pixels: what is smaller is no digit
NEAR, PART = 0.2, 0.05  # how close a part is to the rest, by the digit's size, and how large, by the rest's


@dataclass(frozen=True)
class Digit:
    """A digit that was cut out."""

    ink: Float32  # from 0 to 1, without margin
    others: int  # how many more digits there seem to be


@dataclass(frozen=True)
class Candidate:
    """What may be the digit, on one assumption about the light."""

    ink: Float32  # of the whole picture, evened: 0 is paper, noise goes below
    mask: Mask
    others: int

    def clearness(self, pixels: Float32 | None = None, reaches: float = 0.15) -> float:
        """How far the digit's ink, or pixels, are from those around it, by their standard deviations.

        Around it is what is away by at most a share of its own size.
        """
        pixels = self.ink if pixels is None else pixels
        rows, columns = np.nonzero(self.mask)
        reach = max(3, round(reaches * max(np.ptp(rows), np.ptp(columns))))
        around = grown(self.mask, 2 * reach + 1) & ~grown(self.mask, 3)
        if not around.any():
            return 0.0
        digit, paper = pixels[self.mask], pixels[around]
        return float(abs(digit.mean() - paper.mean()) / (digit.std() + paper.std() + 1e-3))


def digit_on_paper(grey: Float32) -> Digit | None:
    """The digit of a picture in grey from 0 to 255, or None if nothing stands out from the paper."""
    work = _reduced(grey, WORKING_SIDE)
    best = _clearest(work)
    if not _dark_on_light(work):  # or it is light paper on a dark table
        both = [candidate for candidate in (best, _clearest(PIXEL_MAX - work)) if candidate]
        # Not by the ink: inside a stroke of chalk the board looks like ink, as clear as any.
        best = max(both, key=lambda candidate: candidate.clearness(work, 0.3), default=None)
    if not best:
        return None
    ink = np.where(grown(best.mask, 3), best.ink, 0) / np.percentile(best.ink[best.mask], 75)
    return Digit(_cut(np.clip(ink, 0, 1).astype(np.float32), best.mask), best.others)


def digit_on_white(ink: Float32, least: float) -> Digit:
    """The digit of a clean scan, in ink from 0 to 1 of which some reaches `least`; specks away from it are left out."""
    small = _reduced((ink >= least).astype(np.float32), WORKING_SIDE) > 0
    mask, others = _main_area(small)
    stray = Image.fromarray(small & ~mask).resize((ink.shape[1], ink.shape[0]), Image.Resampling.NEAREST)
    ink = np.where(np.asarray(stray), np.float32(0), ink)
    return Digit(_cut(ink, ink >= least), others)


def _cut(ink: Float32, mask: Mask) -> Float32:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    cut: Float32 = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut


def _reduced(grey: Float32, side: int) -> Float32:
    """The picture with at most so many pixels along its longer side."""
    scale = side / max(grey.shape)
    if scale >= 1:
        return grey
    size = [max(1, round(length * scale)) for length in reversed(grey.shape)]
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX), np.float32)


def _clearest(grey: Float32) -> Candidate | None:
    return max(_candidates(grey), key=Candidate.clearness, default=None)


def _candidates(grey: Float32) -> Iterator[Candidate]:
    for window in WINDOWS:
        ink = _even_ink(grey, window)
        mask = without_lines(_inked(ink))
        if mask.any():
            mask, others = _main_area(mask)
            if np.ptp(np.argwhere(mask), axis=0).max() + 1 >= LEAST_EXTENT and mask.sum() >= LEAST_PIXELS:
                yield Candidate(ink, mask, others)


def _even_ink(grey: Float32, window: float) -> Float32:
    """How much darker than the paper around it each pixel is, as a share of the paper's light."""
    small = _reduced(grey, LIGHT_SIDE)
    image = Image.fromarray(closed(small, _odd(window * min(small.shape))))
    light = np.asarray(image.resize((grey.shape[1], grey.shape[0]), Image.Resampling.BICUBIC), np.float32)
    ratio = grey / np.maximum(light, 1)
    ink: Float32 = (1 - ratio / max(float(np.median(ratio)), 1e-3)).astype(np.float32)
    return ink


def _odd(length: float) -> int:
    """A window's side: odd, so that it has a middle, and 3 at least."""
    return max(3, round(length)) | 1


def _dark_on_light(grey: Float32) -> bool:
    """Whether strokes are darker than what is around them, by what is narrow and unlike most of its neighbourhood.

    What a stroke encloses is narrow too, but most of its neighbourhood is paper as well.
    """
    small = _reduced(grey, COLOUR_SIDE)
    low, high = float(small.min()), float(small.max())
    image = Image.fromarray(((small - low) / max(high - low, 1) * PIXEL_MAX).astype(np.uint8))
    around = image.filter(ImageFilter.MedianFilter(_odd(min(small.shape) / 3)))
    pixels = np.asarray(image, np.float32)
    lighter, window = pixels - np.asarray(around, np.float32), _odd(WINDOWS[0] * min(small.shape))
    dark = (closed(pixels, window) - pixels) * np.maximum(-lighter, 0)
    light = (closed(-pixels, window) + pixels) * np.maximum(lighter, 0)
    return float(dark.sum()) >= float(light.sum())


def _inked(ink: Float32) -> Mask:
    """Where there is strong ink; the table along the picture's edge is none."""
    ink = _smooth(ink)
    noise = 1.4826 * float(np.median(np.abs(ink - np.median(ink))))  # of a normal distribution, by its middle half
    least = max(LEAST_INK, NOISES * noise)
    some = ink > least
    if not some.any():
        return some
    strong = ink > max(least, _otsu(ink[some]))
    table = _table(strong)
    some &= ~table
    if not table.any() or not some.any():
        return strong
    return some & (ink > max(least, _otsu(ink[some])))


def _smooth(ink: Float32) -> Float32:
    """Weighted means of 3x3 pixels, by 1, 2, 1 along each side."""
    padded = np.pad(ink, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return ((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4).astype(np.float32)


def _otsu(values: Float32) -> float:
    """The threshold that divides values, at least one, into the two groups whose means differ most for their sizes."""
    counts, edges = np.histogram(values, 64)
    below, sums = np.cumsum(counts)[:-1], np.cumsum(counts * (edges[:-1] + edges[1:]) / 2)
    above = len(values) - below
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (means[0] - means[1]) ** 2))])


def _table(mask: Mask) -> Mask:
    """Broad areas along the picture's edge, with a margin: what the paper lies on."""
    side = _odd(BROAD * max(mask.shape))
    areas = Areas.of(~grown(~mask, side))
    return grown(areas.mask(areas.contacts > areas.extents / 2), side)


def _main_area(mask: Mask) -> tuple[Mask, int]:
    """The largest area, with the parts close to it, of a mask of some; and how many others look like digits too."""
    areas = Areas.of(mask)
    contacts, extents = areas.contacts, areas.extents
    weights = np.select([contacts == 0, contacts <= extents / 2], [1, 0.1], 0.001)  # at the edge it is something else
    best = int(np.argmax(areas.sizes * weights * np.where(extents < 0.04 * max(mask.shape), 0.1, 1)))
    above, beside = (areas.gaps(best, axis) for axis in (0, 1))
    inside = (contacts == 0) | (contacts[best] > 0)
    parts = (np.maximum(above, beside) <= NEAR * extents[best]) & (areas.sizes >= PART * areas.sizes[best]) & inside
    heights = areas.boxes[:, 2] - areas.boxes[:, 0]
    apart = (beside >= 0) | (above >= heights[best] / 2)
    alike = (heights >= 0.6 * heights[best]) & (areas.sizes >= 0.3 * areas.sizes[best]) & (contacts == 0)
    parts[best] = True
    return areas.mask(parts), int((apart & alike).sum())
