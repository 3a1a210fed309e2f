"""Read a folder of pictures by digit: `0/` to `9/`, or `train/` and `test/` with such folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mnist_tasks.data.arrays import CHUNK
from mnist_tasks.data.dataset import DIGITS, SPLITS, Split, UInt8
from mnist_tasks.data.readers.common import MAX_IMAGES, AnnouncedSplit, entries, read_errors_named
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable

LABEL_FOLDERS = {*SPLITS, *map(str, range(DIGITS))}


def has_pictures(path: Path) -> bool:
    """Whether a path is a folder with folders for pictures."""
    with read_errors_named(path):
        return path.is_dir() and any(entry.name in LABEL_FOLDERS for entry in entries(path))


def read_pictures(folder: Path) -> Iterator[tuple[Split, AnnouncedSplit]]:
    """The splits of a folder of pictures: `0/` to `9/` for training, or those in `train/` and in `test/`."""
    with read_errors_named(folder):
        names = [entry.name for entry in entries(folder)]
    digits = LABEL_FOLDERS.difference(SPLITS)
    unknown = [name for name in names if name not in LABEL_FOLDERS]
    if unknown:
        raise InputError(
            f"{printable(folder / unknown[0])} is not expected there: a folder of pictures has folders 0 to 9, or "
            "train and test with such folders, and nothing else"
        )
    if "train" in names and digits.intersection(names):
        raise InputError(f"{printable(folder)} has train and folders 0 to 9 beside it; move the one into the other")
    for split in SPLITS:
        root = folder / split if split in names else folder
        if root == folder and (split == "test" or not digits.intersection(names)):
            continue
        with read_errors_named(root):
            pictures = _labelled(root)
        if len(pictures) > MAX_IMAGES:
            raise InputError(f"{printable(root)} has {len(pictures):,} pictures, more than {MAX_IMAGES:,}; split it")
        labels = np.array([label for label, _ in pictures], np.uint8)
        yield split, AnnouncedSplit(len(pictures), labels, _picture_chunks([path for _, path in pictures]))


def _labelled(root: Path) -> list[tuple[int, Path]]:
    """The pictures in the folders 0 to 9, sorted by digit and name."""
    pictures = []
    for entry in entries(root):
        path = root / entry.name
        if not (entry.is_dir() and entry.name in LABEL_FOLDERS.difference(SPLITS)):
            raise InputError(f"{printable(path)} is not expected there: a folder of pictures has folders 0 to 9")
        for picture in entries(path):
            if not picture.is_file():
                raise InputError(
                    f"{printable(path / picture.name)} is not a file; a digit's folder holds only pictures"
                )
            pictures.append((int(entry.name), path / picture.name))
    return pictures


def _picture_chunks(paths: Sequence[Path]) -> Iterator[UInt8]:
    # Imported here: only this form needs it.
    from mnist_tasks.data.image_files import read_content, read_digits

    for start in range(0, len(paths), CHUNK):
        yield read_digits((str(path), read_content(path)) for path in paths[start : start + CHUNK])
