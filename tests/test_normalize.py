"""Normalized images: exactly x/255 in float32, written once, memory-mapped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.config import DataRules
from mnist_tasks.dataset import Dataset, Digits, scaled
from mnist_tasks.errors import InputError
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize


@pytest.fixture
def folder(npz: Path, tmp_path: Path) -> Path:
    """A snapshot that is not normalized yet."""
    return tmp_path / load(str(npz), tmp_path).digest


def test_every_pixel_value_is_divided_by_255() -> None:
    pixels = np.arange(256, dtype=np.uint8)

    assert scaled(pixels).dtype == np.float32
    assert np.array_equal(scaled(pixels), (np.arange(256) / 255).astype(np.float32))


def test_both_splits_are_written_and_memory_mapped(folder: Path, digits: Digits) -> None:
    normalize(folder)

    for split, raw in (("train", digits.x_train), ("test", digits.x_test)):
        images = Dataset(folder).normalized(split)  # type: ignore[arg-type]
        assert isinstance(images, np.memmap)
        assert images.dtype == np.float32
        assert np.array_equal(images, (raw / 255).astype(np.float32))


def test_memory_does_not_grow_with_the_images(digits: Digits, tmp_path: Path) -> None:
    """64,000 images are 50 MB of pixels and 200 MB of normalized ones."""
    many = np.tile(digits.x_train, (32, 1, 1))
    np.savez(tmp_path / "many.npz", **{**vars(digits), "x_train": many, "y_train": np.tile(digits.y_train, 32)})
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.normalize import normalize; from mnist_tasks.runtime import peak_memory_mb\n"
        "before = peak_memory_mb(); normalize(Path(sys.argv[1])); print(peak_memory_mb() - before)"
    )
    folder = tmp_path / load(str(tmp_path / "many.npz"), tmp_path, rules=DataRules(max_duplicates=1)).digest
    command = [sys.executable, "-c", script, str(folder)]

    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 35


def test_a_second_call_reuses_the_files(folder: Path) -> None:
    assert not normalize(folder).reused
    written = Dataset(folder).normalized_path("train").stat()

    assert normalize(folder).reused
    assert Dataset(folder).normalized_path("train").stat() == written


def test_a_truncated_file_is_written_again(folder: Path) -> None:
    normalize(folder)
    path = Dataset(folder).normalized_path("test")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])

    assert not normalize(folder).reused
    assert path.read_bytes() == whole


def test_a_write_that_fails_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnist_tasks.normalize.scaled", fail)
    before = sorted(path.name for path in folder.iterdir())

    with pytest.raises(OSError, match="No space left"):
        normalize(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_folder_without_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no dataset: .*; run the load task first"):
        normalize(tmp_path / "nothing")
