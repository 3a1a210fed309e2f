"""A file that cannot be read at the moment, or by this user, is not damaged: it is not moved, replaced or given up.

Every reading call of every operation fails in turn with one of several errors. The tests then compare the bytes of the
directory. Another test checks that the history is not read more often when there are more versions.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mnist_tasks.cli.main import main
from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry import history as history_module
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.repair import repair
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.smoke_test import NOT_NOW, smoke_test
from mnist_tasks.registry.verification import problems
from mnist_tasks.system.errors import ModelError
from tests.helpers import COUNTS, publish, without_root

READS = {"open", "read", "readline", "readlink", "stat", "lstat", "listdir", "scandir", "readall", "readinto"}
ERRORS = {name: getattr(errno, name) for name in ("EIO", "ESTALE", "EINTR", "EMFILE", "ENOMEM", "EACCES")}


def mend(models: ModelDirectory) -> list[str]:
    return list(repair(models, models.root.parent / "runs", "me", smoke_test=lambda _: None))


OPERATIONS: dict[str, Callable[[ModelDirectory], Any]] = {
    "champion": ModelDirectory.champion,
    "history": ModelDirectory.history,
    "list": lambda models: [version.metadata() for version in models.versions()],
    "verify": problems,
    "repair": mend,
    "prune": lambda models: prune(models, 1),
    "rollback": lambda models: roll_back(models, reason="a test", published_by="me", smoke_test=lambda _: None),
    "publish": lambda models: publish(models, "next", 4),
    "retire": lambda models: retire(models, "a test", "me"),
}


@contextmanager
def failing(code: int, below: Path, stop: int) -> Iterator[list[str]]:
    """Let reading call number `stop` fail; yield the list of the names of the calls so far."""
    calls: list[str] = []

    def count(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in READS:
            return
        # Count only what the project's code reads, directly or through pathlib, not what Python imports.
        if "importlib" in frame.f_code.co_filename or function.__module__ not in ("posix", "_io", "io", None):
            return
        calls.append(function.__name__)
        if len(calls) == stop:
            raise OSError(code, os.strerror(code), str(below))

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def content(root: Path) -> dict[str, bytes | str]:
    """Return the content of each file below a directory and the target of each link."""
    paths = [path for path in root.rglob("*") if path.name != ".lock"]
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in paths
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four versions, of which the fourth restores the second."""
    home = tmp_path_factory.mktemp("start")
    models = ModelDirectory(home / "models")
    for number in (1, 2, 3):
        publish(models, f"run-{number}", number - 1 or None)
    roll_back(models, 2, reason="a test", published_by="back to 2", smoke_test=lambda _: None)
    return home


def raised_by(function: Callable[[], Any]) -> OSError | None:
    try:
        function()
    except OSError as error:
        return error
    return None


STEP = 2  # only every second access fails: this halves the time, and the error codes still take turns


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_what_cannot_be_read_now_is_not_judged(name: str, start: Path, tmp_path: Path) -> None:
    before = content(start / "models")
    codes = cycle(ERRORS.values())
    raised = 0
    for stop in range(1, 10_000, STEP):
        home, code = tmp_path / "home", next(codes)
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(start, home, symlinks=True)
        models = ModelDirectory(home / "models")
        with failing(code, home, stop) as calls:
            error = raised_by(lambda: OPERATIONS[name](models))  # noqa: B023 - called at once
        if error:
            assert error.errno == code
            assert error.filename
            raised += 1
        if len(calls) < stop:
            break
        after = content(models.root)
        assert not [path for path in after if ".damaged" in path], calls[-1]
        if name not in ("prune", "retire"):
            assert {path: text for path, text in before.items() if path[0].isdecimal()}.items() <= after.items()
        if name in ("champion", "history", "list", "verify", "repair"):
            assert after == before, calls[-1]
        assert models.history_file.damaged_lines() == []
        assert name == "retire" or models.champion()
    assert raised > (stop - 1) / (2 * STEP)
    COUNTS.append(f"errors of reading in {name}: {(stop - 1) // STEP} points")


@contextmanager
def unreadable(path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let opening one file fail, as on a network share with temporary errors."""
    real = os.open

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if Path(os.fsdecode(file)) == path:
            raise OSError(code, os.strerror(code), str(path))
        return real(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("io.open", lambda file, *rest, **more: open_as(opened, file, *rest, **more))
        yield


def open_as(opener: Callable[..., int], file: Any, *arguments: Any, **options: Any) -> Any:
    """Open a file with `opener`."""
    return open(file, *arguments, **{**options, "opener": opener})  # noqa: PTH123


@pytest.mark.parametrize("code", list(ERRORS.values()), ids=list(ERRORS))
@pytest.mark.parametrize("name", ["metadata.json", "model.keras"])
@pytest.mark.parametrize("command", ["verify", "repair", "prune --keep 1", "rollback --to 1 --reason x"])
def test_a_command_names_what_it_could_not_read_and_changes_nothing(
    command: str,
    name: str,
    code: int,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(start, tmp_path / "home", symlinks=True)
    monkeypatch.setenv("MNIST_HOME", str(tmp_path / "home"))
    models = ModelDirectory(tmp_path / "home" / "models")
    # Choose a version that the command reads.
    path = models.root / {"prune --keep 1": "4" if name == "metadata.json" else "1"}.get(command, "1") / name
    before = content(models.root)

    with unreadable(path, code, monkeypatch):
        status = main(["models", *command.split()])

    errors = capsys.readouterr().err
    assert status == 2
    assert errors.startswith(f"failed: [Errno {code}] ")
    assert str(path) in errors
    assert "damaged" not in errors
    assert ("give this user the right to read it" in errors) is (code == errno.EACCES)
    assert content(models.root) == before


def test_list_shows_the_other_versions_of_one_that_cannot_be_read_now(
    start: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(start))
    path = start / "models" / "1" / "metadata.json"

    with unreadable(path, errno.EIO, monkeypatch):
        status = main(["models", "list"])

    output = capsys.readouterr()
    assert status == 2
    assert [line.split()[0] for line in output.out.splitlines()[1:]] == ["1", "2", "3", "*"]
    assert "damaged" not in output.out
    assert output.err == f"failed: [Errno 5] Input/output error: '{path}'\n"


def test_a_copy_that_cannot_be_read_now_is_waited_for(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(start, tmp_path / "home", symlinks=True)
    models = ModelDirectory(tmp_path / "home" / "models")
    (models.root / "3" / "model.keras").unlink()
    copy = models.root.parent / "runs" / "run-3" / "model.keras"

    with unreadable(copy, errno.ESTALE, monkeypatch), pytest.raises(OSError, match="Stale file handle"):
        mend(models)

    assert (models.root / "3" / "saved_model.pb").exists()
    assert mend(models) == [f"restored {models.root / '3' / 'model.keras'} from {copy}"]


def test_a_version_of_another_user_is_not_moved_aside(start: Path, tmp_path: Path) -> None:
    shutil.copytree(start, tmp_path / "home", symlinks=True)
    models = ModelDirectory(tmp_path / "home" / "models")
    for folder in (tmp_path / "home", *(tmp_path / "home").rglob("*")):
        if not folder.is_symlink():
            folder.chmod(0o777)
    model = models.root / "3" / "model.keras"
    model.chmod(0)

    for judge in (problems, mend):
        with pytest.raises(PermissionError, match=r"give this user the right to read it.*3/model.keras"):
            without_root(lambda judge=judge: judge(models), tmp_path)  # type: ignore[misc]
    model.chmod(0o644)
    assert problems(models) == []


@pytest.mark.parametrize(
    ("status", "code"), [(-signal.SIGKILL, errno.ENOMEM), (NOT_NOW, errno.EAGAIN), (None, errno.ETIMEDOUT)]
)
def test_a_load_test_that_could_not_be_done_is_no_verdict(
    status: int | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if status is None:
            raise subprocess.TimeoutExpired("python", 1)
        return subprocess.CompletedProcess("python", status, "no memory", "")

    monkeypatch.setattr(subprocess, "run", ended)

    with pytest.raises(OSError, match="try again") as caught:
        smoke_test(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path))


def test_a_load_test_that_fails_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess("python", 1, "model.keras does not load", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)

    with pytest.raises(ModelError, match=r"does not pass its smoke test: model\.keras does not load"):
        smoke_test(tmp_path)


@pytest.mark.parametrize("code", ["EIO", "EACCES"])
def test_the_process_of_the_load_test_says_what_it_could_not_read(code: str) -> None:
    script = (
        "import errno, os, sys; from pathlib import Path; import mnist_tasks.registry.smoke_test as t\n"
        f"def fail(folder): raise OSError(errno.{code}, os.strerror(errno.{code}), 'golden.npz')\n"
        "t._compare = fail; sys.exit(t._main(Path('x')))"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)

    assert result.returncode == NOT_NOW
    assert "golden.npz" in result.stdout


@pytest.mark.parametrize("name", ["verify", "repair", "prune", "rollback", "publish", "list"])
def test_how_often_the_history_is_read_does_not_grow_with_the_versions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[bytes] = []
    event = history_module._event

    def counted(line: bytes) -> HistoryEvent | None:
        lines.append(line)
        return event(line)

    monkeypatch.setattr(history_module, "_event", counted)
    parsed = []
    for count in (4, 12):
        models = ModelDirectory(tmp_path / str(count) / "models")
        for number in range(1, count + 1):
            publish(models, f"run-{number}", number - 1 or None)
        lines.clear()
        if name == "list":
            monkeypatch.setenv("MNIST_HOME", str(models.root.parent))
            assert main(["models", "list"]) == 0
        elif name == "publish":
            publish(models, "next", count)
        else:
            OPERATIONS[name](models)
        history = [line for line in lines if json.loads(line).get("event")]
        parsed.append(len(history) / count)  # how often each line was parsed on average
    few, many = parsed
    assert many <= few + 1
