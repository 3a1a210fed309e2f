"""The history of a model directory, `history.jsonl`: who became champion when and why, and what was removed or lost.

A line is appended for each move of the champion link, each pruning, and the documents of a version that are lost. A
line that a crash has damaged is left out and named; what it said can mostly be read from the versions' own metadata.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry.version import METADATA, Version
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import (
    explained_read_errors,
    fsync,
    fsync_descriptor,
    is_conclusive,
    sha256,
    write_atomically,
    write_text,
)

SHOWN_BYTES = 80  # of a damaged line, in a message


class History:
    """The file `history.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self) -> list[HistoryEvent]:
        """The events that can be read, the oldest first."""
        return [event for _, event in self._lines() if event]

    def damaged_lines(self) -> list[str]:
        """What is wrong with each line that cannot be read."""
        return [
            f"{self.path}: line {number} is damaged and left out: {line[:SHOWN_BYTES]!r}"
            for number, (line, event) in enumerate(self._lines(), start=1)
            if not event
        ]

    def append(self, event: HistoryEvent) -> None:
        """Append an event, on a line of its own even after one that a crash has cut short.

        The caller is the only writer; see `ModelDirectory.writing`.
        """
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")
            file.write(_line(event).encode())
            file.flush()
            fsync_descriptor(file.fileno())
        fsync(self.path.parent)

    def replace(self, events: Iterable[HistoryEvent]) -> Path:
        """Write the file anew with these events, and move damaged lines to a file beside it, which is returned."""
        aside = self.path.with_suffix(".damaged")
        if damaged := [line for line, event in self._lines() if not event]:
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
                file.flush()
                fsync_descriptor(file.fileno())
        text = "".join(map(_line, events))
        write_atomically(self.path, lambda temporary: write_text(temporary, text))
        return aside

    def _lines(self) -> list[tuple[bytes, HistoryEvent | None]]:
        """The bytes and the event of each line; the event of a damaged line is None."""
        if not self.path.exists():
            return []
        with explained_read_errors(self.path):
            content = self.path.read_bytes()
        if not content:  # not a line that is empty
            return []
        return [(line, _event(line)) for line in content.removesuffix(b"\n").split(b"\n")]


class ChampionHistory:
    """What the events say about each version.

    Attributes:
        events: the history, the oldest event first.
        moves: for each version that was ever champion, by number, the event that first made it champion.
        lost_files: for each version the documents that a repair could not restore.
    """

    def __init__(self, events: list[HistoryEvent]) -> None:
        self.events = events
        self.moves: dict[int, HistoryEvent] = {}
        self.lost_files: dict[int, set[str]] = {}
        for event in events:
            if event.to is not None:
                self.moves.setdefault(event.to, event)
            elif event.event == "lost" and event.version is not None:
                self.lost_files.setdefault(event.version, set()).update(event.files)

    @property
    def last_move(self) -> HistoryEvent | None:
        """The last event that moved or removed the champion link."""
        return next((event for event in reversed(self.events) if event.is_move), None)

    @property
    def champion(self) -> int | None:
        """The champion's number after the last move."""
        return self.last_move.to if self.last_move else None

    @property
    def retired(self) -> int | None:
        """The champion that was retired, unless another one has followed."""
        last = self.last_move
        return last.before if last and last.event == "retired" else None

    def original(self, number: int) -> int:
        """The version that first had the files of this one, which a rollback has published again."""
        seen = set()
        while number not in seen and number in self.moves and (older := self.moves[number].restores):
            seen.add(number)
            number = older
        return number

    def champion_before(self, number: int | None) -> int | None:
        """The version that was champion before a model first became champion, whatever was rolled back since."""
        move = self.moves.get(self.original(number)) if number is not None else None
        return move.before if move else None

    def fallbacks(self, number: int | None) -> list[int]:
        """Which versions to try, in this order, if a champion cannot be used.

        First the version itself, the one whose files it has, the champion before that one, and so on; then all other
        former champions, the newest first.
        """
        chain: dict[int, None] = {}
        while number is not None and number not in chain:
            chain[number] = None
            move = self.moves.get(number)
            number = (move.restores or move.before) if move else None
        return list(dict.fromkeys([*chain, *sorted(self.moves, reverse=True)]))


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return iso_time(datetime.now(timezone.utc).timestamp())


def iso_time(timestamp: float) -> str:
    """A time in seconds since 1970 as UTC in ISO 8601, with milliseconds."""
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="milliseconds")


def promotion_event(folder: Path, time: str | None = None) -> HistoryEvent | None:
    """The event that made a version champion, from its own metadata; None if they cannot be read.

    Args:
        folder: the version's folder, or the one with the documents of a pruned version.
        time: when it became champion, by default when it was published.
    """
    try:
        metadata = Version(0, folder).metadata()
        digest = sha256(folder / METADATA)
    except (ModelError, OSError) as error:
        if not is_conclusive(error):
            raise
        return None
    if not {"replaces", "version"} <= metadata.model_fields_set:  # an older release
        return None
    names = ["event", "reason", "published_by", "run_id", "restores", "weights_sha256"]
    if metadata.restores is None:  # the approval belongs to the first promotion, not to the way back to it
        names.append("approved_by")
    fields = {name: getattr(metadata, name) for name in names if getattr(metadata, name) is not None}
    if metadata.forced:
        fields["forced"] = True
    moved = {"time": time or metadata.published, "from": metadata.replaces, "to": metadata.version}
    return _event(json.dumps({**moved, **fields, "metadata_sha256": digest}).encode())


def with_missing_moves(events: Iterable[HistoryEvent], parents: Iterable[Path]) -> Iterator[tuple[HistoryEvent, bool]]:
    """The events, and before each move those that must have led to it; each with whether the history has it.

    Args:
        events: the history, the oldest event first.
        parents: the folders that hold versions, or the documents of pruned ones.
    """
    parents = list(parents)
    previous = None
    for event in events:
        if event.is_move:
            yield from ((move, False) for move in _moves_between(previous, event.before, parents))
            previous = event.to
        yield event, True


def _moves_between(previous: int | None, number: int | None, parents: list[Path]) -> list[HistoryEvent]:
    """The moves from one champion to another, from what the versions say that they replaced; empty if unknown."""
    moves: dict[int, HistoryEvent] = {}
    while number is not None and number != previous and number not in moves:
        move = next(filter(None, (promotion_event(parent / str(number)) for parent in parents)), None)
        if move is None:
            break
        moves[number] = move
        number = move.before
    return [*reversed(moves.values())]


def _line(event: HistoryEvent) -> str:
    return json.dumps(event.to_json_value()) + "\n"


# Publishing reads the history several times, and a page at each request. A line never changes.
@lru_cache(maxsize=1 << 16)
def _event(line: bytes) -> HistoryEvent | None:
    """The event of a line, or None if the line is damaged."""
    try:
        event = HistoryEvent.parse(line)
        whole = datetime.fromisoformat(event.time).tzinfo is not None
    except ValueError:  # pydantic's own among them
        return None
    if event.is_move:
        whole = whole and "before" in event.model_fields_set
    if event.event in ("lost", "pruned"):
        whole = whole and event.version is not None
    if event.event == "lost":
        whole = whole and "files" in event.model_fields_set
    return event if whole else None
