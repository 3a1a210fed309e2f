"""Tags and notes that people put on versions: `notes/<version>.json` in the model directory, never inside a version.

They say nothing to the gate and change no version. They stay when a version is pruned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from mnist_tasks.documents import Note, Notes, Tag
from mnist_tasks.registry.history import now
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import InputError

FOLDER = "notes"
MAX_TAGS = 10
MAX_TAG_CHARACTERS = 40
MAX_NOTE_CHARACTERS = 1000
MAX_NOTES = 100
TAG = re.compile(r"[\w.:/+-]+")


def notes_path(models: ModelDirectory, number: int) -> Path:
    """Where the tags and notes of a version are."""
    return models.root / FOLDER / f"{number}.json"


def read_notes(models: ModelDirectory, number: int) -> Notes:
    """The tags and notes of a version.

    Raises:
        ModelError: if the file is damaged.
    """
    path = notes_path(models, number)
    return Notes.read(path, "remove it, or restore it from a backup") if path.exists() else Notes()


def set_tags(models: ModelDirectory, version: Version, names: Sequence[str], by: str) -> None:
    """Give a version these tags and no others. Who put a tag there first stays its author.

    Args:
        models: the model directory.
        version: one of its versions.
        names: words of letters, digits and `_.:/+-`, at most `MAX_TAGS`.
        by: who does it.

    Raises:
        InputError: naming what is wrong with a tag.
    """
    wanted = list(dict.fromkeys(names))
    if len(wanted) > MAX_TAGS:
        raise InputError(f"{len(wanted)} tags are more than the {MAX_TAGS} that a version may have")
    for name in wanted:
        if len(name) > MAX_TAG_CHARACTERS or not TAG.fullmatch(name):
            raise InputError(
                f"{name[: MAX_TAG_CHARACTERS + 1]!r} is not a tag; use at most {MAX_TAG_CHARACTERS} letters, digits "
                "and _.:/+-"
            )

    def change(old: Notes) -> Notes:
        known = {tag.name: tag for tag in old.tags}
        tags = [known.get(name) or Tag(name=name, by=by, time=now()) for name in wanted]
        return old.model_copy(update={"tags": tags})

    _write(models, version, change)


def add_note(models: ModelDirectory, version: Version, text: str, by: str) -> None:
    """Add a note to a version; raises an `InputError` if it is empty or too long, or there are too many."""
    text = text.strip()
    if not text:
        raise InputError("the note is empty; write something")
    if len(text) > MAX_NOTE_CHARACTERS:
        raise InputError(f"the note has {len(text):,} characters; the maximum is {MAX_NOTE_CHARACTERS:,}")

    def change(old: Notes) -> Notes:
        if len(old.notes) >= MAX_NOTES:
            raise InputError(f"version {version.number} has {MAX_NOTES} notes, which is the maximum")
        return old.model_copy(update={"notes": [*old.notes, Note(text=text, by=by, time=now())]})

    _write(models, version, change)


def _write(models: ModelDirectory, version: Version, change: Callable[[Notes], Notes]) -> None:
    path = notes_path(models, version.number)
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.parent / ".lock"):
        changed = change(read_notes(models, version.number))
        if changed.model_fields_set:
            changed.write(path)
