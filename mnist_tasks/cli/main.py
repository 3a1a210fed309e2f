"""The command line: the model directory, predictions, and training a version again. `python -m mnist_tasks --help`."""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mnist_tasks.documents import Metadata, ModelEvaluation
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retention import prune as prune_versions
from mnist_tasks.registry.retirement import retire as retire_champion
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.version import Version
from mnist_tasks.system.disk_space import explained_disk_errors
from mnist_tasks.system.errors import InputError, ModelError, TaskError
from mnist_tasks.workspace import Workspace

# What a command says by its exit status: yes; no (a version differs, something is damaged); it could not be done.
YES, NO, FAILED = 0, 1, 2

CELL = 200  # characters of a table's cell; JSON has all of them


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not logging.getLogger().handlers:
        # Not to descriptor 2 itself, of which `tensorflow_in_airflow` sorts out what TensorFlow writes to it.
        stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
        logging.basicConfig(level=options.log_level, format="%(message)s", stream=stderr)
    try:
        workspace = Workspace.from_environment()
        with explained_disk_errors(workspace.root, below=True):
            status: int = options.run(options, workspace)
        return status
    except (TaskError, OSError, MemoryError) as error:
        text = f"failed: {error or 'out of memory'}"
        if options.writes and not isinstance(error, InputError):  # it may have failed before the link moved, or after
            text += f"; {ModelDirectory(Workspace.from_environment().models).standing()}"
        print(_printable(text), file=sys.stderr)
        return FAILED


def run() -> None:
    """Run the command line: the entry point `mnist`, and `python -m mnist_tasks`."""
    sys.exit(main(sys.argv[1:]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mnist_tasks",
        description="The model directory in MNIST_HOME. Exit status 0: done, or yes; 1: no, something differs or is "
        "damaged; 2: failed.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    models = commands.add_parser("models", help="look at the model directory, go back, tidy up, repair")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    version = ("version", {"help": "a version's number, or champion"})
    _command(actions, "list", "all versions", list_versions)
    _command(actions, "show", "a version's metrics, decision and origin", show, version)
    _command(actions, "verify", "hash every file again and follow the link; status 1 if something is wrong", verify)
    at = (
        "--at",
        {
            "metavar": "TIME",
            "help": "who was champion then, such as 2026-11-24T02:00+00:00; local time without the +00:00",
        },
    )
    _command(actions, "history", "when the champion changed, from what to what and why", history, at)
    to = (
        "--to",
        {
            "type": int,
            "metavar": "VERSION",
            "help": "the version to go back to; default: the one before or, after retire, the one that was retired",
        },
    )
    reason = ("--reason", {"required": True, "help": "why; it goes into the history and the model card"})
    writing = [
        _command(actions, "rollback", "make an older model champion again, as a new version", rollback, to, reason)
    ]
    keep = ("--keep", {"type": int, "required": True, "metavar": "N", "help": "how many of the newest to keep"})
    text = "remove old versions; never the champion, the one before it, nor what repair would fall back to"
    writing.append(_command(actions, "prune", text, prune, keep))
    text = "put right what verify finds; deletes nothing; status 1 if something is left, or no champion"
    writing.append(_command(actions, "repair", text, repair))
    text = "have no champion any more, and nothing that TF Serving serves; rollback undoes it"
    writing.append(_command(actions, "retire", text, retire, reason))
    for command in writing:
        command.set_defaults(writes=True)

    images = ("image", {"nargs": "+", "type": Path, "help": "a PNG or any other image file of one digit"})
    which = ("--version", {"default": "champion", "metavar": "VERSION", "help": "default: the champion"})
    _command(commands, "predict", "say which digits images show", predict, images, which)
    reproduce_ = _command(
        commands, "reproduce", "train a version again from its metadata and compare the weights", reproduce, version
    )
    reproduce_.set_defaults(log_level=logging.INFO)
    return parser


def _command(
    commands: Any,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace, Workspace], int],
    *arguments: tuple[str, dict[str, Any]],
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    for argument, settings in arguments:
        command.add_argument(argument, **settings)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run, log_level=logging.WARNING, writes=False)
    return command


def list_versions(options: argparse.Namespace, workspace: Workspace) -> int:
    """Print a line for each version, also of a damaged one."""
    models = ModelDirectory(workspace.models)
    champion: Version | None = None
    problem: ModelError | OSError | None = None
    try:
        champion = models.champion()
    except (ModelError, OSError) as error:
        problem = error
    rows = []
    for version in models.versions():
        row, unread = _row(version, version == champion)
        rows.append(row)
        problem = problem or unread
    header = ("", "version", "accuracy", "loss", "architecture", "published", "by", "")
    shown = ("version", "accuracy", "loss", "architecture", "published", "published_by")
    cells = (
        ("*" if row["champion"] else "", *map(row.get, shown), row["damage"] or ("retired" if row["retired"] else ""))
        for row in rows
    )
    _print(options, rows, _table(header, cells) if rows else [f"no version in {workspace.models} yet"])
    if problem:
        raise problem
    return NO if any(row["damage"] for row in rows) else YES


def _row(version: Version, is_champion: bool) -> tuple[dict[str, Any], OSError | None]:
    """What the list says of a version, and the error if its documents could only not be read now."""
    metadata, candidate = Metadata(), ModelEvaluation()
    damage, unread = None, None
    try:
        metadata = version.metadata()
        candidate = version.evaluation().candidate
    except ModelError as error:
        damage = str(error)
    except OSError as error:
        unread = error
    row = {
        "champion": is_champion,
        "version": version.number,
        "accuracy": candidate.accuracy,
        "loss": candidate.loss,
        "architecture": metadata.config.get("architecture"),
        "published": metadata.published,
        "published_by": metadata.published_by,
        "damage": damage,
        "retired": version.retired,
    }
    return row, unread


def show(options: argparse.Namespace, workspace: Workspace) -> int:
    """Print a version's model card, or its documents as JSON."""
    version = ModelDirectory(workspace.models).version(options.version)
    documents = {
        "metadata": version.metadata().to_json_value(),
        "evaluation": version.evaluation().to_json_value(),
        "decision": version.decision().to_json_value(),
        "path": str(version.folder),
    }
    card = version.card().split("\n---\n", 1)[-1].strip()
    _print(options, documents, [card, "", f"files: {version.folder}"])
    return YES


def verify(options: argparse.Namespace, workspace: Workspace) -> int:
    """Print what is wrong in the model directory."""
    from mnist_tasks.registry.verification import problems

    models = ModelDirectory(workspace.models)
    found = list(problems(models))
    files = sum(1 for version in models.versions() for path in version.folder.rglob("*") if path.is_file())
    whole = f"all is whole: the history, the champion link and {files} files; versions: {len(models.versions())}"
    _print(options, found, found or [whole])
    return NO if found else YES


def history(options: argparse.Namespace, workspace: Workspace) -> int:
    """Print each move of the champion link, or which version was champion at a time."""
    models = ModelDirectory(workspace.models)
    if options.at is not None:
        try:
            at = datetime.fromisoformat(options.at.replace("Z", "+00:00")).astimezone()  # Python 3.10 knows no Z
        except (ValueError, OverflowError):  # the latter for the years 1 and 9999
            raise InputError(f"--at: {options.at!r} is no time; write it as 2026-11-24T02:00+00:00") from None
        number = models.who_was_champion(at)
        _print(options, number, [f"version {number}" if number else "none"])
        return YES
    events = [event.to_json_value() for event in models.history()]
    columns = ("time", "event", "from", "to", "published_by", "reason")
    rows = [
        [event.get(name, event.get("version", "") if name == "from" else "") for name in columns] for event in events
    ]
    lines = _table(("time", "event", "from", "to", "by", "reason"), rows)
    _print(options, events, lines if rows else [f"no champion in {workspace.models} yet"])
    return YES


def rollback(options: argparse.Namespace, workspace: Workspace) -> int:
    """Make an older model champion again."""
    models = ModelDirectory(workspace.models)
    version = roll_back(models, options.to, reason=options.reason, published_by=_user())
    metadata = version.metadata()
    before = metadata.replaces or "none"
    again = f"version {version.number} is champion: version {metadata.restores} again, instead of {before}"
    _print(options, metadata.to_json_value(), [again])
    return YES


def prune(options: argparse.Namespace, workspace: Workspace) -> int:
    """Remove old versions."""
    removed = prune_versions(ModelDirectory(workspace.models), options.keep)
    _print(options, removed, [f"removed: {', '.join(map(str, removed)) or 'none'}"])
    return YES


def repair(options: argparse.Namespace, workspace: Workspace) -> int:
    """Put right what `verify` finds, and say what is left of it."""
    from mnist_tasks.registry.repair import NO_CHAMPION_LEFT, repair
    from mnist_tasks.registry.verification import has_lost_champion, problems

    models = ModelDirectory(workspace.models)
    done: list[str] = []
    try:
        for step in repair(models, workspace.root / "runs", _user()):
            done.append(step)  # noqa: PERF402 - one by one, for what is done when a later step fails
        # Hashing all again takes no less time than the repair, so only if there was something.
        left = [f"still so: {problem}" for problem in problems(models)] if done else []
        lost = has_lost_champion(models)
    except BaseException:
        if done:
            _print(options, done, done)
        raise
    if lost and not any(step.startswith(NO_CHAMPION_LEFT) for step in done):
        left.append(NO_CHAMPION_LEFT)
    done += left
    _print(options, done, done or ["nothing to repair"])
    return NO if left or lost else YES


def retire(options: argparse.Namespace, workspace: Workspace) -> int:
    """Have no champion any more."""
    number = retire_champion(ModelDirectory(workspace.models), options.reason, _user())
    text = (
        f"version {number} is champion no more; the next candidate is judged by the floors alone. TF Serving sees no "
        "version: all are in models/retired. To undo it: models rollback --reason ..."
    )
    _print(options, number, [text])
    return YES


def predict(options: argparse.Namespace, workspace: Workspace) -> int:
    """Print the digit of each image and how probable each digit is."""
    models = ModelDirectory(workspace.models)
    version = models.version(options.version)
    models.verify(version)
    # Not before the checks: the first two import NumPy and Pillow, the last TensorFlow, which takes seconds.
    from mnist_tasks.cli.predict import predict_images

    predictions = predict_images(version, options.image)
    answers = [{"version": version.number, "image": str(path), **vars(answer)} for path, answer in predictions]
    lines = (
        f"{path}: {answer.digit}   " + "  ".join(f"{digit}: {share:.1%}" for digit, share in answer.likely())
        for path, answer in predictions
    )
    _print(options, answers, lines)
    return YES


def reproduce(options: argparse.Namespace, workspace: Workspace) -> int:
    """Train a version again and print what differs."""
    version = ModelDirectory(workspace.models).version(options.version)
    from mnist_tasks.cli.reproduce import reproduce
    from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

    with tensorflow_in_airflow():
        differences = reproduce(version, workspace)
    _print(options, differences, differences or ["identical"])
    return NO if differences else YES


def _print(options: argparse.Namespace, value: Any, lines: Iterable[str]) -> None:
    text = json.dumps(value, indent=2) if options.json else "\n".join(lines)
    try:
        print(_printable(text), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; the status is the command's all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer


def _printable(text: str) -> str:
    """The text with what would steer a terminal, or has no encoding there, as an escape sequence to read."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """Lines of an aligned table."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(value: Any) -> str:
    """One line, not longer than can be read in a table."""
    text = f"{value:.4f}" if isinstance(value, float) else "-" if value is None else " ".join(str(value).split())
    return text if len(text) <= CELL else f"{text[: CELL - 3]}..."


def _user() -> str:
    """Who gives the command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        name = str(os.getuid())
    return f"{name}@{platform.node()}"
