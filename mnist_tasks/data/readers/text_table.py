"""Read a table of text with an image a line: CSV as Kaggle has it, and OpenML's ARFF, each gzipped or not.

A line has 784 pixels, row after row, and the label in front or at the end. A first line with names may say which. The
file is read twice, in pieces: first its labels, then its pixels.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_tasks.data.arrays import CHUNK
from mnist_tasks.data.dataset import DIGITS, IMAGE_SHAPE, UInt8
from mnist_tasks.data.readers.common import MAX_IMAGES, AnnouncedSplit, read_errors_named
from mnist_tasks.data.readers.kinds import unzipped
from mnist_tasks.data.readers.pixels import Pixels, Values
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable

PIXELS = math.prod(IMAGE_SHAPE)
COLUMNS = PIXELS + 1
DELIMITERS = ",;\t"
LABEL_NAMES = {"label", "labels", "class", "target", "digit", "y"}
MAX_BYTES = 8 << 30  # of text: more than MAX_IMAGES images of whole numbers
MAX_LINE = 1 << 15  # characters; 785 floats with all their digits have some 19,000

Line = tuple[int, str]


@dataclass(frozen=True)
class _Layout:
    """How a table is laid out: the first line with an image, counted from 1, what separates values, the label's column.

    `label` is 0 or -1.
    """

    first: int
    delimiter: str
    label: int


def announce(path: Path) -> AnnouncedSplit:
    """The images of one table, whose labels have been read.

    Raises:
        InputError: naming the line that is not as the others, or what the table lacks. No text of it is repeated.
    """
    layout = _layout(path)
    labels: list[int] = []
    lines = _lines(path, layout.first)
    line = next(lines, None)
    while line:
        following = next(lines, None)
        _check_columns(path, line, layout.delimiter, last=following is None)
        labels.append(_label(path, line, layout))
        line = following
        if len(labels) > MAX_IMAGES:
            raise InputError(f"{printable(path)} has more than {MAX_IMAGES:,} lines; split it")
    return AnnouncedSplit(len(labels), np.array(labels, np.uint8), _images(path, layout))


def _images(path: Path, layout: _Layout) -> Iterator[UInt8]:
    pixels, lines = Pixels(printable(path)), _lines(path, layout.first)
    while chunk := list(itertools.islice(lines, CHUNK)):
        values = _numbers(path, chunk, layout.delimiter)
        yield pixels.to_bytes(np.ascontiguousarray(values[:, 1:] if layout.label == 0 else values[:, :-1]))


def _lines(path: Path, first: int = 1) -> Iterator[Line]:
    """The lines that are not blank, from the given one on, with their numbers from 1."""
    size = 0
    with read_errors_named(path), path.open("rb") as file:
        # Only names can hold other characters than ASCII, in whatever encoding.
        text = io.TextIOWrapper(unzipped(file), encoding="utf-8-sig", errors="replace")
        for number in itertools.count(1):
            line = text.readline(MAX_LINE + 1)
            size += len(line)
            if not line:
                return
            if len(line) > MAX_LINE:
                raise InputError(
                    f"{printable(path)}: line {number:,} has more than {MAX_LINE:,} characters; a table of digits has "
                    f"{COLUMNS} numbers a line"
                )
            if size > MAX_BYTES:
                raise InputError(f"{printable(path)} has more than {MAX_BYTES >> 30} GiB of text; split it")
            if number >= first and not line.isspace():
                yield number, line.rstrip("\r\n")


def _layout(path: Path) -> _Layout:
    """Find out how a table is laid out, from its first line or, of ARFF, its declarations."""
    lines = _lines(path)
    number, line = next(lines, (1, ""))
    if line.lstrip().lower().startswith(("@relation", "%")):
        return _layout_of_arff(path, lines)
    delimiter = max(DELIMITERS, key=line.count)
    names = [field.strip().strip('"').lower() for field in line.split(delimiter)]
    _check_columns(path, (number, line), delimiter)
    if all(map(_is_number, names)):
        return _Layout(number, delimiter, _column_by_values(path, number, delimiter))
    return _Layout(number + 1, delimiter, _column(path, number + 1, delimiter, names))


def _layout_of_arff(path: Path, lines: Iterator[Line]) -> _Layout:
    """Read the declarations of an ARFF file (https://waikato.github.io/weka-wiki/formats_and_processing/arff)."""
    names = []
    for _, line in lines:
        if name := re.match(r"\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", line, re.IGNORECASE):
            names.append(name[1].strip("'\"").lower())
        elif re.match(r"\s*@data", line, re.IGNORECASE):
            break
    first, line = next(lines, (0, ""))
    if not first:
        raise InputError(f"{printable(path)} has no lines after @DATA; fetch it again")
    if line.lstrip().startswith("{"):
        raise InputError(
            f"{printable(path)} is a sparse ARFF file, which is not read; save it with all values, or as CSV"
        )
    if len(names) != COLUMNS:
        raise InputError(f"{printable(path)} declares {len(names):,} attributes; {_columns_needed(len(names))}")
    return _Layout(first, ",", _column(path, first, ",", names))


def _column(path: Path, first: int, delimiter: str, names: Sequence[str]) -> int:
    """The label's column by the names: the first or the last one."""
    # Pixels are numbered, in any language; a label is not.
    for is_label in (LABEL_NAMES.__contains__, lambda name: not name[-1:].isdigit()):
        found = [column for column in (0, -1) if is_label(names[column])]
        if len(found) == 1:
            return found[0]
    return _column_by_values(path, first, delimiter)


def _column_by_values(path: Path, first: int, delimiter: str) -> int:
    """The label's column by the values in it: digits, and not always the same one as in a corner of the images."""
    lines = list(itertools.islice(_lines(path, first), CHUNK))
    for line in lines:
        _check_columns(path, line, delimiter)
    values = _numbers(path, lines, delimiter) if lines else np.empty((0, COLUMNS))
    possible = [column for column in (0, -1) if np.isin(values[:, column], range(DIGITS)).all()]
    varied = [column for column in possible if len(np.unique(values[:, column])) > 1]
    found = varied if len(possible) > 1 else possible
    if len(found) != 1:
        raise InputError(
            f"{printable(path)} does not show whether the label comes first or last; put a line with names in front, "
            "in which the label is called label"
        )
    return found[0]


def _numbers(path: Path, lines: Sequence[Line], delimiter: str) -> Values:
    """The values of lines with `COLUMNS` values each, as int64 or, if they are not whole, float64."""
    texts = [line for _, line in lines]
    for dtype in (np.int64, np.float64):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # NumPy only warns before it cuts off what is behind the point
                return np.loadtxt(texts, dtype, comments=None, delimiter=delimiter, quotechar='"', ndmin=2)
        except (ValueError, DeprecationWarning):
            continue
    for number, line in lines:
        for column, field in enumerate(line.split(delimiter), 1):
            if not _is_number(field.strip().strip('"')):
                what = "is empty" if not field.strip() else "is not a number"
                raise InputError(f"{printable(path)}: line {number:,}: value {column} {what}")
    raise InputError(f"{printable(path)}: lines {lines[0][0]:,} to {lines[-1][0]:,} are not numbers")


def _label(path: Path, line: Line, layout: _Layout) -> int:
    number, text = line
    label = text.partition(layout.delimiter)[0] if layout.label == 0 else text.rpartition(layout.delimiter)[2]
    label = label.strip().strip("\"'")
    if not _is_number(label):
        raise InputError(f"{printable(path)}: line {number:,}: the label is not a number")
    if float(label) not in range(DIGITS):
        raise InputError(
            f"{printable(path)}: line {number:,}: the label is {float(label):g}; labels are whole numbers from 0 to "
            f"{DIGITS - 1}"
        )
    return int(float(label))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_columns(path: Path, line: Line, delimiter: str, *, last: bool = False) -> None:
    number, text = line
    columns = text.count(delimiter) + 1
    if columns == COLUMNS:
        return
    if last and columns < COLUMNS and number > 1:
        raise InputError(
            f"{printable(path)}: line {number:,}, the last one, has {columns:,} of {COLUMNS} values: the file is cut "
            "short; fetch it again"
        )
    raise InputError(f"{printable(path)}: line {number:,} has {columns:,} values; {_columns_needed(columns)}")


def _columns_needed(columns: int) -> str:
    hints = {
        1: "; none of comma, semicolon and tab separates them",
        PIXELS: "; without labels, as in Kaggle's test.csv, it has to be left out: name the other file itself",
        COLUMNS + 1: "; one that only counts, such as an index of pandas, has to be left out: to_csv(..., index=False)",
    }
    return f"a table of digits has {COLUMNS}, a label and {PIXELS} pixels{hints.get(columns, '')}"
