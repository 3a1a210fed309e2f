"""A dataset on disk: labelled digits as `.npy` files in a folder named by their digest, never changed afterwards."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from mnist_tasks.errors import InputError

DIGITS = 10
IMAGE_SHAPE = (28, 28)
PIXEL_MAX = 255
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
CHUNK = 2048  # images at a time: 1.6 MB

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


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
        """What a dataset's folder with these digits is named after."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return content_digest({name: (array.shape, [np.ascontiguousarray(array)]) for name, array in arrays.items()})


def content_digest(arrays: Mapping[str, tuple[tuple[int, ...], Iterable[UInt8]]]) -> str:
    """SHA-256 over the name, shape and bytes of each array: the same for the same digits from any source.

    Args:
        arrays: for each of `ARRAYS` its shape, and its rows, uint8, in C-contiguous chunks.
    """
    total = hashlib.sha256()
    for name in ARRAYS:
        shape, chunks = arrays[name]
        total.update(f"{name} uint8 {shape}\n".encode())
        for chunk in chunks:
            total.update(chunk.data)
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
    """A dataset's folder: the raw `.npy` files, the normalized images beside them, `dataset.json` and `figures/`."""

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


@dataclass(frozen=True)
class ArrayFile:
    """An `.npy` file that is read a piece at a time, so that memory does not grow with it.

    Not through a lasting memory map: pages of a map that were touched count as the process' own.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """Read the header.

        Raises:
            InputError: if it cannot be read or is cut short, or the array is not stored row after row.
        """
        try:
            with path.open("rb") as file:
                shape, fortran_order, dtype = npy_header(file)
                offset = file.tell()
            missing = offset + math.prod(shape) * dtype.itemsize - path.stat().st_size
            if missing > 0:
                raise ValueError(f"{missing:,} bytes are missing")
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}; clear the load task to write it again") from error
        if fortran_order:
            raise InputError(f"{path} is stored column after column; clear the load task to write it again")
        return cls(path, shape, dtype, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, `CHUNK` at a time."""
        row = math.prod(self.shape[1:])
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, len(self), CHUNK):
                chunk = np.fromfile(file, self.dtype, min(CHUNK, len(self) - start) * row)
                yield chunk[: len(chunk) // row * row].reshape(-1, *self.shape[1:])

    def rows(self, index: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """The rows at these positions, copied."""
        rows: npt.NDArray[Any] = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index]
        return np.array(rows)

    def all(self) -> npt.NDArray[Any]:
        """All rows in memory: for labels."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.chunks()])


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype of the `.npy` content that a file goes on with.

    Raises:
        ValueError: if it is no header, whatever NumPy comes upon in it.
    """
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    # The header is Python source, and so are its errors.
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"bad header of an array: {type(error).__name__}") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"bad header of an array: shape {shape}")
    return shape, fortran_order, dtype


def open_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map an `.npy` file; what is written to the array stays in the process."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; clear the load task to write it again") from error
    return array


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
