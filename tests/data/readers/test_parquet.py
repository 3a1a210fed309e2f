"""Parquet as Hugging Face has it; other columns, empty cells and what is no picture are named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
import pytest

from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.sources import fetch, read_source
from mnist_tasks.system.errors import InputError
from tests.forms import png, write_parquet


def cells(digits: Digits, count: int = 12) -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": png(image), "path": None} for image in digits.x_train[:count]],
        "label": digits.y_train[:count].tolist(),
    }


def written(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("form", ["plain", "bytes without a struct", "dark on light", "another size", "more columns"])
def test_pictures_in_a_column_are_read_as_files_are(form: str, digits: Digits, tmp_path: Path) -> None:
    columns = cells(digits)
    images = digits.x_train[:12]
    if form == "bytes without a struct":
        columns["image"] = [cell["bytes"] for cell in columns["image"]]
    elif form == "dark on light":
        columns["image"] = [{"bytes": png(255 - image), "path": "a.png"} for image in images]
    elif form == "another size":
        columns["image"] = [{"bytes": png(image.repeat(9, 0).repeat(9, 1)), "path": None} for image in images]
    elif form == "more columns":
        columns["split"] = ["train"] * 12

    path = written(tmp_path / "train.parquet", columns)
    (tmp_path / "out").mkdir()
    assert fetch(path, tmp_path / "out") == ("train",)

    read, labels = (np.load(tmp_path / "out" / f"{axis}_train.npy") for axis in "xy")
    np.testing.assert_array_equal(labels, digits.y_train[:12])
    if form == "another size":  # it is scaled as a file would be
        assert np.corrcoef(read.ravel(), images.ravel())[0, 1] > 0.9
    else:
        np.testing.assert_array_equal(read, images)


def with_cell(digits: Digits, column: str, value: Any) -> dict[str, Any]:
    columns = cells(digits)
    columns[column][5] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (lambda _: {"TOPSECRET": [1]}, "has no column image, label; it needs image"),
        (lambda d: {"image": cells(d)["image"], "digit": cells(d)["label"]}, "has no column label"),
        (lambda d: with_cell(d, "label", None), "row 5 has no label"),
        (lambda d: with_cell(d, "label", 10), r"label\[5\] is 10, but labels go from 0 to 9"),
        (lambda d: cells(d) | {"label": [0.5] * 12}, "the column label has type double"),
        (lambda d: with_cell(d, "image", None), "row 5 cannot be read as an image"),
        (lambda d: with_cell(d, "image", {"bytes": b"TOPSECRET", "path": None}), "row 5 cannot be read as an image"),
        (lambda d: with_cell(d, "image", {"bytes": png(np.zeros((28, 28), np.uint8))}), "row 5: it shows nothing"),
        (lambda d: cells(d) | {"image": [[[1, 2], [3]]] * 12}, "the column image has no bytes of image files"),
        (lambda d: cells(d) | {"image": [{"path": "a.png"}] * 12}, "the column image has no bytes of image files"),
        (
            lambda _: {"image": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], pyarrow.int64())},
            "is empty",
        ),
    ],
)
def test_another_table_is_refused_by_name_and_without_its_text(
    columns: Any, words: str, digits: Digits, tmp_path: Path
) -> None:
    path = written(tmp_path / "bad.parquet", columns(digits))

    with pytest.raises(InputError, match=rf"^{path}.*{words}") as error:
        read_source(path)
    assert "TOPSECRET" not in str(error.value)


@pytest.mark.parametrize("keep", [4, 100, 0.5, -1])
def test_a_file_that_is_cut_short_is_refused(keep: float, digits: Digits, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "digits", digits.x_train[:50], digits.y_train[:50])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])

    with pytest.raises(InputError, match=rf"^{path} is corrupt or cut short"):
        read_source(path)


def test_without_pyarrow_the_message_says_how_to_install_it(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "digits", digits.x_train[:50], digits.y_train[:50])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(
        InputError, match=r"digits-train\.parquet is a parquet file, which pyarrow reads, .* -m pip install"
    ):
        read_source(path)
