"""Contact sheets of images that were taken for another digit than their label says, as PNG.

Pillow draws one in a tenth of the time that matplotlib takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_tasks.data.dataset import IMAGE_SHAPE, PIXEL_MAX, UInt8
from mnist_tasks.documents import Mistake

COLUMNS = 8
SCALE = 3  # of the images
CELL_WIDTH, TITLE, LINES, GAP = 118, 34, 34, 10  # pixels; LINES is the height of the two lines above an image
TITLE_FONT, FONT = 17, 12.5


def mistaken_images(images: UInt8, mistakes: Sequence[Mistake], title: str, path: Path) -> None:
    """Draw images, dark on light, each with its label, what it was taken for, the probability, and its position.

    Args:
        images: uint8 of shape (n, 28, 28).
        mistakes: one for each image.
        title: which images they are.
        path: where the PNG file goes.
    """
    side = SCALE * IMAGE_SHAPE[0]
    cell_height = LINES + side + GAP
    rows = math.ceil(len(mistakes) / COLUMNS)
    sheet = Image.new("L", (COLUMNS * CELL_WIDTH, TITLE + rows * cell_height), PIXEL_MAX)
    draw = ImageDraw.Draw(sheet)
    draw.text((sheet.width / 2, TITLE / 2), title if mistakes else f"{title}: none", 0, _font(TITLE_FONT), anchor="mm")
    font = _font(FONT)
    for position, (image, mistake) in enumerate(zip(images, mistakes, strict=True)):
        row, column = divmod(position, COLUMNS)
        top, middle = TITLE + row * cell_height, (column + 0.5) * CELL_WIDTH
        text = f"is {mistake.label}, taken for {mistake.predicted}\n{mistake.probability:.1%}, no. {mistake.index}"
        draw.multiline_text((middle, top + LINES / 2), text, 0, font, anchor="mm", align="center", spacing=2)
        enlarged = np.repeat(np.repeat(PIXEL_MAX - image, SCALE, axis=0), SCALE, axis=1)
        sheet.paste(Image.fromarray(enlarged), (round(middle - side / 2), top + LINES))
    sheet.save(path, "PNG")


def side_by_side(images: UInt8, columns: int, path: Path) -> None:
    """Put images side by side, each as it is, row after row.

    Args:
        images: uint8 of shape (n, 28, 28), at least one.
        columns: how many in a row.
        path: where the PNG file goes.
    """
    height, width = IMAGE_SHAPE
    sheet = Image.new("L", (columns * width, math.ceil(len(images) / columns) * height))
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        sheet.paste(Image.fromarray(image), (column * width, row * height))
    sheet.save(path, "PNG")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
