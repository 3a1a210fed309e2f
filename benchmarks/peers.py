"""A recipe's network and training as PyTorch and JAX users write them: a plain loop over batches, in float32.

Usage: python peers.py torch|jax MNIST.NPZ JSON. The JSON object holds `seed`, `epochs`, `batch_size`, `learning_rate`,
`beta_2`, `one_cycle`, `label_smoothing`, `shift` and `blocks`, the filters of each block of convolutions; without
blocks the network is the classic one. Prints JSON as plain_script.py does. Needs no package of this project.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Data = tuple[Any, Any, Any, Any]


def with_torch(data: Data, recipe: dict[str, Any]) -> tuple[float, float]:
    import torch
    from torch import nn

    torch.manual_seed(recipe["seed"])
    x, y, x_test, y_test = (torch.from_numpy(array) for array in data)
    shift, epochs, size = recipe["shift"], recipe["epochs"], recipe["batch_size"]
    layers: list[Any] = []
    channels = 1
    for block in recipe["blocks"]:
        for index, filters in enumerate(block):
            form = {"kernel_size": 3, "padding": 1} if layers else {"kernel_size": 6, "stride": 2, "padding": 2}
            layers.append(nn.Conv2d(channels, filters, bias=False, **form))
            layers += [nn.MaxPool2d(2)] if index == len(block) - 1 else []
            layers += [nn.BatchNorm2d(filters, eps=1e-3), nn.ReLU()]
            channels = filters
    if layers:
        x, x_test = x[:, None], x_test[:, None]
        side = 14 // 2 ** len(recipe["blocks"])
        layers += [nn.Flatten(), nn.Linear(channels * side * side, 10)]
    else:
        layers = [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)]
    model = nn.Sequential(*layers)
    rate, steps = recipe["learning_rate"], epochs * -(-len(x) // size)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, recipe["beta_2"]), eps=1e-7)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, 0.2) if recipe["one_cycle"] else None
    loss = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])

    def shifted(images: Any) -> Any:
        padded = nn.functional.pad(images[:, 0], [shift] * 4)
        first = torch.randint(2 * shift + 1, (len(images), 2, 1))
        rows, columns = (first[:, axis] + torch.arange(28) for axis in (0, 1))
        return padded[torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]

    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            images = shifted(x[batch]) if shift else x[batch]
            optimizer.zero_grad()
            loss(model(images), y[batch]).backward()
            optimizer.step()
            if cycle:
                cycle.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        return seconds, float((model(x_test).argmax(1) == y_test).float().mean())


def with_jax(data: Data, recipe: dict[str, Any]) -> tuple[float, float]:
    import jax
    import jax.numpy as jnp
    import optax

    x, y, x_test, y_test = data
    shift, epochs, size, blocks = recipe["shift"], recipe["epochs"], recipe["batch_size"], recipe["blocks"]
    keys = iter(jax.random.split(jax.random.key(recipe["seed"]), 32))
    glorot = jax.nn.initializers.glorot_uniform()
    weights: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    channels = 1
    for index, filters in enumerate(filters for block in blocks for filters in block):
        side = 3 if index else 6
        weights[f"conv{index}"] = glorot(next(keys), (side, side, channels, filters))
        weights[f"scale{index}"], weights[f"offset{index}"] = jnp.ones(filters), jnp.zeros(filters)
        statistics[f"mean{index}"], statistics[f"variance{index}"] = jnp.zeros(filters), jnp.ones(filters)
        channels = filters
    units = channels * (14 // 2 ** len(blocks)) ** 2 if blocks else 128
    if not blocks:
        weights |= {"hidden": glorot(next(keys), (784, 128)), "hidden_bias": jnp.zeros(128)}
    weights |= {"dense": glorot(next(keys), (units, 10)), "bias": jnp.zeros(10)}
    rate, steps = recipe["learning_rate"], epochs * -(-len(x) // size)
    rising = int(0.2 * steps)
    cycle = optax.warmup_cosine_decay_schedule(rate / 25, rate, rising, steps)
    optimizer = optax.adam(cycle if recipe["one_cycle"] else rate, b2=recipe["beta_2"], eps=1e-7)

    def logits(weights: Any, statistics: Any, x: Any, key: Any) -> Any:
        """The logits and the statistics of batch normalization; of the batch if there is a key."""
        if not blocks:
            hidden = jax.nn.relu(x.reshape(len(x), -1) @ weights["hidden"] + weights["hidden_bias"])
            if key is not None:
                hidden *= jax.random.bernoulli(key, 0.8, hidden.shape) / 0.8
            return hidden @ weights["dense"] + weights["bias"], statistics
        x, statistics, index = x[..., None], dict(statistics), 0
        for block in blocks:
            for position in range(len(block)):
                strides = (1, 1) if index else (2, 2)
                x = jax.lax.conv_general_dilated(
                    x, weights[f"conv{index}"], strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                if position == len(block) - 1:
                    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
                mean, variance = statistics[f"mean{index}"], statistics[f"variance{index}"]
                if key is not None:
                    batch = x.mean((0, 1, 2)), x.var((0, 1, 2))
                    statistics[f"mean{index}"] = 0.9 * mean + 0.1 * batch[0]
                    statistics[f"variance{index}"] = 0.9 * variance + 0.1 * batch[1]
                    mean, variance = batch
                x = (x - mean) * jax.lax.rsqrt(variance + 1e-3) * weights[f"scale{index}"] + weights[f"offset{index}"]
                x = jax.nn.relu(x)
                index += 1
        return x.reshape(len(x), -1) @ weights["dense"] + weights["bias"], statistics

    def shifted(x: Any, key: Any) -> Any:
        padded = jnp.pad(x, ((0, 0), (shift, shift), (shift, shift)))
        first = jax.random.randint(key, (len(x), 2), 0, 2 * shift + 1)
        return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, (28, 28)))(padded, first)

    @jax.jit  # type: ignore[untyped-decorator]
    def step(weights: Any, statistics: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
        key, first, second = jax.random.split(key, 3)
        x = shifted(x, first) if shift else x
        targets = optax.smooth_labels(jax.nn.one_hot(y, 10), recipe["label_smoothing"])

        def loss(weights: Any) -> Any:
            found, after = logits(weights, statistics, x, second)
            return optax.softmax_cross_entropy(found, targets).mean(), after

        gradients, statistics = jax.grad(loss, has_aux=True)(weights)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(weights, updates), statistics, state, key

    state, key, order = optimizer.init(weights), next(keys), np.random.default_rng(recipe["seed"])
    start = time.perf_counter()
    for _ in range(epochs):
        permutation = order.permutation(len(x))
        for first in range(0, len(x), size):
            batch = permutation[first : first + size]
            weights, statistics, state, key = step(weights, statistics, state, key, x[batch], y[batch])
    jax.block_until_ready(weights)
    seconds = time.perf_counter() - start
    found, _ = jax.jit(lambda weights, x: logits(weights, statistics, x, None))(weights, x_test)
    return seconds, float((found.argmax(1) == y_test).mean())


if __name__ == "__main__":
    library, path, recipe = sys.argv[1:]
    with np.load(path) as arrays:
        x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    data = (
        (x / 255).astype(np.float32),
        y.astype(np.int64),
        (x_test / 255).astype(np.float32),
        y_test.astype(np.int64),
    )
    seconds, accuracy = {"torch": with_torch, "jax": with_jax}[library](data, json.loads(recipe))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "accuracy": accuracy, "peak MB": peak}))
