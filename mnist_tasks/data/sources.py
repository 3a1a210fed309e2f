"""Where digits can come from: the copy in this package, Keras' download, or files of one's own, here or behind a URL.

Files of one's own are an `.npz` file, a folder of IDX files, or a folder of pictures by digit. Whatever the form,
`fetch` copies it, checked, into `.npy` files, a piece at a time: memory does not grow with the source, nothing is ever
unpickled, nothing is allocated because a header says so, and a file that somebody changes meanwhile is noticed.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.allowed_sources import AllowedSources
from mnist_tasks.data.dataset import (
    ARRAYS,
    CHUNK,
    DIGITS,
    IMAGE_SHAPE,
    SPLITS,
    Digits,
    HeaderError,
    Split,
    UInt8,
    check_images,
    check_labels,
    npy_header,
    open_array,
    write_array,
)
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable, walk
from mnist_tasks.system.tensorflow_import import import_tensorflow

BUILTIN = Path(__file__).parent / "builtin" / "mnist.npz"

# Content digest of MNIST (see content_digest), made from the four original IDX files with the published checksums.
MNIST_DIGEST = "796354bf1a5bdb3f752e23f487245288f2c35b1e0bc343e07448cffbb5f56624"

# As in keras.datasets.mnist.load_data.
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
KERAS_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

# http://yann.lecun.com/exdb/mnist: magic numbers of an IDX file of unsigned bytes with three dimensions and with one.
IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

# https://zlib.net/zlib_tech.html: deflate never shrinks anything by more than 1032:1. Digits shrink by 5:1; images that
# shrink by more than 100:1 show nothing.
DEFLATE_LIMIT, IMAGES_LIMIT = 1032, 100

# 3 GB: a file of some megabytes may announce that much, deflated, and would fill the disk.
MOST_IMAGES = 4_000_000

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

FORMS = "an .npz file, or of a folder with MNIST's IDX files or with pictures in folders 0 to 9"

# Of MNIST's 10,000 test images and their labels (see digest_of_test_set).
MNIST_TEST_IMAGES = 10_000
MNIST_TEST_DIGEST = "938232450ccb2eafbd2dfa54f760c3ba310b167a1c150ecf2aab9cfa82dddb47"
MNIST_IMAGES = 70_000

KNOWN_DIGESTS: Mapping[str, str] = {"builtin": MNIST_DIGEST, "keras": MNIST_DIGEST}


def fetch(source: str | Path, folder: Path) -> tuple[Split, ...]:
    """Copy a source's labelled digits to `x_train.npy`, `y_train.npy`, ... in `folder`, row after row, as uint8.

    Args:
        source: `builtin`, `keras`, a URL, or the path of an `.npz` file, a folder of IDX files or one of pictures.
        folder: where the arrays go; what a URL leads to lies there as well meanwhile.

    Returns:
        Which splits the source has: `train`, `test` or both.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    if source == "builtin":
        return _copy(BUILTIN, folder)
    reach = AllowedSources.from_environment()
    if source == "keras":
        reach.source(KERAS_URL)
        return _copy(download_with_keras(), folder)
    # A path that is no text is one that the program found by itself, such as a batch in the inbox.
    place = reach.source(source) if isinstance(source, str) else source
    if isinstance(place, str):
        # Imported here: the file systems behind URLs take a while, and most nights need none.
        from mnist_tasks.data.download import download

        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            copy = download(place, Path(temporary), reach)
            try:
                return _copy(copy, folder)
            except InputError as error:
                raise InputError(str(error).replace(str(copy), place)) from error
    with _named_errors(place):
        exists = place.exists()
        usable = place.is_dir() or place.is_file()
    if not usable:
        # Not a pipe or a device either, which might never end.
        problem = "is neither a file nor a folder" if exists else "does not exist on this worker"
        raise InputError(
            f"data source {str(source)!r} {problem}; use builtin, keras, a URL, or the absolute path of {FORMS}"
        )
    return _copy(place, folder)


def read_source(source: str | Path) -> Digits:
    """A whole source in memory, for notebooks and tests; raises as `fetch`."""
    with tempfile.TemporaryDirectory() as temporary:
        fetch(source, Path(temporary))
        return Digits(**{name: np.array(open_array(Path(temporary) / f"{name}.npy")) for name in ARRAYS})


def download_with_keras() -> Path:
    """What `keras.datasets.mnist.load_data` downloads, from Keras' cache or the internet, its SHA-256 verified."""
    import_tensorflow()
    import keras

    try:
        # The user's cache, as without `import_tensorflow`, which keeps the user's settings in it from Keras.
        cache = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
        return Path(keras.utils.get_file("mnist.npz", origin=KERAS_URL, file_hash=KERAS_SHA256, cache_dir=cache))
    # Keras raises a bare Exception for a failed download and a ValueError for a wrong checksum.
    except Exception as error:
        raise InputError(
            f"Keras could not provide {KERAS_URL}: {error}; check the connection, or use the source builtin, the same "
            "data without a download"
        ) from error


@dataclass(frozen=True)
class Announced:
    """One split as its files announce it: nothing of it but the labels has been read.

    The readers are generators that name the errors of reading; those of writing stay the system's own.
    """

    images: int
    labels: UInt8
    chunks: Iterator[UInt8]


def _copy(path: Path, folder: Path) -> tuple[Split, ...]:
    """Copy what lies at a path, whatever its form, and notice if it changes meanwhile."""
    before = state(path)
    with _named_errors(path):
        is_file = path.is_file()
    reader = _npz if is_file else _idx if _has_idx_files(path) else _pictures
    splits = []
    for split, announced in reader(path):
        images, labels = announced.images, announced.labels
        if images != len(labels):
            raise InputError(
                f"{printable(path)}: x_{split} has {images:,} images but y_{split} has {len(labels):,} labels; each "
                "image needs one label"
            )
        if not images:
            raise InputError(f"{printable(path)}: the {split} set is empty; at least one labelled image is needed")
        write_array(folder / f"y_{split}.npy", labels.shape, [labels])
        write_array(folder / f"x_{split}.npy", (images, *IMAGE_SHAPE), announced.chunks)
        splits.append(split)
    if state(path) != before:
        raise InputError(
            f"{printable(path)} changed while it was being read; leave it alone, or drop it into the inbox with a "
            ".done marker when it is complete"
        )
    if not splits:
        raise InputError(f"{printable(path)} holds neither a training nor a test set; it is no {FORMS}")
    return tuple(splits)


def state(path: Path) -> str:
    """A digest of names, sizes and times of all that lies at a path: the same as long as nobody changes anything."""
    total = hashlib.sha256()
    with _named_errors(path):
        for entry in walk(path):
            status = entry.lstat()
            total.update(os.fsencode(entry) + f"\0{status.st_size} {status.st_mtime_ns} {status.st_ino}\0".encode())
    return total.hexdigest()


def _npz(path: Path) -> Iterator[tuple[Split, Announced]]:
    """The splits of an `.npz` file with the names that Keras uses."""
    with _named_errors(path), path.open("rb") as file, _opened_zip(file, path) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        splits = [split for split in SPLITS if {f"x_{split}", f"y_{split}"} & members]
        wanted = [f"{axis}_{split}" for split in splits or SPLITS for axis in "xy"]
        missing = [name for name in wanted if name not in members]
        if missing:
            # Of what may be somebody else's archive, no other name is repeated.
            found = ", ".join(name for name in ARRAYS if name in members) or "none of them"
            raise InputError(
                f"{printable(path)} has no array {', '.join(missing)}; it needs {', '.join(ARRAYS)} and has {found}"
            )
        for name in wanted:
            # What the directory says may be a lie.
            stored = min(archive.getinfo(f"{name}.npy").compress_size, path.stat().st_size)
            with archive.open(f"{name}.npy") as member:
                _check_npy(f"{printable(path)}: {name}", name, stored, member)
        for split in splits:
            with archive.open(f"x_{split}.npy") as images, archive.open(f"y_{split}.npy") as labels:
                what = f"{printable(path)}: y_{split}"
                (count, *_), _, _ = npy_header(images)
                (length, *_), _, dtype = npy_header(labels)
                values = np.frombuffer(_exactly(labels, length * dtype.itemsize, what), dtype)
                yield split, Announced(count, checked_labels(values, what), _image_chunks(images, count, path))


def _opened_zip(file: BinaryIO, path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        if is_transient(error):  # it takes whatever goes wrong while it looks for the directory for a file without one
            raise
        raise InputError(
            f"{printable(path)} is no .npz file, or one cut short: it has no zip directory at its end"
        ) from error


def _check_npy(what: str, name: str, stored: int, member: Any) -> None:
    """Check what an array in an `.npz` file announces, before any of it is read."""
    shape, fortran_order, dtype = npy_header(member)
    if dtype.hasobject:
        raise InputError(f"{what} is a pickled array; pickles are never read, save it with a plain dtype")
    (check_images if name.startswith("x_") else check_labels)(shape, dtype, what)
    if fortran_order and len(shape) > 1:
        raise InputError(f"{what} is stored column after column; save it with numpy.ascontiguousarray")
    _check_size(what, shape, dtype.itemsize, stored)


def _has_idx_files(folder: Path) -> bool:
    with _named_errors(folder):
        return any(path.exists() for stem in IDX_FILES.values() for path in _idx_paths(folder, stem))


def _idx_paths(folder: Path, stem: str) -> Iterator[Path]:
    """Where an IDX file may lie: under MNIST's name, or with a dot in it, as Kaggle has it; there in a folder, too."""
    names = (stem, stem.replace("-idx", ".idx"))
    for name in names:
        yield from (folder / name, folder / f"{name}.gz")
    for name in names:
        yield from (folder / outer / name for outer in names)


def _idx(folder: Path) -> Iterator[tuple[Split, Announced]]:
    """The splits of a folder with MNIST's IDX files, each gzipped (`.gz`) or not."""
    paths: dict[str, Path] = {}
    with _named_errors(folder):
        for name, stem in IDX_FILES.items():
            for path in _idx_paths(folder, stem):
                if path.is_file():
                    check_link(path, folder)
                    paths.setdefault(name, path)
    if not paths:
        raise InputError(
            f"{printable(folder)} has folders with the names of IDX files and no such file in them; unpack it again"
        )
    for split in SPLITS:
        names = (f"x_{split}", f"y_{split}")
        missing = [IDX_FILES[name] for name in names if name not in paths]
        if len(missing) == len(names):
            continue
        if missing:
            stem = missing[0]
            raise InputError(
                f"{printable(folder)} has no {stem} and no {stem}.gz; it needs {', '.join(IDX_FILES.values())}, "
                "gzipped or not"
            )
        images, labels = (paths[name] for name in names)
        with _opened(images) as x, _opened(labels) as y:
            (count, *_) = _idx_header(x, images, IDX_IMAGES)
            (length,) = _idx_header(y, labels, IDX_LABELS)
            with _named_errors(labels):
                values = np.frombuffer(_exactly(y, length, printable(labels)), np.uint8)
            checked = checked_labels(values, f"{printable(folder)}: y_{split}")
            yield split, Announced(count, checked, _image_chunks(x, count, images))


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    with _named_errors(path):
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _idx_header(file: BinaryIO | gzip.GzipFile, path: Path, expected: int) -> list[int]:
    """The shape that an IDX file announces."""
    dimensions, kind = (3, "images") if expected == IDX_IMAGES else (1, "labels")
    with _named_errors(path):
        header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{printable(path)} is cut short: {len(header)} bytes, less than its header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != expected:
        # Other bytes than an IDX file's are not repeated: who knows what file this is.
        found = f"starts with {magic:#010x}" if magic in (IDX_IMAGES, IDX_LABELS) else "is no IDX file"
        raise InputError(f"{printable(path)} {found}; an IDX file of {kind} starts with {expected:#010x}")
    if kind == "images" and tuple(shape[1:]) != IMAGE_SHAPE:
        raise InputError(f"{printable(path)} announces shape {tuple(shape)}; images need shape (n, 28, 28)")
    with _named_errors(path):
        stored = path.stat().st_size
    _check_size(printable(path), shape, 1, stored)
    return shape


def _image_chunks(file: Any, count: int, path: Path) -> Iterator[UInt8]:
    """The images that a file, or a member of it, goes on with; they must be its end."""
    size = math.prod(IMAGE_SHAPE)
    with _named_errors(path):
        for start in range(0, count, CHUNK):
            images = min(CHUNK, count - start)
            content = _exactly(file, images * size, printable(path), start * size, (count - start - images) * size)
            yield np.frombuffer(content, np.uint8).reshape(-1, *IMAGE_SHAPE)


def _exactly(file: Any, size: int, what: str, before: int = 0, after: int = 0) -> bytes:
    """The next `size` bytes, with `before` and `after` the rest of what was announced; after all of it must be the end.

    One byte more is asked for to see that: then the checksums of zip and gzip files, which come last, are verified too.
    """
    content: bytes = file.read(size + (not after))
    if len(content) != size:
        raise InputError(
            f"{what} announces {before + size + after:,} bytes, but "
            + (
                f"holds only {before + len(content):,}: it is cut short"
                if len(content) < size
                else "goes on after them"
            )
            + "; fetch it again"
        )
    return content


def _pictures(folder: Path) -> Iterator[tuple[Split, Announced]]:
    """The splits of a folder of pictures: `0/` to `9/` for training, or those in `train/` and in `test/`."""
    with _named_errors(folder):
        names = [entry.name for entry in _entries(folder)]
    digits = [str(digit) for digit in range(DIGITS)]
    if not set(names) & {*digits, *SPLITS}:
        raise InputError(
            f"{printable(folder)} has no {', no '.join(IDX_FILES.values())}, and no folder of pictures 0 to 9; it is "
            f"none of the forms that can be read: {FORMS}"
        )
    unknown = [name for name in names if name not in {*digits, *SPLITS}]
    if unknown:
        raise InputError(
            f"{printable(folder / unknown[0])} is not expected there: a folder of pictures has folders 0 to 9, or "
            "train and test with such folders, and nothing else"
        )
    if "train" in names and set(names) & set(digits):
        raise InputError(f"{printable(folder)} has train and folders 0 to 9 beside it; move the one into the other")
    for split in SPLITS:
        root = folder / split if split in names else folder
        if root == folder and (split == "test" or not set(names) & set(digits)):
            continue
        with _named_errors(root):
            pictures = _labelled(root)
        if len(pictures) > MOST_IMAGES:
            raise InputError(f"{printable(root)} has {len(pictures):,} pictures, more than {MOST_IMAGES:,}; split it")
        labels = np.array([label for label, _ in pictures], np.uint8)
        yield split, Announced(len(pictures), labels, _picture_chunks([path for _, path in pictures]))


def _labelled(root: Path) -> list[tuple[int, Path]]:
    """The pictures in the folders 0 to 9, sorted by digit and name."""
    pictures = []
    for entry in _entries(root):
        path = root / entry.name
        if not (entry.is_dir() and entry.name in map(str, range(DIGITS))):
            raise InputError(f"{printable(path)} is not expected there: a folder of pictures has folders 0 to 9")
        for picture in _entries(path):
            if not picture.is_file():
                raise InputError(f"{printable(path / picture.name)} is no file: a digit's folder holds pictures only")
            pictures.append((int(entry.name), path / picture.name))
    return pictures


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; hidden files, such as those that file managers leave, are none of the data."""
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        path = folder / entry.name
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{printable(path)} has a name that is not UTF-8; rename it") from None
        if entry.is_symlink():
            check_link(path, folder)
    return entries


def _picture_chunks(paths: Sequence[Path]) -> Iterator[UInt8]:
    # Imported here: only this form needs it.
    from mnist_tasks.data.image_files import read_digit

    for start in range(0, len(paths), CHUNK):
        yield np.stack([read_digit(path) for path in paths[start : start + CHUNK]])


def check_link(path: Path, folder: Path) -> None:
    """Refuse a link that leads out of the folder: what it shows is not what was dropped there."""
    with _named_errors(path):
        inside = path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise InputError(f"{printable(path)} is a link that leads out of its folder; put a copy in its place")


def checked_labels(labels: npt.NDArray[Any], what: str) -> UInt8:
    """The labels as uint8, once each is a digit."""
    outside = np.flatnonzero((labels < 0) | (labels >= DIGITS))
    if outside.size:
        raise InputError(
            f"{what}[{outside[0]}] is {labels[outside[0]]}, but labels go from 0 to {DIGITS - 1}; "
            f"{outside.size:,} of {len(labels):,} labels are outside"
        )
    return labels.astype(np.uint8)


def _check_size(what: str, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Check what an array announces against the bytes that are stored, deflated or not: before memory is taken."""
    size, limit = math.prod(shape) * itemsize, IMAGES_LIMIT if len(shape) > 1 else DEFLATE_LIMIT
    if size > max(stored, 1) * limit:
        raise InputError(
            f"{what} announces {size:,} bytes, more than its {stored:,} stored bytes can hold, {limit} times as many; "
            "fetch it again"
        )
    if shape[0] > MOST_IMAGES:
        raise InputError(f"{what} announces {shape[0]:,} items, more than {MOST_IMAGES:,}; split it")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
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
        return "it is no gzip file, or its checksum differs"
    if isinstance(error, zipfile.BadZipFile) and not str(error).startswith("Bad CRC-32"):
        return "it is no zip file, or its parts do not fit together"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    plain = (HeaderError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
    return str(error) if isinstance(error, plain) else type(error).__name__
