"""The inbox: which batches are complete, and when a batch counts as changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

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
