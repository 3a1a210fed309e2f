"""What is known about the labelled images of one split, read once, for all rules to share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.arrays import ArrayFile
from mnist_tasks.data.dataset import DIGITS, PIXEL_MAX, Float32, Split, UInt8, digest_of_test_set
from mnist_tasks.data.neighbours import TURNED_IMAGES, Indices, Reference, WayUp, evenly_spread, features
from mnist_tasks.data.sources import MNIST_TEST_DIGEST, MNIST_TEST_IMAGES

LEVELS = 16  # of the histogram of the pixels
MIN_CONTRAST = 16  # of 255, as in `image_files`

Keys = npt.NDArray[np.uint64]


def keys(images: UInt8) -> Keys:
    """64 bits of a hash of each image. Among a million images two different ones agree once in 40 million data sets."""
    digests = b"".join(hashlib.blake2b(image.data, digest_size=8).digest() for image in np.ascontiguousarray(images))
    return np.frombuffer(digests, np.uint64)


def outlines(images: UInt8) -> UInt8:
    """Where the ink of each image has more than half of its highest value, as bits, uint8 of shape (n, 98).

    Other ink mostly leaves it the same: for 79 % of MNIST's images brighter by 1, and for all with 90 % of the ink. Of
    MNIST's 60,000 training images 16 have the outline of one before them.
    """
    highest = images.reshape(len(images), -1).max(axis=1)
    return np.packbits((images > (highest // 2)[:, None, None]).reshape(len(images), -1), axis=1)


@dataclass
class Profile:
    """The labels, and what the rules need to know about the images, which stay on the disk.

    `keep` keeps the features in memory, once they have been computed: for images that others are compared with often.
    """

    STORED: ClassVar = ("keys", "outlines", "histogram", "blank", "inverted")

    labels: UInt8 = field(default_factory=lambda: np.empty(0, np.uint8))
    keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    outlines: Keys = field(default_factory=lambda: np.empty(0, np.uint64))
    files: tuple[ArrayFile, ...] = ()
    histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    blank: Indices = field(default_factory=lambda: np.empty(0, np.intp))
    inverted: Indices = field(default_factory=lambda: np.empty(0, np.intp))
    keep: bool = False
    _features: list[Float32] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, split: Split) -> Profile:
        """Read `x_train.npy` and `y_train.npy` of a folder, or those of the test set."""
        images, labels = (ArrayFile.open(folder / f"{axis}_{split}.npy") for axis in "xy")
        return cls.of_images(images, labels.all())

    @classmethod
    def of_images(cls, images: ArrayFile, labels: UInt8) -> Profile:
        """Read the images once."""
        all_keys: list[Keys] = []
        all_outlines: list[Keys] = []
        blank, inverted, histogram, start = [], [], np.zeros(LEVELS, np.int64), 0
        for chunk in images.chunks():
            all_keys.append(keys(chunk))
            all_outlines.append(keys(outlines(chunk)))
            histogram += np.bincount((chunk >> 4).reshape(-1), minlength=LEVELS)
            flat = chunk.reshape(len(chunk), -1)
            blank.append(start + np.flatnonzero(np.ptp(flat, axis=1) < MIN_CONTRAST))
            edge = np.concatenate([chunk[:, 0], chunk[:, -1], chunk[:, :, 0], chunk[:, :, -1]], axis=1)
            inverted.append(start + np.flatnonzero(np.median(edge, axis=1) > PIXEL_MAX / 2))
            start += len(chunk)
        return cls(
            labels,
            np.concatenate(all_keys),
            np.concatenate(all_outlines),
            (images,),
            histogram,
            np.concatenate(blank),
            np.concatenate(inverted),
        )

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.outlines, other.outlines]),
            self.files + other.files,
            self.histogram + other.histogram,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> list[int]:
        """Images of each digit."""
        return [int(count) for count in np.bincount(self.labels, minlength=DIGITS)]

    def features(self) -> Iterable[Float32]:
        """The features of all images, `CHUNK` at a time."""
        chunks = (features(chunk) for file in self.files for chunk in file.chunks())
        if not self.keep:
            return chunks
        if not self._features:
            self._features = list(chunks)
        return self._features

    def way_up(self, reference: Reference) -> WayUp:
        """Which way up some of the images agree best with the reference."""
        some = evenly_spread(len(self), TURNED_IMAGES)
        return reference.way_up(self.files[0].rows(some), self.labels[some])

    def moved(self, folder: Path) -> Profile:
        """The same profile after its files have been moved to another folder."""
        return replace(self, files=tuple(replace(file, path=folder / file.path.name) for file in self.files))


@dataclass(frozen=True)
class TestSet:
    """What `dataset.json` says about the test set that a source came with, under the same names."""

    __test__ = False  # pytest would collect it because of its name

    fixed_test_images: int
    test_set: str
    test_set_sha256: str

    @classmethod
    def of(cls, folder: Path) -> TestSet:
        """Read the test set in a folder of arrays."""
        images = len(ArrayFile.open(folder / "y_test.npy"))
        digest = digest_of_test_set(folder, images)
        is_mnist = (images, digest) == (MNIST_TEST_IMAGES, MNIST_TEST_DIGEST)
        return cls(images, "mnist" if is_mnist else "own", digest)
