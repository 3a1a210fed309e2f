"""What every reader shares: what it yields, how it checks what a file announces, and how it names errors."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tasks.data.arrays import CHUNK, HeaderError
from mnist_tasks.data.dataset import IMAGE_SHAPE, UInt8
from mnist_tasks.data.readers.pixels import Pixels
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import is_clutter, printable

FORMS = (
    "an .npz file, a table (CSV, ARFF or parquet), a folder with MNIST's IDX files, or a folder of pictures in folders "
    "0 to 9"
)

# https://zlib.net/zlib_tech.html: deflate never shrinks anything by more than 1032:1. Digits shrink by 5:1; images that
# shrink by more than 100:1 show nothing.
DEFLATE_COMPRESSION_LIMIT, IMAGE_COMPRESSION_LIMIT = 1032, 100

# 3 GB: a file of some megabytes may announce that much, deflated, and would fill the disk.
MAX_IMAGES = 4_000_000

# What the standard library raises on content that makes no sense. RuntimeError is an encrypted zip file,
# NotImplementedError under it one with an unknown compression.
CORRUPT = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    KeyError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True)
class AnnouncedSplit:
    """One split as its files announce it. Only the labels have been read.

    A reader is a generator that names its read errors; write errors stay the system's own.
    """

    images: int
    labels: UInt8
    chunks: Iterator[UInt8]


def image_chunks(
    file: Any, count: int, path: Path, what: str | None = None, dtype: np.dtype[Any] | None = None
) -> Iterator[UInt8]:
    """The images that a file, or a member of it named `what`, goes on with; they must be its end."""
    dtype, what = dtype or np.dtype(np.uint8), what or printable(path)
    size, pixels = math.prod(IMAGE_SHAPE) * dtype.itemsize, Pixels(what)
    with read_errors_named(path):
        for start in range(0, count, CHUNK):
            images = min(CHUNK, count - start)
            content = read_exactly(file, images * size, what, start * size, (count - start - images) * size)
            yield pixels.to_bytes(np.frombuffer(content, dtype))


def read_exactly(file: Any, size: int, what: str, preceding: int = 0, following: int = 0) -> bytes:
    """Read the next `size` bytes of an array. `preceding` bytes of it have been read and `following` are still to come.

    The array must be the end of the file: one byte more is asked for then. That also verifies the checksums of zip and
    gzip files, which come last.
    """
    content: bytes = file.read(size + (not following))
    if len(content) != size:
        raise InputError(
            f"{what} announces {preceding + size + following:,} bytes, but "
            + (
                f"holds only {preceding + len(content):,}: it is cut short"
                if len(content) < size
                else "goes on after them"
            )
            + "; fetch it again"
        )
    return content


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without hidden files and what file managers and NAS leave there."""
    with os.scandir(folder) as found:
        visible = sorted((entry for entry in found if not is_clutter(entry.name)), key=lambda entry: entry.name)
    for entry in visible:
        path = folder / entry.name
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{printable(path)} has a name that is not UTF-8; rename it") from None
        if entry.is_symlink():
            check_link(path, folder)
    return visible


def check_link(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the folder: what it shows is not what was dropped there."""
    with read_errors_named(path):
        inside = path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise InputError(f"{printable(path)} is a link that leads out of its folder; put a copy in its place")


def check_announced_size(what: str, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Check what an array announces against the bytes that are stored, deflated or not: before memory is taken."""
    size, limit = math.prod(shape) * itemsize, IMAGE_COMPRESSION_LIMIT if len(shape) > 1 else DEFLATE_COMPRESSION_LIMIT
    if size > max(stored, 1) * limit:
        raise InputError(
            f"{what} announces {size:,} bytes, more than its {stored:,} stored bytes can hold, {limit} times as many; "
            "fetch it again"
        )
    if shape[0] > MAX_IMAGES:
        raise InputError(f"{what} announces {shape[0]:,} items, more than {MAX_IMAGES:,}; split it")


@contextmanager
def read_errors_named(path: Path) -> Iterator[None]:
    """Give what the standard library raises on an unreadable or corrupt file one kind and a name.

    What says nothing about the file, such as an error of a share that hiccups, goes through.
    """
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{printable(path)} cannot be read: {error.strerror}; give the user that runs the tasks access"
        ) from error
    except CORRUPT as error:
        if is_transient(error):
            raise
        raise InputError(f"{printable(path)} is corrupt or cut short: {_reason(error)}; fetch it again") from error


def _reason(error: Exception) -> str:
    """What the standard library says, unless it may repeat what it has read: who knows what file this is."""
    if isinstance(error, gzip.BadGzipFile):
        return "it is not a gzip file, or its checksum differs"
    if isinstance(error, zipfile.BadZipFile) and not str(error).startswith("Bad CRC-32"):
        return "it is not a zip file, or its parts do not fit together"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    plain = (HeaderError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
    return str(error) if isinstance(error, plain) else type(error).__name__
