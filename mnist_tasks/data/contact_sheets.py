"""Draw a contact sheet of a batch and the mean image of each digit of a dataset, as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from mnist_tasks.data.dataset import DIGITS, IMAGE_SHAPE, UInt8

SIDE = IMAGE_SHAPE[0] + 2  # an image and the gap beside it
MARGIN = 16  # for the digit at the start of a row
COLUMNS = 24
SCALE = 3  # of the mean images
PAPER, TEXT, MARK = "white", "black", "#D55E00"  # the mark is Okabe and Ito's vermilion


def choose(labels: UInt8, doubted: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The positions that a contact sheet shows: for each digit the doubted ones first, then others evenly spread."""
    chosen = []
    for digit in range(DIGITS):
        of_digit = np.flatnonzero(labels == digit)
        first = np.intersect1d(of_digit, doubted)[:COLUMNS]
        rest = np.setdiff1d(of_digit, first)
        room = min(COLUMNS - len(first), len(rest))
        chosen += [first, rest[np.linspace(0, len(rest) - 1, room).astype(int)]]
    return np.concatenate(chosen)


def contact_sheet(images: UInt8, labels: UInt8, doubted: npt.NDArray[np.bool_], path: Path) -> None:
    """Draw a row for each digit with the images that have it as a label. Images with a doubted label are framed.

    Args:
        images: uint8 of shape (n, 28, 28), at most `COLUMNS` of each digit; shown dark on light.
        labels: uint8 of shape (n,).
        doubted: of shape (n,).
        path: where the PNG file goes.
    """
    sheet = Image.new("RGB", (MARGIN + COLUMNS * SIDE, DIGITS * SIDE + 2), PAPER)
    draw = ImageDraw.Draw(sheet)
    for digit in range(DIGITS):
        top = 2 + digit * SIDE
        draw.text((4, top + 8), str(digit), fill=TEXT)
        for column, position in enumerate(np.flatnonzero(labels == digit)):
            left = MARGIN + column * SIDE
            sheet.paste(Image.fromarray(255 - images[position]), (left, top))
            if doubted[position]:
                draw.rectangle((left - 1, top - 1, left + SIDE - 2, top + SIDE - 2), outline=MARK, width=2)
    sheet.save(path, "PNG")


def mean_images(means: npt.NDArray[np.float64], path: Path) -> None:
    """Draw the mean images side by side, from means of shape (10, 28, 28) in 0 to 255; dark on light."""
    row = np.concatenate(list(255 - np.nan_to_num(means)), axis=1).round().astype(np.uint8)
    picture = Image.fromarray(row)
    picture.resize((row.shape[1] * SCALE, row.shape[0] * SCALE), Image.Resampling.NEAREST).save(path, "PNG")
