"""Write a dataset: the source's digits in their order, then those of the accepted batches.

The batches' images are sorted by a hash of each image and by its label. So the digest of the content depends neither on
the form in which a batch came nor on its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.data import contact_sheets
from mnist_tasks.data.arrays import CHUNK, ArrayFile, write_array
from mnist_tasks.data.batches import CheckedBatch
from mnist_tasks.data.dataset import ARRAYS, DESCRIPTION, DIGITS, IMAGE_SHAPE, SPLITS, Dataset, UInt8, folder_digest
from mnist_tasks.data.profile import LEVELS, TestSet
from mnist_tasks.documents import DatasetDescription, MergedBatch
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.task_log import best_effort

MEANS = "means.png"


def is_intact(folder: Path) -> bool:
    """Whether a dataset's folder holds, byte for byte, the arrays that it is named after."""
    try:
        return (folder / DESCRIPTION).is_file() and folder_digest(folder) == folder.name
    except InputError:
        return False


def merge(source: Path, batches: Sequence[CheckedBatch], target: Path) -> None:
    """Write the source's arrays, followed by those of the accepted batches, to a new folder."""
    target.mkdir()
    for split in SPLITS:
        images, labels = (ArrayFile.open(source / f"{axis}_{split}.npy") for axis in "xy")
        added = [batch.profiles[split] for batch in batches if split in batch.profiles]
        total = len(images) + sum(map(len, added))
        new_labels = np.concatenate([np.empty(0, np.uint8), *(profile.labels for profile in added)])
        new_keys = np.concatenate([np.empty(0, np.uint64), *(profile.keys for profile in added)])
        order = np.lexsort((new_labels, new_keys))
        write_array(target / f"y_{split}.npy", (total,), [labels.all(), new_labels[order]])
        files = [file for profile in added for file in profile.files]
        write_array(target / f"x_{split}.npy", (total, *IMAGE_SHAPE), chain(images.chunks(), _gather(files, order)))


def write_dataset(
    folder: Path, digest: str, arrays: Path, source: str, test_set: TestSet, batches: Sequence[CheckedBatch]
) -> None:
    """Fill a dataset's folder with the arrays, what is in them, and what they look like.

    Args:
        folder: an empty folder that becomes the dataset.
        digest: of the content.
        arrays: the folder that the arrays are moved from.
        source: as the user named it.
        test_set: the source's.
        batches: the accepted ones.
    """
    for name in ARRAYS:
        (arrays / f"{name}.npy").rename(folder / f"{name}.npy")
    dataset = Dataset(folder)
    labels = {split: np.array(dataset.labels(split)) for split in SPLITS}
    counts, means = _statistics(ArrayFile.open(folder / "x_train.npy"), labels["train"])
    figures = folder / "figures"
    figures.mkdir()
    with best_effort(MEANS):
        contact_sheets.mean_images(means, figures / MEANS)
    for batch in batches:
        if batch.sheet:
            shutil.copyfile(batch.sheet, figures / batch.sheet.name)
    levels = np.arange(len(counts))
    mean = float(np.average(levels, weights=counts))
    names = ("name", "train_images", "test_images", "picture")
    digits: dict[str, Any] = {
        f"{split}_images_per_digit": np.bincount(labels[split], minlength=DIGITS).tolist() for split in SPLITS
    }
    description = DatasetDescription(
        digest=digest,
        # A model card must not say that this is MNIST and nothing else.
        source=source + (f" with {len(batches)} of the inbox's batches" if batches else ""),
        batches=[MergedBatch(**{name: getattr(batch.report, name) for name in names}) for batch in batches],
        train_images=len(labels["train"]),
        test_images=len(labels["test"]),
        train_pixel_mean=mean,
        train_pixel_std=float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))),
        train_pixel_histogram=counts.reshape(LEVELS, -1).sum(axis=1).tolist(),
        **digits,
        **asdict(test_set),
    )
    description.write(folder / DESCRIPTION)


def _gather(files: Sequence[ArrayFile], order: npt.NDArray[np.intp]) -> Iterator[UInt8]:
    """The images of several files in the order of their positions, counted through all files."""
    starts = np.cumsum([0, *map(len, files)])
    for start in range(0, len(order), CHUNK):
        wanted = order[start : start + CHUNK]
        chunk = np.empty((len(wanted), *IMAGE_SHAPE), np.uint8)
        for file, first, end in zip(files, starts[:-1], starts[1:], strict=True):
            here = (wanted >= first) & (wanted < end)
            chunk[here] = file.rows(wanted[here] - first)
        yield chunk


def _statistics(images: ArrayFile, labels: UInt8) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How often each of the 256 grey levels occurs, and the mean image of each digit; NaN for one without images."""
    counts, sums, start = np.zeros(256, np.int64), np.zeros((DIGITS, *IMAGE_SHAPE), np.int64), 0
    for chunk in images.chunks():
        counts += np.bincount(chunk.reshape(-1), minlength=256)
        for digit in range(DIGITS):
            sums[digit] += chunk[labels[start : start + len(chunk)] == digit].sum(axis=0, dtype=np.int64)
        start += len(chunk)
    number = np.bincount(labels, minlength=DIGITS).reshape(-1, 1, 1)
    return counts, np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
