"""The training loop: many of Keras' own train steps in one graph call, on data that stays on the device.

How it works. Images and labels are put on the device once; on a CPU without a copy, as tensors over a memory map. The
order of an epoch's images is a permutation that follows from the seed and the epoch's number. One call of a compiled
graph takes a range of that order and runs, in a loop inside the graph, `model.train_step` on one batch after another.
The number of batches a call grows from one, or shrinks, until a call takes about a second, so that timeouts, signals
and progress lines work on a slow machine too; where the cuts are makes no difference to the result.

Data that need more memory than they may take are streamed: a thread reads the next chunk of the order from the memory
map while the graph trains on the last. The batches are the same, so the result is, bit for bit.

Why it is faster than `keras.Model.fit`. `fit` returns to Python after every batch, and feeds each batch through an
input pipeline of its own; for a small network both cost more than the batch itself. With `steps_per_execution` the
first cost goes, the second stays. Metrics, dropout, learning-rate schedules, moving averages of the weights and mixed
precision are Keras' own code, and so is the model's: `keras_layers` only has faster forms of a few of its classes.

With several devices (`tf.distribute`) each takes an equal part of every batch, and the gradients are summed.

It has no callbacks and no sample weights, and takes models with one input and one output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.documents import Epoch
from mnist_tasks.system.errors import InputError, TrainingDivergedError
from mnist_tasks.training.image_chunks import Array, ChunkReader, Indices, chunk_reader

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Told about once a second of an epoch's number, the images done, all its images, and the loss so far.
Watcher = Callable[[int, int, int, float], None]

FIRST_CALL_STEPS = 1  # how long a step takes is not known yet
CALL_SECONDS = 1.0


def build(model: keras.Model, images: Array, labels: Array) -> None:
    """Have a compiled model make all its variables, those of its optimizer included, as its first step would.

    Raises:
        InputError: if the images are not what the model takes, or it has no output for a label.
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
    indices: Indices | None = None,
    validation_indices: Indices | None = None,
    image_memory: float = math.inf,
    watcher: Watcher | None = None,
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
        indices: of the images to train on, shape (m,); all if None.
        validation_indices: of the images to measure after each epoch.
        image_memory: how many bytes images and labels may take on each device; more are streamed, best from a memory
            map, whose file is read then.
        watcher: told how far an epoch is, about once a second.

    Whoever stops taking epochs early has the weights of the last step; moving averages of them (`use_ema`) are in place
    when the last epoch is yielded, as after `keras.Model.fit`.

    Raises:
        InputError: if images and labels do not fit the model, a batch cannot be split evenly over the devices, or
            `image_memory` cannot hold the batches that streaming needs.
        TrainingDivergedError: as soon as the loss is not a finite number, naming epoch and step.
    """
    indices = np.arange(len(labels)) if indices is None else indices
    _check_even_split(model, batch_size, indices, validation_indices)
    build(model, images, labels)  # no variable can be made inside the graph
    chunks = chunk_reader(model.distribute_strategy, images, labels, batch_size, image_memory)
    train_epoch, validate = (
        StepRunner(model, step, chunks, batch_size) for step in (model.train_step, model.test_step)
    )
    for number in range(first_epoch, epochs + 1):
        start = time.perf_counter()
        watch = partial(watcher, number) if watcher else None
        metrics, step, loss = train_epoch(np.random.default_rng([seed, number]).permutation(indices), watch)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {step} of epoch {number}; use a lower learning rate"
            )
        speed = len(indices) / (time.perf_counter() - start)
        if validation_indices is not None:
            metrics |= _validation_metrics(validate, validation_indices, number)
        if number == epochs:
            with model.distribute_strategy.scope():
                model.optimizer.finalize_variable_values(model.trainable_variables)
        yield Epoch(number=number, metrics=metrics, seconds=time.perf_counter() - start, images_per_second=speed)


def _validation_metrics(validate: StepRunner, indices: Indices, epoch: int) -> dict[str, float]:
    """The metrics on the validation images, with the prefix that Keras uses."""
    metrics, _, loss = validate(indices)
    if not math.isfinite(loss):
        raise TrainingDivergedError(f"the validation loss is {loss} after epoch {epoch}; use a lower learning rate")
    return {f"val_{name}": value for name, value in metrics.items()}


def _check_even_split(model: keras.Model, batch_size: int, *orders: Indices | None) -> None:
    """Raise an `InputError` if a batch, or the last one of an order, cannot be split evenly over the devices."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    for size in (batch_size, *(len(order) % batch_size for order in orders if order is not None)):
        if size % replicas:
            raise InputError(
                f"a batch of {size:,} images cannot be split evenly over {replicas} devices; use a batch_size of which "
                f"this is not the remainder, divisible by {replicas}"
            )


class StepRunner:
    """Runs one step function of a Keras model on all batches of an order of images; compiled once."""

    def __init__(self, model: keras.Model, step: Any, chunks: ChunkReader, batch_size: int) -> None:
        """Run `step`, a method of `model`. All chunks but the last of an order hold whole batches."""
        import tensorflow as tf

        self.model = model
        self.chunks = chunks
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

        self._run = tf.function(run, autograph=False)

    def __call__(
        self, order: Indices, watch: Callable[[int, int, float], None] | None = None
    ) -> tuple[dict[str, float], int, float]:
        """The model's metrics over the images in `order`, the number of steps done, and the loss at the last."""
        import tensorflow as tf

        self.model.reset_metrics()
        done, loss = 0, 0.0
        for data, positions, count in self.chunks(order):
            position = 0
            while position < count and math.isfinite(loss):
                start = time.perf_counter()
                steps = min(self.steps, math.ceil((count - position) / self.batch_size))
                end = min(position + steps * self.batch_size, count)
                reached, last = self._run(data, positions, tf.constant(position), tf.constant(end))
                position, loss = int(reached), float(last)
                now = time.perf_counter()
                if now - start > 2 * CALL_SECONDS:
                    self.steps = max(1, int(steps * CALL_SECONDS / (now - start)))
                elif now - start < CALL_SECONDS / 2 and steps == self.steps:
                    self.steps *= 2
                if watch and math.isfinite(loss):
                    watch(done + position, len(order), loss)
            done += position
            if not math.isfinite(loss):
                break
        results = self.model.get_metrics_result()
        metrics = {name: float(results[name]) for name in ["loss", *sorted(results.keys() - {"loss"})]}
        return metrics, math.ceil(done / self.batch_size), loss
