"""The task after promote, if MNIST_MIRROR is set: copy the champion to an object store, for readers without MNIST_HOME.

    champion.json       which version is champion, since when and why, and the SHA-256 of each of its files
    1/ 2/ 3/ ...        the versions that were champion when the mirror was written, as in the model directory

`champion.json` is replaced by one request, after each file of its version has been read back and has the digest that it
was published with. So a reader who follows it never finds half a model. The model directory stays the source of truth:
the mirror can be made again from it, and nothing is ever read back into it. An upload that was interrupted is continued
by the next run, which sends only what is not there yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from mnist_tasks.documents import Metadata, MirroredChampion
from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import NUMBER, ModelDirectory, is_for_people
from mnist_tasks.registry.version import METADATA, Version, version_name
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.files import sha256, to_json
from mnist_tasks.system.object_store import Store
from mnist_tasks.system.store_url import StoreUrl
from mnist_tasks.system.task_log import log_resources

log = logging.getLogger(__name__)

CHAMPION = "champion.json"


@dataclass(frozen=True)
class Mirrored:
    """What the mirror has now: the version (None for no champion), and how many files and bytes had to be sent."""

    version: int | None
    files: int
    uploaded: int
    uploaded_bytes: int
    pruned: tuple[int, ...] = ()


@log_resources
def mirror(models: Path, url: str, *, prune: bool = False) -> Mirrored:
    """Bring the mirror up to date with the champion. A second call, or one after a kill, does what is left to do.

    Args:
        models: the model directory.
        url: the folder in the store, `s3://conn_id@bucket/prefix`.
        prune: whether to remove what was pruned from the model directory.

    Raises:
        InputError: if the store cannot be used as it is, or holds something else than this directory's mirror.
        ModelError: if the champion is damaged: it is not copied.
        OSError: if the store or the directory cannot be reached now, or what was sent does not come back.
    """
    store, directory = Store(StoreUrl.parse(url)), ModelDirectory(models)
    models.mkdir(parents=True, exist_ok=True)
    # One at a time: of two, the one with the older champion could write champion.json last.
    with FileLock(models / ".mirror.lock"):
        champion, history = _champion_here(directory)
        there = _champion_there(store, history)
        if champion is None:
            if there:
                store.remove(CHAMPION)
                log.info("%s has no champion any more: version %d was retired", store.url, there.version)
            else:
                log.info("there is no champion to copy")
            return Mirrored(None, 0, 0, 0)
        wanted = _description(directory, champion, history)
        uploaded = _upload(store, champion, wanted)
        if there != wanted:
            _write_champion(store, wanted)
        log.info(
            "version %d is champion in %s: %d of %d files were sent, %s bytes",
            champion.number,
            store.url,
            len(uploaded),
            len(wanted.sha256),
            f"{sum(uploaded.values()):,}",
        )
        pruned = _prune(store, directory, history) if prune else ()
        return Mirrored(champion.number, len(wanted.sha256), len(uploaded), sum(uploaded.values()), pruned)


def mirror_problems(models: Path, url: str) -> list[str]:
    """What differs between the mirror and the champion, each file of which is read back; raises as `mirror`."""
    store, directory = Store(StoreUrl.parse(url)), ModelDirectory(models)
    champion, history = _champion_here(directory)
    there = _champion_there(store, history)
    number = champion.number if champion else None
    if (there.version if there else None) != number:
        has = version_name(there.version if there else None)
        return [f"{store.url}/{CHAMPION} names {has} as champion, but here it is {version_name(number)}"]
    if champion is None:
        return []
    wanted = _description(directory, champion, history)
    found = [] if there == wanted else [f"{store.url}/{CHAMPION} does not say what it should of version {number}"]
    sizes = store.sizes(str(number))
    differences = (_differs(store, sizes, champion, name, digest) for name, digest in wanted.sha256.items())
    return [*found, *filter(None, differences)]


def _champion_here(directory: ModelDirectory) -> tuple[Version | None, ChampionHistory]:
    """The champion and the history that ends with it, though both are read while others write."""
    while True:
        champion, history = directory.champion(), ChampionHistory(directory.history())
        if (champion.number if champion else None) == history.champion:
            return champion, history


def _champion_there(store: Store, history: ChampionHistory) -> MirroredChampion | None:
    """What the mirror says is champion; None if it is empty or has no champion.

    Raises:
        InputError: if the prefix holds something else, or the mirror of another model directory.
    """
    content = store.read(CHAMPION)
    if content is None:
        others = sorted({name.partition("/")[0] for name in store.sizes()})
        if foreign := [name for name in others if not NUMBER.fullmatch(name)]:
            raise InputError(f"{store.url} holds {foreign[0]}, which belongs to no mirror; name an empty folder in it")
        return None
    try:
        there = MirroredChampion.parse(content)
    except ValidationError as error:
        raise InputError(
            f"{store.url}/{CHAMPION} is not what a mirror writes; name an empty folder in it, or remove that object"
        ) from error
    # One of an older release may say nothing about the metadata.
    move = history.moves.get(there.version)
    if move is None or move.metadata_sha256 not in (None, there.sha256.get(METADATA)):
        raise _another(store, there.version)
    return there


def _another(store: Store, number: int) -> InputError:
    return InputError(
        f"{store.url} holds a version {number} that is not this model directory's; name another folder in it, or "
        "remove what is there"
    )


def _description(directory: ModelDirectory, champion: Version, history: ChampionHistory) -> MirroredChampion:
    """What `champion.json` has to say; raises a `ModelError` if the champion is damaged."""
    directory.verify(champion)
    # What only people read may be lost.
    digests = {
        name: digest
        for name, digest in champion.metadata().sha256.items()
        if not is_for_people(name) or not champion.changed(name, digest)
    }
    digests[METADATA] = sha256(champion.folder / METADATA)
    move = history.last_move
    assert move is not None  # noqa: S101 - as there is a champion
    return MirroredChampion(
        version=champion.number,
        time=move.time,
        event=move.event,
        reason=move.reason,
        published_by=move.publisher,
        sha256=dict(sorted(digests.items())),
    )


def _upload(store: Store, champion: Version, wanted: MirroredChampion) -> dict[str, int]:
    """Send each file that is missing there or differs, the metadata last; return the sizes of what was sent.

    Raises:
        InputError: if there is another version with this number.
        OSError: if what was sent does not come back.
    """
    sizes, uploaded = store.sizes(str(champion.number)), {}
    # Sent last, it is whole or absent. So one that can be read belongs to somebody.
    if f"{champion.number}/{METADATA}" in sizes and _is_another(store, champion):
        raise _another(store, champion.number)
    for name in sorted(wanted.sha256, key=lambda name: (name == METADATA, name)):
        digest = wanted.sha256[name]
        if not _differs(store, sizes, champion, name, digest):
            continue
        path, target = champion.folder / name, f"{champion.number}/{name}"
        store.upload(path, target)
        uploaded[name] = path.stat().st_size
        back = store.sha256(target)
        if back != digest:
            if problem := champion.changed(name, digest):
                raise ModelError(problem)
            found = f"its SHA-256 is {back} instead of {digest}" if back else "it is missing"
            raise ConnectionError(f"{store.url}/{target} does not hold what was sent: {found}")
    return uploaded


def _is_another(store: Store, champion: Version) -> bool:
    content = store.read(f"{champion.number}/{METADATA}") or b""
    try:
        there = Metadata.parse(content)
    except ValidationError:
        return False
    here = champion.metadata()
    return (there.published, there.weights_sha256) != (here.published, here.weights_sha256)


def _differs(store: Store, sizes: dict[str, int], champion: Version, name: str, digest: str) -> str | None:
    """What is wrong with the copy of a file, whose sizes by name are `sizes`; None if it is the file."""
    target, path = f"{champion.number}/{name}", champion.folder / name
    if target not in sizes:
        return f"{store.url}/{target} is missing"
    if sizes[target] != (size := path.stat().st_size):
        return f"{store.url}/{target} has {sizes[target]:,} bytes instead of {size:,}"
    if (back := store.sha256(target)) != digest:
        return f"{store.url}/{target} has SHA-256 {back} instead of {digest}"
    return None


def _write_champion(store: Store, wanted: MirroredChampion) -> None:
    content = to_json(wanted.to_json_value()).encode()
    store.write(CHAMPION, content)
    if store.read(CHAMPION) != content:
        raise ConnectionError(f"{store.url}/{CHAMPION} does not hold what was sent")


def _prune(store: Store, directory: ModelDirectory, history: ChampionHistory) -> tuple[int, ...]:
    """Remove the versions that were pruned from the directory; return their numbers."""
    pruned = {event.version for event in history.events if event.event == "pruned"}
    pruned -= {version.number for version in directory.versions()}
    return tuple(sorted(_remove(store, pruned)))


def _remove(store: Store, numbers: set[int | None]) -> Iterator[int]:
    by_number: dict[str, list[str]] = {}
    for name in store.sizes():
        by_number.setdefault(name.partition("/")[0], []).append(name)
    for number, names in by_number.items():
        if NUMBER.fullmatch(number) and int(number) in numbers:
            # The metadata go first: what is left after a kill is no version.
            for name in sorted(names, key=lambda name: not name.endswith(f"/{METADATA}")):
                store.remove(name)
            log.info("removed version %s from %s, as it was pruned", number, store.url)
            yield int(number)
