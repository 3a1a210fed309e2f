"""The processor of this machine: its name, instruction sets and cores. Imports neither NumPy nor TensorFlow."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

# The instruction sets that multiply in bfloat16 (Intel 64 and IA-32 Architectures Software Developer's Manual, CPUID
# leaf 7), as Linux names them. Without one of them TensorFlow emulates bfloat16, several times slower than float32.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})

# The instruction sets by which TensorFlow and oneDNN choose their kernels.
CHOOSING = re.compile(r"sse4_|avx|fma|f16c|amx|asimd|bf16|i8mm|sme|sve")


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """What the system says about the first processor, with the names that Linux uses; empty if it says nothing."""
    if sys.platform == "darwin":
        return _sysctl()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl() -> dict[str, str]:
    """The same from macOS, which has a line `hw.optional.arm.FEAT_BF16: 1` for each instruction set."""
    command = ["/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.optional.arm"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
    values = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    features = (name.rpartition("FEAT_")[2] for name, value in values.items() if "FEAT_" in name and value == "1")
    return {"model name": values.get("machdep.cpu.brand_string", ""), "Features": " ".join(features).lower()}


def name() -> str:
    """The name of the processor. Linux on Arm only has numbers for the maker and the model."""
    found = _cpuinfo()
    numbers = [found[key] for key in ("CPU implementer", "CPU part") if key in found]
    return found.get("model name") or " ".join([platform.processor() or platform.machine(), *numbers])


def cores() -> int:
    """How many cores this process may use; all of the machine where the system does not say, as on macOS."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def flags() -> frozenset[str]:
    """The instruction sets by which kernels are chosen; empty if the system does not list them."""
    found = _cpuinfo().get("flags", _cpuinfo().get("Features", ""))
    return frozenset(flag for flag in found.split() if CHOOSING.match(flag))


def computes_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 itself."""
    return bool(BFLOAT16 & flags())
