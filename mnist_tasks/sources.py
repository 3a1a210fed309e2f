"""Where digits can come from: the copy in this package, Keras' download, an `.npz` file, or a folder of IDX files.

Every reader returns the four arrays under Keras' names, unchecked but for what must be known before they are read into
memory. Nothing is ever unpickled, and no more bytes are read than a file's own header announces.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mnist_tasks.dataset import ARRAYS, IMAGE_SHAPE, check_images, check_labels
from mnist_tasks.errors import InputError
from mnist_tasks.library_memory import import_tensorflow

BUILTIN = Path(__file__).parent / "data" / "mnist.npz"

# Content digest of MNIST (see Digits.digest), made from the four original IDX files with the published checksums.
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

# https://zlib.net/zlib_tech.html: deflate never shrinks anything by more than 1032:1.
DEFLATE_LIMIT = 1032

Arrays = dict[str, npt.NDArray[Any]]

KNOWN_DIGESTS: Mapping[str, str] = {"builtin": MNIST_DIGEST, "keras": MNIST_DIGEST}


def read_source(source: str) -> Arrays:
    """The four arrays of a source.

    Args:
        source: `builtin`, `keras`, or the path of an `.npz` file or of a folder with the four IDX files.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    if source == "builtin":
        return read_npz(BUILTIN)
    if source == "keras":
        return read_npz(download_with_keras())
    path = Path(source).expanduser()
    with _named_errors(path):
        if path.is_dir():
            return read_idx_folder(path)
        if path.is_file():
            return read_npz(path)
    raise InputError(
        f"data source {source!r} does not exist on this worker; use builtin, keras, or the absolute path of an "
        ".npz file or of a folder with the four IDX files"
    )


def download_with_keras() -> Path:
    """What `keras.datasets.mnist.load_data` downloads, from Keras' cache or the internet, its SHA-256 verified."""
    import_tensorflow()
    import keras

    try:
        return Path(keras.utils.get_file("mnist.npz", origin=KERAS_URL, file_hash=KERAS_SHA256))
    # Keras raises a bare Exception for a failed download and a ValueError for a wrong checksum.
    except Exception as error:
        raise InputError(
            f"Keras could not provide {KERAS_URL}: {error}; check the connection, or use the source builtin, the same "
            "data without a download"
        ) from error


def read_npz(path: Path) -> Arrays:
    """The arrays of an `.npz` file with the names that Keras uses; shape and dtype are checked before any is read."""
    with _named_errors(path), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError(f"{path} is no .npz file, or one cut short: it has no zip directory at its end")
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = [name for name in ARRAYS if name not in members]
            if missing:
                raise InputError(
                    f"{path} has no array {', '.join(missing)}; it needs {', '.join(ARRAYS)} and has "
                    f"{', '.join(sorted(members)) or 'none'}"
                )
            for name in ARRAYS:
                stored = archive.getinfo(f"{name}.npy").compress_size
                with archive.open(f"{name}.npy") as member:
                    shape, dtype = _npy_header(member)
                what = f"{path}: {name}"
                if dtype.hasobject:
                    raise InputError(f"{what} is a pickled array; pickles are never read, save it with a plain dtype")
                (check_images if name.startswith("x_") else check_labels)(shape, dtype, what)
                _check_size(what, shape, dtype.itemsize, stored)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ARRAYS}


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if np.lib.format.read_magic(file) == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def read_idx_folder(folder: Path) -> Arrays:
    """The arrays of a folder with MNIST's four IDX files, each gzipped (`.gz`) or not."""
    arrays = {}
    for name, stem in IDX_FILES.items():
        candidates = [folder / stem, folder / f"{stem}.gz"]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{folder} has no {stem} and no {stem}.gz; it needs {', '.join(IDX_FILES.values())}, gzipped or not"
            )
        with _named_errors(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            arrays[name] = _read_idx(file, path, images=name.startswith("x_"))
    return arrays


def _read_idx(file: BinaryIO | gzip.GzipFile, path: Path, *, images: bool) -> npt.NDArray[np.uint8]:
    expected_magic, dimensions = (IDX_IMAGES, 3) if images else (IDX_LABELS, 1)
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{path} is cut short: {len(header)} bytes, less than its header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != expected_magic:
        raise InputError(
            f"{path} starts with {magic:#010x}; an IDX file of {'images' if images else 'labels'} "
            f"starts with {expected_magic:#010x}"
        )
    if images and tuple(shape[1:]) != IMAGE_SHAPE:
        raise InputError(f"{path} announces shape {tuple(shape)}; images need shape (n, 28, 28)")
    size = _check_size(str(path), shape, 1, path.stat().st_size)
    content = file.read(size + 1)
    if len(content) != size:
        raise InputError(
            f"{path} announces {shape[0]:,} items, {size:,} bytes, but "
            + (f"holds only {len(content):,}: it is cut short" if len(content) < size else "goes on after them")
            + "; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check_size(what: str, shape: Sequence[int], itemsize: int, stored: int) -> int:
    """Bytes of an array, once it is known that `stored` bytes, deflated or not, can hold it: before memory is taken."""
    size = math.prod(shape) * itemsize
    if size > max(stored, 1) * DEFLATE_LIMIT:
        raise InputError(
            f"{what} announces {size:,} bytes, more than its {stored:,} stored bytes can hold; fetch it again"
        )
    return size


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Give what the standard library raises on an unreadable or corrupt file one kind and a name."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; give the user that runs the tasks access"
        ) from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is corrupt or cut short: {error}; fetch it again") from error
