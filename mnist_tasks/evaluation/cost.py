"""What a model costs whoever serves it: size, parameters and the time of a prediction."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_tasks.data.dataset import Float32
from mnist_tasks.documents import Cost

if TYPE_CHECKING:
    import keras

MB = 10**6
MANY = 1000  # images at once
REPEATS = 30
MIN_REPEATS, MAX_SECONDS = 3, 0.5  # fewer repeats for a slow model


def cost(model: keras.Model, path: Path, images: Float32) -> Cost:
    """Measure a model.

    Args:
        model: the model.
        path: its file.
        images: float32 of shape (n, 28, 28), at least one; `MANY` of them are predicted at once, or as many as exist.
    """
    many = images[:MANY]
    return Cost(
        megabytes=path.stat().st_size / MB,
        parameters=model.count_params(),
        seconds_for_one=_seconds(model, images[:1]),
        seconds_for_many=_seconds(model, many),
        many=len(many),
    )


def _seconds(model: keras.Model, images: Float32) -> float:
    """The median time of a prediction, without the first one, which may be slower."""
    times: list[float] = []
    model(images, training=False)
    while len(times) < REPEATS and (len(times) < MIN_REPEATS or sum(times) < MAX_SECONDS):
        start = time.perf_counter()
        model(images, training=False).numpy()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
