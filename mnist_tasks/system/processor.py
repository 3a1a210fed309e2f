"""What the processor of this machine is and whether it computes in bfloat16. Needs neither NumPy nor TensorFlow."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

# The instruction sets that multiply in bfloat16 (Intel 64 and IA-32 Architectures Software Developer's Manual, CPUID
# leaf 7), as Linux names them. Without one of them TensorFlow emulates bfloat16, several times slower than float32.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})

# The instruction sets by which TensorFlow and oneDNN choose their kernels.
CHOOSING = re.compile(r"sse4_|avx|fma|f16c|amx|asimd|bf16|i8mm|sve")


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The lines about the first processor; empty if the system has no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def name() -> str:
    """The name of the processor."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """The instruction sets by which kernels are chosen; empty if the system does not list them."""
    found = _cpuinfo().get("flags", _cpuinfo().get("Features", ""))
    return frozenset(flag for flag in found.split() if CHOOSING.match(flag))


def computes_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 itself."""
    return bool(BFLOAT16 & flags())
