"""A dataset on disk: labelled digits as `.npy` files in a folder named by their digest, never changed afterwards."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mnist_tasks.errors import InputError

DIGITS = 10
IMAGE_SHAPE = (28, 28)
PIXEL_MAX = 255
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Digits:
    """Labelled digits in memory, under the names that Keras uses.

    Images are uint8 of shape (n, 28, 28), 0 for background to 255 for ink; labels are uint8 of shape (n,), 0 to 9.
    """

    x_train: UInt8
    y_train: UInt8
    x_test: UInt8
    y_test: UInt8

    @classmethod
    def checked(cls, arrays: Mapping[str, npt.NDArray[Any]], source: str) -> Digits:
        """The arrays as `Digits`, once they are what they should be.

        Raises:
            InputError: naming the source, the array, what it is and what it should be.
        """
        for split in ("train", "test"):
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
            check_images(images.shape, images.dtype, f"{source}: x_{split}")
            check_labels(labels.shape, labels.dtype, f"{source}: y_{split}")
            if len(images) != len(labels):
                raise InputError(
                    f"{source}: x_{split} has {len(images):,} images but y_{split} has {len(labels):,} labels; "
                    "each image needs one label"
                )
            if not len(images):
                raise InputError(f"{source}: the {split} set is empty; at least one labelled image is needed")
            outside = np.flatnonzero((labels < 0) | (labels >= DIGITS))
            if outside.size:
                raise InputError(
                    f"{source}: y_{split}[{outside[0]}] is {labels[outside[0]]}, but labels go from 0 to {DIGITS - 1}; "
                    f"{outside.size:,} of {len(labels):,} labels are outside"
                )
        return cls(**{name: np.ascontiguousarray(arrays[name], dtype=np.uint8) for name in ARRAYS})

    def digest(self) -> str:
        """SHA-256 over the name, shape and bytes of each array: the same for the same digits from any source."""
        total = hashlib.sha256()
        for name in ARRAYS:
            array: UInt8 = getattr(self, name)
            total.update(f"{name} {array.dtype} {array.shape}\n".encode())
            total.update(array.data)
        return total.hexdigest()


def check_images(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n images: (n, 28, 28), uint8."""
    if len(shape) != 3 or tuple(shape[1:]) != IMAGE_SHAPE:
        raise InputError(f"{what} has shape {tuple(shape)}; images need shape (n, 28, 28)")
    if dtype != np.uint8:
        raise InputError(f"{what} has dtype {dtype}; pixels need dtype uint8, from 0 (background) to 255 (ink)")


def check_labels(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n labels: (n,), any integer type."""
    if len(shape) != 1:
        raise InputError(f"{what} has shape {tuple(shape)}; labels need shape (n,)")
    if dtype.kind not in "ui":
        raise InputError(f"{what} has dtype {dtype}; labels need an integer dtype, with values from 0 to {DIGITS - 1}")


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder: the raw `.npy` files, the normalized images beside them, and `dataset.json`."""

    folder: Path

    @property
    def digest(self) -> str:
        return self.folder.name

    def description(self) -> dict[str, Any]:
        """What `dataset.json` says: source, digest, number of images, images of each digit, mean and deviation."""
        try:
            description: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder} is no dataset: {error}; run the load task first") from error
        return description

    def array(self, name: str) -> npt.NDArray[Any]:
        """One of the arrays `x_train`, `y_train`, `x_test`, `y_test`, memory-mapped."""
        return open_array(self.folder / f"{name}.npy")

    def normalized_path(self, split: Split) -> Path:
        """Where `normalize` puts the images of a split as float32 in [0, 1]."""
        return self.folder / f"x_{split}_normalized.npy"

    def normalized(self, split: Split) -> Float32:
        """The images of a split as float32 in [0, 1], shape (n, 28, 28), memory-mapped."""
        return open_array(self.normalized_path(split))

    def labels(self, split: Split) -> UInt8:
        """The labels of a split, uint8, shape (n,), memory-mapped."""
        return self.array(f"y_{split}")


def open_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map an `.npy` file; what is written to the array stays in the process."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; clear the load task to write it again") from error
    return array


def release(array: npt.NDArray[Any]) -> None:
    """Give the memory of a memory-mapped array back to the system; what is read again comes from the file again.

    Pages of a file that were read count as the process's memory until then. What was written to the array is lost.
    Nothing happens to an array that is not memory-mapped as a whole.
    """
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_DONTNEED)


def write_array(path: Path, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]) -> None:
    """Write an `.npy` file from C-contiguous chunks along the first axis, which together have the given shape.

    Unlike with `numpy.save` and `tofile`, an error while writing is the system's own: "No space left on device".
    """
    with path.open("wb") as file:
        for index, chunk in enumerate(chunks):
            if not index:
                description = np.lib.format.dtype_to_descr(chunk.dtype)
                header = {"descr": description, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(chunk.data)
