"""The slices of the test images, by measured properties."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_tasks.data.dataset import UInt8
from mnist_tasks.data.sources import read_source
from mnist_tasks.evaluation.slices import SLICES, properties, slices


def bar(width: int, top: int = 4, height: int = 20, left: int = 12, lean: float = 0) -> UInt8:
    """Return the image of an upright bar, each row moved to the right by `lean` for a row further up."""
    image = np.zeros((28, 28), np.uint8)
    for row in range(top, top + height):
        start = round(left + lean * (top + height / 2 - row))
        image[row, start : start + width] = 255
    return image


def test_the_width_of_a_stroke_is_measured_in_pixels() -> None:
    widths = properties(np.stack([bar(1), bar(2), bar(4)]))["stroke"]

    assert widths == pytest.approx([20 / 21, 40 / 22, 80 / 24])


def test_a_slant_is_the_tangent_of_the_lean_to_the_right() -> None:
    slants = properties(np.stack([bar(3), bar(3, lean=0.5), bar(3, lean=-0.5)]))["slant"]

    assert slants == pytest.approx([0, 0.5, -0.5], abs=0.02)


def test_the_margin_is_that_of_the_closest_edge() -> None:
    margins = properties(np.stack([bar(2), bar(2, top=1), bar(2, left=25), bar(2, top=0)]))["margin"]

    assert margins.tolist() == [4, 1, 1, 0]


def test_the_radius_grows_with_the_digit() -> None:
    small, large = properties(np.stack([bar(2, top=10, height=8), bar(2)]))["radius"]

    assert small == pytest.approx(np.sqrt((8**2 - 1) / 12 + 0.25))
    assert large == pytest.approx(np.sqrt((20**2 - 1) / 12 + 0.25))


def test_a_blank_image_is_measured_without_a_warning() -> None:
    values = properties(np.zeros((1, 28, 28), np.uint8))

    assert all(np.isfinite(value).all() for value in values.values())


def test_each_slice_is_some_tenth_of_mnists_test_images() -> None:
    images = read_source("builtin").x_test

    sizes = {name: int(members.sum()) for name, members in slices(images)}

    assert sizes.keys() == SLICES.keys()
    assert all(900 < size < 1200 for size in sizes.values()), sizes
