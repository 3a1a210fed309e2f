"""The images of an epoch in chunks on the devices: all at once where memory allows it, or streamed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.system.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.integer]

# Splits an order of images into chunks for the graph. Each chunk has images and labels on the devices, the indices in
# them to take one after another, and how many of these count.
ChunkReader = Callable[[Indices], Iterator[tuple[Any, Any, int]]]

CHUNK_BYTES = 8 * 2**20  # the next is read while the graph trains on one; larger ones are not faster
CHUNKS_IN_MEMORY = 4  # at most: one to train on, the one before, and the next as an array and as a tensor
ALIGNMENT = 64  # bytes; what TensorFlow's CPU kernels expect of a tensor that they did not allocate


def chunk_reader(
    strategy: tf.distribute.Strategy, images: Array, labels: Array, batch_size: int, image_memory: float
) -> ChunkReader:
    """Split any order of images into chunks of whole batches.

    Args:
        strategy: the devices.
        images: shape (n, ...).
        labels: shape (n,).
        batch_size: images in a batch.
        image_memory: how many bytes images and labels may take on each device. More are streamed.

    Raises:
        InputError: if `image_memory` cannot hold the batches that streaming needs.
    """
    if images.nbytes + labels.nbytes <= image_memory:
        return _resident(strategy, images, labels)
    return _streamed(strategy, images, labels, batch_size, image_memory)


def _resident(strategy: tf.distribute.Strategy, *arrays: Array) -> ChunkReader:
    """All data on the devices, once: one chunk for a whole order."""
    import tensorflow as tf

    data = tuple(on_devices(strategy, array) for array in arrays)

    def chunks(order: Indices) -> Iterator[tuple[Any, Any, int]]:
        yield data, tf.constant(order, tf.int32), len(order)

    return chunks


def _streamed(
    strategy: tf.distribute.Strategy, images: Array, labels: Array, batch_size: int, image_memory: float
) -> ChunkReader:
    """Whole batches of the order at a time, read ahead by a thread. The last chunk is padded with arbitrary values."""
    import tensorflow as tf

    batch_bytes = batch_size * (images.nbytes + labels.nbytes) / len(labels)
    if image_memory < CHUNKS_IN_MEMORY * batch_bytes:
        raise InputError(
            f"image_memory: {image_memory / 1e6:,.1f} MB cannot hold the {CHUNKS_IN_MEMORY} batches of {batch_size:,} "
            f"images that streaming needs; allow {CHUNKS_IN_MEMORY * batch_bytes / 1e6:,.1f} MB or use a smaller "
            "batch_size"
        )
    size = max(1, int(min(CHUNK_BYTES, image_memory / CHUNKS_IN_MEMORY) / batch_bytes)) * batch_size

    def read(indices: Indices) -> tuple[Array, ...]:
        return tuple(rows_of(array, indices, size) for array in (images, labels))

    def chunks(order: Indices) -> Iterator[tuple[Any, Any, int]]:
        positions = tf.range(size)
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            coming = reader.submit(read, order[:size])
            for start in range(0, len(order), size):
                data = tuple(on_devices(strategy, array) for array in coming.result())
                coming = reader.submit(read, order[start + size : start + 2 * size])
                yield data, positions, min(size, len(order) - start)

    return chunks


def rows_of(array: Array, indices: Indices, size: int) -> Array:
    """A copy of these rows of an array, padded to `size` rows with arbitrary values.

    Of a memory map they are read from its file: in the map, each would bring its neighbours into the process's memory.
    """
    copy = np.empty((size, *array.shape[1:]), array.dtype)
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.ndim > 1:
        with Path(array.filename).open("rb", buffering=0) as file:
            for target, row in zip(copy, indices.tolist(), strict=False):
                os.preadv(file.fileno(), [target], array.offset + row * array.strides[0])
    else:
        copy[: len(indices)] = array[indices]
    return copy


def on_devices(strategy: tf.distribute.Strategy, array: Array) -> Any:
    """The array as a tensor on each device of this process; on the CPU without a copy, where the memory allows it."""
    import tensorflow as tf

    shareable = array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % ALIGNMENT == 0
    with tf.device("CPU:0"):
        tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__()) if shareable else tf.constant(array)
    if not tf.distribute.has_strategy() and strategy is tf.distribute.get_strategy():
        with tf.device("GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"):
            return tf.identity(tensor)
    devices = iter(strategy.extended.worker_devices)

    def on_next_device(_: Any) -> tf.Tensor:
        with tf.device(next(devices)):
            return tf.identity(tensor)

    return strategy.experimental_distribute_values_from_function(on_next_device)
