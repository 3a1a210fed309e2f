"""A full disk is reported with path, free space and way out, if possible before a run; the tests mount small disks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowFailException

from mnist_tasks.cli.main import main
from mnist_tasks.config import TrainConfig
from mnist_tasks.data.contact_sheets import mean_images
from mnist_tasks.data.dataset import IMAGE_SHAPE
from mnist_tasks.documents import Epoch
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.disk_space import (
    NORMALIZED,
    RAW,
    DiskError,
    explained_disk_errors,
    require_space,
    space_for_dataset,
)
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import atomic_folder, write_atomically, write_json, write_text
from mnist_tasks.training.architectures import export, published_model, trainable_model
from mnist_tasks.training.epochs import _out_of_memory_named
from mnist_tasks.training.tensorboard import EventFiles
from mnist_tasks.workspace import PROJECT, Workspace
from tests.forms import done
from tests.helpers import publish, small_disk

EPOCH = Epoch(number=1, metrics={"loss": 1.0, "accuracy": 0.5}, seconds=1.0, images_per_second=100.0)
WAY_OUT = "set MNIST_HOME to a folder"


def fill(disk: Path) -> None:
    """Fill a disk to the last byte."""
    (disk / "filler").write_bytes(b"\0" * shutil.disk_usage(disk).free)


def remount(disk: Path, options: str) -> None:
    assert os.system(f"mount -o remount,{options} {disk}") == 0  # noqa: S605


Task = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The context manager that the DAGs put around each task."""
    monkeypatch.syspath_prepend(PROJECT / "dags")
    from mnist_common import no_retry_for_bad_input

    return no_retry_for_bad_input


def keras_file(path: Path) -> None:
    config = TrainConfig()
    published_model(config, trainable_model(config, 1000)).save(path)


def saved_model(folder: Path) -> None:
    config = TrainConfig()
    model = published_model(config, trainable_model(config, 1000))
    with atomic_folder(folder / "saved_model") as staging:
        export(model, staging)


def golden(folder: Path) -> None:
    write_atomically(folder / "golden.npz", lambda path: np.savez(path, images=np.zeros((1000, 28, 28))))


WRITERS: dict[str, Callable[[Path], None]] = {
    "JSON": lambda folder: write_json(folder / "evaluation.json", {"a": "b" * 300_000}),
    "NumPy": golden,
    "Keras": lambda folder: write_atomically(folder / "model.keras", keras_file),
    "SavedModel": saved_model,
    "picture": lambda folder: write_atomically(
        folder / "means.png", lambda path: mean_images(np.random.default_rng(0).random((10, *IMAGE_SHAPE)) * 255, path)
    ),
    "events": lambda folder: EventFiles(folder / "tensorboard", []).write(EPOCH, 0.1),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_writer_names_a_full_disk(writer: Callable[[Path], None], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "128K") as disk:
        fill(disk)

        with pytest.raises(
            DiskError, match=rf"^writing to {disk}/.*No space left on device: 0\.0 of 0\.1 MB are"
        ) as full:
            writer(disk)

        assert WAY_OUT in str(full.value)
        assert full.value.errno == errno.ENOSPC
        assert is_transient(full.value)
        left = {path.name for path in disk.iterdir()}
        assert not {name for name in left if name.startswith(".")}, left


def test_free_space_is_that_of_the_moment_of_the_failure(tmp_path: Path) -> None:
    """The message does not count the space that is free after the unfinished file has been removed."""
    with small_disk(tmp_path / "disk", "4M") as disk:
        with pytest.raises(DiskError, match=r"No space left on device: 0\.0 of 4\.2 MB are free"):
            write_atomically(disk / "large", lambda path: write_text(path, "x" * 5_000_000))

        assert list(disk.iterdir()) == []


def test_a_full_disk_does_not_pass_for_a_device_without_memory(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64K") as disk:
        fill(disk)

        with pytest.raises(DiskError, match="No space left on device"), _out_of_memory_named(TrainConfig()):
            EventFiles(disk / "tensorboard", []).write(EPOCH, 0.1)


def test_a_disk_without_inodes_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8M,nr_inodes=3") as disk:
        (disk / "one").touch()
        (disk / "two").touch()

        with pytest.raises(DiskError, match=r"8\.4 of 8\.4 MB are free, but only 0 of 3 inodes") as full:
            write_json(disk / "evaluation.json", {})
        assert full.value.errno == errno.ENOSPC

        with pytest.raises(InputError, match=r"needs 0\.0 MB and 64 inodes more, but .* only 0 of 3 inodes"):
            require_space({disk: 1})


def test_a_disk_mounted_read_only_is_named_and_not_tried_again(task: Task, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8M") as disk:
        Workspace(disk).prepare()
        remount(disk, "ro")

        with pytest.raises(DiskError, match=r"evaluation.json failed: Read-only file system; mount it for writing, or"):
            write_json(disk / "evaluation.json", {})
        with pytest.raises(AirflowFailException, match=f"{disk}/x failed: Read-only file system"), task():
            (disk / "x").touch()
        with pytest.raises(InputError, match=f"{disk}/datasets failed: Read-only file system; mount it for writing"):
            Workspace(disk).prepare()


def test_a_quota_is_named(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with pytest.raises(DiskError, match=r"x failed: Disk quota exceeded for user \d+: .* MB are free; have the quota"):
        write_atomically(tmp_path / "x", write)


def test_a_task_on_a_full_disk_is_tried_again_and_says_why(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "64K") as disk:
        monkeypatch.setenv("MNIST_HOME", str(disk))
        source = tmp_path / "source"
        source.write_bytes(b"\0" * 100_000)

        with pytest.raises(DiskError, match=f"writing to {disk}/copy failed: No space left on device: 0.0"), task():
            shutil.copyfile(source, disk / "copy")
        with pytest.raises(DiskError, match=f"writing to {disk} failed: No space left on device"), task():
            (disk / "copy").write_bytes(b"\0" * 100_000)  # the system's error has no path
        with pytest.raises(DiskError) as first, explained_disk_errors(tmp_path):  # an error with a path is not changed
            write_json(disk / "evaluation.json", {})
        assert str(disk / "evaluation.json") in str(first.value)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O"), ValueError("No space left on device"), InputError("no")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, explained_disk_errors(tmp_path):
        raise error
    assert caught.value is error


def test_a_command_on_a_full_disk_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "256K") as disk:
        monkeypatch.setenv("MNIST_HOME", str(disk))
        models = ModelDirectory(disk / "models")
        publish(models, "first", None)
        for champion in (1, 2):
            publish(models, f"after {champion}", champion)
        fill(disk)

        assert main(["models", "prune", "--keep", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"failed: writing to {disk}/models/pruned/1 failed: No space left on device: 0.0 of")
        assert WAY_OUT in error
        assert [version.number for version in models.versions()] == [1, 2, 3]


def test_a_run_that_does_not_fit_is_refused_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_yet(*_: object) -> None:
        pytest.fail("load began to read the source")

    monkeypatch.setattr("mnist_tasks.load.fetch", not_yet)
    with small_disk(tmp_path / "disk", "150M") as disk:
        workspace = Workspace(disk)
        workspace.prepare()

        # 70,000 images of 785 + 3,136 bytes each, and 5 MB for the run and the version.
        with pytest.raises(
            InputError, match=r"datasets has too little space: a run needs 279\.5 MB more, but 157\.3 of"
        ):
            load("builtin", workspace.datasets, run=workspace.run("first"), models=workspace.models)


def test_with_batches_the_space_is_asked_for_before_anything_is_read(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.load.fetch", lambda *_: pytest.fail("something was read"))
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    done(Path(shutil.copy(npz, inbox)))
    with (
        small_disk(tmp_path / "disk", "70M") as disk,
        pytest.raises(InputError, match=r"needs 274\.5 MB more, but 73\.4 of 73\.4 MB are free"),
    ):
        load("builtin", disk, inbox=inbox)


def test_a_run_that_fits_is_not_refused(tmp_path: Path) -> None:
    """A run starts with a few MB more than it needs; once the images are on the disk, it needs little more."""
    with small_disk(tmp_path / "disk", "282M") as disk:
        workspace = Workspace(disk)
        workspace.prepare()
        options: dict[str, Any] = {"run": workspace.run("first"), "models": workspace.models}
        digest = load("builtin", workspace.datasets, **options).digest
        assert not normalize(workspace.dataset(digest)).reused
        (disk / "filler").write_bytes(b"\0" * (shutil.disk_usage(disk).free - 6_000_000))

        assert load("builtin", workspace.datasets, **options).reused

        # Only the raw images are on the disk, and there is no space for the normalized ones.
        normalized = workspace.dataset(digest) / "x_train_normalized.npy"
        normalized.unlink()
        (disk / "other").write_bytes(b"\0" * 100_000_000)
        with pytest.raises(InputError, match=r"a run needs 193\.\d MB more"):
            load("builtin", workspace.datasets, **options)


def test_a_small_source_needs_little_and_its_own_size_is_what_counts(npz: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "80M") as disk:
        workspace = Workspace(disk)
        workspace.prepare()
        options: dict[str, Any] = {"run": workspace.run("first"), "models": workspace.models}
        (disk / "filler").write_bytes(b"\0" * (shutil.disk_usage(disk).free - 10_000_000))

        # The disk holds 2 MB of raw images by then. They are compared with MNIST's images, which take 55 MB.
        with pytest.raises(InputError, match=r"datasets has too little space: a run needs 60\.0 MB more, but 8\.0 of"):
            load(str(npz), workspace.datasets, **options)
        assert [path.name for path in workspace.datasets.iterdir()] == [".lock"]

        (disk / "filler").unlink()
        digest = load(str(npz), workspace.datasets, **options).digest
        folder = workspace.dataset(digest)
        normalize(folder)
        assert sum(len(np.load(folder / f"x_{split}_normalized.npy")) for split in ("train", "test")) == 2500


def test_what_an_image_takes_is_what_is_computed_with(npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / load(str(npz), tmp_path).digest
    normalize(folder)

    assert space_for_dataset(2500, tmp_path / "none") == 2500 * (RAW + NORMALIZED)
    assert space_for_dataset(2500, folder) == 0
    assert space_for_dataset(2500, folder, whole=False) == 2500 * RAW
    arrays = sum(path.stat().st_size for path in folder.glob("[xy]_*.npy"))
    assert arrays == 2500 * (RAW + NORMALIZED) + 6 * 128  # each file has a header
