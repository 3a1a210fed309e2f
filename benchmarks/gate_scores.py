"""The scores of the models of `benchmarks.gate_models` as lines of a CSV file, and back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tasks.data.dataset import DIGITS
from mnist_tasks.data.sources import read_source
from mnist_tasks.documents import DigitMetrics, Finding, MnistMetrics, ModelEvaluation, SliceMetrics, TrainingFit
from mnist_tasks.evaluation.robustness import CHANGED_IMAGES, CHANGES
from mnist_tasks.evaluation.slices import slices

SCORES = Path(__file__).with_name("gate_scores.csv")
OVERALL = ("accuracy", "loss", "brier", "calibration_error")
OF_DIGIT = ("recall", "precision")
OF_TRAINING = ("accuracy", "loss", "label_issues")


def scores(model: ModelEvaluation) -> dict[str, Any]:
    """One line, with five digits behind the point."""
    values: dict[str, Any] = {name: getattr(model, name) for name in OVERALL}
    values |= {f"training {name}": getattr(model.training, name) for name in OF_TRAINING}
    values |= {f"{name} {entry.digit}": getattr(entry, name) for name in OF_DIGIT for entry in model.digits}
    values |= {entry.name: entry.accuracy for entry in (*model.slices, *model.changed)}
    return {name: "" if value is None else round(value, 5) for name, value in values.items()}


def read_scores() -> dict[str, list[ModelEvaluation]]:
    """The models by kind, as `evaluate` would write them."""
    mnist = read_source("builtin")
    supports = np.bincount(mnist.y_test, minlength=DIGITS).tolist()
    sizes = {name: int(members.sum()) for name, members in slices(mnist.x_test)}
    found: dict[str, list[ModelEvaluation]] = {}
    with SCORES.open(newline="") as file:
        for line in csv.DictReader(file):
            values: dict[str, Any] = {
                name: float(text) if text else None for name, text in line.items() if name != "kind"
            }
            model = ModelEvaluation(
                **{name: values[name] for name in OVERALL},
                dataset="MNIST's test set",
                integrity=[Finding("loads", True, "loads")],
                mnist=MnistMetrics(is_test_set=True),
                digits=[
                    DigitMetrics(digit, supports[digit], **{name: values[f"{name} {digit}"] for name in OF_DIGIT})
                    for digit in range(DIGITS)
                ],
                slices=[SliceMetrics(name, size, values[name]) for name, size in sizes.items()],
                changed=[SliceMetrics(name, CHANGED_IMAGES, values[name]) for name in CHANGES],
                training=TrainingFit(**{name: values[f"training {name}"] for name in OF_TRAINING}),
            )
            found.setdefault(line["kind"], []).append(model)
    return found
