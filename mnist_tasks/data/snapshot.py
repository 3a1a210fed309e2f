"""Write a dataset: the source's digits in their order, then those of the accepted batches.

The batches' images are sorted by a hash of each image and by its label. So the digest of the content depends neither on
the form in which a batch came nor on its name. No image is written twice: a dataset with batches refers to the dataset
of its source and to the batches.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.data import contact_sheets
from mnist_tasks.data.arrays import ArrayFile
from mnist_tasks.data.batches import CheckedBatch
from mnist_tasks.data.dataset import ARRAYS, DESCRIPTION, DIGITS, IMAGE_SHAPE, SPLITS, Dataset
from mnist_tasks.data.pieces import Piece
from mnist_tasks.data.profile import LEVELS, TestSet
from mnist_tasks.documents import DatasetDescription, MergedBatch
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.task_log import best_effort

MEANS = "means.png"

Counts = npt.NDArray[np.int64]
Means = npt.NDArray[np.float64]


def is_intact(folder: Path) -> bool:
    """Whether a dataset's folder leads, byte for byte, to the arrays that it is named after."""
    try:
        return (folder / DESCRIPTION).is_file() and Dataset(folder).content_digest() == folder.name
    except InputError:
        return False


def refers_to_the_same(folder: Path, description: DatasetDescription) -> bool:
    """Whether a dataset exists that is made of the same base and batches."""
    try:
        found = Dataset(folder).description()
    except InputError:
        return False
    contents = [sorted(str(batch.content) for batch in each.batches) for each in (found, description)]
    return found.base == description.base and contents[0] == contents[1]


def write_base(folder: Path, source: Piece, name: str, test_set: TestSet) -> Piece:
    """Fill the folder of a dataset that is a source and nothing else; its arrays are moved there.

    Args:
        folder: an empty folder that becomes the dataset.
        source: its digits.
        name: the source as the user named it.
        test_set: the source's.
    """
    for array in ARRAYS:
        (source.folder / f"{array}.npy").rename(folder / f"{array}.npy")
    moved = source.moved(folder)
    if moved.profiles:
        moved.write_profile()
        moved.write_measurements()
    _describe(folder, DatasetDescription(digest=source.content, source=name, train_images=0, test_images=0), test_set)
    return moved


def write_merged(
    folder: Path, digest: str, base: str, name: str, test_set: TestSet, batches: Sequence[CheckedBatch]
) -> None:
    """Fill the folder of a dataset that adds batches to a source; the arrays stay where they are.

    Args:
        folder: an empty folder that becomes the dataset.
        digest: of all images and labels.
        base: the digest of the source's dataset.
        name: the source as the user named it.
        test_set: the source's.
        batches: the accepted ones.
    """
    for batch in batches:
        if batch.sheet:
            (folder / "figures").mkdir(exist_ok=True)
            shutil.copyfile(batch.sheet, folder / "figures" / batch.sheet.name)
    _describe(folder, merged(digest, base, name, batches), test_set)


def merged(digest: str, base: str, name: str, batches: Sequence[CheckedBatch]) -> DatasetDescription:
    """What `dataset.json` says of a source with batches, before its images are counted."""
    fields = ("name", "train_images", "test_images", "picture")
    return DatasetDescription(
        digest=digest,
        # A model card must not say that this is MNIST and nothing else.
        source=f"{name} with {len(batches)} of the inbox's batches",
        base=base,
        batches=[
            MergedBatch(
                **{field: getattr(batch.report, field) for field in fields},
                content=batch.piece.content if batch.piece else None,
            )
            for batch in batches
        ],
        train_images=0,
        test_images=0,
    )


def _describe(folder: Path, description: DatasetDescription, test_set: TestSet) -> None:
    """Write `dataset.json`, with what is counted in the images, and draw the mean images."""
    # The datasets that it is made of are found beside the place where it will be.
    dataset = Dataset(folder, described=description)
    labels = {split: np.array(dataset.labels(split)) for split in SPLITS}
    counts, means = _statistics(dataset.files("x_train").parts, dataset.files("y_train").parts)
    (folder / "figures").mkdir(exist_ok=True)
    with best_effort(MEANS):
        contact_sheets.mean_images(means, folder / "figures" / MEANS)
    levels = np.arange(len(counts))
    mean = float(np.average(levels, weights=counts))
    digits: dict[str, Any] = {
        f"{split}_images_per_digit": np.bincount(labels[split], minlength=DIGITS).tolist() for split in SPLITS
    }
    found: dict[str, Any] = {
        "train_images": len(labels["train"]),
        "test_images": len(labels["test"]),
        "train_pixel_mean": mean,
        "train_pixel_std": float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))),
        "train_pixel_histogram": counts.reshape(LEVELS, -1).sum(axis=1).tolist(),
    }
    description.model_copy(update={**found, **digits, **asdict(test_set)}).write(folder / DESCRIPTION)


def _statistics(images: Sequence[ArrayFile], labels: Sequence[ArrayFile]) -> tuple[Counts, Means]:
    """How often each of the 256 grey levels occurs, and the mean image of each digit; NaN for one without images.

    Args:
        images: files with the images.
        labels: the file with the labels for each of them.
    """
    counts, sums = np.zeros(256, np.int64), np.zeros((DIGITS, *IMAGE_SHAPE), np.int64)
    number = np.zeros(DIGITS, np.int64)
    for pixels, digits in zip(images, labels, strict=True):
        for chunk, digit_of in zip(pixels.chunks(), digits.chunks(), strict=True):
            counts += np.bincount(chunk.reshape(-1), minlength=256)
            number += np.bincount(digit_of, minlength=DIGITS)
            for digit in range(DIGITS):
                sums[digit] += chunk[digit_of == digit].sum(axis=0, dtype=np.int64)
    images_of = number.reshape(-1, 1, 1)
    return counts, np.divide(sums, images_of, out=np.full(sums.shape, np.nan), where=images_of > 0)
