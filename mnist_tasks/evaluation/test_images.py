"""The test images: tonight's, and MNIST's own, which stay the same whatever the source and the inbox bring.

MNIST's own are those that the package holds. They are known by their digest, so that a damaged file does not measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import Dataset, Float32, UInt8, test_set_digest
from mnist_tasks.data.sources import BUILTIN, MNIST_DIGEST, MNIST_TEST_DIGEST, MNIST_TEST_IMAGES
from mnist_tasks.system.errors import InputError, is_transient


@dataclass(frozen=True)
class TestImages:
    """Tonight's test images, normalized and raw, their labels, and how many of them are the source's own.

    The source's come first, those that batches of the inbox add after them; `own` is None in a dataset of an older
    release, which does not say.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    images: Float32
    raw: UInt8
    labels: UInt8
    own: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, description: Mapping[str, Any]) -> TestImages:
        """Those of a dataset, whose `dataset.json` says under `fixed_test_images` how many are the source's own.

        Raises:
            InputError: if the dataset cannot be read.
        """
        labels = np.array(dataset.labels("test"))
        own = description.get("fixed_test_images")
        return cls(
            dataset.normalized("test"),
            dataset.array("x_test"),
            labels,
            own if isinstance(own, int) and 0 <= own <= len(labels) else None,
        )

    @cached_property
    def begins_with_mnist(self) -> bool:
        """Whether MNIST's test set, whole and in its order, is what tonight's begins with, byte for byte."""
        if len(self.labels) < MNIST_TEST_IMAGES:
            return False
        images, labels = self._mnist
        return bool(
            np.array_equal(self.labels[: len(labels)], labels) and np.array_equal(self.raw[: len(images)], images)
        )

    @property
    def is_mnist(self) -> bool:
        """Whether tonight's test set is MNIST's and nothing else."""
        return self.begins_with_mnist and len(self.labels) == MNIST_TEST_IMAGES

    @property
    def mnist_images(self) -> UInt8:
        """MNIST's own test images, uint8 of shape (10000, 28, 28)."""
        return self.raw[:MNIST_TEST_IMAGES] if self.begins_with_mnist else self._mnist[0]

    @property
    def mnist_labels(self) -> UInt8:
        """Their labels, uint8 of shape (10000,)."""
        return self.labels[:MNIST_TEST_IMAGES] if self.begins_with_mnist else self._mnist[1]

    @cached_property
    def _mnist(self) -> tuple[UInt8, UInt8]:
        return mnist_test_set()

    def parts(self, hits: npt.NDArray[np.bool_], on_mnist: float) -> list[dict[str, Any]]:
        """Name, images and accuracy of each part of the test images; nothing if they are MNIST's and have no parts.

        Args:
            hits: for each of tonight's images whether it was recognized.
            on_mnist: the accuracy on MNIST's own.
        """
        if self.is_mnist:
            return []
        own = self.own if self.own is not None else MNIST_TEST_IMAGES if self.begins_with_mnist else len(self.labels)
        found = [("the source's own test images", hits[:own]), ("those that the inbox adds", hits[own:])]
        mnist = {"name": "MNIST's own test set", "images": MNIST_TEST_IMAGES, "accuracy": on_mnist}
        parts = [
            {"name": name, "images": len(part), "accuracy": float(part.mean())} for name, part in found if len(part)
        ]
        return [*parts, mnist]


def mnist_test_set() -> tuple[UInt8, UInt8]:
    """MNIST's own test images and their labels.

    Raises:
        InputError: if the package's file is damaged.
    """
    again = "install the project again"
    try:
        with np.load(BUILTIN, allow_pickle=False) as arrays:
            images, labels = arrays["x_test"], arrays["y_test"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        if is_transient(error):
            raise
        raise InputError(f"{BUILTIN}, which holds MNIST's test set, cannot be read: {error}; {again}") from error
    found = test_set_digest(len(images), [images, labels])
    if found != MNIST_TEST_DIGEST:
        raise InputError(f"{BUILTIN} does not hold MNIST's test set: SHA-256 {found}; {again}")
    return images, labels


def published_accuracy(evaluation: Mapping[str, Any]) -> float | None:
    """What a version got on MNIST's own test set when it was published, by its `evaluation.json`; None if not known."""
    candidate = evaluation.get("candidate") or {}
    if isinstance(accuracy := (candidate.get("mnist") or {}).get("accuracy"), float):
        return accuracy
    # An older release measured on tonight's test images only, mostly MNIST's.
    accuracy = candidate.get("accuracy")
    return accuracy if evaluation.get("dataset") == MNIST_DIGEST and isinstance(accuracy, float) else None
