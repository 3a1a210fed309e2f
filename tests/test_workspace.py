"""The workspace: names stay in their folders, and an unusable location is reported before any work."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.system.errors import InputError, is_transient
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
    with pytest.raises(InputError, match="is not a dataset digest"):
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
    with small_disk(tmp_path / "disk", "8M") as disk:
        workspace = Workspace(disk)
        workspace.prepare()
        filler = disk / "filler"
        filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 1_000_000))

        with pytest.raises(InputError, match=r"/runs has too little space: a run needs 5\.0 MB more, but 1\.0 of 8\.4"):
            workspace.prepare()

        with filler.open("ab") as file:
            file.write(b"\0" * shutil.disk_usage(disk).free)
        with pytest.raises(InputError, match=r"/datasets failed: No space left on device: 0\.0 of 8\.4 MB are free;"):
            workspace.prepare()
        assert hidden(disk) == []


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("not a folder")

    with pytest.raises(InputError, match=r"/models cannot be written to: File exists"):
        Workspace(tmp_path).prepare()


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


@pytest.fixture(scope="session")
def without_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD that refuses links, as vfat, exFAT and some network file systems do."""
    compiler = shutil.which("gcc")
    if not compiler:
        pytest.skip("gcc, which builds the library that refuses links, is not installed")
    folder = tmp_path_factory.mktemp("preload")
    (folder / "nolinks.c").write_text(
        "#include <errno.h>\n"
        "int symlink(const char *a, const char *b) { errno = EPERM; return -1; }\n"
        "int symlinkat(const char *a, int f, const char *b) { errno = EPERM; return -1; }\n"
        "int link(const char *a, const char *b) { errno = EPERM; return -1; }\n"
        "int linkat(int f, const char *a, int g, const char *b, int h) { errno = EPERM; return -1; }\n"
    )
    library = folder / "nolinks.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "nolinks.c"], check=True)
    return library


def test_a_file_system_without_links_is_named_before_anything_starts(without_links: Path, tmp_path: Path) -> None:
    """`make run` reports the file system before it starts Airflow."""
    result = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "run.py"), "epochs=1"],
        env={**os.environ, "MNIST_HOME": str(tmp_path / "home"), "LD_PRELOAD": str(without_links)},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert result.returncode == 2, result.stderr
    assert f"{tmp_path}/home/models has a file system without symbolic links" in result.stderr
    assert "Operation not permitted; set MNIST_HOME to a folder on another file system" in result.stderr
    assert sorted(path.name for path in (tmp_path / "home").rglob("*")) == ["datasets", "models", "runs"]


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", refusing(errno.EPERM))

    Workspace(tmp_path).prepare()


def refusing(number: int, when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """Return a stand-in for a system call that fails if `when` is true for its arguments, and else does nothing."""

    def call(*arguments: Any, **_: Any) -> None:
        if when(*arguments):
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(number))

    with pytest.raises(InputError, match=r"/datasets has a file system without locks \(flock\)") as refused:
        Workspace(tmp_path).prepare()

    assert os.strerror(number) in str(refused.value)
    assert is_transient(refused.value) == (number == errno.ENOLCK)  # the lock server may be back later
    assert hidden(tmp_path) == []


def test_locks_that_lock_nothing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)

    with pytest.raises(
        InputError, match=r"locks \(flock\), .*: a second lock on the same file was granted; set MNIST_HOME"
    ):
        Workspace(tmp_path).prepare()


def test_locks_that_are_never_granted_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(errno.EACCES))

    with pytest.raises(InputError, match=r"locks \(flock\), .*: none was granted in 100 tries; set MNIST_HOME"):
        Workspace(tmp_path).prepare()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "when", "problem"),
    [
        ("os.rename", lambda *_: True, "datasets has a file system that cannot rename"),
        ("os.replace", lambda source, _: Path(source).name == "new", "datasets has a file system that cannot rename"),
        (
            "os.replace",
            lambda source, _: Path(source).is_symlink(),
            "models has a file system that cannot replace a",
        ),
        ("os.fsync", lambda _: True, "datasets has a file system that cannot bring files and folders to the disk"),
        (
            "os.fsync",
            lambda descriptor: stat.S_ISDIR(os.fstat(descriptor).st_mode),
            "datasets has a file system that cannot bring files and folders to the disk",
        ),
    ],
    ids=["folder", "file", "link", "fsync", "fsync of a folder"],
)
def test_what_a_file_system_cannot_do_is_named(
    call: str, when: Callable[..., bool], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call.removeprefix("os."))

    def some(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(*arguments, **named)

    monkeypatch.setattr(call, some)

    with pytest.raises(InputError, match=f"{problem}.*: Invalid argument; set MNIST_HOME to a folder on another file"):
        Workspace(tmp_path).prepare()
    assert hidden(tmp_path) == []


def test_a_link_that_a_rename_does_not_replace_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def keeping(path: Path, target: Path) -> Path:
        return target if target.is_symlink() else replace(path, target)

    monkeypatch.setattr(Path, "replace", keeping)

    with pytest.raises(InputError, match=r"models has a file system that cannot replace a symbolic link") as refused:
        Workspace(tmp_path).prepare()
    assert not is_transient(refused.value)


def test_what_a_killed_trial_has_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom mnist_tasks.workspace import Workspace\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nWorkspace(Path(sys.argv[1])).prepare()"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path]).returncode == -signal.SIGKILL
    assert hidden(tmp_path)

    Workspace(tmp_path).prepare()

    assert hidden(tmp_path) == []


def test_many_may_prepare_at_once(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom mnist_tasks.workspace import Workspace\n"
        "for _ in range(50):\n    Workspace(Path(sys.argv[1])).prepare()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]

    assert [process.communicate(timeout=600)[1] for process in processes] == [""] * 4
    assert hidden(tmp_path) == []
