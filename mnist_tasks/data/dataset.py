"""A dataset on disk: labelled digits as `.npy` files in a folder named by their digest, never changed afterwards."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from mnist_tasks.system.errors import InputError, is_transient

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


def folder_digest(folder: Path) -> str:
    """The content digest of the arrays that lie in a folder; raises as `ArrayFile.open`."""
    files = {name: ArrayFile.open(folder / f"{name}.npy") for name in ARRAYS}
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
    """SHA-256 of a test set: how many images it has, then these, then their labels, in chunks."""
    total = hashlib.sha256(f"{images}\n".encode())
    for chunk in chunks:
        total.update(np.ascontiguousarray(chunk).data)
    return total.hexdigest()


def scaled(pixels: UInt8) -> Float32:
    """Pixels 0 to 255 as float32 in [0, 1]: x/255."""
    return np.divide(pixels, np.float32(PIXEL_MAX), dtype=np.float32)


def check_images(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n images: (n, 28, 28), uint8."""
    if len(shape) != 3 or tuple(shape[1:]) != IMAGE_SHAPE:
        raise InputError(f"{what} has shape {tuple(shape)}; images need shape (n, 28, 28)")
    if dtype != np.uint8:
        raise InputError(f"{what} has dtype {dtype.name}; pixels need dtype uint8, from 0 (background) to 255 (ink)")


def check_labels(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> None:
    """Raise an `InputError` unless shape and dtype are those of n labels: (n,), any integer type."""
    if len(shape) != 1:
        raise InputError(f"{what} has shape {tuple(shape)}; labels need shape (n,)")
    if dtype.kind not in "ui":
        raise InputError(
            f"{what} has dtype {dtype.name}; labels need an integer dtype, with values from 0 to {DIGITS - 1}"
        )


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder: the raw `.npy` files, the normalized images beside them, `dataset.json` and `figures/`."""

    folder: Path

    @property
    def digest(self) -> str:
        return self.folder.name

    def description(self) -> dict[str, Any]:
        """What `dataset.json` says: source, digest, number of images, images of each digit, mean and deviation.

        The first `fixed_test_images` of the test images are the source's own, the others those of the batches;
        `test_set` is `mnist` if these are MNIST's, else `own`.
        """
        try:
            description: dict[str, Any] = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if is_transient(error):
                raise
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
        return open_array(self.normalized_path(split), "normalize")

    def labels(self, split: Split) -> UInt8:
        """The labels of a split, uint8, shape (n,), memory-mapped."""
        return self.array(f"y_{split}")

    def verify(self, split: Split) -> None:
        """Make sure that a split's normalized images, and all raw arrays, are those that `load` named by their digest.

        All of them are read once, in pieces, in some tenths of a second for MNIST. Whoever trains or measures on a
        dataset asks this first.

        Raises:
            InputError: naming what was changed since, and the task that writes it again.
        """
        for path in map(self.normalized_path, self.not_normalized(split)):
            raise InputError(
                f"{path} is missing, or does not hold the dataset's images any more; clear the normalize task to write "
                "it again"
            )

    def not_normalized(self, *splits: Split) -> list[Split]:
        """Those of the splits whose normalized images are missing or not exactly what the raw ones come to.

        Raises:
            InputError: if the raw arrays are not those that the folder is named after.
        """
        files = {name: ArrayFile.open(self.folder / f"{name}.npy") for name in ARRAYS}
        wrong: list[Split] = []
        arrays = {name: (file.shape, file.chunks()) for name, file in files.items()}
        for split in splits:
            raw = files[f"x_{split}"]
            arrays[f"x_{split}"] = raw.shape, self._compared(split, raw, wrong)
        if (digest := content_digest(arrays)) != self.digest:
            raise InputError(
                f"{self.folder} no longer holds what it is named after: its content digest is {digest}; clear the load "
                "task to write it again"
            )
        return wrong

    def _compared(self, split: Split, raw: ArrayFile, wrong: list[Split]) -> Iterator[UInt8]:
        """The raw images of a split; it is added to `wrong` if its normalized images are others."""
        try:
            images = ArrayFile.open(self.normalized_path(split), "normalize")
        except InputError:
            images = None
        if images is None or images.shape != raw.shape or images.dtype != np.float32:
            wrong.append(split)
            yield from raw.chunks()
            return
        same = True
        for pixels, values in zip(raw.chunks(), images.chunks(), strict=True):
            same = same and np.array_equal(scaled(pixels).view(np.uint32), values.view(np.uint32))
            yield pixels
        if not same:
            wrong.append(split)


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
    def open(cls, path: Path, task: str = "load") -> ArrayFile:
        """Read the header of an array that the named task wrote.

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
            if is_transient(error):
                raise
            raise InputError(f"{path} cannot be read: {error}; clear the {task} task to write it again") from error
        if fortran_order:
            raise InputError(f"{path} is stored column after column; clear the {task} task to write it again")
        return cls(path, shape, dtype, offset)

    def __len__(self) -> int:
        return self.shape[0]

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, `CHUNK` at a time.

        Raises:
            InputError: if the file has been cut short meanwhile. An error of the system stays what it is, unlike with
                `numpy.fromfile`, which takes it for the end of the file.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, len(self), CHUNK):
                chunk = np.empty((min(CHUNK, len(self) - start), *self.shape[1:]), self.dtype)
                if file.readinto(chunk.view(np.uint8).data) != chunk.nbytes:
                    raise InputError(f"{self.path} was cut short while it was read; clear the task that writes it")
                yield chunk

    def rows(self, index: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """The rows at these positions, copied; raises as `chunks`."""
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for row, position in zip(rows.view(np.uint8).reshape(len(rows), size), index.tolist(), strict=True):
                file.seek(self.offset + position * size)
                if file.readinto(row.data) != size:
                    raise InputError(f"{self.path} was cut short while it was read; clear the task that writes it")
        return rows

    def all(self) -> npt.NDArray[Any]:
        """All rows in memory: for labels."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.chunks()])


class HeaderError(ValueError):
    """What begins an array is no header. The message repeats nothing of it: who knows what file this is."""


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and dtype of the `.npy` content that a file goes on with.

    Raises:
        HeaderError: if it is no header, whatever NumPy comes upon in it.
    """
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    # The header is Python source, and so are its errors; Python calls one that nests too deep out of memory.
    except (SyntaxError, TokenError, TypeError, ValueError, RecursionError, MemoryError):
        raise HeaderError("bad header of an array") from None
    if any(side < 0 for side in shape):
        raise HeaderError(f"bad header of an array: shape {shape}")
    return shape, fortran_order, dtype


def open_array(path: Path, task: str = "load") -> npt.NDArray[Any]:
    """Memory-map an `.npy` file that the named task wrote; what is written to the array stays in the process."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        if is_transient(error):
            raise
        raise InputError(f"{path} cannot be read: {error}; clear the {task} task to write it again") from error
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
