"""Read a folder with MNIST's IDX files, each gzipped or not."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnist_tasks.data.dataset import IMAGE_SHAPE, SPLITS, Split
from mnist_tasks.data.readers.common import (
    AnnouncedSplit,
    check_announced_size,
    check_link,
    image_chunks,
    read_errors_named,
    read_exactly,
)
from mnist_tasks.data.readers.pixels import checked_labels
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable

# http://yann.lecun.com/exdb/mnist: magic numbers of an IDX file of unsigned bytes with three dimensions and with one.
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def has_idx_files(folder: Path) -> bool:
    with read_errors_named(folder):
        return any(path.exists() for stem in IDX_FILES.values() for path in _idx_paths(folder, stem))


def _idx_paths(folder: Path, stem: str) -> Iterator[Path]:
    """Where an IDX file may lie: under MNIST's name, or with a dot in it, as Kaggle has it; there in a folder, too."""
    names = (stem, stem.replace("-idx", ".idx"))
    for name in names:
        yield from (folder / name, folder / f"{name}.gz")
    for name in names:
        yield from (folder / outer / name for outer in names)


def read_idx(folder: Path) -> Iterator[tuple[Split, AnnouncedSplit]]:
    """The splits of a folder with MNIST's IDX files, each gzipped (`.gz`) or not."""
    paths: dict[str, Path] = {}
    with read_errors_named(folder):
        for name, stem in IDX_FILES.items():
            for path in _idx_paths(folder, stem):
                if path.is_file():
                    check_link(path, folder)
                    paths.setdefault(name, path)
    if not paths:
        raise InputError(
            f"{printable(folder)} has folders with the names of IDX files and no such file in them; unpack it again"
        )
    for split in SPLITS:
        names = (f"x_{split}", f"y_{split}")
        missing = [IDX_FILES[name] for name in names if name not in paths]
        if len(missing) == len(names):
            continue
        if missing:
            stem = missing[0]
            raise InputError(
                f"{printable(folder)} has no {stem} and no {stem}.gz; it needs {', '.join(IDX_FILES.values())}, "
                "gzipped or not"
            )
        images, labels = (paths[name] for name in names)
        with _opened(images) as x, _opened(labels) as y:
            (count, *_) = _idx_header(x, images, IDX_IMAGES)
            (length,) = _idx_header(y, labels, IDX_LABELS)
            with read_errors_named(labels):
                values = np.frombuffer(read_exactly(y, length, printable(labels)), np.uint8)
            checked = checked_labels(values, f"{printable(folder)}: y_{split}")
            yield split, AnnouncedSplit(count, checked, image_chunks(x, count, images))


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    with read_errors_named(path):
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _idx_header(file: BinaryIO | gzip.GzipFile, path: Path, expected: int) -> list[int]:
    """The shape that an IDX file announces."""
    dimensions, kind = (3, "images") if expected == IDX_IMAGES else (1, "labels")
    with read_errors_named(path):
        header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{printable(path)} is cut short: {len(header)} bytes, less than its header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != expected:
        # Other bytes than an IDX file's are not repeated: who knows what file this is.
        found = f"starts with {magic:#010x}" if magic in (IDX_IMAGES, IDX_LABELS) else "is not an IDX file"
        raise InputError(f"{printable(path)} {found}; an IDX file of {kind} starts with {expected:#010x}")
    if kind == "images" and tuple(shape[1:]) != IMAGE_SHAPE:
        raise InputError(f"{printable(path)} announces shape {tuple(shape)}; images need shape (n, 28, 28)")
    with read_errors_named(path):
        stored = path.stat().st_size
    check_announced_size(printable(path), shape, 1, stored)
    return shape
