"""The recipes: named sets of training parameters. A new recipe is a new entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What a recipe is for, and which training parameters it sets otherwise than `classic`."""

    purpose: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


_CONVOLUTIONAL = {
    "batch_size": 128,
    "beta_2": 0.98,
    "learning_rate": 0.01,
    "schedule": "one_cycle",
    "label_smoothing": 0.1,
    "dropout": 0,
    "precision": "auto",
}

RECIPES: Mapping[str, Recipe] = {
    "classic": Recipe("one hidden layer, as in every tutorial"),
    "classic-fast": Recipe(
        "the same network in two thirds of the time",
        {"batch_size": 256, "learning_rate": 0.008, "schedule": "one_cycle"},
    ),
    "cnn-fast": Recipe("99.0 %", {**_CONVOLUTIONAL, "architecture": "cnn-2", "epochs": 2}),
    "cnn": Recipe("99.4 %", {**_CONVOLUTIONAL, "architecture": "cnn-4", "epochs": 3, "shift": 1}),
    "cnn-best": Recipe("99.6 %", {**_CONVOLUTIONAL, "architecture": "cnn-5", "epochs": 6, "shift": 1}),
}
