"""The machine that a benchmark is run on. Each benchmark prints it first and writes it into its JSON file."""

from __future__ import annotations

from typing import Any

from mnist_tasks.training.provenance import hardware

# The instruction sets that change a training's speed most, of those by which TensorFlow and oneDNN choose kernels.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "i8mm", "bf16", "sve")


def machine() -> dict[str, Any]:
    """Print the machine on one line, and return what `training.json` records of it."""
    found = hardware()
    flags = " ".join(flag for flag in FLAGS if flag in found["flags"])
    memory = found["memory_bytes"] / 1e9
    print(f"{found['processor']} ({found['machine']}: {flags}), {found['cores']} cores, {memory:.0f} GB of memory")
    return found
