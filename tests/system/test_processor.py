"""The processor is detected correctly on x86, on ARM and on systems without /proc/cpuinfo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_tasks.system import processor

GENOA = "model name\t: AMD EPYC 9R14\nflags\t\t: fpu sse4_2 avx2 fma avx512f avx512_bf16\n\nflags\t: none\n"
ROME = "processor\t: 0\nmodel name\t: AMD EPYC 7R32\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\n"
SAPPHIRE_RAPIDS = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: avx2 avx512f amx_bf16 amx_tile\n"
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
