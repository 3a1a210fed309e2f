"""The second task: pixels to float32 in [0, 1], written once beside the raw images and reused by every run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from mnist_tasks.dataset import PIXEL_MAX, SPLITS, ArrayFile, Dataset, Float32, Split, UInt8, write_array
from mnist_tasks.errors import InputError
from mnist_tasks.files import write_atomically
from mnist_tasks.runtime import reported

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Normalized:
    """What `normalize` hands on: the dataset, and whether the normalized images lay there already."""

    digest: str
    reused: bool


def scaled(pixels: UInt8) -> Float32:
    """Pixels 0 to 255 as float32 in [0, 1]: x/255."""
    return np.divide(pixels, np.float32(PIXEL_MAX), dtype=np.float32)


@reported
def normalize(dataset_folder: Path) -> Normalized:
    """Write the normalized images of both splits into the dataset's folder, unless they lie there already.

    Args:
        dataset_folder: `datasets/<digest>` as `load` wrote it.

    Raises:
        InputError: if the folder holds no dataset.
    """
    log.info("reading the raw images in %s", dataset_folder)
    dataset = Dataset(dataset_folder)
    dataset.description()
    with FileLock(dataset_folder.parent / ".lock"):
        written = [split for split in SPLITS if _write_split(dataset, split)]
    log.info("%s float32 images in [0, 1] in %s", "wrote" if written else "reusing", dataset_folder)
    return Normalized(dataset.digest, reused=not written)


def _write_split(dataset: Dataset, split: Split) -> bool:
    """Write the normalized images of one split; False if they lie there already, whole."""
    pixels = ArrayFile.open(dataset.folder / f"x_{split}.npy")
    path = dataset.normalized_path(split)
    if path.exists():
        try:
            if dataset.normalized(split).shape == pixels.shape:
                return False
        except InputError as error:
            log.warning("%s; writing it again", error)

    write_atomically(path, lambda temporary: write_array(temporary, pixels.shape, map(scaled, pixels.chunks())))
    return True
