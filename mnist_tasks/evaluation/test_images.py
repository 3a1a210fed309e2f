"""The test images: tonight's, and MNIST's own, which stay the same whatever the source and the inbox contain.

MNIST's own are part of the package. Their digest is checked, so that nothing is measured with a damaged file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import Dataset, Float32, UInt8, test_set_digest
from mnist_tasks.data.neighbours import evenly_spread
from mnist_tasks.data.sources import BUILTIN, MNIST_DIGEST, MNIST_TEST_DIGEST, MNIST_TEST_IMAGES
from mnist_tasks.documents import DatasetDescription, Evaluation, Part
from mnist_tasks.evaluation.robustness import CHANGED_IMAGES, changed
from mnist_tasks.evaluation.slices import slices
from mnist_tasks.system.errors import InputError, is_transient

GOLDEN_IMAGES = 100  # the first of the test set


@dataclass(frozen=True)
class TestImages:
    """Tonight's test images, normalized and raw, their labels, and how many of them are the source's own.

    The source's come first, then those that batches of the inbox add. `own` is None if an older release wrote the
    dataset.
    """

    __test__ = False  # pytest would collect it because of its name

    images: Float32
    raw: UInt8
    labels: UInt8
    own: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, description: DatasetDescription) -> TestImages:
        """Read the test images of a dataset; `fixed_test_images` of its description is the number of the source's own.

        Raises:
            InputError: if the dataset cannot be read.
        """
        labels = np.array(dataset.labels("test"))
        own = description.fixed_test_images
        return cls(
            dataset.normalized("test"),
            dataset.array("x_test"),
            labels,
            own if own is not None and 0 <= own <= len(labels) else None,
        )

    @property
    def golden(self) -> UInt8:
        """The images whose probabilities are recorded with a version, uint8 of shape (100, 28, 28)."""
        return self.raw[:GOLDEN_IMAGES]

    @cached_property
    def slices(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which images belong to each slice, bool of shape (n,)."""
        return dict(slices(self.raw))

    @cached_property
    def changed_positions(self) -> npt.NDArray[np.intp]:
        """The images that are changed, to see how robust a model is."""
        return evenly_spread(len(self.labels), CHANGED_IMAGES)

    @cached_property
    def changed(self) -> dict[str, Float32]:
        """These images after each change, float32 in [0, 1]."""
        return dict(changed(self.raw[self.changed_positions]))

    @cached_property
    def begins_with_mnist(self) -> bool:
        """Whether tonight's test set begins with MNIST's, complete and in order, byte for byte."""
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

    def parts(self, correct: npt.NDArray[np.bool_], mnist_accuracy: float) -> list[Part]:
        """The accuracy on each part of the test images; nothing if they are MNIST's and have no parts.

        Args:
            correct: for each of tonight's images whether it was recognized, bool of shape (n,).
            mnist_accuracy: the accuracy on MNIST's own.
        """
        if self.is_mnist:
            return []
        own = self.own if self.own is not None else MNIST_TEST_IMAGES if self.begins_with_mnist else len(self.labels)
        parts = {"the source's own test images": correct[:own], "those that the inbox adds": correct[own:]}
        return [
            *(
                Part(name=name, images=len(part), accuracy=float(part.mean()))
                for name, part in parts.items()
                if len(part)
            ),
            Part(name="MNIST's own test set", images=MNIST_TEST_IMAGES, accuracy=mnist_accuracy),
        ]


def mnist_test_set() -> tuple[UInt8, UInt8]:
    """Read MNIST's own test images, uint8 of shape (10000, 28, 28), and their labels, uint8 of shape (10000,).

    Raises:
        InputError: if the package's file is damaged.
    """
    way_out = "install the project again"
    try:
        with np.load(BUILTIN, allow_pickle=False) as arrays:
            images, labels = arrays["x_test"], arrays["y_test"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        if is_transient(error):
            raise
        raise InputError(f"{BUILTIN}, which holds MNIST's test set, cannot be read: {error}; {way_out}") from error
    digest = test_set_digest(len(images), [images, labels])
    if digest != MNIST_TEST_DIGEST:
        raise InputError(f"{BUILTIN} does not hold MNIST's test set: SHA-256 {digest}; {way_out}")
    return images, labels


def published_mnist_accuracy(evaluation: Evaluation) -> float | None:
    """The accuracy on MNIST's own test set with which a version was published; None if it is unknown."""
    candidate = evaluation.candidate
    if candidate.mnist.accuracy is not None:
        return candidate.mnist.accuracy
    # An older release measured only on tonight's test images, which were mostly MNIST's.
    return candidate.accuracy if evaluation.dataset == MNIST_DIGEST else None
