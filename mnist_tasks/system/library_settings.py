"""Import libraries without the user's own settings, which they would read during the import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# matplotlib fails if these name a notebook's backend or something that is not a file.
PLAIN_MATPLOTLIB: Mapping[str, str | None] = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}

# The backend; the folder of `keras.json`, where a bad value ends the import; and the variables that cut a training
# short or put an older Keras in its place. Keras also imports matplotlib if it is installed.
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
    """Set environment variables for the duration of the block; None removes one."""
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
