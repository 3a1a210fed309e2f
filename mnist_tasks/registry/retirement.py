"""Have no champion, where none can be used any more: all versions move to `retired`, where TF Serving does not look."""

from __future__ import annotations

import os
from pathlib import Path

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry.history import ChampionHistory, now
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import DAMAGED, RETIRED, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.files import fsync, printable


def retire(models: ModelDirectory, reason: str, published_by: str) -> int:
    """Leave no champion; all versions move to `retired`.

    This is the way out where no version can be used: the next candidate is judged by the gate's fixed bounds alone. A
    rollback undoes it. After a kill, calling it again or a repair completes it.

    Returns:
        The number of the version that was champion.

    Raises:
        InputError: if the reason is empty, or there is no champion.
        ModelError: if the champion link is not a link.
    """
    reason = checked_reason(reason)
    with models.writing() as history:
        number = history.champion
        if number is None:
            number = history.retired
            if number is None or not not_yet_retired(models, history):
                raise InputError(f"{models.root} has no champion")
        else:
            models.check_link()
            models.remove_link()
            models.history_file.append(retirement_event(number, reason, published_by))
        set_aside(models, not_yet_retired(models, models.champion_history()))
        return number


def checked_reason(reason: str) -> str:
    """The reason as text that can be written; raises an `InputError` if it is empty."""
    if not reason.strip():
        raise InputError("reason: a reason is needed, for those who read the history later")
    return printable(reason)


def retirement_event(number: int, reason: str, published_by: str) -> HistoryEvent:
    """The event for a champion that is retired."""
    return HistoryEvent(time=now(), event="retired", before=number, to=None, reason=reason, published_by=published_by)


def not_yet_retired(models: ModelDirectory, history: ChampionHistory) -> list[Version]:
    """The versions that TF Serving still sees although the champion was retired; empty if it was not."""
    if history.retired is None or os.path.lexists(models.link):
        return []
    # Not one that a kill has left before it became champion.
    return [each for each in models.served() if each.number in history.moves or not _awaits_promotion(each)]


def _awaits_promotion(version: Version) -> bool:
    """Whether a version was made to become champion where there is none."""
    try:
        metadata = version.metadata()
    except ModelError:
        return False
    return "replaces" in metadata.model_fields_set and metadata.replaces is None


def still_retired(models: ModelDirectory, history: ChampionHistory) -> list[Version]:
    """The versions still in `retired` although a rollback has ended the retirement; the first is to move first."""
    retired = {version.number: version for version in models.versions() if version.retired}
    for event in reversed(history.events if retired else []):
        if event.event == "retired":
            break
        if event.restores and event.to not in retired:
            original = history.original(event.restores)
            same = {number for number in retired if history.original(number) == original}
            if same:  # they move last, because they are how this is known after a kill
                return [retired[number] for number in sorted(retired, key=lambda each: (each in same, -each))]
    return []


def set_aside(models: ModelDirectory, versions: list[Version]) -> list[Path]:
    """Move versions to `retired`, the oldest first, so that TF Serving serves the newest to the end.

    The caller is the only writer.

    Returns:
        Where the versions are now.
    """
    if versions:
        (models.root / RETIRED).mkdir(exist_ok=True)
    return _move(models, versions, models.root / RETIRED)


def bring_back(models: ModelDirectory, versions: list[Version]) -> list[Path]:
    """Move versions from `retired` back to where they were, beside a newer champion. The caller is the only writer.

    Returns:
        Where the versions are now.
    """
    return _move(models, versions, models.root)


def _move(models: ModelDirectory, versions: list[Version], folder: Path) -> list[Path]:
    """Move versions to a folder; if their name is taken there, under a hidden name beside it."""
    moved = []
    for version in versions:
        target = folder / version.folder.name
        if os.path.lexists(target):
            target = hidden_name(target)
        version.folder.rename(target)
        moved.append(target)
    if moved:
        for parent in (folder, versions[0].folder.parent, models.root):
            fsync(parent)
    return moved


def hidden_name(path: Path) -> Path:
    """A name beside `path` that nothing has yet and that hides it from TF Serving."""
    hidden, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while os.path.lexists(hidden):
        number += 1
        hidden = path.with_name(f"{DAMAGED}{path.name}-{number}")
    return hidden
