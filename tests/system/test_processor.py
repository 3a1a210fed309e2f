"""The processor is detected correctly on x86, on Arm, on macOS, and on systems that say nothing about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mnist_tasks.system import processor

GENOA = "model name\t: AMD EPYC 9R14\nflags\t\t: fpu sse4_2 avx2 fma avx512f avx512_bf16\n\nflags\t: none\n"
ROME = "processor\t: 0\nmodel name\t: AMD EPYC 7R32\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\n"
SAPPHIRE_RAPIDS = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512f amx_bf16 amx_tile\n"
# Written by /usr/sbin/sysctl machdep.cpu.brand_string hw.optional.arm
M2 = """\
machdep.cpu.brand_string: Apple M2
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
"""
GRAVITON = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd i8mm bf16 sve\n"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    processor._cpuinfo.cache_clear()
    yield
    processor._cpuinfo.cache_clear()


def runs_on(cpuinfo: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system describe another processor, or no processor at all, as on macOS."""

    def read_text(path: Path, encoding: str) -> str:
        assert (str(path), encoding) == ("/proc/cpuinfo", "utf-8")
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"), [(GENOA, True), (SAPPHIRE_RAPIDS, True), (ROME, False), (GRAVITON, False), (None, False)]
)
def test_bfloat16_is_computed_where_an_x86_flag_says_so(
    cpuinfo: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_on(cpuinfo, monkeypatch)

    assert processor.computes_bfloat16() is expected


def test_the_flags_are_those_that_kernels_are_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_on(GENOA, monkeypatch)
    assert processor.name() == "AMD EPYC 9R14"
    assert processor.flags() == {"sse4_2", "avx2", "fma", "avx512f", "avx512_bf16"}

    processor._cpuinfo.cache_clear()
    runs_on(GRAVITON, monkeypatch)
    assert processor.flags() == {"asimd", "i8mm", "bf16", "sve"}


def test_a_system_without_the_file_still_names_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_on(None, monkeypatch)

    assert processor.name()
    assert processor.flags() == set()


def test_macos_names_its_processor_by_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=M2))

    assert processor.name() == "Apple M2"
    assert processor.flags() == {"bf16", "i8mm"}
    assert not processor.computes_bfloat16()
    assert processor.cores() == os.cpu_count()


def test_linux_on_arm_tells_processors_apart_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_on(f"{GRAVITON}CPU implementer\t: 0x41\nCPU part\t: 0xd40\n", monkeypatch)

    assert processor.name().endswith(" 0x41 0xd40")


def test_the_cores_are_those_that_this_process_may_use() -> None:
    script = (
        "import os; from mnist_tasks.system import processor; os.sched_setaffinity(0, {%d}); print(processor.cores())"
    )
    command = [sys.executable, "-c", script % min(os.sched_getaffinity(0))]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "1\n"
