"""Arrays in the shapes and types that people keep give the same digits as MNIST's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.sources import read_source
from mnist_tasks.system.errors import InputError


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint64", ">i4", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(28, 28), (784,), (28, 28, 1), (1, 28, 28)], ids=str)
def test_the_same_digits_come_from_every_shape_and_type(
    shape: tuple[int, ...], dtype: str, digits: Digits, tmp_path: Path
) -> None:
    images = {name: getattr(digits, name).reshape(-1, *shape).astype(dtype) for name in ("x_train", "x_test")}
    np.savez(tmp_path / "digits.npz", **images, y_train=digits.y_train, y_test=digits.y_test)

    assert read_source(tmp_path / "digits.npz").digest() == digits.digest()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pixels_divided_by_255_give_the_same_digits(dtype: str, digits: Digits, tmp_path: Path) -> None:
    images = {name: (getattr(digits, name) / 255).astype(dtype) for name in ("x_train", "x_test")}
    np.savez(tmp_path / "digits.npz", **images, y_train=digits.y_train, y_test=digits.y_test)

    assert read_source(tmp_path / "digits.npz").digest() == digits.digest()


def test_a_blank_image_with_nan_is_refused(digits: Digits, tmp_path: Path) -> None:
    images = np.full((3, 28, 28), np.nan, np.float32)
    np.savez(tmp_path / "digits.npz", x_train=images, y_train=digits.y_train[:3])

    with pytest.raises(InputError, match="image 0 has a pixel of nan"):
        read_source(tmp_path / "digits.npz")
