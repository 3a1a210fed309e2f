"""A table's name tells its split; in a folder there may be several; a folder in a folder is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.data.dataset import Digits, Split
from mnist_tasks.data.sources import fetch, read_source
from mnist_tasks.system.errors import InputError
from tests.forms import write_csv, write_parquet


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("digits.csv", "train"),
        ("train.csv", "train"),
        ("mnist_train.csv", "train"),
        ("test.csv", "test"),
        ("mnist_test.csv", "test"),
        ("t10k.csv", "test"),
        ("latest.csv", "train"),
        ("Testing Set.CSV", "test"),
        ("train_test.csv", "train"),
    ],
)
def test_the_name_of_a_table_tells_its_split(name: str, split: Split, digits: Digits, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "x", digits.x_test[:20], digits.y_test[:20]).rename(tmp_path / name)
    (tmp_path / "out").mkdir()

    assert fetch(table, tmp_path / "out") == (split,)


def test_several_tables_of_a_folder_are_joined_in_the_order_of_their_names(digits: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "mnist"
    folder.mkdir(parents=True)
    (tmp_path / "digits" / "README.md").write_text("A clone of a data set.")
    for part in (1, 0):
        images, labels = (array[part * 1000 : (part + 1) * 1000] for array in (digits.x_train, digits.y_train))
        path = write_parquet(tmp_path / "part", images, labels)
        path.rename(folder / f"train-{part:05}-of-00002.parquet")
    write_csv(tmp_path / "part", digits.x_test, digits.y_test, "test").rename(folder / "test-00000-of-00001.csv")

    assert read_source(tmp_path / "digits").digest() == digits.digest()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sample_submission.csv", "is called neither train nor test"),
        ("3/a.png", "3 is not expected there: a folder with tables holds nothing else"),
        ("notes.doc", "notes.doc is not expected there"),
    ],
)
def test_what_else_is_in_a_folder_of_tables_is_named(name: str, words: str, digits: Digits, tmp_path: Path) -> None:
    write_csv(tmp_path / "x", digits.x_train[:20], digits.y_train[:20])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("Id,Label\n1,0\n")

    with pytest.raises(InputError, match=words):
        read_source(tmp_path)


@pytest.mark.parametrize("inside", ["MNIST/raw", "raw", "a/b/c"])
def test_a_folder_in_a_folder_is_found(inside: str, digits: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "data" / inside
    folder.mkdir(parents=True)
    (folder.parent / "desktop.ini").touch()
    if inside == "raw":
        (folder.parent / "processed").mkdir()
    for split, images, labels in (("train", digits.x_train, digits.y_train), ("test", digits.x_test, digits.y_test)):
        write_csv(folder / "digits", images, labels, split)

    source = read_source(tmp_path / "data")

    np.testing.assert_array_equal(source.x_test, digits.x_test)
    assert source.digest() == digits.digest()
