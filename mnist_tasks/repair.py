"""What is wrong in a model directory as a whole, and how to put it right without losing anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mnist_tasks.errors import ModelError
from mnist_tasks.files import fsync, sha256, write_atomically
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


def problems(models: ModelDirectory) -> Iterator[str]:
    """Hash every file again, read the history and follow the link: what is wrong, each with the command for it."""
    for version in models.versions():
        for problem in models.damage(version):
            yield f"{problem}{WAY_OUT}"
    for problem in models.damaged_lines():
        yield f"{problem}; run {REPAIR}"
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

    A damaged file comes back from the run that made it or from another version, if a copy with its digest is there.
    A version that cannot be restored is moved aside. The link goes where the history says, or to the newest earlier
    champion that is whole, which is published again. Nothing is deleted.

    Args:
        models: the model directory.
        runs: the folder with the runs' folders.
        published_by: who repairs, for the history.
        load_test: called with the folder of a version that is published again.
    """
    with models.writing():
        for version in models.versions():
            if models.damage(version):
                yield from _restore_files(version, models, runs)
                if models.damage(version):
                    yield _move_aside(version.folder)
        if models.damaged_lines():
            yield f"moved the damaged lines of {models.history_path} to {models.drop_damaged_lines()}"
        yield from _mend_link(models, published_by, load_test)


def _restore_files(version: Version, models: ModelDirectory, runs: Path) -> Iterator[str]:
    """Copy back each damaged file of which there is a whole copy."""
    if digest := first_move(version.number, models.recorded()).get("metadata_sha256"):
        yield from _restore_file(version, METADATA, digest, runs.glob(f"*/{METADATA}"))
    try:
        metadata = version.metadata()
    except ModelError:
        return  # then nobody knows what its files should be
    run, others = runs / metadata["run_id"], [other for other in models.versions() if other != version]
    for name, digest in metadata["sha256"].items():
        copies = [run / name, run / SAVED_MODEL / name, *(other.folder / name for other in others)]
        yield from _restore_file(version, name, digest, iter(copies))


def _restore_file(version: Version, name: str, digest: str, copies: Iterator[Path]) -> Iterator[str]:
    if not version.changed(name, digest):
        return
    target = version.folder / name
    for path in copies:
        if path.is_file() and sha256(path) == digest:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, partial(_copy, path))
            yield f"restored {target} from {path}"
            return


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _move_aside(path: Path) -> str:
    """Hide what cannot be used, under a name that nothing has yet."""
    aside, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(aside)
    fsync(path.parent)
    return f"{path} cannot be restored; moved to {aside}"


def _mend_link(models: ModelDirectory, published_by: str, load_test: Callable[[Path], None]) -> Iterator[str]:
    """Have the champion link lead to a whole version, and that version be the newest."""
    try:
        champion = models.champion()
    except ModelError:
        if models.link.exists() and not models.link.is_symlink():
            yield _move_aside(models.link)
        last = last_champion(models.recorded())
        champion = _newest_whole(last, models)
        if champion is None:
            models.link.unlink(missing_ok=True)
            if last is not None:
                models.append({"event": "repaired", "from": last, "to": None, "reason": "no version is left"})
            yield "no version is left: there is no champion now"
            return
        if champion.number == last:
            models.point_at(champion)
            yield f"pointed {models.link} at version {champion.number}, as the history says"
        else:
            reason = f"{version_name(last)} cannot be used any more"
            champion = models.restore(champion, models.recorded(), reason, published_by, load_test)
            models.point_at(champion)
            yield f"published version {champion.metadata()['restores']} again as version {champion.number}: {reason}"
    newest = _newest(models)
    if newest and newest != champion:
        unfinished = newest.metadata().get("replaces") == (champion.number if champion else None)
        if unfinished and not first_move(newest.number, models.recorded()):
            models.point_at(newest)
            yield f"finished the promotion of version {newest.number}"
        elif champion:
            reason = f"version {newest.number} was newer than the champion, so that TF Serving served it"
            again = models.restore(champion, models.recorded(), reason, published_by, load_test)
            models.point_at(again)
            yield f"published version {champion.number} again as version {again.number}: {reason}"


def _newest(models: ModelDirectory) -> Version | None:
    return next(reversed(models.versions()), None)


def _newest_whole(number: int | None, models: ModelDirectory) -> Version | None:
    """The version itself if it is there, else its twin or the champion before it, and so on; else the newest of all."""
    versions, history = {version.number: version for version in models.versions()}, models.recorded()
    while number is not None and number not in versions:
        event: dict[str, Any] = first_move(number, history)
        number = event.get("restores", event.get("from"))
    return versions.get(number) if number is not None else _newest(models)
