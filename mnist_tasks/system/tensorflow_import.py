"""Import TensorFlow in two thirds of the time, without keeping the memory pages that only the import needs.

The import makes a million objects and next to no garbage, so that Python's garbage collector only costs time: it rests
during the import, and passes over these objects later. Keras imports matplotlib for functions that draw pictures. Here
that waits until one of them is called.

Loading TensorFlow reads its relocation tables and registers thousands of kernels, once. The pages of the library files
that this touches, some 300 to 450 MB, stay mapped in the process and count as its memory: in what the system reports,
and in what Kubernetes compares with a limit. Here they are unmapped after each step of the import. Pages that are
needed again come back from the page cache; neither the import nor the training gets slower.

Keras is imported with its own defaults: settings in the user's `keras.json` and environment would train other weights
without a word, or end the import.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mnist_tasks.system.errors import InputError
from mnist_tasks.system.library_settings import PLAIN_KERAS, environment

log = logging.getLogger(__name__)

# The two libraries that hold nearly all of TensorFlow, in the order in which they depend on each other.
LIBRARIES = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")

MADV_DONTNEED = 4  # <sys/mman.h>

# The first line of a mapping in /proc/self/smaps: addresses, permissions, offset, device, inode, file.
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")


def import_tensorflow() -> None:
    """Import TensorFlow, unless it is imported already, keep the process small, and pin Keras' settings.

    Raises:
        InputError: if this process has imported Keras with another backend.
    """
    with environment(PLAIN_KERAS):  # TensorFlow imports it
        _import_tensorflow()
        _pin_keras()


def _pin_keras() -> None:
    """Set Keras to its defaults, whoever has imported it.

    Raises:
        InputError: if it runs on another backend, which can no longer be changed.
    """
    import keras

    if keras.config.backend() != "tensorflow":
        raise InputError(
            f"Keras runs on {keras.config.backend()} in this process; start a new one with KERAS_BACKEND=tensorflow"
        )
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")


def _import_tensorflow() -> None:
    if "tensorflow" in sys.modules:
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        return
    folder = Path(spec.submodule_search_locations[0]).resolve()  # as the kernel names mappings
    small = sys.platform == "linux"  # where the kernel lists the mappings
    for name in LIBRARIES:
        if small and (folder / name).exists():
            ctypes.CDLL(str(folder / name))
            unmap_clean_pages(folder)
    with _without_garbage_collection(), _lazy_pyplot():
        import tensorflow  # noqa: F401

    if small:
        unmap_clean_pages(folder)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect no garbage in the block; later collections do not look at what was made until its end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class _LazyPyplot(ModuleType):
    """Stands for `matplotlib.pyplot`, which it imports when it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("matplotlib.pyplot"), name)


@contextmanager
def _lazy_pyplot() -> Iterator[None]:
    """Have `from matplotlib import pyplot` import nothing yet, unless this process has imported matplotlib already."""
    names = ("matplotlib", "matplotlib.pyplot")
    if "matplotlib" in sys.modules or importlib.util.find_spec("matplotlib") is None:
        yield
        return
    matplotlib, pyplot = ModuleType(names[0]), _LazyPyplot(names[1])
    setattr(matplotlib, "pyplot", pyplot)  # noqa: B010 - mypy knows no attribute of a module that is made here
    sys.modules.update(zip(names, (matplotlib, pyplot), strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def unmap_clean_pages(folder: Path) -> None:
    """Drop the pages of the files in `folder` that this process has not changed.

    Only mappings that cannot be written to and have no page of their own (such as relocated data) are dropped: the
    kernel can read every page of these again from the file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for start, end in _clean_mappings(folder):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED):
            log.debug("madvise: %s", os.strerror(ctypes.get_errno()))


def _clean_mappings(folder: Path) -> Iterator[tuple[int, int]]:
    address: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        if match := MAPPING.match(line):
            start, end, permissions, file = match.groups()
            wanted = permissions[1] == "-" and file.startswith(f"{folder}/")
            address = (int(start, 16), int(end, 16)) if wanted else None
        elif address and line.startswith("Anonymous:") and line.split()[1] == "0":
            yield address
