"""Where a model comes from: the library versions, the commit of the code and the machine that trained it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

from mnist_tasks.workspace import PROJECT

LIBRARIES = ("tensorflow", "keras", "numpy", "mnist-tasks")


def library_versions() -> dict[str, str]:
    """The versions that the weights depend on, Python's among them."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def git_commit() -> str | None:
    """The commit of the checkout that runs, with `-dirty` if files were changed since; None if there is no checkout.

    In a container, which has none, the one that `MNIST_COMMIT` names: that of the image.
    """
    git = shutil.which("git")
    if not git or not (PROJECT / ".git").exists():
        return os.environ.get("MNIST_COMMIT") or None
    # Git refuses a checkout that belongs to another user, as a mounted one may.
    command = [
        git,
        "-c",
        f"safe.directory={PROJECT}",
        "-C",
        str(PROJECT),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    result = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=False)  # noqa: S603
    return result.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """The machine: architecture, processor, cores that this process may use, and memory in bytes."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": platform.machine(),
        "processor": models[0] if models else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }
