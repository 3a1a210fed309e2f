"""What the project is measured against: the same training as anyone would write it, in one process.

Usage: python plain_script.py [SEED] [COMPILE OPTION=VALUE]. Prints JSON: the seconds of `fit`, the test accuracy, and
the peak memory in MB.
"""

from __future__ import annotations

import json
import sys
import time

import keras
import numpy as np

from mnist_tasks.data.sources import BUILTIN
from mnist_tasks.system.task_log import peak_memory_mb

seed, *options = sys.argv[1:] or ["42"]
keras.utils.set_random_seed(int(seed))
with np.load(BUILTIN) as arrays:
    x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
x_train, x_test = x_train / 255.0, x_test / 255.0
model = keras.Sequential(
    [
        keras.Input((28, 28)),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(
    optimizer="adam",
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
    **{name: json.loads(value) for name, value in (option.split("=") for option in options)},
)
start = time.perf_counter()
model.fit(x_train, y_train, epochs=5, verbose=0)
seconds = time.perf_counter() - start
_, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(json.dumps({"seconds": seconds, "accuracy": accuracy, "peak MB": peak_memory_mb()}))
