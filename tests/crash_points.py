"""Break a writer of the model directory at every file-system step, and check what is left.

`python -m tests.crash_points FOLDER` tries publishing, rolling back, pruning, importing, retiring and undoing a
retirement; with `clean` behind it, the clean-up of the workspace in the folder's `start`. It counts the calls with
which Python reaches the file system: open, write, sync, rename, link and remove. Before each of these calls in turn,
the writer, which is a separate process, is killed with SIGKILL. If the call takes space, it also fails in another try
as on a full disk. What is left after these kills is everything that a concurrent reader could see at any time. The
program prints how many points were tried. An AssertionError tells what broke.

It is a separate program because it forks, which is not safe in a process that has used TensorFlow.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import BuiltinFunctionType, FrameType
from typing import Any

from mnist_tasks.clean import clean
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.registry import publishing
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.repair import repair
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.transfer import export_version, import_version
from mnist_tasks.registry.verification import problems
from mnist_tasks.registry.version import REPAIR
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace
from tests.helpers import publish, stand_in, with_documents

TAKES_SPACE = {"write", "sendfile", "mkdir", "symlink", "link", "fsync", "flush"}
STEPS = {*TAKES_SPACE, "open", "rename", "replace", "unlink", "remove", "rmdir", "close", "truncate"}

ENDINGS = ("complete", "done", "failed")

Operation = Callable[[ModelDirectory], Any]


def import_again(models: ModelDirectory) -> None:
    """Import the version that `prepare` has exported; there is nothing to do once it is champion."""
    with suppress(InputError):
        import_version(
            models, models.root.parent / "version.tar", reason="a test", published_by="me", smoke_test=lambda _: None
        )


OPERATIONS: dict[str, Operation] = {
    "publish": lambda models: publish(models, "next", replaces=4),
    "rollback": lambda models: roll_back(
        models, reason="a test", published_by="back", once=True, smoke_test=lambda _: None
    ),
    "prune": lambda models: prune(models, keep=1),
    "import": lambda models: import_again(models),
    "retire": lambda models: retire(models, "a test", "me"),
    "undo": lambda models: roll_back(
        models, reason="a test", published_by="undo", once=True, smoke_test=lambda _: None
    ),
}
CHAMPION_AFTER = {"publish": 5, "rollback": 5, "prune": 4, "import": 5, "undo": 5}


def prepare(models: ModelDirectory) -> None:
    """Publish four versions, of which the fourth is champion and restores the second."""
    for number in (1, 2, 3):
        publish(models, f"run-{number}", replaces=number - 1 or None)
    roll_back(models, 2, reason="a test", published_by="back to 2", smoke_test=lambda _: None)
    elsewhere = ModelDirectory(models.root.parent / "elsewhere" / "models")
    export_version(elsewhere, publish(elsewhere, "elsewhere", None), models.root.parent / "version.tar")


def is_step(function: BuiltinFunctionType) -> bool:
    """Return whether a built-in function accesses the file system."""
    own = function.__module__ in ("posix", "_io", "io") or isinstance(function.__self__, io.IOBase)
    return own and function.__name__ in STEPS


def run_until(operation: Operation, models: ModelDirectory, stop: int, full_disk: bool) -> str:
    """Run the operation in a process that is broken before step `stop`; return how it ended.

    The result is `killed`, `failed`, `done` if it ended well in spite of the failure, or `complete` if it has fewer
    steps.
    """
    pid = os.fork()
    if pid == 0:
        count = 0

        def count_steps(_: FrameType, event: str, function: Any) -> None:
            nonlocal count
            if event != "c_call" or not is_step(function) or (full_disk and function.__name__ not in TAKES_SPACE):
                return
            count += 1
            if count == stop:
                if full_disk:
                    raise OSError(errno.ENOSPC, "No space left on device")
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count_steps)
        try:
            operation(models)
        except BaseException as error:
            sys.setprofile(None)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                os._exit(ENDINGS.index("failed"))
            sys.excepthook(*sys.exc_info())
            os._exit(len(ENDINGS))
        sys.setprofile(None)
        os._exit(ENDINGS.index("done" if count >= stop else "complete"))
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return "killed"
    code = os.waitstatus_to_exitcode(status)
    assert code < len(ENDINGS), f"step {stop}: the operation raised another error"
    return ENDINGS[code]


def look(models: ModelDirectory, allowed: set[int]) -> None:
    """Check that a reader finds only whole versions, whatever happened to the writer."""
    champion = models.champion()
    assert champion
    assert champion.number in allowed, champion
    for version in models.versions():  # TF Serving would load these
        assert models.damage(version) == []
    last = [event.to for event in models.history() if event.is_move][-1]
    assert last == champion.number, "the history does not end with the champion"


def go_on(name: str, models: ModelDirectory) -> None:
    """Check that a retry of the operation succeeds as if nothing had happened and that another run can publish."""
    used = {version.number for version in models.versions()}
    OPERATIONS[name](models)
    champion = models.champion()
    assert champion
    assert champion.number == CHAMPION_AFTER[name]
    moves = [event.to for event in models.history() if event.is_move]
    assert moves == [1, 2, 3, 4, 5][: CHAMPION_AFTER[name]], moves
    if name == "prune":
        assert [version.number for version in models.versions()] == [1, 3, 4]
        assert sorted(path.name for path in (models.root / "pruned" / "2").iterdir()) == [
            "decision.json",
            "evaluation.json",
            "metadata.json",
            "model_card.md",
        ]
    publish_another(models, used)


def publish_another(models: ModelDirectory, used: set[int]) -> None:
    """Check that the next run publishes under an unused number and leaves only whole versions."""
    champion = models.champion()
    assert champion
    used |= {version.number for version in models.versions()} | {champion.number}
    version = publish(models, "another", replaces=champion.number)
    assert version.number > max(used)
    look(models, {version.number})
    names = {path.name for path in models.root.iterdir() if not path.name.isdecimal()}
    assert names - {"pruned"} == {".lock", "champion", "history.jsonl"}, names
    assert not list(models.root.glob("pruned/.*"))


def look_at_retirement(name: str, models: ModelDirectory) -> None:
    """Check that the directory is whole, or that each problem names `repair`, which fixes it without a loss."""
    found = problems(models)
    assert all(REPAIR in problem for problem in found), found
    if found:
        list(repair(models, models.root.parent / "runs", "me", smoke_test=lambda _: None))
    assert problems(models) == []
    served = [version.number for version in models.served()]
    champion = models.champion()
    assert served == ([] if champion is None else list(range(1, champion.number + 1))), served
    assert [version.number for version in models.versions()][:4] == [1, 2, 3, 4]
    # Repeating the operation completes it, whatever the repair has done before.
    with suppress(InputError):
        OPERATIONS[name](models)
    champion = models.champion()
    assert (champion.number if champion else None) == CHAMPION_AFTER.get(name)
    assert problems(models) == []


def try_retirement(name: str, folder: Path, full_disk: bool) -> int:
    """Break retiring, or undoing a retirement, at every step; return the number of steps."""
    start = folder / "retirement"
    shutil.rmtree(start, ignore_errors=True)
    shutil.copytree(folder / "start", start, symlinks=True)
    if name == "undo":
        OPERATIONS["retire"](ModelDirectory(start / "models"))
    for stop in range(1, 10_000):
        for repaired in (True,) if full_disk else (True, False):
            home = folder / "home"
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(start, home, symlinks=True)
            models = ModelDirectory(home / "models")
            ended = run_until(OPERATIONS[name], models, stop, full_disk)
            if ended == "complete":
                return stop - 1
            if not repaired:
                with suppress(InputError):
                    OPERATIONS[name](models)
            look_at_retirement(name, models)
    raise AssertionError(f"{name} has no end")


def try_all(name: str, folder: Path, full_disk: bool) -> int:
    """Break one operation at every step; return the number of steps."""
    start = folder / "start" / "models"
    for stop in range(1, 10_000):
        for then in ("the same again", "another run"):
            home = folder / "home"
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(start.parent, home, symlinks=True)
            models = ModelDirectory(home / "models")
            before = {version.number for version in models.versions()}
            ended = run_until(OPERATIONS[name], models, stop, full_disk)
            look(models, {4, CHAMPION_AFTER[name]})
            if ended == "complete":
                return stop - 1
            if ended == "failed":
                assert not list(models.root.glob(".staging-[0-9]*")), "a failed writer has left files behind"
            if then == "the same again":
                go_on(name, models)
            else:
                publish_another(models, before)
    raise AssertionError(f"{name} has no end")


def race(folder: Path, rounds: int, same_run: bool) -> int:
    """Publish from two processes at once.

    Two processes with the same run give one version. Of two different runs, one is refused.
    """
    models = ModelDirectory(folder / "race" / "models")
    shutil.rmtree(models.root.parent, ignore_errors=True)
    for number in range(rounds):
        champion = models.champion()
        names = [f"round-{number}-{'same' if same_run else writer}" for writer in "ab"]
        statuses = two_at_once(models, names, champion.number if champion else None)
        assert statuses == ([0, 0] if same_run else [0, 1]), statuses
        assert [version.number for version in models.versions()] == list(range(1, number + 2))
        look(models, {number + 1})
    return rounds


def two_at_once(models: ModelDirectory, names: list[str], replaces: int | None) -> list[int]:
    """Publish from two processes that start together; return 0 for published and 1 for refused, sorted."""
    candidates = [stand_in(name, models.root.parent / "runs") for name in names]
    ready, go = os.pipe()
    pids = []
    for candidate in candidates:
        pids.append(pid := os.fork())
        if pid == 0:
            os.close(go)
            os.read(ready, 1)
            try:
                publishing.publish(models, **with_documents(candidate), replaces=replaces)
            except ModelError:
                os._exit(1)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(2)
            os._exit(0)
    os.close(go)
    os.close(ready)
    return sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


def try_clean(folder: Path) -> int:
    """Kill the clean-up of the workspace in `start` at every step; return the number of steps."""
    settings: dict[str, Any] = {"keep_runs": timedelta(days=90), "keep_versions": 1}
    expected: dict[str, int] | None = None
    for stop in range(1, 10_000):
        home = folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(folder / "start", home, symlinks=True)
        workspace = Workspace(home)
        models = ModelDirectory(workspace.models)
        ended = run_until(lambda _: clean(workspace, **settings), models, stop, full_disk=False)  # noqa: B023
        look(models, {4})
        needed = {str(version.metadata().dataset) for version in models.versions()}
        for digest in needed:
            assert Dataset(workspace.dataset(digest)).content_digest() == digest
        assert all((run / "decision.json").exists() for run in (home / "runs").glob("run-*"))
        clean(workspace, **settings)
        left = {str(path.relative_to(home)): path.stat().st_size for path in home.rglob("*") if path.is_file()}
        left = {path: size for path, size in left.items() if "history.jsonl" not in path}
        expected = expected or left
        assert left == expected
        if ended == "complete":
            return stop - 1
    raise AssertionError("clean has no end")


def main(folder: Path) -> None:
    prepare(ModelDirectory(folder / "start" / "models"))
    for name in OPERATIONS:
        attempt = try_retirement if name in ("retire", "undo") else try_all
        print(f"{name}: killed at {attempt(name, folder, full_disk=False)} points", flush=True)
        print(f"{name}: no space left at {attempt(name, folder, full_disk=True)} points", flush=True)
    print(f"two runs promote at once: {race(folder, 100, same_run=False)} rounds", flush=True)
    print(f"one run promotes twice at once: {race(folder, 100, same_run=True)} rounds", flush=True)


if __name__ == "__main__":
    if sys.argv[2:] == ["clean"]:
        print(f"clean: killed at {try_clean(Path(sys.argv[1]))} points")
    else:
        main(Path(sys.argv[1]))
