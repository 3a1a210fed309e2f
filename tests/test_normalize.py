"""Normalized images are exactly x/255 in float32, written once and memory-mapped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import Dataset, Digits, Split, scaled
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.system.errors import InputError


@pytest.fixture(scope="module")
def loaded(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot that is not normalized yet."""
    datasets = tmp_path_factory.mktemp("datasets")
    return datasets / load(str(npz), datasets).digest


@pytest.fixture
def folder(loaded: Path, tmp_path: Path) -> Path:
    """A copy of the loaded snapshot, which a test may change."""
    return shutil.copytree(loaded, tmp_path / loaded.name)


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
    """64,000 images take 50 MB as raw pixels and 200 MB normalized."""
    many = np.tile(digits.x_train, (32, 1, 1))
    np.savez(tmp_path / "many.npz", **{**vars(digits), "x_train": many, "y_train": np.tile(digits.y_train, 32)})
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.normalize import normalize; from mnist_tasks.system.task_log import peak_memory_mb\n"
        "before = peak_memory_mb(); normalize(Path(sys.argv[1])); print(peak_memory_mb() - before)"
    )
    folder = tmp_path / load(str(tmp_path / "many.npz"), tmp_path, rules=DataRules(max_duplicates=1)).digest
    command = [sys.executable, "-c", script, str(folder)]

    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 35


def test_a_second_call_reuses_the_files(folder: Path) -> None:
    assert not normalize(folder).reused
    written = Dataset(folder).normalized_path("train").stat()

    assert normalize(folder).reused
    after = Dataset(folder).normalized_path("train").stat()
    assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


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
    with pytest.raises(InputError, match=r"is not a dataset: .*; run the load task first"):
        normalize(tmp_path / "nothing")


def change(path: Path, where: int = -1) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def zero(path: Path) -> None:
    """Set the second half of an array to zero, as on a disk that has lost blocks."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", [change, zero], ids=["a bit", "half of it zero"])
def test_a_file_with_other_values_is_written_again_and_never_used(
    damage: Callable[[Path], None], split: Split, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    normalize(folder)
    dataset = Dataset(folder)
    path = dataset.normalized_path(split)
    whole = path.read_bytes()
    damage(path)

    with pytest.raises(InputError, match=rf"{path.name} is missing, or no longer holds .*; clear the normalize task"):
        dataset.verify(split)
    assert not normalize(folder).reused
    assert path.read_bytes() == whole
    assert f"{path} no longer holds the dataset's images; writing it again" in caplog.text
    dataset.verify(split)


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_other_raw_arrays_than_load_wrote_are_never_used(name: str, folder: Path) -> None:
    normalize(folder)
    change(folder / f"{name}.npy")

    for call in (lambda: normalize(folder), lambda: Dataset(folder).verify("train")):
        with pytest.raises(
            InputError, match=rf"{folder} no longer has the content that it is named after: .*; clear the load task"
        ):
            call()


def test_a_dataset_is_verified_without_writing_beside_it(folder: Path) -> None:
    """A version can be reproduced in a read-only workspace."""
    normalize(folder)
    lock = folder.parent / ".lock"
    lock.unlink()

    assert normalize(folder).reused
    assert not lock.exists()


def test_the_normalized_images_of_earlier_datasets_are_removed_but_for_the_last(
    digits: Digits, loaded: Path, tmp_path: Path
) -> None:
    folders = []
    for number in range(4):
        arrays = {**vars(digits), "y_train": np.roll(digits.y_train, number)}
        folder = tmp_path / Digits(**arrays).digest()
        folder.mkdir()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        shutil.copy(loaded / "dataset.json", folder)
        folders.append(folder)
        normalize(folder)

    assert [len(list(folder.glob("x_*_normalized.npy"))) for folder in folders] == [0, 0, 2, 2]
    assert not normalize(folders[0]).reused  # they are written again when they are needed
    Dataset(folders[0]).verify("train")
