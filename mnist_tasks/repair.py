"""What is wrong in a model directory as a whole, and how to put it right without losing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_tasks.errors import ModelError
from mnist_tasks.files import copy, fsync, sha256, write_atomically
from mnist_tasks.load_test import load_test
from mnist_tasks.registry import (
    DAMAGED,
    METADATA,
    REPAIR,
    SAVED_MODEL,
    WAY_OUT,
    ModelDirectory,
    Version,
    first_move,
    last_champion,
    version_name,
)

# What of a version may lie in its run's folder, and under which name.
IN_THE_RUN = ("{name}", SAVED_MODEL + "/{name}")


def problems(models: ModelDirectory) -> list[str]:
    """Hash every file again, read the history and follow the link: what is wrong, each with the command for it."""
    if not (found := list(_problems(models))):
        return found
    # A writer at work looks like damage. Where the lock cannot be had, such as on a read-only mount, there is none.
    with suppress(OSError), FileLock(models.root / ".lock"):
        return list(_problems(models))
    return found


def _problems(models: ModelDirectory) -> Iterator[str]:
    for version in models.versions():
        for problem in models.damage(version):
            yield f"{problem}{WAY_OUT}"
    for problem in models.damaged_lines():
        yield f"{problem}; run {REPAIR}"
    for move in models.gaps():
        yield f"{models.history_path} lacks that version {move['to']} became champion at {move['time']}; run {REPAIR}"
    try:
        champion = models.champion()
    except ModelError as error:
        yield str(error)
        return
    newest = _newest(models)
    if newest and newest != champion:
        name = version_name(champion.number if champion else None)
        yield f"version {newest.number} is newer than the champion, {name}: TF Serving serves it; run {REPAIR}"


def repair(
    models: ModelDirectory, runs: Path, published_by: str, load_test: Callable[[Path], None] = load_test
) -> Iterator[str]:
    """Put right what `problems` finds; what is done, step by step.

    A damaged file comes back from the run that made it or from another version, if a copy with its digest is there. A
    version whose model cannot be restored is moved aside, once another one is champion. The link goes where the history
    says, or to the newest earlier champion that works, which is published again. Nothing is deleted.

    Args:
        models: the model directory.
        runs: the folder with the runs' folders.
        published_by: who repairs, for the history.
        load_test: called with the folder of a version that is published again.

    Raises:
        ModelError: if the champion cannot be restored and no older version passes its load test; then it stays.
    """
    had_history = bool(models.recorded())
    with models.writing():
        lost = []
        for version in models.versions():
            if models.damage(version):
                yield from _restore_files(version, models, runs)
            if models.damage(version, documents=False):
                lost.append(version)
            else:
                for problem in models.damage(version):
                    yield f"{problem}; it cannot be restored, the model works without it"
        yield from _mend_history(models)  # which says where the link goes
        yield from _mend_link(models, lost, published_by, load_test, had_history)
        yield from _mend_history(models)  # which the link tells if there was none
        for version in lost:
            yield _move_aside(version.folder)


def _mend_history(models: ModelDirectory) -> Iterator[str]:
    if models.damaged_lines() or models.gaps():
        aside = models.mend_history()
        yield f"filled the gaps of {models.history_path}; lines that could not be read are in {aside}"


def _restore_files(version: Version, models: ModelDirectory, runs: Path) -> Iterator[str]:
    """Copy back each damaged file of which there is a whole copy."""
    if digest := first_move(version.number, models.recorded()).get("metadata_sha256"):
        yield from _restore_file(version, METADATA, digest, runs.glob(f"*/{METADATA}"))
        if version.changed(METADATA, digest):
            return  # then nobody knows what its files should be
    try:
        metadata = version.metadata()
        run, digests = runs / metadata["run_id"], metadata["sha256"].items()
    except (ModelError, KeyError, AttributeError):
        return
    others = [other for other in models.versions() if other != version]
    for name, digest in digests:
        copies = [*(run / place.format(name=name) for place in IN_THE_RUN), *(other.folder / name for other in others)]
        yield from _restore_file(version, name, digest, iter(copies))


def _restore_file(version: Version, name: str, digest: str, copies: Iterator[Path]) -> Iterator[str]:
    if not version.changed(name, digest):
        return
    target = version.folder / name
    for path in copies:
        if path.is_file() and sha256(path) == digest:
            if target.exists() and not target.is_file():
                yield _move_aside(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, partial(copy, path))
            yield f"restored {target} from {path}"
            return


def _move_aside(path: Path) -> str:
    """Hide what cannot be used, under a name that nothing has yet."""
    aside, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(aside)
    fsync(path.parent)
    return f"{path} cannot be restored; moved to {aside}"


def _mend_link(
    models: ModelDirectory,
    lost: list[Version],
    published_by: str,
    load_test: Callable[[Path], None],
    had_history: bool,
) -> Iterator[str]:
    """Have the champion link lead to a whole version, and that version be the newest."""
    last = last_champion(models.recorded())
    try:
        champion = models.champion()
    except ModelError:
        champion = None
        if models.link.exists() and not models.link.is_symlink():
            yield _move_aside(models.link)
    # What there is to go to: the champion, its twin, the one before it, and so on; without a history, the newest.
    ways = [version for version in _ways_back(last, models) if version not in lost]
    if champion in lost or (champion is None and (last is not None or not had_history)):
        if not ways:
            if last is not None or champion:
                models.link.unlink(missing_ok=True)
                models.append({"event": "repaired", "from": last, "to": None, "reason": "no version is left"})
                yield "no version is left: there is no champion now"
            return
        if ways[0].number == last or last is None:
            champion = ways[0]
            models.point_at(champion)
            yield f"pointed {models.link} at version {champion.number}" + (", as the history says" if last else "")
        else:
            reason = f"{version_name(last)} cannot be used any more"
            champion, restored = _publish_again(ways, models, reason, published_by, load_test)
            yield f"published version {restored.number} again as version {champion.number}: {reason}"
    newest = next((version for version in reversed(models.versions()) if version not in lost), None)
    if newest and newest != champion:
        unfinished = newest.metadata().get("replaces") == (champion.number if champion else None)
        if unfinished and had_history and not first_move(newest.number, models.recorded()):
            models.point_at(newest)
            yield f"finished the promotion of version {newest.number}"
        elif champion:
            reason = f"version {newest.number} was newer than the champion, so that TF Serving served it"
            again, _ = _publish_again([champion], models, reason, published_by, load_test)
            yield f"published version {champion.number} again as version {again.number}: {reason}"


def _publish_again(
    ways: list[Version], models: ModelDirectory, reason: str, published_by: str, load_test: Callable[[Path], None]
) -> tuple[Version, Version]:
    """Make the first version that passes its load test champion, under a new number; the new one and the old one."""
    errors = []
    for version in ways:
        try:
            again = models.restore(version, models.recorded(), reason, published_by, load_test)
        except ModelError as error:
            errors.append(error)
        else:
            models.point_at(again)
            return again, version
    raise errors[0]


def _newest(models: ModelDirectory) -> Version | None:
    return next(reversed(models.versions()), None)


def _ways_back(number: int | None, models: ModelDirectory) -> list[Version]:
    """The version itself if it is there, its twin, the champion before it, and so on; without a history, the newest."""
    versions, history = {version.number: version for version in models.versions()}, models.recorded()
    if number is None:
        return list(reversed(versions.values()))
    numbers: list[int] = []
    while number is not None and number not in numbers:
        numbers.append(number)
        event: dict[str, Any] = first_move(number, history)
        number = event.get("restores", event.get("from"))
    return [versions[number] for number in numbers if number in versions]
