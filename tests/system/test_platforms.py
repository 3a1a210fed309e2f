"""What only Linux has goes another way on macOS. The platform is replaced; nothing here has run on a Mac."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import local_airflow
import process_tree
import psutil
import pytest
import surroundings
from airflow_api import LaunchError

from mnist_tasks.system import files, task_log
from mnist_tasks.workspace import Workspace

MACOS = SimpleNamespace(platform="darwin", executable=sys.executable)


def test_bytes_go_past_the_disks_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(files, "sys", MACOS)
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: calls.append(command))

    files.fsync(tmp_path)

    assert calls == [51]


def test_a_file_system_without_that_gets_a_plain_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(45, "Operation not supported")

    synced: list[int] = []
    monkeypatch.setattr(files, "sys", MACOS)
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)

    files.fsync(tmp_path)

    assert len(synced) == 1


def test_the_peak_memory_comes_from_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_log, "sys", MACOS)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=123_000_000))

    assert task_log.peak_memory_mb() == 123


def test_tensorflow_is_imported_without_the_list_of_mappings() -> None:
    script = """
import sys
from types import SimpleNamespace
from mnist_tasks.system import tensorflow_import
tensorflow_import.sys = SimpleNamespace(platform="darwin", modules=sys.modules)
tensorflow_import.unmap_clean_pages = lambda _: sys.exit("reads /proc")
tensorflow_import._import_tensorflow()
print("tensorflow" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert result.stdout == "True\n"


def test_the_environment_is_one_that_macos_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "sys", MACOS)

    environment = surroundings.surroundings({"HOME": "/"}, tmp_path, 8080, tmp_path / "passwords.json")

    assert environment["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] == "YES"
    assert environment["LC_ALL"] == "en_US.UTF-8"


def test_a_question_mark_in_the_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_airflow, "sys", MACOS)
    workspace = Workspace(tmp_path / "what?")

    with (
        pytest.raises(LaunchError, match=r"SQLite would end the path .*what\? at its \?"),
        local_airflow.local_airflow(workspace, 8080, tmp_path / "passwords.json", {}, {}),
    ):
        pass


def test_a_tree_of_processes_is_stopped_by_one_that_adopts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can become a subreaper on macOS: what the first of a tree leaves behind is a child of process 1."""
    monkeypatch.setattr(process_tree, "STOP_SECONDS", 1)
    parent = psutil.Process(subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"]).pid)
    while not parent.children():
        time.sleep(0.01)
    (child,) = parent.children()

    process_tree.stop_trees([parent])

    # Process 1 of a container may leave what has ended as a zombie.
    assert all(not process.is_running() or process.status() == "zombie" for process in (parent, child))
