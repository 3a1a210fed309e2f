"""Keras classes that only training needs: a faster Adam, dense layer, normalization and loss, and random shifts.

None of them is in a published model, which is made of Keras' own layers, so that it loads wherever Keras does.
Importing this module imports Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

SMALL_IMAGE = 7  # pixels on a side


def has_gpu() -> bool:
    """Whether this process trains on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


class _FusedUpdate:
    """Adam's update as one kernel per variable instead of a dozen operations, with Keras' slots and formula."""

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        # Once a step, and not once for each variable.
        step = tf.cast(self.iterations + 1, tf.float32)
        self._powers = tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
        return super().apply(grads, trainable_variables)  # type: ignore[misc]

    def update_step(self: Any, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices) or tf.distribute.has_strategy():
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self._powers[0], variable.dtype),
            beta2_power=tf.cast(self._powers[1], variable.dtype),
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


class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with stride 1 and padding `same`, without bias, with a faster gradient in bfloat16.

    oneDNN's operation for the gradient of the kernel runs at half the speed of a convolution. But this gradient is a
    convolution: of the inputs with the gradient of the outputs, in which the images take the part of the channels. On
    small images that is faster; in float32 it is not.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.compute_dtype != "bfloat16" or inputs.shape[1] > SMALL_IMAGE:
            return super().call(inputs)
        return _convolve(inputs, tf.convert_to_tensor(self.kernel))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _convolve(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_image = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(images), 1, "SAME")
        height, width = ((size - 1) // 2 for size in kernel.shape[:2])
        padded = tf.pad(images, [[0, 0], [height, height], [width, width], [0, 0]])
        by_kernel = tf.nn.conv2d(tf.transpose(padded, [3, 1, 2, 0]), tf.transpose(upstream, [1, 2, 0, 3]), 1, "VALID")
        return by_image, tf.transpose(by_kernel, [1, 2, 0, 3])

    return tf.nn.conv2d(images, kernel, 1, "SAME"), gradient


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


class SplitDense(keras.layers.Layer):
    """`keras.layers.Dense` in two halves of its units, for the graph's executor to compute on two cores.

    This pays where a matrix product is too small to be shared by cores. Gradients and updates are in halves, too. The
    initial values are those of the whole layer.

    Args:
        units: at least 1, which is not split.
        activation: the name of an elementwise activation.
        options: those of `keras.layers.Layer`.
    """

    def __init__(self, units: int, activation: str, **options: Any) -> None:
        super().__init__(**options)
        middle = (units + 1) // 2
        self.halves = [slice(0, middle), slice(middle, units)] if units > 1 else [slice(0, 1)]
        self.units = units
        self.activation = keras.activations.get(activation)
        self.initializer = keras.initializers.GlorotUniform()

    def build(self, input_shape: tuple[int, ...]) -> None:
        inputs = input_shape[-1]

        def initial(half: slice) -> Callable[..., tf.Tensor]:
            return lambda _, dtype: self.initializer((inputs, self.units), dtype)[:, half]

        # The halves of a weight follow each other, so that the published model can join them.
        self.kernels, self.biases = [], []
        for half in self.halves:
            shape = (inputs, half.stop - half.start)
            self.kernels.append(self.add_weight(shape, initial(half), name=f"kernel_{half.start}"))
        for half in self.halves:
            self.biases.append(self.add_weight((half.stop - half.start,), "zeros", name=f"bias_{half.start}"))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        halves = [
            self.activation(tf.nn.bias_add(tf.matmul(inputs, kernel), bias))
            for kernel, bias in zip(self.kernels, self.biases, strict=True)
        ]
        return tf.concat(halves, axis=-1)


class Crossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels and logits, with label smoothing (Szegedy et al. 2016, section 7).

    As Keras' sparse categorical cross-entropy, which has no label smoothing. On a CPU this is one kernel. Under
    `enable_op_determinism` TensorFlow would replace it by some sixty operations, because the kernel for GPUs is not
    deterministic; that for CPUs is.
    """

    def __init__(self, label_smoothing: float = 0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        labels = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        classes = y_pred.shape[-1]
        rest = self.label_smoothing / classes
        if not (has_gpu() or self.label_smoothing):
            return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=y_pred, labels=labels).loss
        targets = tf.one_hot(labels, classes, 1 - self.label_smoothing + rest, rest)
        if has_gpu():
            return tf.nn.softmax_cross_entropy_with_logits(targets, y_pred)
        return tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=y_pred, labels=targets).loss
