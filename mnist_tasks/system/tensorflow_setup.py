"""TensorFlow set up for a task: its devices, precision and threads, and its native log and crashes under Airflow."""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnist_tasks.system import processor
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger(__name__)

# A line of TensorFlow's native log: severity, date and time, thread, place, text.
NATIVE_LINE = re.compile(r"([IWEF])\d{4} \S+ +\d+ \S+\] (.*)")
NATIVE_LEVELS = {"I": logging.DEBUG, "W": logging.WARNING, "E": logging.WARNING, "F": logging.CRITICAL}

# Lines without a severity that TensorFlow writes at every start, whatever happens.
STARTUP_LINES = ("WARNING: All log messages before absl::InitializeLog", "To enable the following instructions:")


def use_devices(device: str = "auto") -> str:
    """Import TensorFlow, prepare its devices and return the name of the one that will be used.

    Call it before anything else imports TensorFlow.

    A GPU's memory is taken as it is needed instead of all at once, and operations are deterministic.

    Args:
        device: `gpu`, `cpu`, or `auto` for a GPU if there is one.

    Raises:
        InputError: if there is no GPU and `gpu` is asked for.
    """
    start = time.monotonic()
    import_tensorflow()
    import tensorflow as tf

    log.info("TensorFlow %s, imported in %.1f s", tf.__version__, time.monotonic() - start)
    # Sums in a fixed order. On a CPU this makes the classic recipe 8 % slower, the convolutional ones 6 %.
    tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise InputError(
            "device: gpu: TensorFlow sees no GPU on this worker; use device=auto to fall back to the CPU, or send the "
            "task to a worker with one (MNIST_GPU_QUEUE)"
        )
    if gpus and device != "cpu":
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return f"GPU {tf.config.experimental.get_device_details(gpus[0]).get('device_name', gpus[0].name)}"
    tf.config.set_visible_devices([], "GPU")
    return f"CPU ({processor.cores()} cores)"


def precision(asked: str, device: str) -> str:
    """What the layers compute in: as asked for; for `auto` bfloat16 if the device multiplies in it, else float32.

    Args:
        asked: the recipe's `precision`: `auto`, `float32` or `mixed_bfloat16`.
        device: what `use_devices` has returned.
    """
    import tensorflow as tf

    if device.startswith("GPU"):
        details = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
        # https://docs.nvidia.com/cuda/cuda-c-programming-guide, "Arithmetic Instructions": from compute capability 8.0.
        has_bfloat16 = all(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)
    else:
        has_bfloat16 = processor.computes_bfloat16()
    if asked == "auto":
        log.info("precision auto: the %s %s bfloat16", device, "multiplies in" if has_bfloat16 else "does not have")
        return "mixed_bfloat16" if has_bfloat16 else "float32"
    if asked == "mixed_bfloat16" and not has_bfloat16:
        log.warning(
            "precision: mixed_bfloat16: the %s does not have bfloat16, so that it is emulated: the training takes "
            "about seven times as long as with precision=float32",
            device,
        )
    return asked


def use_threads(intra_op: int, inter_op: int) -> None:
    """Set how many threads share an operation, and how many operations run side by side.

    Call it before TensorFlow's first operation. Operations that take microseconds run faster on one thread. The
    variables TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS take precedence.
    """
    import tensorflow as tf

    if {"TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"} & os.environ.keys():
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)
        tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    except RuntimeError as error:  # in a notebook or a test that has used TensorFlow before
        log.debug("TensorFlow's threads stay as they are: %s", error)


def distribution(name: str) -> tf.distribute.Strategy:
    """The devices to train on together: `single`, or `mirrored` for all of this machine.

    Call it before TensorFlow's first operation.
    """
    import tensorflow as tf

    if name == "single":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


@contextmanager
def tensorflow_in_airflow() -> Iterator[None]:
    """Run a task that uses TensorFlow in an Airflow process: log native lines at their level, end after a crash.

    Airflow logs everything from file descriptor 2 as errors, and TensorFlow's native code writes everything there. Here
    a thread reads it and logs it as `tensorflow`, at its own level. The process also inherits a Python handler for
    SIGSEGV from Airflow's DAG parser, under which a crash in native code spins for ever (apache/airflow#57174). Here a
    crash prints its stacks and ends the process.

    Use it only if nothing else in the process logs to file descriptor 2: such lines would come back for ever.
    """
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    stderr = os.dup(2)
    faulthandler.enable(stderr)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    relay = threading.Thread(target=_relay, args=(read_end,), name="tensorflow-log", daemon=True)
    relay.start()
    try:
        yield
    finally:
        faulthandler.enable(2)
        os.dup2(stderr, 2)
        os.close(stderr)
        # A child process may still hold the pipe open.
        relay.join(timeout=2)


def _relay(read_end: int) -> None:
    native = logging.getLogger("tensorflow")
    with os.fdopen(read_end, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if match := NATIVE_LINE.match(line):
                severity, text = match.groups()
                native.log(native_level(severity, text), "%s", text)
            elif line.strip():
                native.log(logging.DEBUG if line.startswith(STARTUP_LINES) else logging.INFO, "%s", line.rstrip())


def native_level(severity: str, text: str) -> int:
    """The level for a line of TensorFlow's native log.

    TensorFlow raises its native errors as exceptions as well, or copes with them, so none is logged as an error. The
    one about cuInit only says that there is no GPU, which `train` logs itself.
    """
    return logging.DEBUG if "cuInit" in text else NATIVE_LEVELS[severity]
