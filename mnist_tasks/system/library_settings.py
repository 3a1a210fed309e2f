"""Imports of libraries that read settings of the user's own while they are imported, without those settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# matplotlib fails if these name a notebook's backend or something that is not a file.
PLAIN_MATPLOTLIB: Mapping[str, str | None] = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}

# Keras' backend; the folder of its `keras.json`, where a bad value ends the import; what cuts a training short or puts
# an older Keras in its place. And it imports matplotlib where there is one.
PLAIN_KERAS: Mapping[str, str | None] = {
    **PLAIN_MATPLOTLIB,
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.devnull,
    "KERAS_MAX_EPOCHS": None,
    "KERAS_MAX_STEPS_PER_EPOCH": None,
    "KERAS_NNX_ENABLED": None,
    "TF_USE_LEGACY_KERAS": None,
}


@contextmanager
def environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """For as long as the block lasts, environment variables with these values, or without one for None."""
    before = {name: os.environ.get(name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
