"""The workspace: names stay in their folders, and a place that cannot be written to is named before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnist_tasks.errors import InputError
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import small_disk, without_root


@pytest.mark.parametrize(
    "run_id",
    ["manual__2026-11-24T11:06:42.947692+00:00", "scheduled__2026-11-24T02:00:00+00:00", "x", "a" * 200],
)
def test_a_run_has_a_folder_named_after_it(run_id: str, tmp_path: Path) -> None:
    assert Workspace(tmp_path).run(run_id) == tmp_path / "runs" / run_id
    assert (tmp_path / "runs" / run_id).is_dir()


@pytest.mark.parametrize(
    "run_id",
    ["", ".", "..", "../models", "/etc", "a/b", "a\\b", ".hidden", "nul\0", "line\n", "x\n", "a" * 201, "<b>", "é"],
)
def test_a_run_id_that_could_leave_its_folder_is_refused(run_id: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot name a folder"):
        Workspace(tmp_path).run(run_id)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("digest", ["", "..", "0" * 63, "0" * 63 + "/", "G" * 64])
def test_a_dataset_that_is_no_digest_is_refused(digest: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no dataset digest"):
        Workspace(tmp_path).dataset(digest)


def test_home_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))
    assert Workspace.from_environment().root == tmp_path

    monkeypatch.delenv("MNIST_HOME")
    assert Workspace.from_environment().root == PROJECT / "var"


def test_an_installed_package_needs_to_be_told_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNIST_HOME")
    monkeypatch.setattr("mnist_tasks.workspace.PROJECT", tmp_path)

    with pytest.raises(InputError, match="MNIST_HOME is not set"):
        Workspace.from_environment()


def test_preparing_makes_the_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    Workspace(tmp_path / "home").prepare()

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "home",
        "home/datasets",
        "home/models",
        "home/runs",
    ]


def test_a_model_directory_that_is_not_writable_is_named(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for folder in (workspace.datasets, tmp_path / "runs"):
        folder.mkdir()
        folder.chmod(0o777)
    workspace.models.mkdir(mode=0o555)

    with pytest.raises(InputError, match=r"/models cannot be written to: Permission denied; give it to the user"):
        without_root(workspace.prepare, tmp_path)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64K") as disk:
        workspace = Workspace(disk)
        workspace.prepare()
        (disk / "filler").write_bytes(b"\0" * shutil.disk_usage(disk).free)

        with pytest.raises(InputError, match="cannot be written to: No space left on device"):
            workspace.prepare()


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("not a folder")

    with pytest.raises(InputError, match=r"/models cannot be written to: File exists"):
        Workspace(tmp_path).prepare()
