"""Architectures by name. A new one is a function here and its name in `TrainConfig.architecture`.

Importing this module does not import Keras; building a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_tasks.dataset import DIGITS, IMAGE_SHAPE

if TYPE_CHECKING:
    import keras

    from mnist_tasks.config import TrainConfig


def mlp(config: TrainConfig) -> keras.Model:
    """The classic digit classifier: one hidden layer with dropout."""
    import keras

    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(config.hidden_units, activation=config.activation),
            keras.layers.Dropout(config.dropout),
            keras.layers.Dense(DIGITS, activation="softmax"),
        ],
        name="mlp",
    )


ARCHITECTURES = {"mlp": mlp}


def compiled_model(config: TrainConfig) -> keras.Model:
    """A new, compiled model: float32 images in [0, 1] of shape (n, 28, 28) to ten probabilities of shape (n, 10).

    Its initial weights and dropout follow from `config.seed`.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    model = ARCHITECTURES[config.architecture](config)
    optimizer = keras.optimizers.get(
        {"class_name": config.optimizer, "config": {"learning_rate": config.learning_rate}}
    )
    model.compile(optimizer=optimizer, loss=config.loss, metrics=["accuracy"])
    return model
