"""Tables of text: however they are laid out, the same digits come out; a line that is not as the others is named."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.data.dataset import Digits, UInt8
from mnist_tasks.data.readers import text_table
from mnist_tasks.data.sources import fetch, read_source
from mnist_tasks.system.errors import InputError
from tests.forms import csv_lines

IMAGES = 40


@pytest.fixture(scope="module")
def some(digits: Digits) -> tuple[UInt8, UInt8]:
    return digits.x_train[:IMAGES], digits.y_train[:IMAGES]


@pytest.fixture
def lines(some: tuple[UInt8, UInt8]) -> list[str]:
    return list(csv_lines(*some))


def read(path: Path, out: Path) -> tuple[UInt8, UInt8]:
    """Read a source with only a training set."""
    out.mkdir()
    assert fetch(path, out) == ("train",)
    return np.load(out / "x_train.npy"), np.load(out / "y_train.npy")


def label_last(lines: Sequence[str]) -> list[str]:
    return [",".join([*line.split(",")[1:], line.split(",")[0]]) for line in lines]


def arff(lines: Sequence[str]) -> str:
    names = [f"@ATTRIBUTE 'pixel{number}' real" for number in range(1, 785)]
    head = ["% OpenML", "", "@RELATION 'mnist_784'", *names, "@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}", "@DATA", ""]
    return "\n".join([*head, *label_last(lines[1:])]) + "\n"


def floats(lines: Sequence[str], form: str) -> str:
    """The pixels divided by 255, written in a form."""
    rows = [line.split(",") for line in lines[1:]]
    texts = [",".join([label, *(format(int(pixel) / 255, form) for pixel in pixels)]) for label, *pixels in rows]
    return "\n".join([lines[0], *texts])


LAYOUTS: dict[str, Callable[[list[str]], str]] = {
    "Kaggle's": "\n".join,
    "with a blank end": lambda lines: "\n".join([*lines, "", "  ", ""]),
    "without names": lambda lines: "\n".join(lines[1:]),
    "label last": lambda lines: "\n".join(label_last(lines)),
    "label last, without names": lambda lines: "\n".join(label_last(lines[1:])),
    "another language": lambda lines: "\n".join([lines[0].replace("label", "étiquette"), *lines[1:]]),
    "names of rows and columns": lambda lines: "\n".join(
        [",".join(["label", *(f"{row}x{column}" for row in range(28) for column in range(28))]), *lines[1:]]
    ),
    "names that say nothing": lambda lines: "\n".join([",".join(["a"] * 785), *lines[1:]]),
    "semicolons": lambda lines: "\n".join(lines).replace(",", ";"),
    "tabs": lambda lines: "\n".join(lines).replace(",", "\t"),
    "spaces after commas": lambda lines: "\n".join(lines).replace(",", ", "),
    "line ends of Windows": "\r\n".join,
    "a byte-order mark": lambda lines: "\ufeff" + "\n".join(lines),
    "quotes": lambda lines: "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in lines),
    "whole floats": lambda lines: "\n".join([lines[0], *(",".join(f"{v}.0" for v in x.split(",")) for x in lines[1:])]),
    "floats from 0 to 1": lambda lines: floats(lines, ".18g"),
    "floats with four digits": lambda lines: floats(lines, ".4f"),
    "ARFF": arff,
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_digits_come_from_every_layout(
    layout: str, zipped: bool, lines: list[str], some: tuple[UInt8, UInt8], tmp_path: Path
) -> None:
    content = LAYOUTS[layout](lines).encode()
    path = tmp_path / ("digits.arff" if layout == "ARFF" else "digits.csv")
    path.write_bytes(gzip.compress(content) if zipped else content)

    images, labels = read(path, tmp_path / "out")

    np.testing.assert_array_equal(images, some[0])
    np.testing.assert_array_equal(labels, some[1])


def test_a_table_is_known_by_its_content_too(lines: list[str], some: tuple[UInt8, UInt8], tmp_path: Path) -> None:
    (tmp_path / "source").write_text("\n".join(lines))

    np.testing.assert_array_equal(read(tmp_path / "source", tmp_path / "out")[0], some[0])


def test_a_table_is_read_in_pieces(
    lines: list[str], some: tuple[UInt8, UInt8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_table, "CHUNK", 7)
    (tmp_path / "digits.csv").write_text("\n".join(lines))

    np.testing.assert_array_equal(read(tmp_path / "digits.csv", tmp_path / "out")[0], some[0])


def changed(line: int, column: int, text: str) -> Callable[[list[str]], str]:
    """Put a text into a line, counted from 1, and a column, counted from 0."""

    def change(lines: list[str]) -> str:
        fields = lines[line - 1].split(",")
        fields[column] = text
        lines[line - 1] = ",".join(fields)
        return "\n".join(lines)

    return change


def cut(line: int, columns: int, add: str = "") -> Callable[[list[str]], str]:
    def change(lines: list[str]) -> str:
        lines[line - 1] = ",".join(lines[line - 1].split(",")[:columns]) + add
        return "\n".join(lines)

    return change


BAD: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "783 pixels": (lambda lines: "\n".join(line.rpartition(",")[0] for line in lines), "line 1 has 784 values; .*785"),
    "785 pixels": (lambda lines: "\n".join(line + ",0" for line in lines), "line 1 has 786 values; .*index=False"),
    "no labels": (lambda lines: "\n".join(line.partition(",")[2] for line in lines), "without labels, as in Kaggle's"),
    "one column": (lambda _: "TOPSECRET\n1\n2\n", "line 1 has 1 values; .*none of comma"),
    "a line without a pixel": (cut(17, 784), "line 17 has 784 values"),
    "half a last line": (cut(IMAGES + 1, 300), "line 41, the last one, has 300 of 785 values: the file is cut short"),
    "label 10": (changed(5, 0, "10"), "line 5: the label is 10; labels are whole numbers from 0 to 9"),
    "label 1.5": (changed(5, 0, "1.5"), r"line 5: the label is 1\.5"),
    "label -1": (changed(5, 0, "-1"), "line 5: the label is -1"),
    "label nan": (changed(5, 0, "nan"), "line 5: the label is nan"),
    "no label": (changed(5, 0, ""), "line 5: the label is not a number"),
    "label of text": (changed(5, 0, "TOPSECRET"), "line 5: the label is not a number"),
    "pixel 256": (changed(9, 3, "256"), "image 7 has a pixel of 256; pixels are whole numbers from 0"),
    "pixel -1": (changed(9, 3, "-1"), "image 7 has a pixel of -1"),
    "pixel 0.5": (changed(9, 3, "0.5"), r"image 7 has a pixel of 0\.5"),
    "pixel inf": (changed(9, 3, "inf"), "image 7 has a pixel of inf"),
    "pixel 10**30": (changed(9, 3, "1" + "0" * 30), r"image 7 has a pixel of 1e\+30"),
    "no pixel": (changed(9, 3, ""), "line 9: value 4 is empty"),
    "pixel of text": (changed(9, 3, "TOPSECRET"), "line 9: value 4 is not a number"),
    "decimal commas": (lambda lines: "\n".join(lines).replace(",", ";").replace("0", "0,5"), "is not a number"),
    "only names": (lambda lines: lines[0], "the train set is empty"),
    "label in the middle": (
        lambda lines: "\n".join(
            ",".join([*line.split(",")[1:9], line.split(",")[0], *line.split(",")[9:]]) for line in lines
        ),
        "does not show whether the label comes first or last; put a line with names in front",
    ),
    "a long line": (lambda lines: "\n".join([*lines, "1," * 20_000]), "line 42 has more than 32,768 characters"),
    "NUL": (changed(9, 3, "\0"), "line 9: value 4 is not a number"),
    "UTF-16": (lambda lines: "\n".join(lines), "is text in UTF-16; save it as UTF-8"),
    "sparse ARFF": (
        lambda lines: arff(lines).partition("@DATA")[0] + "@DATA\n{3 255, 784 5}\n",
        "is a sparse ARFF file",
    ),
    "ARFF without data": (lambda lines: arff(lines).partition("@DATA")[0], "has no lines after @DATA"),
    "ARFF of 2 attributes": (
        lambda _: "@RELATION a\n@ATTRIBUTE b real\n@ATTRIBUTE c real\n@DATA\n1,2\n",
        "declares 2 attributes",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_table_is_refused_with_the_line_and_without_its_text(
    fault: str, lines: list[str], tmp_path: Path
) -> None:
    change, words = BAD[fault]
    path = tmp_path / ("bad.arff" if "ARFF" in fault else "bad.csv")
    path.write_text(change(lines), encoding="utf-16" if fault == "UTF-16" else "utf-8")

    with pytest.raises(InputError, match=rf"^{path}.*{words}") as error:
        read_source(path)
    assert "TOPSECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("bound", "value", "words"),
    [("MAX_IMAGES", 30, "has more than 30 lines; split it"), ("MAX_BYTES", 1 << 14, "GiB of text; split it")],
)
def test_more_than_the_bounds_is_refused_before_it_is_read_to_the_end(
    bound: str, value: int, words: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table never ends: each line is followed by another one."""
    monkeypatch.setattr(text_table, bound, value)
    endless = itertools.chain(lines, itertools.repeat(lines[-1]))
    (tmp_path / "digits.csv").write_text("\n".join(itertools.islice(endless, 5_000)))

    with pytest.raises(InputError, match=words):
        read_source(tmp_path / "digits.csv")


def test_one_digit_and_no_names_do_not_show_where_the_label_is(digits: Digits, tmp_path: Path) -> None:
    ones = digits.y_train == 1
    lines = list(csv_lines(digits.x_train[ones], digits.y_train[ones]))
    (tmp_path / "ones.csv").write_text("\n".join(lines[1:]))

    with pytest.raises(InputError, match="does not show whether the label comes first or last"):
        read_source(tmp_path / "ones.csv")
