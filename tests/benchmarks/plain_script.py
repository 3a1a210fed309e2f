"""What the DAG run is measured against: the same training as anyone would write it, in one process.

Prints the test accuracy and the peak memory in MB.
"""

from __future__ import annotations

import keras
import numpy as np

from mnist_tasks.runtime import peak_memory_mb
from mnist_tasks.sources import BUILTIN

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
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x_train, y_train, epochs=5, verbose=0)
_, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(accuracy, peak_memory_mb())
