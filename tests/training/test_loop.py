"""The training loop gives the same results as `keras.Model.fit` on the same batches."""

from __future__ import annotations

import collections
import itertools
import re
import types
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tasks.data.dataset import Digits
from mnist_tasks.documents import Epoch
from mnist_tasks.system.errors import InputError, TrainingDivergedError
from mnist_tasks.training import image_chunks, keras_layers
from mnist_tasks.training import loop as fit_module
from mnist_tasks.training.loop import StepRunner, fit
from tests.helpers import Array

IMAGES = 1000  # with batches of 32, the last batch of an epoch is smaller
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


def batches(images: Array, labels: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the batches of two epochs for `keras.Model.fit`, in the order in which the loop takes them."""
    for epoch in (1, 2):
        order = np.random.default_rng([SEED, epoch]).permutation(IMAGES)
        for start in range(0, IMAGES, 32):
            yield images[order[start : start + 32]], labels[order[start : start + 32]]


def train(model: keras.Model, images: Array, labels: Array, **options: Any) -> list[Epoch]:
    return list(fit(model, images, labels, **{"batch_size": 32, "epochs": 2, "seed": SEED, **options}))


@pytest.mark.parametrize("steps", [64, 9], ids=["one call an epoch", "four calls an epoch"])
@pytest.mark.parametrize("batch_normalization", [False, True], ids=["dense", "batch normalization"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(0.01, 64), use_ema=True, ema_momentum=0.9
        ),
    ],
    ids=["adam", "sgd", "adamw with a schedule and a moving average"],
)
def test_equals_keras_fit_on_the_same_batches(
    optimizer: Callable[[], keras.optimizers.Optimizer],
    batch_normalization: bool,
    steps: int,
    images: Array,
    labels: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit_module, "FIRST_CALL_STEPS", steps)
    monkeypatch.setattr(fit_module, "CALL_SECONDS", 0)  # the number of steps per call does not grow
    ours = new_model(optimizer(), batch_normalization=batch_normalization)
    theirs = new_model(optimizer(), batch_normalization=batch_normalization)

    epochs = train(ours, images, labels)

    history = theirs.fit(batches(images, labels), epochs=2, steps_per_epoch=-(-IMAGES // 32), verbose=0).history
    for index, epoch in enumerate(epochs):
        assert epoch.metrics == pytest.approx({name: values[index] for name, values in history.items()}, rel=1e-4)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert np.allclose(mine, other, rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        assert np.allclose(mine, other, rtol=1e-3, atol=1e-5)


def test_an_epoch_takes_each_image_once_in_a_new_order(
    images: Array, labels: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[Array] = []
    call = StepRunner.__call__

    def record(self: StepRunner, order: Array, *watch: Any) -> Any:
        orders.append(order)
        return call(self, order, *watch)

    monkeypatch.setattr(StepRunner, "__call__", record)
    train(new_model("sgd"), images, labels, indices=np.arange(100, 900))

    first, second = orders
    assert sorted(first) == sorted(second) == list(range(100, 900))
    assert first.tolist() != second.tolist() != list(range(100, 900))


def test_a_memory_map_is_not_copied(images: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")

    tensor = image_chunks.on_devices(tf.distribute.get_strategy(), mapped)
    mapped[0, 0, 0] = 7

    assert float(tensor[0, 0, 0]) == 7


@pytest.mark.parametrize("batches_in_a_chunk", [1, 3])
def test_streamed_data_give_the_same_bits(
    batches_in_a_chunk: int, images: Array, labels: Array, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")
    batch = 32 * (images.nbytes + labels.nbytes) / IMAGES
    options = {"indices": np.arange(100, 900), "validation_indices": np.arange(50, 100)}
    streamed, resident = (new_model("adam", batch_normalization=True) for _ in range(2))

    memory = image_chunks.CHUNKS_IN_MEMORY * batches_in_a_chunk * batch
    epochs = train(streamed, mapped, labels, image_memory=memory, **options)

    expected = train(resident, images, labels, **options)
    assert [epoch.metrics for epoch in epochs] == [epoch.metrics for epoch in expected]
    for variables in ("weights", "optimizer.variables"):
        pairs = zip(attrgetter(variables)(streamed), attrgetter(variables)(resident), strict=True)
        assert all(np.array_equal(one, other) for one, other in pairs)


def test_streaming_leaves_no_page_of_a_memory_map_in_the_process(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (20_000, 28, 28))  # 63 MB
    array[:] = np.arange(20_000)[:, None, None]
    del array
    mapped = np.load(tmp_path / "a.npy", mmap_mode="c")

    def resident() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.findall(r"^RssFile:\s+(\d+) kB$", status, re.MULTILINE)[0]) // 1024

    before = resident()
    copy = image_chunks.rows_of(mapped, np.random.default_rng(1).permutation(20_000), 20_000)

    assert resident() < before + 10
    assert sorted(copy[:, 5, 5]) == list(range(20_000))
    mapped.sum()
    assert resident() > before + 50  # proves that the test can fail


def test_memory_that_cannot_hold_the_batches_is_refused(images: Array, labels: Array) -> None:
    with pytest.raises(InputError, match=r"image_memory: 0\.3 MB cannot hold the 4 batches of 32 images .* allow 0\.4"):
        train(new_model("sgd"), images, labels, image_memory=300_000)


@pytest.mark.parametrize(
    ("seconds_of_step", "calls"),
    [
        (lambda _: 0.001, [1, 2, 4, 8, 16, 32, 62, 64, 61]),
        (lambda _: 0.1, [1, 2, 4, *[8] * 14, 6, *[8] * 15, 5]),
        (lambda _: 1.5, [1] * 250),
        (lambda step: 0.01 if step < 63 else 0.4, [1, 2, 4, 8, 16, 32, 62, *[2] * 62, 1]),
    ],
    ids=["fast", "slow", "very slow", "slows down"],
)
def test_a_graph_call_takes_about_a_second_on_a_slow_machine_too(
    seconds_of_step: Callable[[int], float],
    calls: list[int],
    images: Array,
    labels: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = new_model("sgd")
    steps: list[int] = []

    def clock() -> float:
        """Return a time that advances only while the model is trained."""
        steps.append(int(model.optimizer.iterations))
        return sum(map(seconds_of_step, range(steps[-1])))

    monkeypatch.setattr(fit_module, "time", types.SimpleNamespace(perf_counter=clock))
    told: list[tuple[int, int, int, float]] = []
    epochs = train(model, images, labels, batch_size=8, watcher=lambda *what: told.append(what))

    assert [after - before for before, after in itertools.pairwise(steps) if after > before] == calls
    # Whoever watches is told after each call.
    seen = [(number - 1) * 1000 + done for number, done, _, _ in told]
    assert seen == [8 * steps for steps in itertools.accumulate(calls)]
    assert {of for _, _, of, _ in told} == {1000}
    assert [told[n][3] for n, (_, done, *_) in enumerate(told) if done == 1000] == pytest.approx(
        [epoch.metrics["loss"] for epoch in epochs]
    )


def test_validation_measures_as_keras_does_and_changes_nothing(images: Array, labels: Array) -> None:
    model, alone = new_model("adam", batch_normalization=True), new_model("adam", batch_normalization=True)
    rows, held_out = np.arange(800), np.arange(800, 1000)

    *_, last = train(model, images, labels, indices=rows, validation_indices=held_out)

    train(alone, images, labels, indices=rows)
    loss, accuracy = model.evaluate(images[held_out], labels[held_out], verbose=0)
    assert last.metrics["val_loss"] == pytest.approx(loss, rel=1e-4)
    assert last.metrics["val_accuracy"] == pytest.approx(accuracy)
    assert all(np.array_equal(one, other) for one, other in zip(model.weights, alone.weights, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:, :27], y), r"images have shape \(1000, 27, 28\), but the model takes \('n', 28, 28\)"),
        (lambda x, y: (x, y[:-1]), "1,000 images have 999 labels"),
        (lambda x, y: (x[:0], y[:0]), "there are no images to train on"),
        (lambda x, y: (x, y + 1), "labels go from 1 to 10, but the model has outputs for 0 to 9"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(
    change: Callable[[Array, Array], tuple[Array, Array]], words: str, images: Array, labels: Array
) -> None:
    with pytest.raises(InputError, match=words):
        train(new_model("sgd"), *change(images, labels))


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
def test_the_faster_adam_does_what_keras_does(optimizer: str, images: Array, labels: Array) -> None:
    options = {"learning_rate": 0.01, "clipnorm": 1.0, "beta_2": 0.98}
    ours = new_model(getattr(keras_layers, optimizer)(**options))
    theirs = new_model(getattr(keras.optimizers, optimizer)(**options))

    train(ours, images, labels)
    train(theirs, images, labels)

    for variables in ("weights", "optimizer.variables"):
        pairs = zip(attrgetter(variables)(ours), attrgetter(variables)(theirs), strict=True)
        assert all(np.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in pairs)


def test_batch_normalization_is_that_of_keras_but_for_an_unbiased_variance() -> None:
    values = tf.random.stateless_normal([8, 3, 3, 4], [1, 2], mean=2.0, stddev=3.0)
    ours, theirs = keras_layers.BatchNormalization(momentum=0.5), keras.layers.BatchNormalization(momentum=0.5)

    assert np.allclose(ours(values, training=True), theirs(values, training=True), atol=1e-4)
    assert np.allclose(ours.moving_mean, theirs.moving_mean, atol=1e-5)
    unbiased = np.var(values, axis=(0, 1, 2), ddof=1)
    assert np.allclose(ours.moving_variance, 0.5 + 0.5 * unbiased, rtol=1e-4)
    assert np.allclose(ours(values, training=False), theirs(values, training=False), atol=0.05)


def test_shifts_move_each_image_as_a_whole_and_evenly(images: Array) -> None:
    bordered = np.pad(images[:, 4:-4, 4:-4], ((0, 0), (4, 4), (4, 4)))  # no digit is moved out of the image
    layer = keras_layers.RandomShift(2, seed=3)

    moved = np.asarray(layer(bordered, training=True))

    found: collections.Counter[tuple[int, int]] = collections.Counter()
    for before, after in zip(bordered, moved, strict=True):
        found[
            next(
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if np.array_equal(after, np.roll(before, (down, right), (0, 1)))
            )
        ] += 1
    assert len(found) == 25
    assert min(found.values()) > IMAGES / 25 / 2
    assert not np.array_equal(moved, layer(bordered, training=True))
    assert np.array_equal(layer(bordered, training=False), bordered)


def test_a_shift_fills_up_with_background() -> None:
    moved = np.asarray(keras_layers.RandomShift(1, seed=3)(np.ones((500, 28, 28), np.float32), training=True))

    assert set(np.unique(moved)) == {0.0, 1.0}
    assert set(moved.sum(axis=(1, 2))) == {28 * 28.0, 27 * 28.0, 27 * 27.0}


@pytest.mark.parametrize("label_smoothing", [0, 0.1])
def test_loss_and_gradient_are_those_of_keras_for_smoothed_one_hot_labels(
    label_smoothing: float, labels: Array
) -> None:
    logits = tf.random.stateless_normal([IMAGES, 10], [1, 2])
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        loss = keras_layers.Crossentropy(label_smoothing)(labels, logits)
        expected = keras_loss(np.eye(10)[labels], logits)

    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert np.allclose(tape.gradient(loss, logits), tape.gradient(expected, logits), atol=1e-8)


@pytest.mark.parametrize("units", [1, 2, 7])
def test_a_dense_layer_in_halves_starts_and_computes_as_a_whole_one(units: int, images: Array) -> None:
    flat = images.reshape(len(images), -1)
    layers = []
    for kind in (keras.layers.Dense, keras_layers.SplitDense):
        keras.utils.set_random_seed(3)
        layers.append(kind(units, "tanh"))
    whole, halves = (np.asarray(layer(flat)) for layer in layers)

    assert np.allclose(whole, halves, atol=1e-6)


def test_mixed_precision_trains(images: Array, labels: Array) -> None:
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Flatten(), keras.layers.Dense(32, "relu", dtype="mixed_bfloat16"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((28, 28)), *layers, keras.layers.Softmax(dtype="float32")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    first, *_, last = train(model, images, labels, epochs=4)

    assert last.metrics["accuracy"] > first.metrics["accuracy"]
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_keras_own_augmentation_dropout_and_metrics_train_the_same_twice(images: Array, labels: Array) -> None:
    def trained() -> tuple[keras.Model, Epoch]:
        keras.utils.set_random_seed(1)
        layers = [keras.layers.RandomRotation(0.02, seed=1), keras.layers.RandomTranslation(0.1, 0.1, seed=2)]
        layers += [keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dropout(0.2, seed=3)]
        model = keras.Sequential([keras.Input((28, 28)), keras.layers.Reshape((28, 28, 1)), *layers])
        model.add(keras.layers.Dense(10, "softmax"))
        top = keras.metrics.SparseTopKCategoricalAccuracy(3, name="top_3")
        model.compile("nadam", "sparse_categorical_crossentropy", metrics=["accuracy", top])
        return model, train(model, images, labels)[-1]

    (first, epoch), (again, _) = trained(), trained()

    assert all(np.array_equal(one, other) for one, other in zip(first.weights, again.weights, strict=True))
    assert epoch.metrics["accuracy"] < epoch.metrics["top_3"]


def test_moving_averages_of_the_weights_are_in_place_when_the_last_epoch_is_yielded(
    images: Array, labels: Array
) -> None:
    """A caller who takes exactly that many epochs gets the averages, and the last checkpoint holds them."""
    model = new_model(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    epochs = fit(model, images, labels, batch_size=32, epochs=2, seed=SEED)

    next(epochs)
    next(epochs)

    averages = model.optimizer._model_variables_moving_average
    pairs = zip(model.trainable_variables, averages, strict=True)
    assert all(np.array_equal(weight, average) for weight, average in pairs)


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
    assert epoch.images_per_second == pytest.approx(IMAGES / epoch.seconds, rel=0.01)


@pytest.mark.parametrize("side", [3, 7])
def test_a_convolution_in_bfloat16_has_the_gradients_of_keras_own(side: int) -> None:
    images = tf.random.stateless_normal([8, side, side, 4], [1, 2])
    layers = [kind(6, 3, padding="same", use_bias=False) for kind in (keras_layers.Conv2D, keras.layers.Conv2D)]
    layers[0].dtype_policy = "mixed_bfloat16"
    found = []
    for layer in layers:
        layer.build(images.shape)
        layer.kernel.assign(tf.random.stateless_normal([3, 3, 4, 6], [3, 4]))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(layer(images), tf.float32)
            loss = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, [5, 6]))
        found.append([outputs, *tape.gradient(loss, [images, layer.kernel.value])])

    for ours, expected in zip(*found, strict=True):
        assert ours.shape == expected.shape
        assert np.allclose(ours, expected, atol=0.02 * np.abs(expected).max())  # bfloat16 has 8 bits of precision
