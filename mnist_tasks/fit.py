"""The training loop: many of Keras' own train steps in one graph call, fed in a seeded order.

`keras.Model.fit` returns to Python after every batch, which for a small network costs more than the batch itself. Here
one call of a compiled graph runs `model.train_step` over a slice of an epoch, 4 MB of images, while a thread reads
the next slice from the disk. The slices are short so that timeouts and progress lines work on a slow machine, and so
that memory stays the same for any size of training set. Same optimizer, loss and metrics as `fit`, same arithmetic.

What it does not do: callbacks, validation data, sample weights, several devices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.errors import TrainingDivergedError

if TYPE_CHECKING:
    import keras

SLICE_BYTES = 1 << 22

Rows = Callable[[npt.NDArray[np.integer]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set: its number from 1, the mean of loss and metrics over it, and its wall time."""

    number: int
    metrics: dict[str, float]
    seconds: float
    images_per_second: float


def build(model: keras.Model, images: Rows, labels: npt.NDArray[Any]) -> None:
    """Have a compiled model make all its variables, those of its optimizer included, as its first step would."""
    import tensorflow as tf

    rows = np.arange(1)
    model._symbolic_build(data_batch=(tf.constant(images(rows)), tf.constant(labels[rows])))


def fit(
    model: keras.Model,
    images: Rows,
    labels: npt.NDArray[Any],
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    first_epoch: int = 1,
) -> Iterator[Epoch]:
    """Train a compiled model, yielding after each epoch.

    Args:
        model: a compiled model with one input and one output.
        images: gives the images with the given indices, shape (n, ...), in the dtype that the model takes.
        labels: one for each image, shape (n,); their number is the size of the training set.
        batch_size: images a step; the last batch of an epoch holds what is left.
        epochs: passes over the training set, those before `first_epoch` included.
        seed: of the order of the images, a new permutation each epoch.
        first_epoch: the number of the first pass, above 1 to go on with a model that was trained before.

    Raises:
        TrainingDivergedError: as soon as the loss is no finite number, naming epoch and step.
    """
    import tensorflow as tf

    build(model, images, labels)  # no variable can be made inside the graph
    count = len(labels)
    slice_size = batch_size * max(1, SLICE_BYTES // (batch_size * images(np.arange(1)).nbytes))

    def train_slice(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        total = tf.shape(y)[0]

        def step(start: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            end = tf.minimum(start + batch_size, total)
            return end, model.train_step((x[start:end], y[start:end]))["loss"]

        # "loss" is Keras' mean over the epoch so far: once it is not finite it stays so, and the loop ends.
        done, _ = tf.while_loop(
            lambda start, loss: (start < total) & tf.math.is_finite(loss), step, [0, 0.0], parallel_iterations=1
        )
        return done, model.get_metrics_result()

    run_slice = tf.function(train_slice, autograph=False, reduce_retracing=True)

    def read(rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return images(rows), labels[rows]

    with ThreadPoolExecutor(max_workers=1) as reader:
        for number in range(first_epoch, epochs + 1):
            start = time.perf_counter()
            order = np.random.default_rng([seed, number]).permutation(count)
            slices = [order[i : i + slice_size] for i in range(0, count, slice_size)]
            model.reset_metrics()
            pending = reader.submit(read, slices[0])
            for index, _ in enumerate(slices):
                x, y = pending.result()
                if index + 1 < len(slices):
                    pending = reader.submit(read, slices[index + 1])
                done, results = run_slice(tf.constant(x), tf.constant(y))
                metrics = {name: float(value) for name, value in results.items()}
                if not math.isfinite(loss := metrics["loss"]):
                    step_number = math.ceil((index * slice_size + int(done)) / batch_size)
                    raise TrainingDivergedError(
                        f"the loss is {loss} at step {step_number} of epoch {number}; use a lower learning rate"
                    )
            seconds = time.perf_counter() - start
            yield Epoch(number, metrics, seconds, count / seconds)
    model.optimizer.finalize_variable_values(model.trainable_variables)
