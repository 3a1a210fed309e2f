"""Remove old versions from the model directory, never one that somebody may need to go back to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.gate_config import CHAMPIONS_FOR_REFERENCE
from mnist_tasks.registry.history import ChampionHistory, now
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.reference import best_first, last_champions
from mnist_tasks.registry.version import CARD, DECISION, EVALUATION, METADATA, PRUNED, Version
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import atomic_folder, explained_read_errors, fsync


def prune(models: ModelDirectory, keep: int, *, reference: int | None = None, dry_run: bool = False) -> list[int]:
    """Remove all but the newest versions; the documents of a removed one stay in `pruned/`.

    These are never removed: the champion, the one before it, the version that a rollback would go back to, and the
    first whole version that a repair would fall back to if all versions with the champion's files were lost. After the
    champion was retired, the same holds for the retired one. The version that candidates are measured against stays as
    well: the best of the last champions, and the one that a person has chosen.

    Args:
        models: the model directory.
        keep: how many of the newest to keep, at least 1.
        reference: the version that a person has chosen to measure candidates against; None for no choice.
        dry_run: only say which would be removed.

    Returns:
        The numbers of the removed versions.

    Raises:
        OSError: if a file cannot be read now, before anything is removed; or if a removal fails.
    """
    if keep < 1:
        raise InputError(f"keep: {keep} is less than the minimum of 1")
    with models.writing() as history:
        versions = {version.number: version for version in models.versions()}
        previous = history.last_move.before if history.last_move else None
        champion = history.champion or previous
        needed = {champion, previous, history.champion_before(champion)}
        # The same by the champion's own metadata, should the history have lost a line.
        if champion in versions:
            needed.add(versions[champion].metadata().replaces)
        needed |= {_fallback(models, history, champion, versions), reference, _best(models, history, champion)}
        removed = [version for version in list(versions.values())[:-keep] if version.number not in needed]
        recorded = {event.version for event in history.events if event.event == "pruned"}
        for version in [] if dry_run else removed:
            _remove(models, version, recorded=version.number in recorded)
        return [version.number for version in removed]


def _best(models: ModelDirectory, history: ChampionHistory, champion: int | None) -> int | None:
    """The best of the last champions; None if that is the champion itself, or there is none."""
    if champion is None:
        return None
    chain = last_champions(history, champion, CHAMPIONS_FOR_REFERENCE)
    best = next((version.number for version in best_first(models, chain)), None)
    return None if best == history.original(champion) else best


def _fallback(
    models: ModelDirectory, history: ChampionHistory, champion: int | None, versions: Mapping[int, Version]
) -> int | None:
    """The version that a repair would go to if all versions with the champion's files were lost."""
    for number in history.fallbacks(champion):
        if number not in versions or (champion and history.original(number) == history.original(champion)):
            continue
        if not models.damage(versions[number], documents=False, history=history):
            return number
    return None


def _remove(models: ModelDirectory, version: Version, *, recorded: bool) -> None:
    """Remove a version in one step, after its documents are kept and the history says so."""
    kept = models.root / PRUNED / str(version.number)
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with atomic_folder(kept) as staging:
            for name in (METADATA, EVALUATION, DECISION, CARD, "history.json"):
                if (version.folder / name).is_file():
                    with explained_read_errors(version.folder / name):
                        shutil.copyfile(version.folder / name, staging / name)
    if not recorded:
        models.history_file.append(HistoryEvent(time=now(), event="pruned", version=version.number))
    hidden = models.root / f".staging-pruned-{version.number}"
    version.folder.rename(hidden)
    fsync(version.folder.parent)
    fsync(models.root)
    shutil.rmtree(hidden)
