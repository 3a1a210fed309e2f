"""Repair a model directory without losing anything.

A file that cannot be read now, or not by this user, is not judged: the `OSError` is raised, and neither that file nor
its version is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry.history import ChampionHistory, now
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import (
    bring_back,
    hidden_name,
    not_yet_retired,
    retirement_event,
    set_aside,
    still_retired,
)
from mnist_tasks.registry.rollback import publish_again
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.registry.version import METADATA, RETIRED, ROLLBACK, SAVED_MODEL, Version, version_name
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import copy, fsync, sha256, write_atomically

# Where a file of a version may lie in its run's folder.
PLACES_IN_RUN = ("{name}", SAVED_MODEL + "/{name}")

NO_CHAMPION_LEFT = "no version is left: there is no champion now"

SmokeTest = Callable[[Path], None]


def repair(models: ModelDirectory, runs: Path, published_by: str, smoke_test: SmokeTest = smoke_test) -> Iterator[str]:
    """Repair what `problems` finds; yield what is done, step by step.

    A damaged file is copied back from the run that made it or from another version, if a copy with its digest exists. A
    version whose model cannot be restored is moved aside, once another one is champion. The link goes where the history
    says. If that version cannot be used, the first usable one of `ChampionHistory.fallbacks` is published again. What
    was retired stays retired. Nothing is deleted.

    Args:
        models: the model directory.
        runs: the folder with the runs' folders.
        published_by: who repairs, for the history.
        smoke_test: called with the folder of a version before it is published again.

    Raises:
        ModelError: if the champion cannot be restored and no other version passes its smoke test; then the link stays.
        OSError: if a file cannot be read or written now; the steps until then have been yielded.
    """
    had_history = bool(models.history_file.events())
    with models.writing() as history:
        yield from _end_retirement(models)
        versions = models.versions()
        lost = []
        for version in versions:
            if not models.damage(version, history=history):
                continue
            yield from _restore_files(version, history, runs, [each for each in versions if each != version])
            if models.damage(version, documents=False, history=history):
                lost.append(version)
            else:
                yield from _give_up_documents(version, models, history)
        yield from _repair_history(models)  # which says where the link goes
        yield from _repair_link(models, lost, published_by, smoke_test, had_history)
        yield from _repair_history(models)  # from the link, if there was no history
        for version in lost:
            yield f"{version.folder} cannot be restored; moved to {_move_aside(version.folder)}"
        yield from _end_retirement(models)  # if a rollback was completed just now


def _end_retirement(models: ModelDirectory) -> Iterator[str]:
    for path in bring_back(models, still_retired(models, models.champion_history())):
        yield f"brought {path} back, as a rollback has ended the retirement"


def _repair_history(models: ModelDirectory) -> Iterator[str]:
    if models.history_file.damaged_lines() or models.missing_moves():
        aside = models.history_file.replace([event for event, _ in models.completed_history()])
        yield f"filled the gaps of {models.history_file.path}; lines that could not be read are in {aside}"


def _restore_files(version: Version, history: ChampionHistory, runs: Path, others: list[Version]) -> Iterator[str]:
    """Copy back each damaged file of which a whole copy exists."""
    move = history.moves.get(version.number)
    if move and move.metadata_sha256:
        folders = sorted(runs.iterdir()) if runs.is_dir() else []
        yield from _restore_file(version, METADATA, move.metadata_sha256, (folder / METADATA for folder in folders))
        if version.changed(METADATA, move.metadata_sha256):
            return  # nobody knows what its other files should be
    try:
        metadata = version.metadata()
    except ModelError:
        return
    if metadata.run_id is None:
        return
    run = runs / metadata.run_id
    for name, digest in metadata.sha256.items():
        if name in history.lost_files.get(version.number, set()) and not os.path.lexists(version.folder / name):
            continue
        copies = [*(run / place.format(name=name) for place in PLACES_IN_RUN), *(each.folder / name for each in others)]
        yield from _restore_file(version, name, digest, copies)


def _restore_file(version: Version, name: str, digest: str, copies: Iterable[Path]) -> Iterator[str]:
    if not version.changed(name, digest):
        return
    target, read_error = version.folder / name, None
    for path in copies:
        try:
            whole = path.is_file() and sha256(path) == digest
        except OSError as error:
            read_error = error  # this copy may be the one that is needed
            continue
        if whole:
            # A file may lie where a folder should be, or the other way round.
            for part in (target, *target.parents[: name.count("/")]):
                if os.path.lexists(part) and (part.is_symlink() or part.is_dir() is (part == target)):
                    yield f"{part} cannot be restored; moved to {_move_aside(part)}"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, partial(copy, path))
            yield f"restored {target} from {path}"
            return
    if read_error:
        raise read_error


def _give_up_documents(version: Version, models: ModelDirectory, history: ChampionHistory) -> Iterator[str]:
    """Record which documents of a version are lost for good, so that they are no longer reported as missing."""
    names = []
    for problem in models.damage(version, history=history):
        yield f"{problem}; it cannot be restored, the model works without it"
    for name, digest in version.metadata().sha256.items():
        path = version.folder / name
        given_up = name in history.lost_files.get(version.number, set()) and not os.path.lexists(path)
        if not given_up and version.changed(name, digest):
            if os.path.lexists(path):
                yield f"{path} is not what was published; moved to {_move_aside(path)}"
            names.append(name)
    if names:
        models.history_file.append(
            HistoryEvent(time=now(), event="lost", version=version.number, files=names, reason="no copy was found")
        )


def _move_aside(path: Path) -> Path:
    """Hide what cannot be used under a name that nothing has yet, and return its new path."""
    hidden = hidden_name(path)
    path.rename(hidden)
    fsync(path.parent)
    return hidden


def _repair_link(
    models: ModelDirectory, lost: list[Version], published_by: str, smoke_test: SmokeTest, had_history: bool
) -> Iterator[str]:
    """Have the champion link lead to a whole version, and make that version the newest that TF Serving sees."""
    yield from _remove_unusable_link(models)
    yield from _record_retirement_by_hand(models, published_by)
    history = models.champion_history()
    retired = history.retired is not None
    champion = _champion_or_none(models)
    last = history.champion
    if champion is None and last is None and not retired:
        last = models.linked_number()  # the version is lost, as the history is; the link still says which it was
    served = {version.number: version for version in models.served()}
    candidates = [served[number] for number in history.fallbacks(last) if number in served]
    if not had_history:  # then, or for all but what the link tells, the newest first
        candidates = list(dict.fromkeys([*candidates, *list(served.values())[::-1]]))
    candidates = [version for version in candidates if version not in lost]
    missing = champion is None and not retired and (candidates or os.path.lexists(models.link) or last)
    if champion in lost or missing:
        if not candidates:
            yield from _give_up_champion(models, last)
            return
        if candidates[0].number == last or (last is None and not (had_history or history.moves)):
            champion = candidates[0]
            models.set_champion(champion)
            yield f"pointed {models.link} at version {champion.number}" + (", as the history says" if last else "")
        else:
            reason = f"{version_name(last)} cannot be used any more" if last else "there was no champion"
            champion, restored = _publish_first_usable(models, candidates, reason, published_by, smoke_test)
            yield f"published version {restored.number} again as version {champion.number}: {reason}"
    yield from _have_champion_served(models, champion, lost, published_by, smoke_test, had_history)


def _champion_or_none(models: ModelDirectory) -> Version | None:
    try:
        return models.champion()
    except ModelError:
        return None


def _remove_unusable_link(models: ModelDirectory) -> Iterator[str]:
    """Move aside what is not a link; remove a link that leads nowhere after the champion was retired."""
    if _champion_or_none(models) or not os.path.lexists(models.link):
        return
    if not models.link.is_symlink():
        yield f"{models.link} is not a link; moved to {_move_aside(models.link)}"
    elif models.champion_history().retired is not None:
        models.remove_link()
        yield f"removed {models.link}, which led to no version: the champion was retired"


def _record_retirement_by_hand(models: ModelDirectory, published_by: str) -> Iterator[str]:
    """If somebody has moved the champion to `retired`, record that it was retired."""
    last = models.champion_history().champion
    if _champion_or_none(models) or last is None or last in {version.number for version in models.served()}:
        return
    if (models.root / RETIRED / str(last)).is_dir():
        reason = f"its folder is in {models.root / RETIRED}"
        models.remove_link()
        models.history_file.append(retirement_event(last, reason, published_by))
        yield f"version {last} was retired: {reason}"


def _have_champion_served(
    models: ModelDirectory,
    champion: Version | None,
    lost: list[Version],
    published_by: str,
    smoke_test: SmokeTest,
    had_history: bool,
) -> Iterator[str]:
    """Complete a promotion that a kill has interrupted, or publish the champion again above a newer version."""
    newest = next((version for version in reversed(models.served()) if version not in lost), None)
    if newest and newest != champion:
        unfinished = newest.metadata().replaces == (champion.number if champion else None)
        if unfinished and (had_history or not champion) and newest.number not in models.champion_history().moves:
            models.set_champion(newest)
            yield f"finished the promotion of version {newest.number}"
        elif champion:
            reason = f"version {newest.number} was newer than the champion, so that TF Serving served it"
            again, _ = _publish_first_usable(models, [champion], reason, published_by, smoke_test)
            yield f"published version {champion.number} again as version {again.number}: {reason}"
    remaining = [version for version in not_yet_retired(models, models.champion_history()) if version not in lost]
    for path in set_aside(models, remaining):
        yield f"moved a version to {path}, where TF Serving does not look: the champion was retired"


def _give_up_champion(models: ModelDirectory, last: int | None) -> Iterator[str]:
    models.remove_link()
    models.history_file.append(
        HistoryEvent(time=now(), event="repaired", before=last, to=None, reason="no version is left")
    )
    retired = [str(version.number) for version in models.versions() if version.retired]
    hint = f"; to use one of those that were retired, {', '.join(retired)}: {ROLLBACK} --to " if retired else ""
    yield NO_CHAMPION_LEFT + hint + "".join(retired[-1:])


def _publish_first_usable(
    models: ModelDirectory, versions: Sequence[Version], reason: str, published_by: str, smoke_test: SmokeTest
) -> tuple[Version, Version]:
    """Make the first version that passes its smoke test champion, under a new number; return the new and the old one.

    Raises:
        ModelError: what is wrong with the first one, if none passes.
    """
    errors = []
    for version in versions:
        try:
            again = publish_again(models, models.champion_history(), version, reason, published_by, smoke_test)
        except ModelError as error:
            errors.append(error)
        else:
            models.set_champion(again)
            return again, version
    raise errors[0]
