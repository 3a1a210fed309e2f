"""Where digits come from: the copy in this package, Keras' download, or the user's own files, local or behind a URL.

The user's own files are in one of the forms of `readers`. `fetch` checks them and copies them to `.npy` files, in
pieces: memory does not grow with the source, nothing is ever unpickled, no memory is allocated because a header says
so, and a file that changes while it is read is noticed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mnist_tasks.data.allowed_sources import AllowedSources
from mnist_tasks.data.arrays import open_array, write_array
from mnist_tasks.data.dataset import ARRAYS, IMAGE_SHAPE, Digits, Split
from mnist_tasks.data.readers.common import FORMS, AnnouncedSplit, entries, read_errors_named
from mnist_tasks.data.readers.idx import has_idx_files, read_idx
from mnist_tasks.data.readers.kinds import is_npz, refuse
from mnist_tasks.data.readers.npz import read_npz
from mnist_tasks.data.readers.pictures import has_pictures, read_pictures
from mnist_tasks.data.readers.tables import has_tables, read_tables
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable, walk
from mnist_tasks.system.tensorflow_import import import_tensorflow

BUILTIN = Path(__file__).parent / "builtin" / "mnist.npz"

# Content digest of MNIST (see content_digest), made from the four original IDX files with the published checksums.
MNIST_DIGEST = "796354bf1a5bdb3f752e23f487245288f2c35b1e0bc343e07448cffbb5f56624"

# As in keras.datasets.mnist.load_data.
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
KERAS_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"

# Of MNIST's 10,000 test images and their labels (see digest_of_test_set).
MNIST_TEST_IMAGES = 10_000
MNIST_TEST_DIGEST = "938232450ccb2eafbd2dfa54f760c3ba310b167a1c150ecf2aab9cfa82dddb47"
MNIST_IMAGES = 70_000

Reader = Callable[[Path], Iterator[tuple[Split, AnnouncedSplit]]]

# Each form that a file or folder can have: how it is recognized, and its reader. The first match reads. A new form is a
# module in `readers` and a line here.
READERS: tuple[tuple[Callable[[Path], bool], Reader], ...] = (
    (has_idx_files, read_idx),
    (has_tables, read_tables),
    (has_pictures, read_pictures),
    (is_npz, read_npz),
)

KNOWN_DIGESTS: Mapping[str, str] = {"builtin": MNIST_DIGEST, "keras": MNIST_DIGEST}


def fetch(source: str | Path, folder: Path) -> tuple[Split, ...]:
    """Copy a source's labelled digits to `x_train.npy`, `y_train.npy`, ... in `folder`, row after row, as uint8.

    Args:
        source: `builtin`, `keras`, a URL, or the path of a file or folder in one of the forms of `readers`.
        folder: where the arrays go; what a URL leads to lies there as well meanwhile.

    Returns:
        Which splits the source has: `train`, `test` or both.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    place = find(source)
    if source == "keras":
        return _copy(download_with_keras(), folder)
    if isinstance(place, str):
        # Imported here: the file systems behind URLs take a while, and most nights need none.
        from mnist_tasks.data.download import download

        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            copy = download(place, Path(temporary), AllowedSources.from_environment())
            try:
                return _copy(copy, folder)
            except InputError as error:
                raise InputError(str(error).replace(str(copy), place)) from error
    return _copy(place, folder)


def find(source: str | Path) -> Path | str:
    """Where a source lies: a path of this machine that exists, or a URL. Nothing is read and nothing is asked for.

    Raises:
        InputError: if it may not be read, or nothing that can be read is there.
    """
    if source == "builtin":
        return BUILTIN
    # A Path comes from the program itself, such as a batch in the inbox; text comes from the user.
    place = source
    if isinstance(source, str):
        place = AllowedSources.from_environment().source(KERAS_URL if source == "keras" else source)
    if isinstance(place, str):
        return place
    with read_errors_named(place):
        exists = place.exists()
        usable = place.is_dir() or place.is_file()
    if not usable:
        # Not a pipe or a device either, which might never end.
        problem = "is neither a file nor a folder" if exists else "does not exist on this worker"
        raise InputError(
            f"data source {str(source)!r} {problem}; use builtin, keras, a URL, or the absolute path of {FORMS}"
        )
    return place


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


def _copy(path: Path, folder: Path) -> tuple[Split, ...]:
    """Copy what lies at a path, whatever its form, and notice if it changes meanwhile."""
    before = state(path)
    place, read = _recognized(path)
    splits = []
    for split, announced in read(place):
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
        raise InputError(f"{printable(path)} holds neither a training nor a test set; it should be {FORMS}")
    return tuple(splits)


def _recognized(path: Path) -> tuple[Path, Reader]:
    """Where the data lie and their reader.

    That is the path itself or, of a folder that holds but one other, the other, as in torchvision's and Hugging Face's.
    """
    place = path
    with read_errors_named(path):
        while True:
            for recognizes, read in READERS:
                if recognizes(place):
                    return place, read
            names = [entry.name for entry in entries(place)] if place.is_dir() else []
            if set(names) == {"raw", "processed"}:  # of torchvision's earlier releases
                names = ["raw"]
            if len(names) != 1:
                refuse(path)
            place /= names[0]


def state(path: Path) -> str:
    """A digest of names, sizes and times of all that lies at a path: the same as long as nobody changes anything."""
    total = hashlib.sha256()
    with read_errors_named(path):
        for entry in walk(path):
            status = entry.lstat()
            numbers = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
            total.update(os.fsencode(entry) + f"\0{numbers}\0".encode())
    return total.hexdigest()


def last_change(path: Path) -> float:
    """When anything at a path was changed last, in seconds since 1970."""
    with read_errors_named(path):
        return max(max(entry.lstat().st_ctime, entry.lstat().st_mtime) for entry in walk(path))
