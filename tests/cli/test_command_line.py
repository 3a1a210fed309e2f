"""`python -m mnist_tasks`: the output of each command, as text and as JSON, and its exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.promote import promote
from mnist_tasks.registry.history import History
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.version import REPAIR, ROLLBACK
from mnist_tasks.system.disk_space import SPACE
from mnist_tasks.workspace import Workspace
from tests.cli.conftest import Command, process
from tests.helpers import LENIENT

COMMANDS = ("list", "show", "verify", "history", "rollback", "prune", "repair", "retire")
EMPTY = ("models list", "models show champion", "models verify", "models history", "models prune --keep 3")


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the smoke test of a rollback, which takes seconds. One test runs it."""
    defaults = {**(roll_back.__kwdefaults__ or {}), "smoke_test": lambda _: None}
    monkeypatch.setattr(roll_back, "__kwdefaults__", defaults)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


def change_metadata(models: ModelDirectory, number: int, *without: str, **changes: object) -> None:
    path = models.version(str(number)).folder / "metadata.json"
    metadata = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in metadata.items() if name not in without}))


def test_list_marks_the_champion(command: Command, models: ModelDirectory) -> None:
    status, text, errors = command("models", "list")

    assert (status, errors) == (0, "")
    accuracy = models.version("1").evaluation().candidate.accuracy
    assert [row[:2] for row in rows(text)] == [["1", f"{accuracy:.4f}"], ["*", "2"]]
    _, text, _ = command("models", "list", "--json")
    first, second = json.loads(text)
    assert (first["champion"], first["version"], first["accuracy"]) == (False, 1, accuracy)
    assert (second["champion"], second["published_by"], second["damage"]) == (True, "second", None)


@pytest.mark.parametrize("name", ["metadata.json", "evaluation.json"])
def test_list_goes_on_after_a_damaged_version(name: str, command: Command, models: ModelDirectory) -> None:
    (models.root / "1" / name).write_text("{")

    status, text, _ = command("models", "list")

    assert status == 1
    damaged, whole = text.splitlines()[1:]
    assert f"version 1 is damaged: {models.root / '1' / name}" in damaged
    assert "second" in whole
    _, text, _ = command("models", "list", "--json")
    assert [bool(row["damage"]) for row in json.loads(text)] == [True, False]


def test_list_shows_the_versions_without_a_champion(command: Command, models: ModelDirectory) -> None:
    models.link.unlink()

    status, text, errors = command("models", "list")

    assert status == 2
    assert [row[0] for row in rows(text)] == ["1", "2"]
    assert errors.startswith(f"failed: {models.link} is missing, but by the history version 2 is champion; run ")


def test_list_bears_a_version_of_an_older_release(command: Command, models: ModelDirectory) -> None:
    change_metadata(models, 1, "published_by", "published", "config")
    (models.root / "1" / "evaluation.json").write_text('{"candidate": {}}')

    status, text, _ = command("models", "list")

    assert (status, rows(text)[0]) == (0, ["1", "-", "-", "-", "-", "-"])


def test_show_prints_the_card(command: Command, models: ModelDirectory) -> None:
    status, text, _ = command("models", "show", "champion")

    assert status == 0
    assert text.startswith("# Handwritten digits, version 2\n")
    assert text.endswith(f"files: {models.root / '2'}\n")
    _, text, _ = command("models", "show", "1", "--json")
    shown = json.loads(text)
    assert (shown["metadata"]["version"], shown["decision"]["promoted"]) == (1, True)
    assert shown["evaluation"] == models.version("1").evaluation().to_json_value()


@pytest.mark.parametrize("name", ["metadata.json", "model_card.md"])
def test_show_names_what_is_damaged(name: str, command: Command, models: ModelDirectory) -> None:
    (models.root / "1" / name).unlink()

    status, text, errors = command("models", "show", 1)

    assert (status, text) == (2, "")
    assert errors.startswith(f"failed: version 1 is damaged: {models.root / '1' / name} cannot be read: ")


def test_verify_names_what_is_wrong_and_repair_mends_it(command: Command, models: ModelDirectory) -> None:
    status, text, _ = command("models", "verify")
    assert status == 0
    assert text.startswith("all is whole: ")
    assert command("models", "verify", "--json")[:2] == (0, "[]\n")
    model = models.root / "2" / "model.keras"
    model.write_bytes(b"")

    status, text, _ = command("models", "verify")
    assert status == 1
    assert f"version 2 is damaged: {model} has SHA-256 " in text
    assert f"run {REPAIR}" in text
    assert len(json.loads(command("models", "verify", "--json")[1])) == 1

    status, text, _ = command("models", "repair")
    assert status == 0
    assert text.startswith(f"restored {model} from ")
    assert command("models", "repair") == (0, "nothing to repair\n", "")
    assert command("models", "repair", "--json")[:2] == (0, "[]\n")
    assert command("models", "verify")[0] == 0


def test_what_was_repaired_is_said_although_a_later_step_fails(
    command: Command, models: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models.root / "2" / "model.keras").write_bytes(b"")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnist_tasks.registry.repair._repair_link", full)

    status, text, errors = command("models", "repair")

    assert status == 2
    assert text.startswith("restored ")
    assert errors.startswith(f"failed: writing to {models.root.parent} failed: No space left on device: ")
    assert errors.endswith(f"{SPACE}; version 2 is champion\n")


@pytest.mark.usefixtures("untested")
def test_history_has_a_line_for_each_move(command: Command, models: ModelDirectory) -> None:
    reason = f"the new one\n\x1b[31mmisses\tmost 8s {'!' * 300}"
    command("models", "rollback", "--reason", reason)

    status, text, _ = command("models", "history")

    assert status == 0
    events = rows(text)
    assert [row[1:4] for row in events] == [["promoted", "-", "1"], ["promoted", "1", "2"], ["rolled", "back", "2"]]
    # The reason is cut to one line and contains nothing that a terminal would interpret.
    assert "  the new one \\x1b[31mmisses most 8s !!!" in text
    assert text.endswith("!...\n")
    assert "\x1b" not in text
    _, text, _ = command("models", "history", "--json")
    assert json.loads(text)[-1]["reason"] == reason
    assert json.loads(text) == [event.to_json_value() for event in models.history()]


def test_history_tells_who_was_champion_at_a_time(command: Command, models: ModelDirectory) -> None:
    first, second = (event.time for event in models.history())

    for at, number in (("2020-01-01", None), (first, 1), (second, 2), ("2100-01-01T00:00Z", 2)):
        text = f"version {number}" if number else "none"
        assert command("models", "history", "--at", at) == (0, f"{text}\n", "")
        assert json.loads(command("models", "history", "--at", at, "--json")[1]) == number


@pytest.mark.parametrize("at", ["yesterday", "", "0001-01-01"])
def test_a_time_that_is_none_is_refused(at: str, command: Command, models: ModelDirectory) -> None:
    assert models.history()

    status, text, errors = command("models", "history", "--at", at)

    assert (status, text) == (2, "")
    assert errors == f"failed: --at: {at!r} is not a time; write it as 2026-11-24T02:00+00:00\n"


def test_a_rollback_loads_the_old_model_and_makes_it_champion(command: Command, models: ModelDirectory) -> None:
    status, text, errors = command("models", "rollback", "--reason", "the new one misses most 8s")

    assert (status, errors) == (0, "")
    assert text == "version 3 is champion: version 1 again, instead of 2\n"
    champion = models.champion()
    assert champion
    assert (champion.number, champion.metadata().reason) == (3, "the new one misses most 8s")


@pytest.mark.usefixtures("untested")
def test_a_rollback_goes_to_the_version_that_is_asked_for(command: Command, models: ModelDirectory) -> None:
    assert models.champion()

    status, text, _ = command("models", "rollback", "--to", 1, "--reason", "a test", "--json")

    assert (status, json.loads(text)["restores"], json.loads(text)["version"]) == (0, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing option '--reason'"),
        (("--reason", " "), "failed: reason: a reason is needed"),
        (("--reason", "x", "--to", 7), "has no version 7; it has 1, 2; version 2 is champion"),
        (("--reason", "x", "--to", 2), "failed: version 2 is champion already; name another one"),
        (("--reason", "x", "--to", "one"), "Invalid value for '--to'"),
    ],
)
def test_a_rollback_that_cannot_be_is_refused(
    arguments: tuple[object, ...], words: str, command: Command, models: ModelDirectory
) -> None:
    status, text, errors = command("models", "rollback", *arguments)

    assert (status, text) == (2, "")
    assert words in errors
    assert [version.number for version in models.versions()] == [1, 2]


def test_a_rollback_needs_a_version_before(command: Command, run: Path, workspace: Workspace) -> None:
    promote(run, workspace.models, LENIENT)

    status, _, errors = command("models", "rollback", "--reason", "x")

    assert status == 2
    assert errors == "failed: there is no version before the champion, version 1, to go back to; name another one\n"


@pytest.mark.usefixtures("untested")
def test_prune_names_what_it_removed(command: Command, models: ModelDirectory) -> None:
    # 4 is champion and 3 was champion before it. 2 is no longer the predecessor of any version.
    for to in (1, 2):
        command("models", "rollback", "--to", to, "--reason", "x")

    assert command("models", "prune", "--keep", 0)[0] == 2
    assert command("models", "prune", "--keep", 1) == (0, "removed: 2\n", "")
    assert command("models", "prune", "--keep", 1, "--json")[:2] == (0, "[]\n")
    assert [version.number for version in models.versions()] == [1, 3, 4]


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_directory_is_no_reason_to_fail_oddly(arguments: str, command: Command, tmp_path: Path) -> None:
    models = tmp_path / "home" / "models"
    answers = {
        "models list": (0, f"no version in {models} yet\n", ""),
        "models show champion": (2, "", f"failed: {models} has no version champion; it has none\n"),
        "models verify": (0, "all is whole: the history, the champion link and 0 files; versions: 0\n", ""),
        "models history": (0, f"no champion in {models} yet\n", ""),
        "models prune --keep 3": (0, "removed: none\n", ""),
    }

    assert command(*arguments.split()) == answers[arguments]
    status, text, _ = command(*arguments.split(), "--json")
    assert (status, text) == ((2, "") if "show" in arguments else (0, "[]\n"))


def test_an_empty_directory_has_nothing_to_go_back_to_or_to_repair(command: Command, picture: Path) -> None:
    assert command("models", "repair") == (0, "nothing to repair\n", "")
    for arguments in (("models", "rollback", "--reason", "x"), ("predict", picture), ("reproduce", 1)):
        status, text, errors = command(*arguments)
        assert (status, text) == (2, "")
        assert errors.startswith("failed: ")


def test_help_lists_every_command(command: Command) -> None:
    status, text, _ = command("--help")
    assert status == 0
    assert re.findall(r"^  (\w[\w-]*) {2,}", text, re.MULTILINE) == [
        "mirror",
        "serve-check",
        "predict",
        "export",
        "import",
        "clean",
        "reproduce",
        "models",
        "sweeps",
    ]
    status, text, _ = command("models", "--help")
    assert status == 0
    assert re.findall(r"^  (\w+) {2,}", text, re.MULTILINE) == list(COMMANDS)
    assert command()[0] == command("models")[0] == command("models", "delete")[0] == 2


def test_list_imports_neither_tensorflow_nor_numpy(workspace: Workspace, models: ModelDirectory) -> None:
    assert models.champion()
    script = (
        "import sys; from mnist_tasks.cli.main import main\n"
        "main(['models', 'list'])\n"
        "print({'tensorflow', 'keras', 'numpy', 'PIL'} & sys.modules.keys())"
    )

    assert process(workspace, "-c", script).stdout.endswith("\nset()\n")


def test_a_reader_may_stop_reading(workspace: Workspace, models: ModelDirectory) -> None:
    assert models.champion()
    read_end, write_end = os.pipe()
    os.close(read_end)

    result = subprocess.run(
        [sys.executable, "-m", "mnist_tasks", "models", "list"],
        env={**os.environ, "MNIST_HOME": str(workspace.root)},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=600,
    )
    os.close(write_end)

    assert (result.returncode, result.stderr) == (0, "")


def test_a_terminal_without_unicode_gets_what_it_can_show(workspace: Workspace, models: ModelDirectory) -> None:
    change_metadata(models, 1, published_by="Zoë 数")

    result = process(workspace, "-m", "mnist_tasks", "models", "list", PYTHONIOENCODING="ascii")

    assert (result.returncode, result.stderr) == (0, "")
    assert "  Zo\\xeb \\u6570" in result.stdout


@pytest.mark.usefixtures("untested")
def test_a_user_without_a_name_is_a_number(
    command: Command, models: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 1234)

    assert command("models", "rollback", "--reason", "x")[0] == 0
    assert str(models.history()[-1].published_by).startswith("1234@")


def test_a_folder_that_cannot_be_read_is_an_error_of_one_line(command: Command, workspace: Workspace) -> None:
    workspace.models.mkdir(exist_ok=True)
    (workspace.models / "history.jsonl").mkdir()

    status, text, errors = command("models", "history")

    assert (status, text) == (2, "")
    assert errors.startswith("failed: ")
    assert errors.count("\n") == 1


def test_commands_that_only_read_print_json_of_one_kind(command: Command, models: ModelDirectory) -> None:
    assert models.champion()
    kinds: dict[tuple[Any, ...], type] = {
        ("models", "list"): list,
        ("models", "show", "1"): dict,
        ("models", "verify"): list,
        ("models", "history"): list,
        ("models", "history", "--at", "2100-01-01"): int,
    }
    for arguments, kind in kinds.items():
        assert isinstance(json.loads(command(*arguments, "--json")[1]), kind)


@pytest.mark.usefixtures("untested")
def test_retire_leaves_no_champion_and_rollback_undoes_it(command: Command, models: ModelDirectory) -> None:
    status, text, _ = command("models", "retire", "--reason", "nothing loads after the upgrade")

    assert (status, "is no longer champion" in text) == (0, True)
    assert f"To undo it: {ROLLBACK}" in text
    assert models.champion() is None
    assert not [path for path in models.root.iterdir() if path.name.isdecimal()]  # TF Serving would serve these
    assert command("models", "retire", "--reason", "again")[0] == 2
    assert command("models", "verify")[0] == 0
    assert command("models", "repair") == (0, "nothing to repair\n", "")
    status, text, errors = command("models", "list")
    assert (status, errors) == (0, "")
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["1", "2"]
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["retired", "retired"]
    assert command("models", "show", 2)[0] == 0

    answer = command("models", "rollback", "--reason", "the upgrade was taken back")

    assert answer == (0, "version 3 is champion: version 2 again, instead of none\n", "")
    assert command("models", "verify")[0] == 0
    assert [row["retired"] for row in json.loads(command("models", "list", "--json")[1])] == [False] * 3


def test_repair_says_that_no_champion_is_left(command: Command, models: ModelDirectory, workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "runs")
    for number in (1, 2):
        (models.root / str(number) / "model.keras").write_bytes(b"")

    status, text, errors = command("models", "repair")

    assert (status, errors) == (1, "")
    assert text.startswith("no version is left: there is no champion now\n")
    assert command("models", "repair") == (1, "no version is left: there is no champion now\n", "")
    assert command("models", "verify")[0] == 0


@pytest.mark.usefixtures("untested")
def test_a_failure_after_the_link_has_moved_says_who_is_champion(
    command: Command, models: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    assert models.describe_champion() == "version 2 is champion"
    monkeypatch.setattr(History, "append", full)

    status, text, errors = command("models", "rollback", "--reason", "x")

    assert (status, text) == (2, "")
    assert errors.startswith(f"failed: writing to {models.root.parent} failed: No space left on device: ")
    assert errors.endswith(f"{SPACE}; version 3 is champion\n")


def test_a_failure_before_the_link_has_moved_says_who_is_champion(command: Command, models: ModelDirectory) -> None:
    (models.root / "1" / "model.keras").write_bytes(b"")

    status, _, errors = command("models", "rollback", "--reason", "x")

    assert status == 2
    assert errors.startswith("failed: version 1 is damaged: ")
    assert errors.endswith("; version 2 is champion\n")
