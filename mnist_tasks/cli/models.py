"""The commands about the model directory: list, show, verify, history, rollback, prune, repair, retire."""

from __future__ import annotations

import getpass
import os
import platform
from datetime import datetime
from typing import Annotated, Any, Optional

import typer

from mnist_tasks import installation
from mnist_tasks.cli.output import NO, YES, AsJson, answer, table, writing
from mnist_tasks.documents import Metadata, ModelFigures
from mnist_tasks.registry import repair as repairing
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retention import prune as prune_versions
from mnist_tasks.registry.retirement import retire as retire_champion
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.verification import has_lost_champion, problems
from mnist_tasks.registry.version import ROLLBACK, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace

app = typer.Typer(help="Look at the model directory, go back, remove old versions, repair.", no_args_is_help=False)

WhichVersion = Annotated[str, typer.Argument(metavar="VERSION", help="A version's number, or champion.")]
Reason = Annotated[str, typer.Option(help="Why; for the history and the model card.")]


def _models() -> ModelDirectory:
    return ModelDirectory(Workspace.from_environment().models)


@app.command("list")
def list_versions(as_json: AsJson = False) -> int:
    """List all versions, damaged ones included."""
    models = _models()
    champion: Version | None = None
    problem: ModelError | OSError | None = None
    try:
        champion = models.champion()
    except (ModelError, OSError) as error:
        problem = error
    rows = []
    for version in models.versions():
        row, read_error = _row(version, version == champion)
        rows.append(row)
        problem = problem or read_error
    header = ("", "version", "accuracy", "loss", "architecture", "published", "by", "")
    shown = ("version", "accuracy", "loss", "architecture", "published", "published_by")
    cells = (
        ("*" if row["champion"] else "", *map(row.get, shown), row["damage"] or ("retired" if row["retired"] else ""))
        for row in rows
    )
    answer(rows, table(header, cells) if rows else [f"no version in {models.root} yet"], as_json)
    if problem:
        raise problem
    return NO if any(row["damage"] for row in rows) else YES


def _row(version: Version, is_champion: bool) -> tuple[dict[str, Any], OSError | None]:
    """What the list says about a version, and the error if its documents cannot be read now."""
    metadata, candidate = Metadata(), ModelFigures()
    damage, read_error = None, None
    try:
        metadata = version.metadata()
        candidate = version.figures()
    except ModelError as error:
        damage = str(error)
    except OSError as error:
        read_error = error
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
    return row, read_error


@app.command()
def show(version: WhichVersion, as_json: AsJson = False) -> int:
    """Show a version's metrics, decision and origin."""
    chosen = _models().version(version)
    documents = {
        "metadata": chosen.metadata().to_json_value(),
        "evaluation": chosen.evaluation().to_json_value(),
        "decision": chosen.decision().to_json_value(),
        "path": str(chosen.folder),
    }
    card = chosen.card().split("\n---\n", 1)[-1].strip()
    answer(documents, [card, "", f"files: {chosen.folder}"], as_json)
    return YES


@app.command()
def verify(as_json: AsJson = False) -> int:
    """Hash every file again and follow the link; status 1 if something is wrong."""
    models = _models()
    found = problems(models)
    files = sum(1 for version in models.versions() for path in version.folder.rglob("*") if path.is_file())
    whole = f"all is whole: the history, the champion link and {files} files; versions: {len(models.versions())}"
    answer(found, found or [whole], as_json)
    return NO if found else YES


At = Annotated[
    Optional[str],  # noqa: UP045 - Typer reads the annotation on Python 3.10, too
    typer.Option(
        metavar="TIME",
        help="Who was champion then, such as 2026-11-24T02:00+00:00; local time without the +00:00.",
    ),
]


@app.command()
def history(at: At = None, as_json: AsJson = False) -> int:
    """Show when the champion changed, from what to what and why."""
    models = _models()
    if at is not None:
        try:
            time = datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone()  # Python 3.10 does not know Z
        except (ValueError, OverflowError):  # the latter for the years 1 and 9999
            raise InputError(f"--at: {at!r} is not a time; write it as 2026-11-24T02:00+00:00") from None
        number = models.who_was_champion(time)
        answer(number, [f"version {number}" if number else "none"], as_json)
        return YES
    events = models.history()
    rows = [
        (
            event.time,
            event.event,
            event.before if event.is_move else event.version or "",
            event.to if event.is_move else "",
            event.published_by or "",
            event.reason,
        )
        for event in events
    ]
    lines = table(("time", "event", "from", "to", "by", "reason"), rows)
    answer(
        [event.to_json_value() for event in events], lines if rows else [f"no champion in {models.root} yet"], as_json
    )
    return YES


To = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="VERSION",
        help="The version to go back to. Default: the one before or, after retire, the one that was retired.",
    ),
]


@app.command()
def rollback(reason: Reason, to: To = None, as_json: AsJson = False) -> int:
    """Make an older model champion again, as a new version."""
    models = _models()
    with writing(models):
        version = roll_back(models, to, reason=reason, published_by=user())
        metadata = version.metadata()
    before = metadata.replaces or "none"
    again = f"version {version.number} is champion: version {metadata.restores} again, instead of {before}"
    answer(metadata.to_json_value(), [again], as_json)
    return YES


@app.command()
def prune(
    keep: Annotated[int, typer.Option(metavar="N", help="How many of the newest to keep.")], as_json: AsJson = False
) -> int:
    """Remove old versions; never the champion, the one before it, or what repair would fall back to."""
    models = _models()
    with writing(models):
        removed = prune_versions(models, keep, reference=installation.value("MNIST_PARAMS").get("reference"))
    answer(removed, [f"removed: {', '.join(map(str, removed)) or 'none'}"], as_json)
    return YES


@app.command()
def repair(as_json: AsJson = False) -> int:
    """Repair what verify finds; delete nothing. Status 1 if something is left, or there is no champion."""
    models, runs = _models(), Workspace.from_environment().root / "runs"
    done: list[str] = []
    try:
        with writing(models):
            for step in repairing.repair(models, runs, user()):
                done.append(step)  # noqa: PERF402 - one by one, to show what is done if a later step fails
            # Hashing all again takes as long as the repair, so only if there was something to repair.
            left = [f"still so: {problem}" for problem in problems(models)] if done else []
            lost = has_lost_champion(models)
    except BaseException:
        if done:
            answer(done, done, as_json)
        raise
    if lost and not any(step.startswith(repairing.NO_CHAMPION_LEFT) for step in done):
        left.append(repairing.NO_CHAMPION_LEFT)
    done += left
    answer(done, done or ["nothing to repair"], as_json)
    return NO if left or lost else YES


@app.command()
def retire(reason: Reason, as_json: AsJson = False) -> int:
    """Leave no champion, and nothing that TF Serving serves; rollback undoes it."""
    models = _models()
    with writing(models):
        number = retire_champion(models, reason, user())
    text = (
        f"version {number} is no longer champion; the next candidate is judged by the fixed bounds alone. TF Serving "
        f"sees no version: all are in models/retired. To undo it: {ROLLBACK}"
    )
    answer(number, [text], as_json)
    return YES


def user() -> str:
    """Who gives the command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        name = str(os.getuid())
    return f"{name}@{platform.node()}"
