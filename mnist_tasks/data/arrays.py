"""NumPy's `.npy` files, read and written in pieces, so that memory does not grow with them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.system.errors import InputError, is_transient

CHUNK = 2048  # rows at a time: 1.6 MB of raw images
GATHERED = 8 * CHUNK  # rows that are gathered from many files at a time, so that each is opened less often
MAX_HEADER = 1 << 16  # bytes; NumPy itself refuses headers of more than 10,000 characters
WHOLE = 8  # a file is read whole for one row in so many


def chunk_sizes(rows: int) -> list[int]:
    """How many rows each chunk of an array has."""
    return [min(CHUNK, rows - start) for start in range(0, rows, CHUNK)]


@dataclass(frozen=True)
class ArrayFile:
    """An `.npy` file that is read in pieces, so that memory does not grow with it.

    It is not a memory map: the pages of a map that were touched count as the process' memory.
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

    @property
    def parts(self) -> tuple[ArrayFile, ...]:
        """The files that have the rows, in any order."""
        return (self,)

    def sizes(self) -> list[int]:
        """How many rows each chunk has."""
        return chunk_sizes(len(self))

    def chunks(self, sizes: Iterable[int] | None = None) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, `CHUNK` at a time, or as many at a time as `sizes` say.

        Raises:
            InputError: if the file has been cut short meanwhile. Errors of the system are raised unchanged, while
                `numpy.fromfile` takes them for the end of the file.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for rows in sizes or self.sizes():
                chunk = np.empty((rows, *self.shape[1:]), self.dtype)
                if file.readinto(chunk.view(np.uint8).data) != chunk.nbytes:
                    raise InputError(f"{self.path} was cut short while it was read; clear the task that writes it")
                yield chunk

    def rows(self, index: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """The rows at these positions, copied; raises as `chunks`."""
        if len(index) * WHOLE >= len(self) and len(self) <= GATHERED:
            whole: npt.NDArray[Any] = self.all()[index]  # one read is faster than many
            return whole
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.path.open("rb", buffering=0) as file:
            for row, position in zip(rows.view(np.uint8).reshape(len(rows), size), index.tolist(), strict=True):
                file.seek(self.offset + position * size)
                if file.readinto(row.data) != size:
                    raise InputError(f"{self.path} was cut short while it was read; clear the task that writes it")
        return rows

    def all(self) -> npt.NDArray[Any]:
        """All rows in memory; meant for labels."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.chunks()])


@dataclass(frozen=True)
class JoinedArrays:
    """Rows of several files as one array: those of the first file, then those of the others in the given order.

    It is read in pieces, as an `ArrayFile` is. `order` has positions that are counted through `others`.
    """

    first: ArrayFile
    others: tuple[ArrayFile, ...]
    order: npt.NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.first) + len(self.order), *self.first.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def parts(self) -> tuple[ArrayFile, ...]:
        """The files that have the rows, in any order."""
        return (self.first, *self.others)

    def sizes(self) -> list[int]:
        """How many rows each chunk has."""
        return [*chunk_sizes(len(self.first)), *chunk_sizes(len(self.order))]

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """All rows in order, at most `CHUNK` at a time; raises as `ArrayFile.chunks`."""
        yield from self.first.chunks()
        ends = np.cumsum([len(file) for file in self.others])
        for start in range(0, len(self.order), GATHERED):
            wanted = self.order[start : start + GATHERED]
            of = np.searchsorted(ends, wanted, side="right")
            rows = np.empty((len(wanted), *self.shape[1:]), self.dtype)
            for number in np.unique(of):
                here = np.flatnonzero(of == number)
                file = self.others[number]
                rows[here] = file.rows(wanted[here] - (ends[number] - len(file)))
            for first in range(0, len(rows), CHUNK):
                yield rows[first : first + CHUNK]

    def all(self) -> npt.NDArray[Any]:
        """All rows in memory; meant for labels and for the test set."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.chunks()])


class HeaderError(ValueError):
    """An array does not begin with a header. The message repeats nothing of the file, which may be any file."""


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an `.npy` file: its shape, whether it is in Fortran order, and its dtype.

    Raises:
        HeaderError: if it is not a header.
    """
    try:
        major, _ = np.lib.format.read_magic(file)
        length = file.read(2 if major == 1 else 4)
        text = file.read(min(int.from_bytes(length, "little"), MAX_HEADER))
        shape, fortran_order, dtype = _parsed_header(major, length + text)
    # The header is Python source, and its errors are Python's. Python calls a header that nests too deep out of memory.
    except (SyntaxError, TokenError, TypeError, ValueError, RecursionError, MemoryError):
        raise HeaderError("bad header of an array") from None
    if any(side < 0 for side in shape):
        raise HeaderError(f"bad header of an array: shape {shape}")
    return shape, fortran_order, dtype


@lru_cache(maxsize=1000)
def _parsed_header(major: int, content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What NumPy makes of a header behind its magic number. Many batches have the same one."""
    file = io.BytesIO(content)
    header: tuple[tuple[int, ...], bool, np.dtype[Any]]
    header = np.lib.format.read_array_header_1_0(file) if major == 1 else np.lib.format.read_array_header_2_0(file)
    return header


def open_array(path: Path, task: str = "load") -> npt.NDArray[Any]:
    """Memory-map an `.npy` file that the named task wrote. Changes of the array stay in the process."""
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
    for _ in written(path, shape, chunks):
        pass


def written(
    path: Path,
    shape: tuple[int, ...],
    chunks: Iterable[npt.NDArray[Any]],
    change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda chunk: chunk,
) -> Iterator[npt.NDArray[Any]]:
    """Write what `change` makes of each chunk, as `write_array` does, while the chunks pass through."""
    with path.open("wb") as file:
        for index, chunk in enumerate(chunks):
            rows = change(chunk)
            if not index:
                description = np.lib.format.dtype_to_descr(rows.dtype)
                header = {"descr": description, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.data)
            yield chunk
