"""What several test modules need."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]

NOBODY = 65534


def without_root(function: Callable[[], Any], folder: Path) -> Any:
    """Call a function as the user nobody, if this is root, who may do everything; `folder` is made accessible."""
    if os.geteuid():
        return function()
    for path in (folder, *folder.parents):
        if path.owner() == "root" and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    try:
        return function()
    finally:
        os.seteuid(0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own that holds `size` bytes, such as 1M; needs the right to mount."""
    folder.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size={size} tmpfs {folder} 2>/dev/null"):  # noqa: S605
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        yield folder
    finally:
        os.system(f"umount {folder}")  # noqa: S605


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
