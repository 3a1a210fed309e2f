"""What is wrong in a model directory as a whole, and how to put it right without losing anything.

A file that could only not be read now, or not by this user, is not judged: the `OSError` goes through, and neither that
file nor its version is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock

from mnist_tasks.registry.model_directory import (
    Known,
    ModelDirectory,
    free_name,
    last_champion,
    last_retired,
    retirement,
)
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.registry.version import METADATA, REPAIR, RETIRED, SAVED_MODEL, WAY_OUT, Version, version_name
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import copy, fsync, sha256, write_atomically

# What of a version may lie in its run's folder, and under which name.
IN_THE_RUN = ("{name}", SAVED_MODEL + "/{name}")

NONE_LEFT = "no version is left: there is no champion now"


def problems(models: ModelDirectory) -> list[str]:
    """Hash every file again, read the history and follow the link: what is wrong, each with the command for it.

    Raises:
        OSError: if something could only not be read now, or not by this user.
    """
    if not (found := list(_problems(models))):
        return found
    with ExitStack() as stack:
        # A writer at work looks like damage. Where the lock cannot be had, such as on a read-only mount, there is none.
        with suppress(OSError):
            stack.enter_context(FileLock(models.root / ".lock"))
        return list(_problems(models))


def _problems(models: ModelDirectory) -> Iterator[str]:
    known = Known(models.recorded())
    for version in models.versions():
        for problem in models.damage(version, known=known):
            yield f"{problem}{WAY_OUT}"
    for problem in models.damaged_lines():
        yield f"{problem}; run {REPAIR}"
    for move in models.gaps():
        yield f"{models.history_path} lacks that version {move['to']} became champion at {move['time']}; run {REPAIR}"
    for version in models.came_back(models.history()):  # also by a move that is not recorded yet
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


def repair(
    models: ModelDirectory, runs: Path, published_by: str, smoke_test: Callable[[Path], None] = smoke_test
) -> Iterator[str]:
    """Put right what `problems` finds; what is done, step by step.

    A damaged file comes back from the run that made it or from another version, if a copy with its digest is there. A
    version whose model cannot be restored is moved aside, once another one is champion. The link goes where the history
    says; or to the first whole version that works of what its files come from, the champions before it, and all other
    former champions, the newest first, which is published again. What was retired stays so. Nothing is deleted.

    Args:
        models: the model directory.
        runs: the folder with the runs' folders.
        published_by: who repairs, for the history.
        smoke_test: called with the folder of a version that is published again.

    Raises:
        ModelError: if the champion cannot be restored and no other version passes its smoke test; then the link stays.
        OSError: if something could only not be read or written now; what was done until then has been said.
    """
    had_history = bool(models.recorded())
    with models.writing() as history:
        known = Known(history)
        yield from _end_retirement(models)
        versions = models.versions()
        lost = []
        for version in versions:
            if not models.damage(version, known=known):
                continue
            yield from _restore_files(version, known, runs, [each for each in versions if each != version])
            if models.damage(version, documents=False, known=known):
                lost.append(version)
            else:
                yield from _give_up_documents(version, models, known)
        yield from _mend_history(models)  # which says where the link goes
        yield from _mend_link(models, lost, published_by, smoke_test, had_history)
        yield from _mend_history(models)  # which the link tells if there was none
        for version in lost:
            yield f"{version.folder} cannot be restored; moved to {_move_aside(version.folder)}"
        yield from _end_retirement(models)  # should it be a rollback that was finished now


def none_left(models: ModelDirectory) -> bool:
    """Whether there is no champion because none could be restored, not because nobody wants one, or had one yet."""
    moves = [event for event in models.history() if "to" in event]
    return bool(moves) and moves[-1]["to"] is None and last_retired(moves) is None


def _end_retirement(models: ModelDirectory) -> Iterator[str]:
    for path in models.bring_back(models.came_back(models.recorded())):
        yield f"brought {path} back, as a rollback has ended the retirement"


def _mend_history(models: ModelDirectory) -> Iterator[str]:
    if models.damaged_lines() or models.gaps():
        aside = models.mend_history()
        yield f"filled the gaps of {models.history_path}; lines that could not be read are in {aside}"


def _restore_files(version: Version, known: Known, runs: Path, others: list[Version]) -> Iterator[str]:
    """Copy back each damaged file of which there is a whole copy."""
    if digest := known.moves.get(version.number, {}).get("metadata_sha256"):
        folders = sorted(runs.iterdir()) if runs.is_dir() else []
        yield from _restore_file(version, METADATA, digest, (folder / METADATA for folder in folders))
        if version.changed(METADATA, digest):
            return  # then nobody knows what its files should be
    try:
        metadata = version.metadata()
        run, digests = runs / metadata["run_id"], metadata["sha256"].items()
    except (ModelError, KeyError, AttributeError, TypeError):
        return
    for name, digest in digests:
        if name in known.lost.get(version.number, set()) and not os.path.lexists(version.folder / name):
            continue
        copies = [*(run / place.format(name=name) for place in IN_THE_RUN), *(other.folder / name for other in others)]
        yield from _restore_file(version, name, digest, copies)


def _restore_file(version: Version, name: str, digest: str, copies: Iterable[Path]) -> Iterator[str]:
    if not version.changed(name, digest):
        return
    target, unread = version.folder / name, None
    for path in copies:
        try:
            whole = path.is_file() and sha256(path) == digest
        except OSError as error:
            unread = error  # it may be the one, should no other be
            continue
        if whole:
            for part in (target, *target.parents[: name.count("/")]):  # a file may be where a folder should, or so
                if os.path.lexists(part) and (part.is_symlink() or part.is_dir() is (part == target)):
                    yield f"{part} cannot be restored; moved to {_move_aside(part)}"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, partial(copy, path))
            yield f"restored {target} from {path}"
            return
    if unread:
        raise unread


def _give_up_documents(version: Version, models: ModelDirectory, known: Known) -> Iterator[str]:
    """Have the history say which documents of a version are lost for ever, so that they are missed no more."""
    names = []
    for problem in models.damage(version, known=known):
        yield f"{problem}; it cannot be restored, the model works without it"
    for name, digest in version.metadata()["sha256"].items():
        path = version.folder / name
        given_up = name in known.lost.get(version.number, set()) and not os.path.lexists(path)
        if not given_up and version.changed(name, digest):
            if os.path.lexists(path):
                yield f"{path} is not what was published; moved to {_move_aside(path)}"
            names.append(name)
    if names:
        models.append({"event": "lost", "version": version.number, "files": names, "reason": "no copy was found"})


def _move_aside(path: Path) -> Path:
    """Hide what cannot be used, under a name that nothing has yet, which is returned."""
    aside = free_name(path)
    path.rename(aside)
    fsync(path.parent)
    return aside


def _mend_link(
    models: ModelDirectory,
    lost: list[Version],
    published_by: str,
    smoke_test: Callable[[Path], None],
    had_history: bool,
) -> Iterator[str]:
    """Have the champion link lead to a whole version, and that version be the newest that TF Serving sees."""
    known = Known(models.recorded())
    last, retired = last_champion(known.events), last_retired(known.events) is not None
    try:
        champion = models.champion()
    except ModelError:
        champion = None
        if os.path.lexists(models.link):
            if not models.link.is_symlink():
                yield f"{models.link} is no link; moved to {_move_aside(models.link)}"
            elif retired:
                models.link.unlink()
                fsync(models.root)
                yield f"removed {models.link}, which led to no version: the champion was retired"
    served = models.served()
    numbers = {version.number: version for version in served}
    if champion is None and last is not None and last not in numbers and (models.root / RETIRED / str(last)).is_dir():
        reason = f"its folder is in {models.root / RETIRED}"
        models.link.unlink(missing_ok=True)
        fsync(models.root)
        models.append(retirement(last, reason, published_by))
        yield f"version {last} was retired: {reason}"
        known, last, retired = Known(models.recorded()), None, True
    if champion is None and last is None and not retired:
        last = models.pointed_at()  # if it is lost, as the history is, the link still says which it was
    # What there is to go to; without a history, the newest.
    ways = [numbers[number] for number in known.ways_back(last) if number in numbers] if known.moves else served[::-1]
    ways = [version for version in ways if version not in lost]
    if champion in lost or (champion is None and not retired and (ways or os.path.lexists(models.link) or last)):
        if not ways:
            yield from _give_up_champion(models, last)
            return
        if ways[0].number == last or (last is None and not (had_history or known.moves)):
            champion = ways[0]
            models.point_at(champion)
            yield f"pointed {models.link} at version {champion.number}" + (", as the history says" if last else "")
        else:
            reason = f"{version_name(last)} cannot be used any more" if last else "there was no champion"
            champion, restored = _publish_again(ways, models, reason, published_by, smoke_test)
            yield f"published version {restored.number} again as version {champion.number}: {reason}"
    newest = next((version for version in reversed(models.served()) if version not in lost), None)
    if newest and newest != champion:
        unfinished = newest.metadata().get("replaces") == (champion.number if champion else None)
        known = Known(models.recorded())
        if unfinished and (had_history or not champion) and newest.number not in known.moves:
            models.point_at(newest)
            yield f"finished the promotion of version {newest.number}"
        elif champion:
            reason = f"version {newest.number} was newer than the champion, so that TF Serving served it"
            again, _ = _publish_again([champion], models, reason, published_by, smoke_test)
            yield f"published version {champion.number} again as version {again.number}: {reason}"
    left = models.left_behind(Known(models.recorded()))
    for path in models.set_aside([version for version in left if version not in lost]):
        yield f"moved a version to {path}, where TF Serving does not look: the champion was retired"


def _give_up_champion(models: ModelDirectory, last: int | None) -> Iterator[str]:
    models.link.unlink(missing_ok=True)
    fsync(models.root)
    models.append({"event": "repaired", "from": last, "to": None, "reason": "no version is left"})
    retired = ", ".join(str(version.number) for version in models.versions() if version.retired)
    yield NONE_LEFT + (f"; of those that were retired, {retired}, models rollback --to N takes one" if retired else "")


def _publish_again(
    ways: list[Version], models: ModelDirectory, reason: str, published_by: str, smoke_test: Callable[[Path], None]
) -> tuple[Version, Version]:
    """Make the first version that passes its smoke test champion, under a new number; the new one and the old one."""
    errors = []
    for version in ways:
        try:
            again = models.restore(version, Known(models.recorded()), reason, published_by, smoke_test)
        except ModelError as error:
            errors.append(error)
        else:
            models.point_at(again)
            return again, version
    raise errors[0]
