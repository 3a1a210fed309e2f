"""The model directory: complete numbered versions, a `champion` link to the approved one, and the history of the link.

    models/1/ 2/ 3/ ...     versions, never changed: a SavedModel as TF Serving loads it (saved_model.pb, variables/),
                            model.keras, model_card.md, metadata.json, evaluation.json, decision.json, history.json,
                            figures/, golden.npz (images and the probabilities they got)
    models/champion -> 3    relative link, moved in one step
    models/history.jsonl    one line for each move of the link: when, from, to, why, by which run; and for each pruning
    models/pruned/1/        what is kept of a pruned version: its documents

A reader who follows `champion` finds a complete model at every instant: a version is filled in a hidden folder, brought
to the disk and renamed; only then does the link move; only then is the move recorded. A crash between the last two is
no gap: `history` reads what is missing from the link itself, and the next writer records it.

TF Serving takes the children whose names are integers for versions, and serves the largest. So going back to an older
model publishes it again under a new number, as hard links.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_tasks.errors import InputError, ModelError
from mnist_tasks.files import fsync, new_folder, remove_staging_folders, sha256, to_json, write_atomically, write_text
from mnist_tasks.load_test import load_test
from mnist_tasks.model_card import model_card

log = logging.getLogger(__name__)

MODEL, SAVED_MODEL, GOLDEN = "model.keras", "saved_model", "golden.npz"
METADATA, EVALUATION, DECISION, CARD = "metadata.json", "evaluation.json", "decision.json", "model_card.md"

NUMBER = re.compile(r"[1-9][0-9]*")  # a version's folder
DAMAGED = ".damaged-"  # and before it, once it is moved aside

REPAIR = "python -m mnist_tasks models repair"
WAY_OUT = f"; restore it from a backup, or run {REPAIR}"


@dataclass(frozen=True)
class Version:
    """One published model: a positive number and its folder."""

    number: int
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    def metadata(self) -> dict[str, Any]:
        """What `metadata.json` says: run, configuration, dataset, digests of files and weights, library versions.

        Raises:
            ModelError: if it cannot be read.
        """
        return self._document(METADATA)

    def evaluation(self) -> dict[str, Any]:
        """What `evaluation.json` says; raises a `ModelError` if it cannot be read."""
        return self._document(EVALUATION)

    def decision(self) -> dict[str, Any]:
        """What `decision.json` says; raises a `ModelError` if it cannot be read."""
        return self._document(DECISION)

    def card(self) -> str:
        """The model card, Markdown; raises a `ModelError` if it cannot be read."""
        path = self.folder / CARD
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(f"version {self.number} is damaged: {path} cannot be read: {error}{WAY_OUT}") from error

    def _document(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(document, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError) as error:
            raise ModelError(f"version {self.number} is damaged: {path} cannot be read: {error}{WAY_OUT}") from error
        return document

    def changed(self, name: str, digest: str) -> str | None:
        """What is wrong with one of its files if it is not the one that was published with this digest."""
        path = self.folder / name
        try:
            found = sha256(path)
        except OSError as error:
            return f"version {self.number} is damaged: {path} cannot be read: {error.strerror}"
        if found == digest:
            return None
        return f"version {self.number} is damaged: {path} has SHA-256 {found}, but {digest} was published"


class ModelDirectory:
    """The versions below one folder, and the champion among them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def link(self) -> Path:
        return self.root / "champion"

    @property
    def history_path(self) -> Path:
        return self.root / "history.jsonl"

    def versions(self) -> list[Version]:
        """All published versions, the oldest first."""
        if not self.root.is_dir():
            return []
        numbers = (path for path in self.root.iterdir() if NUMBER.fullmatch(path.name) and path.is_dir())
        return sorted((Version(int(path.name), path) for path in numbers), key=lambda version: version.number)

    def champion(self) -> Version | None:
        """The version that users load now, or None if none was ever promoted.

        Raises:
            ModelError: if the link leads to no version, or is missing although the history knows a champion.
        """
        try:
            target = self.link.readlink()
        except FileNotFoundError:
            history = self.recorded()
            if number := last_champion(history):
                raise ModelError(
                    f"{self.link} is missing, but version {number} is champion by the history; run {REPAIR}"
                ) from None
            if not history and any(version.metadata().get("replaces") for version in self.versions()):
                raise ModelError(
                    f"{self.link} and {self.history_path} are missing, but there are versions; run {REPAIR}"
                ) from None
            return None
        except OSError as error:
            raise ModelError(f"{self.link} is no link to a version: {error.strerror}; run {REPAIR}") from error
        folder = self.root / target
        if not (NUMBER.fullmatch(str(target)) and folder.is_dir()):
            raise ModelError(
                f"{self.link} leads to {str(target)!r}, which is no version in {self.root}; restore it, or run {REPAIR}"
            )
        return Version(int(str(target)), folder)

    def standing(self) -> str:
        """Who is champion at this moment, as a clause of a message: looked up, never assumed."""
        try:
            champion = self.champion()
        except (ModelError, OSError) as error:
            return f"who is champion cannot be said: {error}"
        return f"version {champion.number} is champion" if champion else "there is no champion"

    def version(self, name: str) -> Version:
        """The version with the given number, or that of the champion if `name` is `champion`.

        Raises:
            ModelError: if there is no such version.
        """
        versions = {str(version.number): version for version in self.versions()}
        found = self.champion() if name == "champion" else versions.get(name)
        if not found:
            raise ModelError(f"{self.root} has no version {name}; it has " + (", ".join(versions) or "none"))
        return found

    def history(self) -> list[dict[str, Any]]:
        """Each move of the champion link and each pruning, the oldest first.

        A move that is not recorded yet, after a crash or one by hand, is the last event; a damaged line is left out and
        logged.
        """
        for problem in self.damaged_lines():
            log.warning("%s; run %s", problem, REPAIR)
        events = self.recorded()
        move = self._unrecorded_move(events)
        return [*events, move] if move else events

    def who_was_champion(self, at: datetime) -> int | None:
        """The number of the version that was champion at a time (with a time zone), or None if there was none."""
        moves = [event for event in self.history() if "to" in event and datetime.fromisoformat(event["time"]) <= at]
        return last_champion(moves)

    def damage(self, version: Version, *, documents: bool = True) -> list[str]:
        """What is wrong with each file of a version that is missing, or is not the one that was published.

        `metadata.json` has the digests of the others, the history that of `metadata.json`.

        Args:
            version: the version.
            documents: whether what only people read counts as well, beside what the model needs.
        """
        digest = first_move(version.number, self.recorded()).get("metadata_sha256")
        if digest and (problem := version.changed(METADATA, digest)):
            return [problem]
        try:
            digests = version.metadata().get("sha256")
        except ModelError as error:
            return [str(error).removesuffix(WAY_OUT)]
        if not isinstance(digests, dict):
            return [f"version {version.number} is damaged: {version.folder / METADATA} has no digests"]
        names = [name for name in digests if documents or not is_document(name)]
        return [problem for name in names if (problem := version.changed(name, digests[name]))]

    def verify(self, version: Version) -> None:
        """Compare the files that a version's model needs with the digests taken when they were published.

        Raises:
            ModelError: naming the first file that is missing or has changed.
        """
        if problems := self.damage(version, documents=False):
            raise ModelError(f"{problems[0]}{WAY_OUT}")

    def publish(
        self,
        files: Mapping[str, Path],
        digests: Mapping[str, str],
        *,
        published_by: str,
        replaces: int | None,
        reason: str,
        metadata: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        decision: Mapping[str, Any],
    ) -> Version:
        """Publish a model as the next version and make it champion. The same weights of the same run give one version.

        Args:
            files: the files to copy, by their path in the version.
            digests: their SHA-256 when they were evaluated, by the same paths.
            published_by: the run that publishes.
            replaces: the champion's number that it was compared with, or None for no champion.
            reason: why it was promoted, for the history.
            metadata: what `metadata.json` holds beside what publishing adds; `run_id` and `weights_sha256` among it.
            evaluation: for `evaluation.json`.
            decision: for `decision.json`.

        Raises:
            ModelError: if a file is not the one that was evaluated, or the champion is no longer `replaces`.
            OSError: if the directory is not writable or full; the champion stays.
        """
        with self.writing() as history:
            version = self._published_by(published_by, history, metadata["weights_sha256"])
            champion = self.champion()
            number = champion.number if champion else None
            move = first_move(version.number, history) if version else {}
            if version and move and (version == champion or move["from"] == replaces):
                # An earlier try of this task got to the end, or a later run has taken over since.
                return version
            if number != replaces:
                raise ModelError(
                    f"the champion is {version_name(number)}, but the candidate was compared with "
                    f"{version_name(replaces)}; clear the evaluate task to compare them again"
                )
            if version is None or not self._is_leftover(version, number):
                event = "forced" if decision["forced"] else "promoted"
                added = {"event": event, "published_by": published_by, "replaces": replaces, "reason": reason}
                documents = {EVALUATION: evaluation, DECISION: decision}
                version = self._write(history, files, digests, {**metadata, **added}, documents)
            self.point_at(version)
            return version

    def rollback(
        self,
        to: int | None = None,
        *,
        reason: str,
        published_by: str,
        once: bool = False,
        load_test: Callable[[Path], None] = load_test,
    ) -> Version:
        """Make an older model champion again: publish its files, as hard links, as a new version.

        Args:
            to: the version to go back to, by default the one before the champion. After a rollback that is the one
                before the model that it went back to, so that each further rollback goes one further back.
            reason: why, for the history and the model card.
            published_by: the run or person who does.
            once: whether `published_by` names one attempt, such as a run id, of which a second call changes nothing.
            load_test: called with the version's folder; raises if it cannot be used.

        Raises:
            InputError: if the reason is empty, there is no version to go back to, or it is champion already.
            ModelError: if the version is damaged or does not pass its load test; the champion stays.
        """
        if not reason.strip():
            raise InputError("reason: a reason is needed, for those who read the history later")
        with self.writing() as history:
            done = self._published_by(published_by, history) if once else None
            if done and first_move(done.number, history):
                return done
            if done is None or not self._is_leftover(done, last_champion(history)):
                done = self.restore(self._target(to, history), history, reason, published_by, load_test)
            self.point_at(done)
            return done

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest versions; what was written about a removed one stays in `pruned/`.

        The champion, the one before it and what a rollback would go back to are never removed.

        Args:
            keep: how many of the newest to keep, at least 1.

        Returns:
            The numbers of the removed versions.
        """
        if keep < 1:
            raise InputError(f"keep: {keep} is less than the minimum of 1")
        with self.writing() as history:
            champion = last_champion(history)
            moves = [event for event in history if "to" in event]
            needed = {champion, moves[-1]["from"] if moves else None, before(champion, history)}
            # The same by the champion itself, should the history have lost a line.
            needed |= {version.metadata().get("replaces") for version in self.versions() if version.number == champion}
            removed = [version for version in self.versions()[:-keep] if version.number not in needed]
            for version in removed:
                self._remove(version, history)
            return [version.number for version in removed]

    @contextmanager
    def writing(self) -> Iterator[list[dict[str, Any]]]:
        """Be the only writer, with leftovers of a killed one cleaned up and the history complete; gives the history."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for folder in (self.root, self.root / "pruned"):
                remove_staging_folders(folder)
            self._complete_history()
            yield self.recorded()

    def _published_by(
        self, name: str, history: list[dict[str, Any]], weights_sha256: str | None = None
    ) -> Version | None:
        """The version that a run has promoted already, with these weights, or restored; it may not be champion yet."""
        for version in reversed(self.versions()):
            # The history is enough for a version that was ever champion, even if its folder is damaged.
            known = first_move(version.number, history)
            if "published_by" not in known:
                known = version.metadata()
            same = "restores" in known if weights_sha256 is None else weights_sha256 == known.get("weights_sha256")
            if known.get("published_by") == name and same:
                return version
        return None

    def _is_leftover(self, version: Version, champion: int | None) -> bool:
        """Whether a version that a kill has left can still become champion: newest, whole, and made to replace it."""
        newest = version == self.versions()[-1] and not first_move(version.number, self.recorded())
        return newest and version.metadata().get("replaces") == champion and not self.damage(version)

    def _target(self, to: int | None, history: list[dict[str, Any]]) -> Version:
        champion = last_champion(history)
        number = before(champion, history) if to is None else to
        if champion is None:
            raise InputError(f"{self.root} has no champion yet to go back from; train one with mnist_training")
        if number is None:
            raise InputError(
                f"there is no version before the champion, {version_name(champion)}, to go back to; name another one"
            )
        if number == champion:
            raise InputError(f"version {number} is champion already; name another one")
        return self.version(str(number))

    def restore(
        self,
        target: Version,
        history: list[dict[str, Any]],
        reason: str,
        published_by: str,
        load_test: Callable[[Path], None],
    ) -> Version:
        """Write the files of a version again as a new one, the champion's successor; for a writer."""
        self.verify(target)
        load_test(target.folder)
        metadata = target.metadata()
        # The card is written anew; a figure that is lost is no reason to do without the model.
        whole = {name: digest for name, digest in metadata["sha256"].items() if not target.changed(name, digest)}
        digests = {name: digest for name, digest in whole.items() if name != CARD}
        added = {
            "event": "rolled back",
            "published_by": published_by,
            "replaces": last_champion(history),
            "restores": metadata.get("restores", target.number),
            "reason": reason,
        }
        files = {name: target.folder / name for name in digests}
        return self._write(history, files, digests, {**metadata, **added}, documents={}, link=True)

    def _write(
        self,
        history: list[dict[str, Any]],
        files: Mapping[str, Path],
        digests: Mapping[str, str],
        metadata: Mapping[str, Any],
        documents: Mapping[str, Mapping[str, Any]],
        *,
        link: bool = False,
    ) -> Version:
        """Fill the next version's folder: files that are copied or linked, documents, the card and the metadata."""
        number = 1 + max(self._numbers_used(history), default=0)
        with new_folder(self.root / str(number)) as staging:
            new = Version(number, staging)
            if DECISION in documents:
                documents = {**documents, DECISION: {**documents[DECISION], "version": number}}
            for name, path in files.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(path, staging / name) if link else shutil.copyfile(path, staging / name)
                if (found := sha256(staging / name)) != digests[name]:
                    raise ModelError(
                        f"{path} has SHA-256 {found}, but {digests[name]} was evaluated; clear the evaluate task"
                    )
            for name, document in documents.items():
                (staging / name).write_text(to_json(document), encoding="utf-8")
            metadata = {**metadata, "version": number, "published": _now()}
            (staging / CARD).write_text(model_card(metadata, new.evaluation(), new.decision()), encoding="utf-8")
            written = {name: sha256(staging / name) for name in (*documents, CARD)}
            metadata["sha256"] = dict(sorted({**digests, **written}.items()))
            (staging / METADATA).write_text(to_json(metadata), encoding="utf-8")
        return Version(number, self.root / str(number))

    def _numbers_used(self, history: list[dict[str, Any]]) -> Iterator[int]:
        """Every number that a version has, or had."""
        yield from (version.number for version in self.versions())
        yield from (event[key] for event in history for key in ("to", "version") if event.get(key))
        # Of those that were pruned or moved aside, should the history be lost.
        gone = [*self.root.glob("pruned/*"), *self.root.glob(f"{DAMAGED}*")]
        yield from (int(match[0]) for path in gone if (match := NUMBER.search(path.name)))

    def _remove(self, version: Version, history: list[dict[str, Any]]) -> None:
        """Take a version away in one step, after its documents are kept and the history says so."""
        kept = self.root / "pruned" / str(version.number)
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            with new_folder(kept) as staging:
                for name in (METADATA, EVALUATION, DECISION, CARD, "history.json"):
                    if (version.folder / name).exists():
                        shutil.copyfile(version.folder / name, staging / name)
        event = {"event": "pruned", "version": version.number}
        if not any(event.items() <= known.items() for known in history):
            self.append(event)
        hidden = self.root / f".staging-pruned-{version.number}"
        version.folder.rename(hidden)
        fsync(self.root)
        shutil.rmtree(hidden)

    def point_at(self, version: Version) -> None:
        """Make a version champion, in one step, and record it; for a writer."""
        next_link = self.root / ".staging-champion"
        next_link.unlink(missing_ok=True)
        next_link.symlink_to(str(version.number))
        next_link.replace(self.link)
        fsync(self.root)
        self._complete_history()

    def recorded(self) -> list[dict[str, Any]]:
        """The events of the history that can be read."""
        return [event for _, _, event in self._lines() if event]

    def damaged_lines(self) -> list[str]:
        """What is wrong with each line of the history that cannot be read."""
        return [self._damaged_line(number, line) for number, line, event in self._lines() if not event]

    def gaps(self) -> list[dict[str, Any]]:
        """The moves that the history lacks, as the versions that were published tell them."""
        events = self.history()
        return [event for event in self._filled(events) if event not in events]

    def mend_history(self) -> Path:
        """Fill the gaps, and move lines that cannot be read to a file beside it, which is returned; for a writer."""
        aside = self.history_path.with_suffix(".damaged")
        if damaged := [line for _, line, event in self._lines() if not event]:
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
                file.flush()
                os.fsync(file.fileno())
        text = "".join(f"{json.dumps(event)}\n" for event in self._filled(self.history()))
        write_atomically(self.history_path, lambda temporary: write_text(temporary, text))
        return aside

    def _filled(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events, with the moves between that lead from where the link was to where the next move found it."""
        filled: list[dict[str, Any]] = []
        previous = None
        for event in events:
            if "to" in event:
                filled += self._moves(previous, event["from"])
                previous = event["to"]
            filled.append(event)
        return filled

    def _moves(self, previous: int | None, number: int | None) -> list[dict[str, Any]]:
        """The moves from one champion to another by what the versions in between say they replaced; none if unknown."""
        moves: list[dict[str, Any]] = []
        while number is not None and number != previous and number not in [move["to"] for move in moves]:
            folders = (self.root / str(number), self.root / "pruned" / str(number))
            move = next(filter(None, map(promotion, folders)), None)
            if move is None:
                break
            moves.insert(0, move)
            number = move["from"]
        return moves

    def _damaged_line(self, number: int, line: bytes) -> str:
        return f"{self.history_path}: line {number} is damaged and left out: {line[:80]!r}"

    def _lines(self) -> list[tuple[int, bytes, dict[str, Any] | None]]:
        """The number, the bytes and the event of each line; no event if it is damaged."""
        if not self.history_path.exists():
            return []
        lines = self.history_path.read_bytes().removesuffix(b"\n").split(b"\n")
        return [(number, line, _event(line)) for number, line in enumerate(lines, start=1)]

    def _unrecorded_move(self, history: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The event of the move that the link shows and the history has not got, or None if it has."""
        last = last_champion(history)
        try:
            champion = self.champion()
        except ModelError:
            return None
        if champion is None or champion.number == last:
            return None
        time = _time(self.link.lstat().st_mtime)
        event = promotion(champion.folder, time)
        if event and not first_move(champion.number, history):
            return event
        reason = "the champion link was moved from outside"
        return {"time": time, "event": "moved by hand", "from": last, "to": champion.number, "reason": reason}

    def retire(self, reason: str, published_by: str) -> int:
        """Have no champion any more; the versions stay. Returns the number of the last one.

        The way out where no version can be used: the next candidate is then judged by the floors alone.
        """
        if not reason.strip():
            raise InputError("reason: a reason is needed, for those who read the history later")
        with self.writing() as history:
            number = last_champion(history)
            if number is None:
                raise InputError(f"{self.root} has no champion")
            self.link.unlink(missing_ok=True)
            fsync(self.root)
            event = {"event": "retired", "from": number, "to": None, "reason": reason, "published_by": published_by}
            self.append(event)
            return number

    def _complete_history(self) -> None:
        if move := self._unrecorded_move(self.recorded()):
            self.append(move)

    def append(self, event: Mapping[str, Any]) -> None:
        """Append an event to the history, on a line of its own even after one that a crash cut short; for a writer."""
        with self.history_path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")
            file.write(json.dumps({"time": _now(), **event}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync(self.root)


def _event(line: bytes) -> dict[str, Any] | None:
    """An event of the history, or None if the line is damaged."""
    try:
        event: dict[str, Any] = json.loads(line)
        whole = datetime.fromisoformat(event["time"]).tzinfo and ("from" in event or "to" not in event)
    except (ValueError, TypeError, KeyError):
        return None
    return event if whole else None


def promotion(folder: Path, time: str | None = None) -> dict[str, Any] | None:
    """The event that made a version champion, by its own metadata; None if they cannot be read.

    Args:
        folder: the version's, or that of what is kept of a pruned one.
        time: when it became champion, by default when it was published.
    """
    version = Version(0, folder)
    try:
        metadata = version.metadata()
        digest = sha256(folder / METADATA)
    except (ModelError, OSError):
        return None
    names = ["event", "reason", "published_by", "run_id", "restores", "weights_sha256"]
    if "restores" not in metadata:  # what was approved is the first promotion, not the way back to it
        names.append("approved_by")
    known = {name: metadata[name] for name in names if metadata.get(name) is not None}
    forced = {"forced": True} if metadata.get("forced") else {}
    try:
        moved = {"time": time or metadata["published"], "from": metadata["replaces"], "to": metadata["version"]}
    except KeyError:
        return None
    return {**moved, **known, **forced, "metadata_sha256": digest}


def is_document(name: str) -> bool:
    """Whether a file of a version is for people only; the model works without it."""
    return name in (CARD, "history.json") or name.startswith("figures/")


def first_move(number: int | None, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The event that first made a version champion; empty if none is known."""
    return next((event for event in history if number is not None and event.get("to") == number), {})


def before(number: int | None, history: list[dict[str, Any]]) -> int | None:
    """The version that was champion before a model first became champion, whatever was rolled back since."""
    event = first_move(number, history)
    if "restores" in event:
        return before(event["restores"], history)
    previous: int | None = event.get("from")
    return previous


def last_champion(history: list[dict[str, Any]]) -> int | None:
    """Where the last move of the link went."""
    return next((event["to"] for event in reversed(history) if "to" in event), None)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links, or with too many of this one
        shutil.copyfile(source, target)


def _now() -> str:
    return _time(datetime.now(timezone.utc).timestamp())


def _time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="milliseconds")


def version_name(number: int | None) -> str:
    return "none" if number is None else f"version {number}"
