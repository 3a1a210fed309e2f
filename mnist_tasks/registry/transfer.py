"""Move a version to another installation: one file with the model, its documents and digests, and its history line.

There it is verified, loaded in a fresh process, and published under the next number like any other. A tar file that
holds anything else than one whole version is refused before anything is written into the model directory.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from mnist_tasks.documents import HistoryEvent, ImportedFrom, Metadata
from mnist_tasks.registry.history import promotion_event
from mnist_tasks.registry.model_directory import ModelDirectory, is_for_people
from mnist_tasks.registry.publishing import can_become_champion, published_version, write_version
from mnist_tasks.registry.retirement import checked_reason
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.registry.version import CARD, METADATA, Version
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import printable, sha256, to_json, write_atomically

HISTORY_LINE = "history-line.json"
MAX_BYTES = 4 << 30  # more than a version of the largest recipe may have
MAX_FILES = 1000
FETCH = "export it again"


def export_version(models: ModelDirectory, version: Version, target: Path) -> None:
    """Write a version into a tar file, in one step; the same version gives the same bytes.

    Args:
        models: the model directory.
        version: one of its versions.
        target: a file that does not exist yet.

    Raises:
        InputError: if the file exists already, or its folder does not.
        ModelError: if the version is damaged.
    """
    if os.path.lexists(target):
        raise InputError(f"{printable(target)} exists already; name a new file, or remove it")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{printable(target.absolute().parent)} is not a folder; make it first")
    if problems := models.damage(version):
        raise ModelError(problems[0])
    move = models.champion_history().moves.get(version.number) or promotion_event(version.folder)
    line = to_json(move.to_json_value()).encode() if move else b"{}\n"

    def write(path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(_member(HISTORY_LINE, len(line)), io.BytesIO(line))
            for name in sorted([METADATA, *version.metadata().sha256]):
                source = version.folder / name
                if not source.exists():  # a document that the history says is lost
                    continue
                with source.open("rb") as file:
                    archive.addfile(_member(name, os.fstat(file.fileno()).st_size), file)

    write_atomically(target, write)


def import_version(
    models: ModelDirectory,
    source: Path,
    *,
    reason: str,
    published_by: str,
    smoke_test: Callable[[Path], None] = smoke_test,
) -> Version:
    """Publish the version in a tar file as the next version of this model directory, and make it champion.

    Args:
        models: the model directory.
        source: what `export_version` has written.
        reason: why, for the history and the model card.
        published_by: who does it.
        smoke_test: called with a folder that has the version's files; raises an error if it cannot be used.

    Raises:
        InputError: if the reason is empty, or the file is no whole version: what is wrong with it is named.
        ModelError: if the model does not pass its smoke test here, or is champion already. Nothing has changed then.
        OSError: if something cannot be read or written now.
    """
    reason = checked_reason(reason)
    with models.writing() as history:
        models.check_link()
        folder = models.root / ".staging-import"  # which the next writer removes if this one is killed
        folder.mkdir()
        try:
            line = _unpack(source, folder)
            metadata = _verified(source, folder)
            champion = models.champion()
            if champion and champion.metadata().weights_sha256 == metadata.weights_sha256:
                raise InputError(f"{printable(source)}: version {champion.number}, the champion, is the same model")
            smoke_test(folder)
            # The card is written anew. A lost figure does not stop the import.
            digests = {
                name: digest for name, digest in metadata.sha256.items() if name != CARD and (folder / name).exists()
            }
            origin = ImportedFrom(
                version=metadata.version, event=line.event, time=line.time, published_by=line.published_by
            )
            new = {
                "event": "imported",
                "published_by": published_by,
                "replaces": history.champion,
                "restores": None,
                "reason": reason,
                "imported_from": origin,
            }
            # What an import that was killed has left is used, if it is whole.
            version = published_version(models, history, published_by, metadata.weights_sha256)
            if version is None or not can_become_champion(models, history, version):
                files = {name: folder / name for name in digests}
                version = write_version(models, history, files, digests, metadata.model_copy(update=new))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        models.set_champion(version)
        return version


def _member(name: str, size: int) -> tarfile.TarInfo:
    """An entry of the tar file without dates, users and rights of this machine."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _unpack(source: Path, folder: Path) -> HistoryEvent:
    """Write the files of a tar file into an empty folder; return the history line."""
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            size = 0
            for number, member in enumerate(_members(source, archive), 1):
                size += member.size
                if number > MAX_FILES or size > MAX_BYTES:
                    raise InputError(
                        f"{printable(source)} has more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GiB, which no "
                        "version has"
                    )
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                if content is None or target.exists():
                    raise InputError(f"{printable(source)} has {printable(member.name)} twice; {FETCH}")
                with content, target.open("wb") as written:
                    shutil.copyfileobj(content, written)
        return HistoryEvent.parse((folder / HISTORY_LINE).read_bytes())
    except (tarfile.TarError, EOFError, ValidationError, FileNotFoundError, IsADirectoryError) as error:
        if is_transient(error):
            raise
        raise InputError(
            f"{printable(source)} is no exported version, or one cut short: {type(error).__name__}; {FETCH}"
        ) from error


def _members(source: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        name = PurePosixPath(member.name)
        if not member.isreg() or name.is_absolute() or ".." in name.parts or "\\" in member.name:
            raise InputError(
                f"{printable(source)} has an entry that is no plain file below a version's folder; {FETCH}"
            )
        yield member


def _verified(source: Path, folder: Path) -> Metadata:
    """What `metadata.json` says, once every file is the one that it names, and there is no other."""
    try:
        metadata = Version(0, folder).metadata()
    except ModelError as error:
        raise InputError(f"{printable(source)}: {METADATA} is missing or damaged; {FETCH}") from error
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    needed = {name for name in metadata.sha256 if not is_for_people(name)}
    wrong = sorted((files - {METADATA, HISTORY_LINE, *metadata.sha256}) | (needed - files))
    wrong = wrong or [name for name in files & set(metadata.sha256) if sha256(folder / name) != metadata.sha256[name]]
    if wrong:
        raise InputError(
            f"{printable(source)}: {printable(wrong[0])} is missing, is not the file that was published, or does not "
            f"belong to the version; {FETCH}"
        )
    return metadata
