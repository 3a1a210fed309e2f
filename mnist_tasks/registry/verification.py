"""Find what is wrong in a model directory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

from filelock import FileLock

from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import still_retired
from mnist_tasks.registry.version import REPAIR, WAY_OUT, version_name
from mnist_tasks.system.errors import ModelError


def problems(models: ModelDirectory) -> list[str]:
    """Hash every file again, read the history and follow the link; return what is wrong, each with its way out.

    Raises:
        OSError: if a file cannot be read now, or not by this user.
    """
    if not (found := list(_problems(models))):
        return found
    with ExitStack() as stack:
        # A writer at work looks like damage. Where the lock cannot be had, as on a read-only mount, there is none.
        with suppress(OSError):
            stack.enter_context(FileLock(models.root / ".lock"))
        return list(_problems(models))


def _problems(models: ModelDirectory) -> Iterator[str]:
    history = models.champion_history()
    for version in models.versions():
        for problem in models.damage(version, history=history):
            yield f"{problem}{WAY_OUT}"
    for problem in models.history_file.damaged_lines():
        yield f"{problem}; run {REPAIR}"
    path = models.history_file.path
    for move in models.missing_moves():
        yield f"{path} lacks that version {move.to} became champion at {move.time}; run {REPAIR}"
    for version in still_retired(models, ChampionHistory(models.history())):  # a rollback may not be recorded yet
        yield f"version {version.number} is still in {version.folder.parent}, but a rollback ended that; run {REPAIR}"
    try:
        champion = models.champion()
    except ModelError as error:
        yield str(error)
        return
    newest = next(reversed(models.served()), None)
    if newest and newest != champion:
        name = version_name(champion.number if champion else None)
        yield f"version {newest.number} is newer than the champion, {name}: TF Serving serves it; run {REPAIR}"


def has_lost_champion(models: ModelDirectory) -> bool:
    """Whether there is no champion because none could be restored; not because none was wanted or promoted yet."""
    history = ChampionHistory(models.history())
    return history.last_move is not None and history.champion is None and history.retired is None
