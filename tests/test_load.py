"""Snapshots are written once, reused, verified and never left incomplete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.data.dataset import ARRAYS, Dataset, Digits
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError
from tests.forms import write_npz
from tests.helpers import small_disk


def test_the_builtin_snapshot_holds_all_of_mnist(mnist: Digits, tmp_path: Path) -> None:
    loaded = load("builtin", tmp_path)

    dataset = Dataset(tmp_path / loaded.digest)
    assert all(np.array_equal(dataset.array(name), getattr(mnist, name)) for name in ARRAYS)
    assert (loaded.train_images, loaded.test_images, loaded.reused) == (60000, 10000, False)


def test_the_description_has_the_statistics(npz: Path, digits: Digits, tmp_path: Path) -> None:
    loaded = load(str(npz), tmp_path)

    description = Dataset(tmp_path / loaded.digest).description()
    assert description.train_images_per_digit == np.bincount(digits.y_train).tolist()
    assert description.test_images_per_digit == np.bincount(digits.y_test).tolist()
    assert description.train_pixel_mean == pytest.approx(digits.x_train.mean())
    assert description.train_pixel_std == pytest.approx(digits.x_train.std())


def test_a_second_load_reuses_the_snapshot(npz: Path, tmp_path: Path) -> None:
    first = load(str(npz), tmp_path)
    written = (tmp_path / first.digest / "x_train.npy").stat()

    second = load(str(npz), tmp_path)

    assert second.digest == first.digest
    assert second.reused
    assert (tmp_path / first.digest / "x_train.npy").stat() == written


def test_a_known_source_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("builtin", tmp_path)
    monkeypatch.setattr("mnist_tasks.load.fetch", lambda *_: pytest.fail("read again"))

    assert load("builtin", tmp_path).reused


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete array", "delete description"])
def test_a_damaged_snapshot_is_written_again(damage: str, npz: Path, tmp_path: Path) -> None:
    digest = load(str(npz), tmp_path).digest
    path = tmp_path / digest / ("dataset.json" if damage == "delete description" else "x_train.npy")
    content = bytearray(path.read_bytes())
    if damage.startswith("delete"):
        path.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-1])

    assert not load(str(npz), tmp_path).reused
    assert load(str(npz), tmp_path).reused


def test_leftovers_of_a_killed_load_are_removed(npz: Path, tmp_path: Path) -> None:
    (tmp_path / ".staging-0123").mkdir()
    (tmp_path / ".staging-0123" / "x_train.npy").write_bytes(b"half")

    load(str(npz), tmp_path)

    assert not list(tmp_path.glob(".staging-*"))


def test_a_bad_source_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"no archive")

    with pytest.raises(InputError):
        load(str(tmp_path / "bad.npz"), tmp_path / "datasets")
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [".lock"]


def test_a_known_source_with_another_content_is_refused(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.data.sources.BUILTIN", npz)

    with pytest.raises(InputError, match=r"builtin has content digest [0-9a-f]{64}, but MNIST has 796354bf"):
        load("builtin", tmp_path)


def test_a_full_disk_leaves_no_half_snapshot(npz: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1M") as disk:
        with pytest.raises(OSError, match="No space left"):
            load(str(npz), disk)
        assert [path.name for path in disk.iterdir()] == [".lock"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(mnist: Digits, tmp_path: Path) -> None:
    """Load a source, and one with four times as many images, in separate processes; the rules are checked as well."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom mnist_tasks.config import DataRules\n"
        "from mnist_tasks.load import load\n"
        "from mnist_tasks.system.task_log import peak_memory_mb\n"
        "load(sys.argv[1], Path(sys.argv[2]), rules=DataRules(max_duplicates=1))\nprint(peak_memory_mb())"
    )
    peaks = {}
    for times in (1, 4):
        source = write_npz(tmp_path / f"{times}", np.tile(mnist.x_train, (times, 1, 1)), np.tile(mnist.y_train, times))
        command = [sys.executable, "-c", script, str(source), str(tmp_path / "datasets")]
        peaks[times] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    # The 180,000 additional images take 141 MB. Only their hashes and labels, 1.6 MB, may be held, in several copies.
    assert peaks[4] - peaks[1] < 30, peaks


def test_the_description_is_plain_json(npz: Path, tmp_path: Path) -> None:
    digest = load(str(npz), tmp_path).digest

    assert json.loads((tmp_path / digest / "dataset.json").read_text())["digest"] == digest
