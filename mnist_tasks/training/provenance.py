"""Where a model comes from: the library versions, the commit of the code, the machine and its environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from mnist_tasks.system import processor
from mnist_tasks.workspace import PROJECT

# The variables by which TensorFlow and its libraries choose kernels and threads. Terraform's variables begin with TF_,
# too, and may hold passwords.
CHOOSING = re.compile(
    r"TF_(AUTO|CONV2D|CU|DETERMINISTIC|DISABLE|ENABLE|FP16|GPU_THREAD|JIT|MATMUL|MKL|NUM|ONEDNN|OVERRIDE|SET_ONEDNN)"
    r"|TF_USE_(CU|DE|EIGEN)|TF_XLA|XLA_|ONEDNN_|DNNL_|NVIDIA_TF32_|CUDA_VISIBLE_DEVICES$"
)

LIBRARIES = ("tensorflow", "keras", "numpy", "mnist-tasks")


def library_versions() -> dict[str, str]:
    """The versions that the weights depend on, Python's among them."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **versions}


def kernel_variables(architecture: str) -> dict[str, str]:
    """The variables by which TensorFlow and its libraries choose kernels for a training: they change the last bits.

    Convolutions use oneDNN and dense layers do not, unless the user has decided otherwise or TensorFlow is imported
    already, which reads the variable then. By itself TensorFlow uses oneDNN only on a processor with AVX512_VNNI,
    AVX512_BF16 or AMX. But with AVX2 alone, too, oneDNN takes a third off the time of `cnn-fast` and `cnn`; and with
    AVX512 it adds a sixth to that of `classic`, whose products of matrices are small.
    """
    onednn = "0" if architecture == "mlp" else "1"
    chosen = {} if "tensorflow" in sys.modules else {"TF_ENABLE_ONEDNN_OPTS": onednn}
    given = {name: value for name, value in os.environ.items() if CHOOSING.match(name)}
    return dict(sorted({**chosen, **given}.items()))


def gpus() -> list[str]:
    """The names of this machine's NVIDIA GPUs, without importing TensorFlow; empty if there is no driver."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


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
    return {
        "machine": platform.machine(),
        "processor": processor.name(),
        "flags": sorted(processor.flags()),
        "cores": processor.cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }
