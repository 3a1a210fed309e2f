"""Read tables with an image a row, text or parquet: one file, or a folder of them, in which names tell the splits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from mnist_tasks.data.dataset import SPLITS, Split
from mnist_tasks.data.readers import parquet, text_table
from mnist_tasks.data.readers.common import AnnouncedSplit, entries, read_errors_named
from mnist_tasks.data.readers.kinds import TABLE_SUFFIXES, is_parquet, is_table
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable

SUFFIXES = (*TABLE_SUFFIXES, *(f"{suffix}.gz" for suffix in TABLE_SUFFIXES), ".parquet")


def has_tables(path: Path) -> bool:
    """Whether a path is a table, or a folder with files that are called so."""
    if path.is_file():
        return is_parquet(path) or is_table(path)
    with read_errors_named(path):
        return path.is_dir() and any(_is_called_table(path / entry.name) for entry in entries(path))


def read_tables(path: Path) -> Iterator[tuple[Split, AnnouncedSplit]]:
    """The splits of a table, or of the tables in a folder; those of one split are joined in the order of their names.

    A table is a test set if its name says so, as in `test.csv`, `mnist_test.csv` and `test-00000-of-00001.parquet`.
    """
    tables = {path: _split(path) or "train"} if path.is_file() else _tables_by_split(path)
    announced = {table: (parquet if is_parquet(table) else text_table).announce(table) for table in tables}
    for split in SPLITS:
        parts = [announced[table] for table in tables if tables[table] == split]
        if parts:
            images = sum(part.images for part in parts)
            labels = np.concatenate([part.labels for part in parts])
            yield split, AnnouncedSplit(images, labels, chain.from_iterable(part.chunks for part in parts))


def _tables_by_split(folder: Path) -> dict[Path, Split]:
    """The tables of a folder, in which there is nothing else."""
    with read_errors_named(folder):
        paths = [folder / entry.name for entry in entries(folder)]
    splits = {}
    for path in paths:
        if not path.is_file() or not _is_called_table(path):
            raise InputError(f"{printable(path)} is not expected there: a folder with tables holds nothing else")
        split = _split(path) or ("train" if len(paths) == 1 else None)
        if not split:
            raise InputError(
                f"{printable(path)} is called neither train nor test, which tells what a table among others is for; "
                "rename it, or take it out of the folder"
            )
        splits[path] = split
    return splits


def _is_called_table(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _split(table: Path) -> Split | None:
    """Which split the name of a file speaks of."""
    words = re.split(r"[^a-z0-9]+", table.name.lower())
    if any(word.startswith("train") for word in words):
        return "train"
    return "test" if any(word.startswith(("test", "t10k")) for word in words) else None
