"""The training loop does what `keras.Model.fit` does, batch for batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mnist_tasks import fit as fit_module
from mnist_tasks.dataset import Digits
from mnist_tasks.errors import TrainingDivergedError
from mnist_tasks.fit import Epoch, fit
from tests.helpers import Array

IMAGES = 1000  # of the slice: with batches of 32, the last one of an epoch is smaller
SEED = 7


@pytest.fixture
def images(digits: Digits) -> Array:
    return (digits.x_train[:IMAGES] / 255).astype(np.float32)


@pytest.fixture
def labels(digits: Digits) -> Array:
    return digits.y_train[:IMAGES]


def new_model(optimizer: Any, *, batch_normalization: bool = False) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(32, activation="relu")]
    if batch_normalization:
        layers.append(keras.layers.BatchNormalization())
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model: keras.Model, images: Array, labels: Array, **options: Any) -> list[Epoch]:
    return list(
        fit(model, lambda rows: images[rows], labels, **{"batch_size": 32, "epochs": 2, "seed": SEED, **options})
    )


@pytest.mark.parametrize("slice_bytes", [1 << 22, 300_000], ids=["one slice an epoch", "four slices an epoch"])
@pytest.mark.parametrize("batch_normalization", [False, True], ids=["dense", "batch normalization"])
@pytest.mark.parametrize(
    "optimizer",
    [lambda: keras.optimizers.Adam(0.01), lambda: keras.optimizers.SGD(0.1, momentum=0.9)],
    ids=["adam", "sgd"],
)
def test_equals_keras_fit_on_the_same_batches(
    optimizer: Callable[[], keras.optimizers.Optimizer],
    batch_normalization: bool,
    slice_bytes: int,
    images: Array,
    labels: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_module, "SLICE_BYTES", slice_bytes)
    ours = new_model(optimizer(), batch_normalization=batch_normalization)
    theirs = new_model(optimizer(), batch_normalization=batch_normalization)

    epochs = train(ours, images, labels)

    for epoch in epochs:
        order = np.random.default_rng([SEED, epoch.number]).permutation(IMAGES)
        history = theirs.fit(images[order], labels[order], batch_size=32, epochs=1, shuffle=False, verbose=0).history
        assert epoch.metrics == pytest.approx({name: values[0] for name, values in history.items()}, rel=1e-4)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert np.allclose(mine, other, rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        assert np.allclose(mine, other, rtol=1e-3, atol=1e-5)


def test_an_epoch_takes_each_image_once_in_a_new_order(images: Array, labels: Array) -> None:
    seen: list[Array] = []

    def record(rows: Array) -> Array:
        seen.append(rows)
        return np.take(images, rows, axis=0)

    list(fit(new_model("sgd"), record, labels, batch_size=32, epochs=2, seed=SEED))

    first, second = (rows for rows in seen if len(rows) > 1)  # single rows are read to see what they are like
    assert sorted(first) == sorted(second) == list(range(IMAGES))
    assert first.tolist() != second.tolist() != list(range(IMAGES))


def test_a_loss_that_is_not_finite_stops_at_its_step(images: Array, labels: Array) -> None:
    order = np.random.default_rng([SEED, 1]).permutation(IMAGES)
    images[order[5 * 32]] = np.nan  # the first image of the sixth batch
    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")

    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 6 of epoch 1; use a lower learning rate"):
        train(model, images, labels)


def test_the_remainder_counts_with_its_own_size(images: Array, labels: Array) -> None:
    model = new_model(keras.optimizers.SGD(0.0))

    (epoch,) = train(model, images, labels, epochs=1)

    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert epoch.metrics == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-4)
    assert epoch.images_per_second == pytest.approx(IMAGES / epoch.seconds)
