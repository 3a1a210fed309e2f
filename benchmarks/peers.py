"""The classic recipe as PyTorch and JAX users write it: a plain loop over batches. Needs no package of this project.

Usage: python peers.py torch|jax SEED MNIST.NPZ. Prints JSON as plain_script.py does.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, BATCH = 5, 32


def with_torch(seed: int, x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[float, float]:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    x, x_test = (torch.from_numpy(array) for array in (x, x_test))
    y, y_test = (torch.from_numpy(array.astype(np.int64)) for array in (y, y_test))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer, loss = torch.optim.Adam(model.parameters(), eps=1e-7), nn.CrossEntropyLoss()
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        return seconds, float((model(x_test).argmax(1) == y_test).float().mean())


def with_jax(seed: int, x: Any, y: Any, x_test: Any, y_test: Any) -> tuple[float, float]:
    import jax
    import jax.numpy as jnp
    import optax

    keys = jax.random.split(jax.random.key(seed), 3)
    initializer = jax.nn.initializers.glorot_uniform()
    weights = {
        "w1": initializer(keys[0], (784, 128)),
        "b1": jnp.zeros(128),
        "w2": initializer(keys[1], (128, 10)),
        "b2": jnp.zeros(10),
    }
    optimizer = optax.adam(1e-3, eps=1e-7)
    x, x_test = (array.reshape(len(array), -1) for array in (x, x_test))

    def logits(weights: Any, x: Any, keep: Any = 1.0) -> Any:
        return jax.nn.relu(x @ weights["w1"] + weights["b1"]) * keep @ weights["w2"] + weights["b2"]

    @jax.jit  # type: ignore[untyped-decorator]
    def step(weights: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
        key, draw = jax.random.split(key)
        keep = jax.random.bernoulli(draw, 0.8, (len(x), 128)) / 0.8

        def loss(weights: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(logits(weights, x, keep), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state, key

    state, key, order = optimizer.init(weights), keys[2], np.random.default_rng(seed)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for batch in np.split(order.permutation(len(x)), len(x) // BATCH):
            weights, state, key = step(weights, state, key, x[batch], y[batch])
    jax.block_until_ready(weights)
    seconds = time.perf_counter() - start
    return seconds, float((logits(weights, x_test).argmax(1) == y_test).mean())


if __name__ == "__main__":
    library, seed, path = sys.argv[1:]
    with np.load(path) as arrays:
        x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = ((array / 255).astype(np.float32) for array in (x, x_test))
    seconds, accuracy = {"torch": with_torch, "jax": with_jax}[library](int(seed), x, y, x_test, y_test)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "accuracy": accuracy, "peak MB": peak}))
