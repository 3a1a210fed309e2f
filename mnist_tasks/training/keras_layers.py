"""Keras classes that only training needs: faster Adam and batch normalization, random shifts, smoothed labels.

None of them is in a published model, which is made of Keras' own layers, so that it loads wherever Keras does.
Importing this module imports Keras.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class _FusedUpdate:
    """Adam's update as one kernel per variable instead of a dozen operations, with Keras' slots and formula."""

    def update_step(self: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices) or tf.distribute.has_strategy():
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Adam(_FusedUpdate, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, faster."""


class AdamW(_FusedUpdate, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, faster."""


class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last of four axes, in one kernel that also takes bfloat16.

    As in TensorFlow's kernel, the moving variance is the unbiased one.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        if not training:
            return super().call(inputs, training=False, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=self.moving_mean.value,
            variance=self.moving_variance.value,
            epsilon=self.epsilon,
            exponential_avg_factor=1 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return outputs


class RandomShift(keras.layers.Layer):
    """Moves each training image by a random whole number of pixels, filling up with background (0).

    Images have shape (n, height, width). Both directions are drawn evenly from -pixels to +pixels. The images of a
    batch are cut out of one padded, flat array: one gather, where an affine transformation would interpolate.
    """

    def __init__(self, pixels: int, seed: int) -> None:
        super().__init__(dtype="float32")
        self.pixels = pixels
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return images
        count, (height, width) = tf.shape(images)[0], images.shape[1:]
        # The padding to the right of a row is also the padding to the left of the next one, so one more row is needed
        # above and below.
        border = self.pixels + 1
        padded = tf.pad(images, [[0, 0], [border, border], [0, self.pixels]])
        _, rows, stride = padded.shape
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        shift = tf.random.stateless_uniform([count, 2], seed, -self.pixels, self.pixels + 1, tf.int32)
        first = (tf.range(count) * rows + border + shift[:, 0]) * stride + shift[:, 1]
        pixels = tf.gather(tf.reshape(padded, [-1]), first[:, None] + tf.range(height * stride))
        return tf.reshape(pixels, [count, height, stride])[:, :, :width]


class SplitBatch(keras.layers.Layer):
    """Trains layers on the two halves of a batch side by side, so that the graph's executor uses two cores.

    This pays for operations that are too small to be split over cores. Batch normalization sees each half separately.
    """

    def __init__(self, layers: keras.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return self.layers(inputs, training=False)
        half = tf.shape(inputs)[0] // 2
        return tf.concat([self.layers(part, training=True) for part in (inputs[:half], inputs[half:])], axis=0)


class SmoothedCrossentropy(keras.losses.CategoricalCrossentropy):
    """Cross-entropy of integer labels with label smoothing (Szegedy et al. 2016, section 7).

    Keras has label smoothing only for labels as vectors.
    """

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return super().call(tf.one_hot(tf.reshape(tf.cast(y_true, tf.int32), [-1]), y_pred.shape[-1]), y_pred)
