"""The memory-saving import of TensorFlow takes less memory and computes the same results."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from mnist_tasks.system.task_log import peak_memory_mb
if sys.argv[1] == "small":
    from mnist_tasks.system.tensorflow_import import import_tensorflow
    import_tensorflow()
    import_tensorflow()  # a second call does nothing
import tensorflow as tf
print(float(tf.linalg.det(tf.eye(3) * 2)), peak_memory_mb())
"""


def imported(how: str) -> list[float]:
    """Return the result of a calculation after the import and the peak memory in MB."""
    output = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True).stdout
    return [float(word) for word in output.split()]


def test_importing_tensorflow_takes_less_memory_and_computes_the_same() -> None:
    (plain, plain_peak), (small, small_peak) = imported("plain"), imported("small")

    assert small == plain == 8.0
    assert small_peak < plain_peak - 50


def test_matplotlib_is_imported_only_when_keras_draws_with_it() -> None:
    script = """
import sys
from mnist_tasks.system.tensorflow_import import import_tensorflow
import_tensorflow()
before = "matplotlib" in sys.modules
import keras, numpy as np
keras.visualization.plot_image_gallery(np.zeros((4, 8, 8, 3)), value_range=(0, 1), rows=2, cols=2)
import gc
print(before, "matplotlib.pyplot" in sys.modules, gc.isenabled())
"""
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert result.stdout == "False True True\n"
