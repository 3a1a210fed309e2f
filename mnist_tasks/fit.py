"""The training loop: many of Keras' own train steps in one graph call, on data that stays on the device.

How it works. Images and labels are put on the device once; on a CPU without a copy, as tensors over a memory map. The
order of an epoch's images is a permutation that follows from the seed and the epoch's number. One call of a compiled
graph takes a range of that order and runs, in a loop inside the graph, `model.train_step` on one batch after another.
The number of batches a call grows or shrinks until a call takes about a second, so that timeouts, signals and progress
lines work on a slow machine too; where the cuts are makes no difference to the result.

Why it is faster than `keras.Model.fit`. `fit` returns to Python after every batch, and feeds each batch through an
input pipeline of its own; for a small network both cost more than the batch itself. With `steps_per_execution` the
first cost goes, the second stays. Optimizer, loss, metrics, dropout, learning-rate schedules, moving averages of the
weights and mixed precision are Keras' own code, unchanged, so the arithmetic is that of `fit`.

With several devices (`tf.distribute`) each takes an equal part of every batch, and the gradients are summed.

What it does not do: callbacks, sample weights, inputs or outputs that are not one array, data larger than the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.errors import InputError, TrainingDivergedError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.integer]

FIRST_CALL_STEPS = 64
CALL_SECONDS = 1.0
ALIGNMENT = 64  # bytes; what TensorFlow's CPU kernels expect of a tensor that they did not allocate


@dataclass(frozen=True)
class Epoch:
    """One pass over the training set: its number from 1, its metrics, its wall time, and the speed of the training.

    Metrics are the means over the epoch while it trained, as Keras has them, and with the prefix `val_` those of the
    validation images after it. The time includes the validation; the speed does not.
    """

    number: int
    metrics: dict[str, float]
    seconds: float
    images_per_second: float


def build(model: keras.Model, images: Array, labels: Array) -> None:
    """Have a compiled model make all its variables, those of its optimizer included, as its first step would.

    Raises:
        InputError: if the images are not what the model takes, or a label is no output of it.
    """
    import tensorflow as tf

    expected = model.input_shape[1:]
    if images.shape[1:] != expected:
        raise InputError(f"images have shape {images.shape}, but the model takes {('n', *expected)}")
    if len(images) != len(labels):
        raise InputError(f"{len(images):,} images have {len(labels):,} labels; each image needs one")
    if not len(labels):
        raise InputError("there are no images to train on")
    classes = model.output_shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels go from {labels.min()} to {labels.max()}, but the model has outputs for 0 to {classes - 1}"
        )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=(tf.constant(images[:1]), tf.constant(labels[:1])))


def fit(
    model: keras.Model,
    images: Array,
    labels: Array,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    first_epoch: int = 1,
    rows: Rows | None = None,
    validation_rows: Rows | None = None,
) -> Iterator[Epoch]:
    """Train a compiled model, yielding after each epoch.

    Args:
        model: a compiled model with one input and one output.
        images: shape (n, ...), in the dtype that the model takes. A memory map opened as copy-on-write (`mode="c"`) is
            used as it is; anything else may be copied once.
        labels: one for each image, shape (n,), integers.
        batch_size: images a step, over all devices together; the last batch of an epoch holds what is left.
        epochs: passes over the training set, those before `first_epoch` included.
        seed: of the order of the images, a new permutation each epoch.
        first_epoch: the number of the first pass, above 1 to go on with a model that was trained before.
        rows: the indices of the images to train on, shape (m,); all if None.
        validation_rows: the indices of images to measure after each epoch.

    Whoever stops taking epochs early has the weights of the last step; moving averages of them (`use_ema`) are put in
    place after the last epoch, as in `keras.Model.fit`.

    Raises:
        InputError: if images and labels do not fit the model, or a batch cannot be split evenly over the devices.
        TrainingDivergedError: as soon as the loss is no finite number, naming epoch and step.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    replicas = model.distribute_strategy.num_replicas_in_sync
    held_out = 0 if validation_rows is None else len(validation_rows)
    for size in (batch_size, len(rows) % batch_size, held_out % batch_size):
        if size % replicas:
            raise InputError(
                f"a batch of {size:,} images cannot be split evenly over {replicas} devices; use a batch_size of which "
                f"this is not the remainder, divisible by {replicas}"
            )
    build(model, images, labels)  # no variable can be made inside the graph
    data = tuple(_on_devices(model.distribute_strategy, array) for array in (images, labels))
    train_pass, validate = (Pass(model, step, data, batch_size) for step in (model.train_step, model.test_step))
    for number in range(first_epoch, epochs + 1):
        start = time.perf_counter()
        metrics, step, loss = train_pass(np.random.default_rng([seed, number]).permutation(rows))
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {step} of epoch {number}; use a lower learning rate"
            )
        speed = len(rows) / (time.perf_counter() - start)
        if validation_rows is not None:
            measured, _, loss = validate(validation_rows)
            if not math.isfinite(loss):
                raise TrainingDivergedError(
                    f"the validation loss is {loss} after epoch {number}; use a lower learning rate"
                )
            metrics |= {f"val_{name}": value for name, value in measured.items()}
        yield Epoch(number, metrics, time.perf_counter() - start, speed)
    with model.distribute_strategy.scope():
        model.optimizer.finalize_variable_values(model.trainable_variables)


class Pass:
    """A step of a Keras model, over all batches of an order of images; compiled once."""

    def __init__(self, model: keras.Model, step: Any, data: tuple[Any, Any], batch_size: int) -> None:
        """Of `step`, a method of `model`, on `data`: images and labels as `_on_devices` gives them."""
        import tensorflow as tf

        self.model = model
        self.batch_size = batch_size
        self.steps = FIRST_CALL_STEPS
        strategy = model.distribute_strategy
        replicas = strategy.num_replicas_in_sync

        def replica_step(x: tf.Tensor, y: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
            if replicas == 1:
                return step((tf.gather(x, batch), tf.gather(y, batch)))["loss"]
            context = tf.distribute.get_replica_context()
            part = tf.shape(batch)[0] // replicas
            start = context.replica_id_in_sync_group * part
            batch = batch[start : start + part]
            loss = step((tf.gather(x, batch), tf.gather(y, batch)))["loss"]
            # All devices must agree when to stop, or some would wait for the others for ever.
            return context.all_reduce(tf.distribute.ReduceOp.MEAN, loss)

        def run(data: Any, order: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def body(position: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                following = tf.minimum(position + batch_size, end)
                loss = strategy.run(replica_step, args=(*data, order[position:following]))
                return following, strategy.experimental_local_results(loss)[0]

            # "loss" is Keras' mean over the epoch so far: once it is not finite it stays so, and the loop ends.
            done, loss = tf.while_loop(
                lambda position, loss: (position < end) & tf.math.is_finite(loss),
                body,
                [start, 0.0],
                parallel_iterations=1,
            )
            return done, loss

        self.data = data
        self._run = tf.function(run, autograph=False)

    def __call__(self, order: Rows) -> tuple[dict[str, float], int, float]:
        """The model's metrics over the images in `order`, the number of steps done, and the loss at the last."""
        import tensorflow as tf

        self.model.reset_metrics()
        indices, position, loss = tf.constant(order, tf.int32), 0, 0.0
        while position < len(order) and math.isfinite(loss):
            start = time.perf_counter()
            end = min(position + self.steps * self.batch_size, len(order))
            done, last = self._run(self.data, indices, tf.constant(position), tf.constant(end))
            position, loss = int(done), float(last)
            seconds = time.perf_counter() - start
            if seconds < CALL_SECONDS / 2:
                self.steps *= 2
            elif seconds > 2 * CALL_SECONDS:
                self.steps = max(1, self.steps // 2)
        results = self.model.get_metrics_result()
        metrics = {name: float(results[name]) for name in ["loss", *sorted(results.keys() - {"loss"})]}
        return metrics, math.ceil(position / self.batch_size), loss


def _on_devices(strategy: tf.distribute.Strategy, array: Array) -> Any:
    """The array as a tensor on each device of this process; on the CPU without a copy, where the memory allows it."""
    import tensorflow as tf

    shareable = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0
    with tf.device("CPU:0"):
        tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__()) if shareable else tf.constant(array)
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        with tf.device("GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"):
            return tf.identity(tensor)
    devices = iter(strategy.extended.worker_devices)

    def on_next_device(_: Any) -> tf.Tensor:
        with tf.device(next(devices)):
            return tf.identity(tensor)

    return strategy.experimental_distribute_values_from_function(on_next_device)
