"""Architectures by name, and what is made of one: the model that is trained, the one that is published, its SavedModel.

A new architecture is a function here that returns its layers, and its line in `ARCHITECTURES`. Importing this module
does not import Keras; building a model does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnist_tasks.data.dataset import DIGITS, IMAGE_SHAPE, PIXEL_MAX
from mnist_tasks.training.image_chunks import Array

if TYPE_CHECKING:
    import keras

    from mnist_tasks.config import TrainConfig

WARM_UP_SHARE = 0.2  # of the steps, in which the learning rate of the one-cycle schedule rises
FIRST_RATE_SHARE = 1 / 25  # of the highest learning rate, at the first step

LOSS = "sparse_categorical_crossentropy"  # for integer labels


def mlp(config: TrainConfig, *, training: bool) -> list[keras.Layer]:
    """The classic digit classifier: one hidden layer with dropout."""
    import keras

    from mnist_tasks.training import keras_layers

    dtype = config.precision if training else "float32"
    dense = keras_layers.SplitDense if training and not keras_layers.has_gpu() else keras.layers.Dense
    return [
        keras.layers.Flatten(dtype=dtype),
        dense(config.hidden_units, activation=config.activation, dtype=dtype),
        keras.layers.Dropout(config.dropout, dtype=dtype),
    ]


def cnn(config: TrainConfig, *, training: bool, blocks: tuple[tuple[int, ...], ...]) -> list[keras.Layer]:
    """A small convolutional network: each block of 3x3 convolutions, given by their filters, ends with pooling.

    The first convolution has stride 2 and size 6: as a 3x3 one on the image with 2x2 pixels folded into channels.
    Pooling comes before normalization and activation, which then have a quarter of the work.
    """
    import keras

    from mnist_tasks.training import keras_layers

    dtype = config.precision if training else "float32"
    normalization = keras_layers.BatchNormalization if training else keras.layers.BatchNormalization
    layers: list[keras.Layer] = [keras.layers.Reshape((*IMAGE_SHAPE, 1), dtype=dtype)]
    form = {"padding": "same", "use_bias": False, "dtype": dtype}
    convolution, options = partial(keras.layers.Conv2D, **form), (6, 2)
    faster = training and not keras_layers.has_gpu()
    same_size = partial(keras_layers.Conv2D if faster else keras.layers.Conv2D, **form)
    for block in blocks:
        for index, filters in enumerate(block, start=1):
            layers.append(convolution(filters, *options))
            convolution, options = same_size, (3, 1)
            if index == len(block):
                layers.append(keras.layers.MaxPooling2D(dtype=dtype))
            layers.append(normalization(momentum=0.9, dtype=dtype))
            layers.append(keras.layers.Activation(config.activation, dtype=dtype))
    return [*layers, keras.layers.Flatten(dtype=dtype), keras.layers.Dropout(config.dropout, dtype=dtype)]


ARCHITECTURES: dict[str, Callable[..., list[keras.Layer]]] = {
    "mlp": mlp,
    "cnn-2": partial(cnn, blocks=((32,), (64,))),
    "cnn-4": partial(cnn, blocks=((16, 32), (32, 64))),
    "cnn-5": partial(cnn, blocks=((32, 32), (64, 64), (128,))),
}


def trainable_model(config: TrainConfig, images: int) -> keras.Model:
    """A new, compiled model for training: float32 images in [0, 1], shape (n, 28, 28), to logits, (n, 10).

    Args:
        config: the recipe. The initial weights, dropout and shifts follow from its seed.
        images: the size of the training set; with the batch size and the epochs it gives the schedule's length.
    """
    import keras

    from mnist_tasks.training import keras_layers

    keras.utils.set_random_seed(config.seed)
    inputs = outputs = keras.Input(IMAGE_SHAPE)
    if config.shift:
        outputs = keras_layers.RandomShift(config.shift, config.seed)(outputs)
    body = keras.Sequential(ARCHITECTURES[config.architecture](config, training=True))
    in_halves = config.architecture != "mlp" and not keras_layers.has_gpu()
    outputs = keras_layers.SplitBatch(body)(outputs) if in_halves else body(outputs)
    model = keras.Model(inputs, keras.layers.Dense(DIGITS, dtype="float32")(outputs))

    steps = config.epochs * math.ceil(images / config.batch_size)
    rate = config.learning_rate
    if config.schedule == "one_cycle":
        rising = int(WARM_UP_SHARE * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            rate * FIRST_RATE_SHARE, max(1, steps - rising), warmup_target=rate, warmup_steps=rising
        )
    faster = {"adam": keras_layers.Adam, "adamw": keras_layers.AdamW}
    optimizer = faster.get(config.optimizer) or type(keras.optimizers.get(config.optimizer))
    options = {"beta_2": config.beta_2} if "adam" in config.optimizer else {}
    loss = keras_layers.Crossentropy(config.label_smoothing)
    model.compile(optimizer(rate, **options), loss, metrics=["accuracy"])
    return model


def published_model(config: TrainConfig, trained: keras.Model) -> keras.Model:
    """The model that users load: the trained weights in Keras' own layers, float32, compiled to be measured."""
    import keras

    layers = ARCHITECTURES[config.architecture](config, training=False)
    probabilities = keras.layers.Dense(DIGITS, activation="softmax")
    model = keras.Sequential([keras.Input(IMAGE_SHAPE), *layers, probabilities], name=config.architecture)
    model.set_weights(list(_joined(trained.get_weights(), [weight.shape for weight in model.weights])))
    model.compile(config.optimizer, LOSS, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)  # or Keras warns when the model is loaded
    return model


def export(model: keras.Model, folder: Path) -> None:
    """Write a published model as a SavedModel, for TF Serving.

    Its signature `serving_default` takes raw `images`, uint8 of shape (n, 28, 28), 0 for background to 255 for ink,
    normalizes them as `normalize` does and gives `probabilities`, float32 of shape (n, 10).
    """
    import tensorflow as tf

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(tf.cast(images, tf.float32) / PIXEL_MAX, training=False)}

    images = tf.TensorSpec((None, *IMAGE_SHAPE), tf.uint8, name="images")
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    tf.saved_model.save(module, folder, signatures={"serving_default": tf.function(serve, input_signature=[images])})


def weights_sha256(model: keras.Model) -> str:
    """SHA-256 over type, shape and bytes of each weight, in the model's order.

    Equal for equal weights, unlike the digest of a `.keras` file, which carries a date, and of weights with their
    names, which Keras numbers through a process.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight)
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _joined(weights: Iterable[Array], shapes: Iterable[tuple[int, ...]]) -> Iterator[Array]:
    """The weights in the given shapes. What follows one that is too small is its other half, as in `SplitDense`."""
    arrays = iter(weights)
    for shape in shapes:
        array = next(arrays)
        while array.shape != shape:
            array = np.concatenate([array, next(arrays)], axis=-1)
        yield array
