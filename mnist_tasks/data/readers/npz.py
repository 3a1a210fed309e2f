"""Read an `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, as Keras has it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist_tasks.data.arrays import npy_header
from mnist_tasks.data.dataset import ARRAYS, SPLITS, Split
from mnist_tasks.data.readers.common import (
    AnnouncedSplit,
    check_announced_size,
    image_chunks,
    read_errors_named,
    read_exactly,
)
from mnist_tasks.data.readers.pixels import check_image_type, check_label_type, checked_labels
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable

# What other people call the arrays: MedMNIST, TensorFlow's tutorials, scikit-learn.
OTHER_NAMES = (
    *(f"{split}_{what}" for split in SPLITS for what in ("images", "labels")),
    *("X_train", "X_test", "images", "labels", "data", "target"),
)


def read_npz(path: Path) -> Iterator[tuple[Split, AnnouncedSplit]]:
    """The splits of an `.npz` file with the names that Keras uses."""
    with read_errors_named(path), path.open("rb") as file, _opened_zip(file, path) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        splits = [split for split in SPLITS if {f"x_{split}", f"y_{split}"} & members]
        wanted = [f"{axis}_{split}" for split in splits or SPLITS for axis in "xy"]
        missing = [name for name in wanted if name not in members]
        if missing:
            raise InputError(f"{printable(path)} {_instead(archive.namelist(), members, missing)}")
        for name in wanted:
            # What the directory says may be a lie.
            stored = min(archive.getinfo(f"{name}.npy").compress_size, path.stat().st_size)
            with archive.open(f"{name}.npy") as member:
                _check_npy(f"{printable(path)}: {name}", name, stored, member)
        for split in splits:
            with archive.open(f"x_{split}.npy") as images, archive.open(f"y_{split}.npy") as labels:
                x, y = (f"{printable(path)}: {axis}_{split}" for axis in "xy")
                (count, *_), _, pixels = npy_header(images)
                (length, *_), _, dtype = npy_header(labels)
                values = np.frombuffer(read_exactly(labels, length * dtype.itemsize, y), dtype)
                chunks = image_chunks(images, count, path, x, pixels)
                yield split, AnnouncedSplit(count, checked_labels(values, y), chunks)


def _instead(names: Sequence[str], members: set[str], missing: Sequence[str]) -> str:
    """What an archive without the arrays is, and the way out. Only names that are known are repeated."""
    needs = f"it needs {', '.join(ARRAYS)}"
    if names and not any(name.endswith(".npy") for name in names):
        if "[Content_Types].xml" in names:
            return f"is a document of an office program, not an .npz file; save the table as CSV, or arrays as {needs}"
        if any(name.endswith("data.pkl") for name in names):
            return f"is a file of PyTorch, which holds pickles, so it is never read; save it with numpy.savez: {needs}"
        return "is a zip archive without arrays; unpack it, and name the folder or the file that it holds"
    found = ", ".join(name for name in ARRAYS if name in members) or "none of them"
    others = [name for name in OTHER_NAMES if name in members]
    hint = f"; save its {', '.join(others)} under these names" if others else ""
    return f"has no array {', '.join(missing)}; {needs} and has {found}{hint}"


def _opened_zip(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        if is_transient(error):  # it takes whatever goes wrong while it looks for the directory for a file without one
            raise
        raise InputError(
            f"{printable(path)} is not an .npz file, or one cut short: it has no zip directory at its end"
        ) from error


def _check_npy(what: str, name: str, stored: int, member: Any) -> None:
    """Check what an array in an `.npz` file announces, before any of it is read."""
    shape, fortran_order, dtype = npy_header(member)
    if dtype.hasobject:
        raise InputError(f"{what} is a pickled array; pickles are never read, save it with a plain dtype")
    (check_image_type if name.startswith("x_") else check_label_type)(shape, dtype, what)
    if fortran_order and len(shape) > 1:
        raise InputError(f"{what} is stored column after column; save it with numpy.ascontiguousarray")
    check_announced_size(what, shape, dtype.itemsize, stored)
