"""The worklist `suspects.csv`: training images whose label the candidate doubts, for a person to correct."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_tasks.data.dataset import IMAGE_SHAPE, Dataset, Float32, UInt8
from mnist_tasks.data.origins import origins
from mnist_tasks.documents import Mistake
from mnist_tasks.evaluation.label_issues import label_issues
from mnist_tasks.system.files import write_atomically

SUSPECTS = "suspects.csv"
COLUMNS = ("index", "batch", "position", "label", "suggestion", "probability_of_label", "probability_of_suggestion")


def images_of(dataset: Dataset, suspects: Sequence[Mistake]) -> UInt8:
    """The training images of suspects, uint8 of shape (n, 28, 28), in their order."""
    wanted = np.array([suspect.index for suspect in suspects], np.intp)
    images, start = np.empty((len(wanted), *IMAGE_SHAPE), np.uint8), 0
    for chunk in dataset.files("x_train").chunks() if suspects else ():
        here = (wanted >= start) & (wanted < start + len(chunk))
        images[here] = chunk[wanted[here] - start]
        start += len(chunk)
    return images


def write_suspects(run: Path, dataset: Dataset, probabilities: Float32, labels: UInt8) -> list[Mistake]:
    """Write the worklist into the run's folder, the surest first; return the images in the same order.

    `index` is the position among the training images of the dataset, `batch` the batch or the source that has the
    image, and `position` its position there. Both are counted from 0.

    Args:
        run: the run's folder.
        dataset: the dataset.
        probabilities: of all its training images, float32 of shape (n, 10).
        labels: uint8 of shape (n,).
    """
    issues = label_issues(probabilities, labels).tolist()
    suspects = [
        Mistake(
            index=position,
            label=int(labels[position]),
            predicted=int(probabilities[position].argmax()),
            probability=min(1.0, float(probabilities[position].max())),
        )
        for position in issues
    ]
    places = origins(dataset, "train", issues)

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for suspect, (batch, position) in zip(suspects, places, strict=True):
                of_label = probabilities[suspect.index, suspect.label]
                row = (suspect.index, batch, position, suspect.label, suspect.predicted)
                writer.writerow([*row, f"{of_label:.6f}", f"{suspect.probability:.6f}"])

    write_atomically(run / SUSPECTS, write)
    return suspects
