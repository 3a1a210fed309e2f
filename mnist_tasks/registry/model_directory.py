"""The model directory: complete numbered versions, a `champion` link to the approved one, and the history of the link.

    models/1/ 2/ 3/ ...     versions, never changed: a SavedModel as TF Serving loads it (saved_model.pb, variables/),
                            model.keras, model_card.md, metadata.json, evaluation.json, decision.json, history.json,
                            mistakes.json, figures/, golden.npz (images and the probabilities that they got)
    models/champion -> 3    relative link, moved in one step
    models/history.jsonl    one line for each move of the link: when, from, to, why, by which run; and for each pruning
    models/pruned/1/        what is kept of a pruned version: its documents
    models/notes/3.json     what people have written about a version
    models/retired/2/       versions that nobody serves: all that existed when the champion was retired

A reader who follows `champion` finds a complete model at every instant: a version is written in a hidden folder, synced
to the disk and renamed; only then does the link move; only then is the move recorded. A crash between the last two
leaves no gap: `history` reads what is missing from the link itself, and the next writer records it.

TF Serving takes the children whose names are integers for versions, and serves the largest. Therefore a rollback
publishes an older model again under a new number, as hard links; and retiring the champion moves every version to
`retired`, where TF Serving does not look. A rollback to one of those ends the retirement: they come back.

This module reads; `publishing`, `rollback`, `retention`, `retirement` and `repair` write. A read error that may pass,
or that only says that this user may not read a file, is not a verdict on the file: it is raised as the `OSError` that
it is, and names the path.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry.history import ChampionHistory, History, iso_time, promotion_event, with_missing_moves
from mnist_tasks.registry.version import CARD, METADATA, MISTAKES, PRUNED, REPAIR, RETIRED, WAY_OUT, Version
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import fsync, is_conclusive, remove_staging_folders

log = logging.getLogger(__name__)

NUMBER = re.compile(r"[1-9][0-9]*")  # the name of a version's folder


class ModelDirectory:
    """The versions in one folder, and which of them is champion."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def link(self) -> Path:
        return self.root / "champion"

    @property
    def history_file(self) -> History:
        return History(self.root / "history.jsonl")

    def versions(self) -> list[Version]:
        """All published versions, the oldest first; retired ones included."""
        by_name = {path.name: path for folder in (self.root / RETIRED, self.root) for path in _folders(folder)}
        return sorted((Version(int(name), path) for name, path in by_name.items()), key=lambda each: each.number)

    def served(self) -> list[Version]:
        """The versions that TF Serving sees, the oldest first."""
        return sorted((Version(int(path.name), path) for path in _folders(self.root)), key=lambda each: each.number)

    def champion(self) -> Version | None:
        """The version that users load now, or None if none was ever promoted.

        Raises:
            ModelError: if the link leads to no version, or is missing although the history has a champion.
        """
        try:
            target = self.link.readlink()
        except FileNotFoundError:
            self._check_never_promoted()
            return None
        except OSError as error:
            if not is_conclusive(error):
                raise
            raise ModelError(f"{self.link} is not a link to a version: {error.strerror}; run {REPAIR}") from error
        folder = self.root / target
        if not (NUMBER.fullmatch(str(target)) and folder.is_dir()):
            raise ModelError(
                f"{self.link} leads to {str(target)!r}, which is not a version in {self.root}; restore it, or run "
                f"{REPAIR}"
            )
        return Version(int(str(target)), folder)

    def _check_never_promoted(self) -> None:
        """Raise a `ModelError` if there should be a champion link."""
        history = self.champion_history()
        if number := history.champion:
            raise ModelError(f"{self.link} is missing, but by the history version {number} is champion; run {REPAIR}")
        if not history.events and any(version.metadata().replaces for version in self.served()):
            raise ModelError(f"{self.link} and {self.history_file.path} are missing, but versions exist; run {REPAIR}")

    def describe_champion(self) -> str:
        """Who is champion at this moment, as a clause of a message: looked up, never assumed."""
        try:
            champion = self.champion()
        except (ModelError, OSError) as error:
            return f"who is champion is unknown: {error}"
        return f"version {champion.number} is champion" if champion else "there is no champion"

    def version(self, name: str) -> Version:
        """The version with the given number, or the champion if `name` is `champion`.

        Raises:
            ModelError: if there is no such version.
        """
        versions = {str(version.number): version for version in self.versions()}
        version = self.champion() if name == "champion" else versions.get(name)
        if not version:
            raise ModelError(f"{self.root} has no version {name}; it has " + (", ".join(versions) or "none"))
        return version

    def history(self) -> list[HistoryEvent]:
        """Each move of the champion link and each pruning, the oldest first.

        A move that is not recorded yet, after a crash or one by hand, is the last event. A damaged line is left out and
        logged.
        """
        for problem in self.history_file.damaged_lines():
            log.warning("%s; run %s", problem, REPAIR)
        events = self.history_file.events()
        move = self._unrecorded_move(events)
        return [*events, move] if move else events

    def champion_history(self) -> ChampionHistory:
        """What the recorded history says about each version."""
        return ChampionHistory(self.history_file.events())

    def who_was_champion(self, at: datetime) -> int | None:
        """The number of the version that was champion at a time (with a time zone), or None if there was none."""
        return ChampionHistory([event for event in self.history() if datetime.fromisoformat(event.time) <= at]).champion

    def completed_history(self) -> Iterator[tuple[HistoryEvent, bool]]:
        """The history with the moves that it lacks, from the versions' metadata; each with whether it is recorded."""
        return with_missing_moves(self.history(), (self.root, self.root / RETIRED, self.root / PRUNED))

    def missing_moves(self) -> list[HistoryEvent]:
        """The moves that the history lacks, as far as the versions' metadata tell them."""
        return [event for event, recorded in self.completed_history() if not recorded]

    def damage(self, version: Version, *, documents: bool = True, history: ChampionHistory | None = None) -> list[str]:
        """What is wrong with each file of a version that is missing, or differs from the one that was published.

        `metadata.json` has the digests of the other files, the history has that of `metadata.json`.

        Args:
            version: the version.
            documents: whether to check what only people read, too, except for what the history says is lost.
            history: what the history says, for callers who ask about many versions; read if it is not given.

        Raises:
            OSError: if a file cannot be read now, or not by this user.
        """
        history = history or self.champion_history()
        move = history.moves.get(version.number)
        if move and move.metadata_sha256 and (problem := version.changed(METADATA, move.metadata_sha256)):
            return [problem]
        try:
            digests = version.metadata().sha256
        except ModelError as error:
            return [str(error).removesuffix(WAY_OUT)]
        if not digests:
            return [f"version {version.number} is damaged: {version.folder / METADATA} has no digests"]
        names = [name for name in digests if documents or not is_for_people(name)]
        lost = history.lost_files.get(version.number, set())
        names = [name for name in names if name not in lost or os.path.lexists(version.folder / name)]
        return [problem for name in names if (problem := version.changed(name, digests[name]))]

    def verify(self, version: Version) -> None:
        """Compare the files that a version's model needs with the digests taken when they were published.

        Raises:
            ModelError: naming the first file that is missing or has changed.
        """
        if problems := self.damage(version, documents=False):
            raise ModelError(f"{problems[0]}{WAY_OUT}")

    @contextmanager
    def writing(self) -> Iterator[ChampionHistory]:
        """Be the only writer. Removes what a killed writer has left, completes the history, and yields it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for folder in (self.root, self.root / PRUNED):
                remove_staging_folders(folder)
            self._complete_history()
            yield self.champion_history()

    def set_champion(self, version: Version) -> None:
        """Make a version champion, in one step, and record it. The caller is the only writer."""
        next_link = self.root / ".staging-champion"
        next_link.unlink(missing_ok=True)
        next_link.symlink_to(str(version.number))
        next_link.replace(self.link)
        fsync(self.root)
        self._complete_history()

    def remove_link(self) -> None:
        """Remove the champion link. The caller is the only writer and records it."""
        self.link.unlink(missing_ok=True)
        fsync(self.root)

    def check_link(self) -> None:
        """Raise a `ModelError` if something else than a link is in the champion link's place."""
        if os.path.lexists(self.link) and not self.link.is_symlink():
            raise ModelError(f"{self.link} is not a link to a version; run {REPAIR} first")

    def linked_number(self) -> int | None:
        """The number that the champion link names, whether that version exists or not; None if it names no number."""
        target = str(self.link.readlink()) if self.link.is_symlink() else ""
        return int(target) if NUMBER.fullmatch(target) else None

    def _complete_history(self) -> None:
        if move := self._unrecorded_move(self.history_file.events()):
            self.history_file.append(move)

    def _unrecorded_move(self, events: list[HistoryEvent]) -> HistoryEvent | None:
        """The event of the move that the link shows and the events do not; None if there is none."""
        history = ChampionHistory(events)
        try:
            champion = self.champion()
        except ModelError:
            return None
        if champion is None or champion.number == history.champion:
            return None
        time = iso_time(self.link.lstat().st_mtime)
        event = promotion_event(champion.folder, time)
        if event and champion.number not in history.moves:
            return event
        return HistoryEvent(
            time=time,
            event="moved by hand",
            before=history.champion,
            to=champion.number,
            reason="the champion link was moved from outside",
        )


def is_for_people(name: str) -> bool:
    """Whether only people read a file of a version; the model works without it."""
    return name in (CARD, MISTAKES, "history.json") or name.startswith("figures/")


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder that are named after a version's number; empty if the folder does not exist."""
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if NUMBER.fullmatch(path.name) and path.is_dir()]
