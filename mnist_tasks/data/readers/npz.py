"""Read an `.npz` file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, as Keras has it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist_tasks.data.arrays import npy_header
from mnist_tasks.data.dataset import ARRAYS, SPLITS, Split, check_images, check_labels
from mnist_tasks.data.readers.common import (
    AnnouncedSplit,
    check_announced_size,
    checked_labels,
    image_chunks,
    read_errors_named,
    read_exactly,
)
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable


def read_npz(path: Path) -> Iterator[tuple[Split, AnnouncedSplit]]:
    """The splits of an `.npz` file with the names that Keras uses."""
    with read_errors_named(path), path.open("rb") as file, _opened_zip(file, path) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        splits = [split for split in SPLITS if {f"x_{split}", f"y_{split}"} & members]
        wanted = [f"{axis}_{split}" for split in splits or SPLITS for axis in "xy"]
        missing = [name for name in wanted if name not in members]
        if missing:
            # Of what may be somebody else's archive, no other name is repeated.
            found = ", ".join(name for name in ARRAYS if name in members) or "none of them"
            raise InputError(
                f"{printable(path)} has no array {', '.join(missing)}; it needs {', '.join(ARRAYS)} and has {found}"
            )
        for name in wanted:
            # What the directory says may be a lie.
            stored = min(archive.getinfo(f"{name}.npy").compress_size, path.stat().st_size)
            with archive.open(f"{name}.npy") as member:
                _check_npy(f"{printable(path)}: {name}", name, stored, member)
        for split in splits:
            with archive.open(f"x_{split}.npy") as images, archive.open(f"y_{split}.npy") as labels:
                what = f"{printable(path)}: y_{split}"
                (count, *_), _, _ = npy_header(images)
                (length, *_), _, dtype = npy_header(labels)
                values = np.frombuffer(read_exactly(labels, length * dtype.itemsize, what), dtype)
                yield split, AnnouncedSplit(count, checked_labels(values, what), image_chunks(images, count, path))


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
    (check_images if name.startswith("x_") else check_labels)(shape, dtype, what)
    if fortran_order and len(shape) > 1:
        raise InputError(f"{what} is stored column after column; save it with numpy.ascontiguousarray")
    check_announced_size(what, shape, dtype.itemsize, stored)
