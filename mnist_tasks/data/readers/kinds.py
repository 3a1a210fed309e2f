"""What a file is, by its first bytes and not by its name, and what to do about one that no reader takes."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from mnist_tasks.data.readers.common import FORMS, entries, read_errors_named
from mnist_tasks.data.readers.idx import IDX_FILES
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable

START = 4096  # bytes that are looked at
GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
TABLE_SUFFIXES = (".csv", ".tsv", ".arff")

SAVE_ARRAYS = "numpy.savez('digits.npz', x_train=images, y_train=labels)"
UNPACK = "unpack it, and name the folder or the file that it holds"

# What the first bytes of a file say, and the way out. The first match counts.
KINDS: tuple[tuple[bytes, str], ...] = (
    (
        rb"\x80[\x02-\x05]",
        "is a pickle, which can run any program when it is opened, so it is never read; if you trust it, open it "
        f"yourself and save its arrays: {SAVE_ARRAYS}; docs/getting-started.md shows how for mnist.pkl.gz",
    ),
    (
        rb"\x93NUMPY",
        f"is one array in an .npy file, so images or labels are missing; save both in one file: {SAVE_ARRAYS}",
    ),
    (
        rb"\x00\x00\x08[\x01-\x04]",
        "is one IDX file; name its folder, in which the images and the labels lie under MNIST's names",
    ),
    (
        rb"MATLAB ",
        f"is MATLAB's .mat file, which is not read; open it with scipy.io.loadmat and save its arrays: {SAVE_ARRAYS}",
    ),
    (
        rb"\x89HDF",
        f"is an HDF5 file, such as .h5 or MATLAB's .mat 7.3, which is not read; open it with h5py and save its arrays: "
        f"{SAVE_ARRAYS}",
    ),
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\x00\x00|II\*\x00|MM\x00\*|RIFF....WEBP",
        "is one picture; put pictures into folders 0 to 9 by their digit, and name the folder around these",
    ),
    (rb"version https://git-lfs", "is only a pointer of Git LFS to the file; fetch the file itself: git lfs pull"),
    (
        rb"(?i)\s*<(!doctype|html)",
        "is a web page, such as one to log in or about an error; fetch the file itself",
    ),
    (rb"ARROW1", "is an Arrow or Feather file, which is not read; save it as parquet"),
    (rb"SQLite format 3", "is a database, which is not read; save its table as CSV"),
    (rb"\xd0\xcf\x11\xe0", "is a document of an office program; save the table as CSV"),
    (rb"\xff\xfe|\xfe\xff", "is text in UTF-16; save it as UTF-8"),
    (rb"(?s).{257}ustar", f"is a tar archive; {UNPACK}"),
    (rb"7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|\x1f\x8b|PK\x03\x04", f"is an archive; {UNPACK}"),
)


def start_of(path: Path) -> bytes:
    """The first bytes of a file; of what it holds if it is gzipped."""
    with read_errors_named(path), path.open("rb") as file:
        return unzipped(file).read(START)


def unzipped(file: BinaryIO) -> BinaryIO:
    """What a file that has just been opened holds: the file itself, or what is gzipped in it."""
    zipped = file.read(len(GZIP)) == GZIP
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file


def is_npz(path: Path) -> bool:
    """Whether a file is an archive of arrays, or is called one."""
    if not path.is_file():
        return False
    with read_errors_named(path), path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP or path.suffix == ".npz"


def is_parquet(path: Path) -> bool:
    with read_errors_named(path), path.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def is_table(path: Path) -> bool:
    """Whether a file is a table of text: it is called one, or its first line has many values."""
    try:
        start = start_of(path)
    except InputError as error:  # not gzipped after all
        if is_transient(error):
            raise
        return False
    if not start or any(re.match(pattern, start) for pattern, _ in KINDS):
        return False
    named = path.name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES)
    return named or (b"\0" not in start and max(start.partition(b"\n")[0].count(sign) for sign in b",;\t") >= 100)


def refuse(path: Path) -> NoReturn:
    """Raise an `InputError` that says what a file or folder is that no reader takes, and what to do."""
    if path.is_dir():
        with read_errors_named(path):
            foreign = any("ubyte" in entry.name for entry in entries(path))
        expected = ", no ".join(IDX_FILES.values())
        words = f"has no {expected}, no table, and no folder of pictures 0 to 9; " + (
            "rename its IDX files to these; EMNIST's digits lie on their side, so put them upright as well"
            if foreign
            else f"it is none of the forms that can be read: {FORMS}"
        )
    elif start := start_of(path):
        known = next((words for pattern, words in KINDS if re.match(pattern, start)), None)
        words = known or f"is none of the forms that can be read: {FORMS}"
    else:
        words = "is empty; fetch it again"
    raise InputError(f"{printable(path)} {words}")
