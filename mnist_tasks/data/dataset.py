"""A dataset on disk: labelled digits as `.npy` files in a folder named by their digest, never changed afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.arrays import ArrayFile, JoinedArrays, open_array
from mnist_tasks.documents import DatasetDescription
from mnist_tasks.system.errors import InputError, ModelError

DIGITS = 10
IMAGE_SHAPE = (28, 28)
PIXEL_MAX = 255
DESCRIPTION = "dataset.json"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
RawImages = ArrayFile | JoinedArrays
Reader = Callable[[RawImages], Iterator[UInt8]]


@dataclass(frozen=True)
class Digits:
    """Labelled digits in memory, under the names that Keras uses; `load` itself never holds a whole dataset.

    Images are uint8 of shape (n, 28, 28), 0 for background to 255 for ink; labels are uint8 of shape (n,), 0 to 9.
    """

    x_train: UInt8
    y_train: UInt8
    x_test: UInt8
    y_test: UInt8

    def digest(self) -> str:
        """The digest that a dataset's folder with these digits is named after."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return content_digest({name: (array.shape, [np.ascontiguousarray(array)]) for name, array in arrays.items()})


def content_digest(arrays: Mapping[str, tuple[tuple[int, ...], Iterable[UInt8]]]) -> str:
    """SHA-256 over the name, shape and bytes of each array: the same for the same digits from any source.

    Args:
        arrays: for each of `ARRAYS`, or for some of them, its shape, and its rows, uint8, in C-contiguous chunks.
    """
    total = hashlib.sha256()
    for name in ARRAYS:
        if name not in arrays:
            continue
        shape, chunks = arrays[name]
        total.update(f"{name} uint8 {shape}\n".encode())
        for chunk in chunks:
            total.update(chunk.data)
    return total.hexdigest()


def folder_digest(folder: Path) -> str:
    """The content digest of those arrays that are in a folder; raises the errors of `ArrayFile.open`."""
    paths = {name: folder / f"{name}.npy" for name in ARRAYS}
    return _digest_of({name: ArrayFile.open(path) for name, path in paths.items() if path.exists()})


def _digest_of(files: Mapping[str, RawImages]) -> str:
    return content_digest({name: (file.shape, file.chunks()) for name, file in files.items()})


def digest_of_test_set(folder: Path, images: int) -> str:
    """SHA-256 over the first test images and their labels: the same for the same test set."""

    def first(name: str) -> Iterator[UInt8]:
        left = images
        for chunk in ArrayFile.open(folder / f"{name}.npy").chunks():
            yield chunk[:left]
            left -= min(left, len(chunk))

    return test_set_digest(images, chain(first("x_test"), first("y_test")))


def test_set_digest(images: int, chunks: Iterable[UInt8]) -> str:
    """SHA-256 over the number of images of a test set, the images and the labels, in chunks."""
    total = hashlib.sha256(f"{images}\n".encode())
    for chunk in chunks:
        total.update(np.ascontiguousarray(chunk).data)
    return total.hexdigest()


def split_name(split: Split) -> str:
    """What a split is called in a message."""
    return "training" if split == "train" else "test"


def scaled(pixels: UInt8) -> Float32:
    """Pixels 0 to 255 as float32 in [0, 1]: x/255."""
    return np.divide(pixels, np.float32(PIXEL_MAX), dtype=np.float32)


BATCHES = ".batches"  # beside the datasets: each batch of the inbox under the digest of its content


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder: `dataset.json`, `figures/`, the raw `.npy` files, the normalized images beside them.

    A dataset with batches of the inbox shares its images: the folder of its `base` has the source's arrays, `.batches`
    has those of each batch. They are put together when they are read.
    """

    folder: Path
    described: DatasetDescription | None = None  # while it is not written yet
    _orders: dict[str, npt.NDArray[np.intp]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def digest(self) -> str:
        return self.folder.name

    def description(self) -> DatasetDescription:
        """What `dataset.json` says.

        Raises:
            InputError: if it is missing or damaged.
        """
        try:
            return DatasetDescription.read(self.folder / DESCRIPTION, "run the load task first")
        except ModelError as error:
            raise InputError(f"{self.folder} is not a dataset: {error}") from error

    def files(self, name: str) -> RawImages:
        """One of the arrays `x_train`, `y_train`, `x_test`, `y_test`, to be read in pieces.

        Raises:
            InputError: if it cannot be read.
        """
        first, batches = self._parts(name)
        if not batches:
            return ArrayFile.open(first)
        others = tuple(ArrayFile.open(folder / f"{name}.npy") for folder in batches)
        return JoinedArrays(ArrayFile.open(first), others, self._order(name[2:], batches))

    def _order(self, split: str, batches: Sequence[Path]) -> npt.NDArray[np.intp]:
        """The order of the batches' images by key and label.

        So the digest depends neither on the form in which a batch came nor on its name.
        """
        if split not in self._orders:
            keys, labels = (
                np.concatenate([ArrayFile.open(folder / f"{part}_{split}.npy").all() for folder in batches])
                for part in ("keys", "y")
            )
            self._orders[split] = np.lexsort((labels, keys))
        return self._orders[split]

    def _parts(self, name: str) -> tuple[Path, list[Path]]:
        """The file with the source's images or labels, and the folders of the batches that add some."""
        own = self.folder / f"{name}.npy"
        if own.exists():
            return own, []
        description = self.described or self.description()
        if description.base is None:
            return own, []
        folders = [self.folder.parent / BATCHES / str(batch.content) for batch in description.batches]
        return (
            self.folder.parent / description.base / f"{name}.npy",
            [folder for folder in folders if (folder / f"{name}.npy").exists()],
        )

    def array(self, name: str) -> npt.NDArray[Any]:
        """One of the arrays `x_train`, `y_train`, `x_test`, `y_test`: memory-mapped, or in memory if it is joined."""
        first, batches = self._parts(name)
        return self.files(name).all() if batches else open_array(first)

    def normalized_path(self, split: Split) -> Path:
        """Where `normalize` puts the images of a split as float32 in [0, 1].

        That is beside the raw images, if the batches add none to the split: then its base has the same.
        """
        first, batches = self._parts(f"x_{split}")
        return (self.folder if batches else first.parent) / f"x_{split}_normalized.npy"

    def normalized(self, split: Split) -> Float32:
        """The images of a split as float32 in [0, 1], shape (n, 28, 28), memory-mapped."""
        return open_array(self.normalized_path(split), "normalize")

    def labels(self, split: Split) -> UInt8:
        """The labels of a split, uint8, shape (n,)."""
        return self.array(f"y_{split}")

    def content_digest(self) -> str:
        """The digest of the images and labels as they are now."""
        return _digest_of({name: self.files(name) for name in ARRAYS})

    def verify(self, split: Split) -> None:
        """Check that all raw arrays, and a split's normalized images, are those that the digest names.

        All of them are read once, in pieces, in some tenths of a second for MNIST. Call it before training or measuring
        on a dataset.

        Raises:
            InputError: naming what has changed since, and the task that writes it again.
        """
        for path in map(self.normalized_path, self.not_normalized(split)):
            raise InputError(
                f"{path} is missing, or no longer holds the dataset's images; clear the normalize task to write it "
                "again"
            )

    def not_normalized(self, *splits: Split, readers: Mapping[Split, Reader] = MappingProxyType({})) -> list[Split]:
        """Those of the splits whose normalized images are missing, or differ from the raw images divided by 255.

        All raw arrays are read, once.

        Args:
            splits: to compare.
            readers: what yields the raw images of a split as they are read.

        Raises:
            InputError: if the raw arrays do not have the digest that the folder is named after.
        """
        files = {name: self.files(name) for name in ARRAYS}
        wrong: list[Split] = []
        arrays = {name: (file.shape, file.chunks()) for name, file in files.items()}
        for split in splits:
            raw = files[f"x_{split}"]
            arrays[f"x_{split}"] = raw.shape, self._compared(split, raw, wrong)
        for split, reader in readers.items():
            raw = files[f"x_{split}"]
            arrays[f"x_{split}"] = raw.shape, reader(raw)
        if (digest := content_digest(arrays)) != self.digest:
            raise InputError(
                f"{self.folder} no longer has the content that it is named after: its digest is {digest}; clear the "
                "load task to write it again"
            )
        return wrong

    def _compared(self, split: Split, raw: RawImages, wrong: list[Split]) -> Iterator[UInt8]:
        """The raw images of a split. The split is added to `wrong` if its normalized images differ."""
        try:
            images = ArrayFile.open(self.normalized_path(split), "normalize")
        except InputError:
            images = None
        if images is None or images.shape != raw.shape or images.dtype != np.float32:
            wrong.append(split)
            yield from raw.chunks()
            return
        same = True
        for pixels, values in zip(raw.chunks(), images.chunks(raw.sizes()), strict=True):
            same = same and np.array_equal(scaled(pixels).view(np.uint32), values.view(np.uint32))
            yield pixels
        if not same:
            wrong.append(split)
