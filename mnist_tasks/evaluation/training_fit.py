"""How well a model fits the images that it was trained on, which shows labels that cannot be learnt.

A network that has learnt digits does not learn a wrong label within a few epochs: of its loss on the training images
most is that of wrong labels, long before the accuracy on test images says anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnist_tasks.data.dataset import Dataset, Float32, UInt8, scaled
from mnist_tasks.documents import TrainingFit
from mnist_tasks.evaluation.label_issues import label_issues
from mnist_tasks.evaluation.metrics import compute_metrics

if TYPE_CHECKING:
    import keras

SAMPLED_IMAGES = 10_000  # of a champion's training images


def probabilities_on(model: keras.Model, dataset: Dataset, *, at_most: int | None = None) -> tuple[Float32, UInt8]:
    """Run a model over the training images of a dataset, in chunks.

    Args:
        model: the model.
        dataset: the dataset.
        at_most: about how many images to use, evenly spread; None for all.

    Returns:
        Probabilities, float32 of shape (n, 10), and labels, uint8 of shape (n,).

    Raises:
        InputError: if the dataset cannot be read.
    """
    labels = dataset.labels("train")
    # Odd, because MNIST's training images alternate between two groups of writers.
    step = len(labels) // at_most | 1 if at_most else 1
    probabilities, start = [], 0
    for chunk in dataset.files("x_train").chunks():
        some = chunk[-start % step :: step]
        start += len(chunk)
        if len(some):
            probabilities.append(np.asarray(model(scaled(some), training=False)))
    return np.concatenate(probabilities), labels[::step]


def training_fit(dataset: str, probabilities: Float32, labels: UInt8) -> TrainingFit:
    """What probabilities on training images, as `probabilities_on` gives them, say; `dataset` is their digest."""
    if not np.isfinite(probabilities).all():
        return TrainingFit(dataset=dataset, images=len(labels))
    metrics = compute_metrics(probabilities, labels)
    return TrainingFit(
        dataset=dataset,
        images=len(labels),
        loss=metrics.loss,
        accuracy=metrics.accuracy,
        label_issues=len(label_issues(probabilities, labels)) / len(labels),
    )
