"""The inbox: which batches are complete, and when a batch counts as changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.data.inbox import QUIET_SECONDS, complete_batches, find_batches
from mnist_tasks.system.errors import InputError
from tests.helpers import without_root


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def test_without_an_inbox_there_is_no_batch(tmp_path: Path) -> None:
    assert complete_batches(tmp_path / "none") == {}


def test_a_batch_is_complete_with_its_marker_or_when_it_has_settled(inbox: Path) -> None:
    for name in ("a.npz", "b.npz", "c.npz", ".hidden.npz"):
        (inbox / name).write_text(name)
    (inbox / "folder").mkdir()
    (inbox / "folder" / "images").write_text("images")
    assert complete_batches(inbox) == {}
    assert all(batch.complete for batch in find_batches(inbox, now=time.time() + QUIET_SECONDS))

    (inbox / "b.npz.done").touch()
    (inbox / "folder" / ".done").touch()

    assert sorted(complete_batches(inbox)) == ["b.npz", "folder"]


def test_a_stamp_changes_with_the_files_and_not_with_a_marker_or_a_look(inbox: Path) -> None:
    folder = inbox / "folder"
    folder.mkdir()
    (folder / "images").write_text("images")
    (folder / ".done").touch()
    first = complete_batches(inbox)

    (folder / ".done").touch()
    (inbox / "folder.done").touch()
    (folder / "images").chmod(0o600)
    assert complete_batches(inbox) == first

    (folder / "images").write_text("other images")
    assert complete_batches(inbox).keys() == first.keys()
    assert complete_batches(inbox) != first


def test_a_batch_that_goes_away_meanwhile_is_left_out(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inbox / "a.npz").touch()
    (inbox / "a.npz.done").touch()
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        shutil.rmtree(inbox)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)

    assert complete_batches(inbox) == {}


def test_a_stamp_is_that_of_earlier_releases(inbox: Path) -> None:
    """Otherwise an upgrade would report every batch once more."""
    for path in ("folder/b/2", "folder/a", "folder/a.b", "folder/b.c", "folder/\udcff 'x'", "folder/.done", "file"):
        (inbox / path).parent.mkdir(parents=True, exist_ok=True)
        (inbox / path).write_text(path.replace("\udcff", ""))
    (inbox / "folder" / "link to a folder").symlink_to("b")
    (inbox / "folder" / "link to a file").symlink_to("a")
    (inbox / "folder" / "link to nothing").symlink_to("nothing")
    (inbox / "linked").symlink_to("folder")
    stamps = {}
    for name in ("folder", "file", "linked"):
        (inbox / f"{name}.done").touch()
        folder, digest = (inbox / name).resolve(), hashlib.sha256()
        inside = [inbox / name / entry.relative_to(folder) for entry in folder.rglob("*")]
        for entry in sorted([inbox / name, *inside]):
            if not entry.is_dir() and entry.name != ".done":
                status = entry.lstat()
                digest.update(f"{entry.relative_to(inbox)!r} {status.st_size} {status.st_mtime_ns}\n".encode())
        stamps[name] = digest.hexdigest()[:16]

    assert complete_batches(inbox) == stamps


def test_each_file_of_many_batches_is_looked_at_once(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(500):
        (inbox / f"{number}.npz").touch()
        (inbox / f"{number}").mkdir()
        for name in ("images", "labels"):
            (inbox / f"{number}" / name).touch()
    (inbox / "0" / ".done").touch()
    looks = 0

    def counted(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def count(*arguments: Any, **options: Any) -> os.stat_result:
            nonlocal looks
            looks += 1
            return look(*arguments, **options)

        return count

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))

    assert list(complete_batches(inbox)) == ["0"]
    # The system's listing of a folder has the kinds of its entries; their own status is asked for beside `os`.
    assert looks < 1010


def test_an_inbox_that_cannot_be_read_is_named(inbox: Path) -> None:
    (inbox / "a.npz").touch()
    inbox.chmod(0o311)

    with pytest.raises(InputError, match="inbox cannot be read: Permission denied; give the user"):
        without_root(lambda: complete_batches(inbox), inbox.parent)


def test_looking_imports_neither_tensorflow_nor_numpy() -> None:
    script = (
        "import sys; import mnist_tasks.data.inbox\n"
        "print({'tensorflow', 'keras', 'numpy', 'airflow'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_what_file_managers_leave_is_no_batch(inbox: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "digits.npz"):
        (inbox / name).touch()
    (inbox / "@eaDir").mkdir()

    assert [batch.name for batch in find_batches(inbox)] == ["digits.npz"]
