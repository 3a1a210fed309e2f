"""The first task: take digits in from a source and snapshot them, once, under the digest of their content."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from mnist_tasks.dataset import ARRAYS, DIGITS, Dataset, Digits, UInt8, write_array
from mnist_tasks.errors import InputError
from mnist_tasks.files import new_folder, remove_staging_folders, write_json
from mnist_tasks.runtime import reported
from mnist_tasks.sources import KNOWN_DIGESTS, read_source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What `load` hands on: which dataset, how many images, and whether it lay there already."""

    digest: str
    train_images: int
    test_images: int
    reused: bool


@reported
def load(source: str, datasets: Path) -> Loaded:
    """Snapshot the digits of `source` as `datasets/<digest>/`, unless that very content lies there already.

    Args:
        source: `builtin`, `keras`, or the path of an `.npz` file or of a folder with the four IDX files.
        datasets: the folder of all datasets; made if needed.

    Raises:
        InputError: if the source is missing, unreadable, corrupt, or holds something else than labelled 28x28 digits.
    """
    log.info("reading the data source %s", source)
    datasets.mkdir(parents=True, exist_ok=True)
    known = KNOWN_DIGESTS.get(source)
    # A lock of its own, not the digest's: two first runs must not both clear each other's staging folder.
    with FileLock(datasets / ".lock"):
        remove_staging_folders(datasets)
        if known and _is_intact(datasets / known):
            return _loaded(Dataset(datasets / known), source, reused=True)
        digits = Digits.checked(read_source(source), source)
        digest = digits.digest()
        if known and digest != known:
            raise InputError(f"{source} has content digest {digest}, but MNIST has {known}; fetch or install it again")
        folder = datasets / digest
        if _is_intact(folder):
            return _loaded(Dataset(folder), source, reused=True)
        if folder.exists():
            log.warning("%s no longer has the content of its digest; writing it again", folder)
            shutil.rmtree(folder)
        with new_folder(folder) as staging:
            _write(digits, digest, source, staging)
        return _loaded(Dataset(folder), source, reused=False)


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds, byte for byte, the arrays that its name is the digest of."""
    if not (folder / "dataset.json").is_file():
        return False
    dataset = Dataset(folder)
    try:
        digits = Digits.checked({name: dataset.array(name) for name in ARRAYS}, str(folder))
    except InputError:
        return False
    return digits.digest() == dataset.digest


def _write(digits: Digits, digest: str, source: str, folder: Path) -> None:
    for name in ARRAYS:
        array: UInt8 = getattr(digits, name)
        write_array(folder / f"{name}.npy", array.shape, [array])
    mean, std = _mean_and_std(digits.x_train)
    write_json(
        folder / "dataset.json",
        {
            "digest": digest,
            "source": source,
            "train_images": len(digits.x_train),
            "test_images": len(digits.x_test),
            "train_images_per_digit": np.bincount(digits.y_train, minlength=DIGITS).tolist(),
            "test_images_per_digit": np.bincount(digits.y_test, minlength=DIGITS).tolist(),
            "train_pixel_mean": mean,
            "train_pixel_std": std,
        },
    )


def _mean_and_std(pixels: UInt8) -> tuple[float, float]:
    """Mean and standard deviation of the pixels from their histogram: no wider copy of all the images is made."""
    levels = np.arange(256)
    counts = sum(np.bincount(image.reshape(-1), minlength=256) for image in pixels)
    mean = np.average(levels, weights=counts)
    return float(mean), float(np.sqrt(np.average((levels - mean) ** 2, weights=counts)))


def _loaded(dataset: Dataset, source: str, *, reused: bool) -> Loaded:
    description = dataset.description()
    log.info(
        "%s: %s training and %s test images; %s %s",
        source,
        f"{description['train_images']:,}",
        f"{description['test_images']:,}",
        "content verified, reusing" if reused else "wrote",
        dataset.folder,
    )
    return Loaded(dataset.digest, description["train_images"], description["test_images"], reused)
