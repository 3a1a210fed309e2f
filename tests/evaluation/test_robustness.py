"""The fixed changes that show how robust a model is."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_tasks.data.sources import read_source
from mnist_tasks.evaluation.robustness import CHANGES, changed
from tests.helpers import Array


@pytest.fixture
def images() -> Array:
    return read_source("builtin").x_test[:8]


@pytest.fixture
def after(images: Array) -> dict[str, Array]:
    return dict(changed(images))


def test_the_same_images_are_changed_in_the_same_way(images: Array, after: dict[str, Array]) -> None:
    again = dict(changed(images))

    assert again.keys() == after.keys() == CHANGES.keys()
    assert all(np.array_equal(after[name], again[name]) for name in after)


def test_changed_images_are_float32_in_0_to_1_and_differ(images: Array, after: dict[str, Array]) -> None:
    for name, changed_images in after.items():
        assert changed_images.dtype == np.float32, name
        assert changed_images.shape == images.shape, name
        assert changed_images.min() >= 0, name
        assert changed_images.max() <= 1 + 1e-6, name
        assert np.abs(changed_images - images / 255).max() > 0.1, name


@pytest.mark.parametrize(("name", "pixels"), [("moved by 1 pixel", 1), ("moved by 2 pixels", 2)])
def test_images_are_moved_up_down_left_and_right_in_turn(
    name: str, pixels: int, images: Array, after: dict[str, Array]
) -> None:
    down, up, left, right = (after[name][turn] for turn in (1, 0, 2, 3))
    whole = images / np.float32(255)

    assert np.array_equal(up[: 28 - pixels], whole[0][pixels:])
    assert np.array_equal(down[pixels:], whole[1][: 28 - pixels])
    assert np.array_equal(left[:, : 28 - pixels], whole[2][:, pixels:])
    assert np.array_equal(right[:, pixels:], whole[3][:, : 28 - pixels])


def test_a_rotation_turns_by_ten_degrees_one_way_and_the_other() -> None:
    bar = np.zeros((2, 28, 28), np.uint8)
    bar[:, 4:24, 13:15] = 255

    turned = dict(changed(bar))["rotated by 10 degrees"]

    rows = np.arange(4, 24)
    centres = (turned[:, rows] * np.arange(28)).sum(axis=2) / turned[:, rows].sum(axis=2)
    slopes = [np.polyfit(rows, each, 1)[0] for each in centres]
    assert sorted(slopes) == pytest.approx([-np.tan(np.radians(10)), np.tan(np.radians(10))], abs=0.01)


def test_thinner_has_less_ink_and_thicker_more(images: Array, after: dict[str, Array]) -> None:
    ink = images.sum() / 255

    assert after["thinner"].sum() < ink < after["thicker"].sum()
    assert after["faint"].sum() == pytest.approx(0.4 * ink, rel=1e-4)
