"""The model directory: complete numbered versions, a `champion` link to the approved one, and the history of the link.

    models/1/ 2/ 3/ ...     versions, never changed: a SavedModel as TF Serving loads it (saved_model.pb, variables/),
                            model.keras, model_card.md, metadata.json, evaluation.json, decision.json, history.json,
                            figures/, golden.npz (images and the probabilities they got)
    models/champion -> 3    relative link, moved in one step
    models/history.jsonl    one line for each move of the link: when, from, to, why, by which run; and for each pruning
    models/pruned/1/        what is kept of a pruned version: its documents
    models/retired/2/       versions that nobody serves: all that there were when the champion was retired

A reader who follows `champion` finds a complete model at every instant: a version is filled in a hidden folder, brought
to the disk and renamed; only then does the link move; only then is the move recorded. A crash between the last two is
no gap: `history` reads what is missing from the link itself, and the next writer records it.

TF Serving takes the children whose names are integers for versions, and serves the largest. So going back to an older
model publishes it again under a new number, as hard links; and retiring the champion moves every version below
`retired`, where TF Serving does not look. A rollback to one of those ends the retirement: they come back.

An error of reading that may pass, or that says no more than that this user has no right to read, is no verdict on what
was to be read: it goes through as the `OSError` that it is, and names the path.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_tasks.registry.model_card import model_card
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.registry.version import (
    CARD,
    DECISION,
    EVALUATION,
    METADATA,
    PRUNED,
    REPAIR,
    RETIRED,
    WAY_OUT,
    Version,
    version_name,
)
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.files import (
    atomic_folder,
    explained_read_errors,
    fsync,
    is_conclusive,
    remove_staging_folders,
    sha256,
    to_json,
    write_atomically,
    write_text,
)

log = logging.getLogger(__name__)

NUMBER = re.compile(r"[1-9][0-9]*")  # a version's folder
DAMAGED = ".damaged-"  # and before it, once it is moved aside

# What the system says where a file cannot have another name: no hard links here, too many of this one, another disk.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class Known:
    """What the history says of each version, for whoever asks about many: read once.

    Attributes:
        events: the history, the oldest event first.
        moves: of each version that was ever champion the event that first made it so, by number, in that order.
        lost: of each version the documents that could not be restored, as a repair has found.
    """

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events
        self.moves: dict[int, dict[str, Any]] = {}
        self.lost: dict[int, set[str]] = {}
        for event in events:
            if event.get("to") is not None:
                self.moves.setdefault(event["to"], event)
            elif event.get("event") == "lost":
                self.lost.setdefault(event["version"], set()).update(event["files"])

    def chain(self, number: int | None) -> list[int]:
        """A version, the version whose files it has, the champion before that one, and so on back."""
        numbers: dict[int, None] = {}
        while number is not None and number not in numbers:
            numbers[number] = None
            event = self.moves.get(number, {})
            number = event.get("restores", event.get("from"))
        return list(numbers)

    def ways_back(self, number: int | None) -> list[int]:
        """What to go to if a champion cannot be used: its chain, then all other former champions, the newest first."""
        return list(dict.fromkeys([*self.chain(number), *sorted(self.moves, reverse=True)]))

    def model(self, number: int) -> int:
        """The version that first had the files of this one."""
        seen = set()
        while number not in seen and (older := self.moves.get(number, {}).get("restores")):
            seen.add(number)
            number = older
        return number


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
        """All published versions, the oldest first; also those in `retired`."""
        found = {path.name: path for folder in (self.root / RETIRED, self.root) for path in _folders(folder)}
        return sorted((Version(int(name), path) for name, path in found.items()), key=lambda version: version.number)

    def served(self) -> list[Version]:
        """The versions that TF Serving sees, the oldest first."""
        return sorted((Version(int(path.name), path) for path in _folders(self.root)), key=lambda each: each.number)

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
            if not history and any(version.metadata().get("replaces") for version in self.served()):
                raise ModelError(
                    f"{self.link} and {self.history_path} are missing, but there are versions; run {REPAIR}"
                ) from None
            return None
        except OSError as error:
            if not is_conclusive(error):
                raise
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

    def damage(self, version: Version, *, documents: bool = True, known: Known | None = None) -> list[str]:
        """What is wrong with each file of a version that is missing, or is not the one that was published.

        `metadata.json` has the digests of the others, the history that of `metadata.json`.

        Args:
            version: the version.
            documents: whether what only people read counts as well, beside what the model needs; but for what the
                history says is lost.
            known: what the history says, for whoever asks about many versions; read if it is not given.

        Raises:
            OSError: if a file could only not be read now, or not by this user.
        """
        known = Known(self.recorded()) if known is None else known
        digest = known.moves.get(version.number, {}).get("metadata_sha256")
        if digest and (problem := version.changed(METADATA, digest)):
            return [problem]
        try:
            digests = version.metadata().get("sha256")
        except ModelError as error:
            return [str(error).removesuffix(WAY_OUT)]
        if not isinstance(digests, dict):
            return [f"version {version.number} is damaged: {version.folder / METADATA} has no digests"]
        names = [name for name in digests if documents or not is_document(name)]
        lost = known.lost.get(version.number, set())
        names = [name for name in names if name not in lost or os.path.lexists(version.folder / name)]
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
            ModelError: if a file is not the one that was evaluated, the champion is no longer `replaces`, or this model
                was published by the same try before and is retired since.
            OSError: if the directory is not writable or full. If it is raised after the link has moved, the version is
                champion: `standing` tells.
        """
        with self.writing() as history:
            known = Known(history)
            version = self._published_by(published_by, known, metadata["weights_sha256"])
            champion = self.champion()
            number = champion.number if champion else None
            move = known.moves.get(version.number) if version else None
            if version and move and (version == champion or move["from"] == replaces):
                # An earlier try of this task got to the end, or a later run has taken over since.
                if champion is None and version.retired:
                    raise ModelError(
                        f"version {version.number}, which {published_by} published, was retired and nothing is "
                        f"champion now; models rollback --to {version.number} makes it champion again"
                    )
                return version
            if number != replaces:
                raise ModelError(
                    f"the champion is {version_name(number)}, but the candidate was compared with "
                    f"{version_name(replaces)}; clear the evaluate task to compare them again"
                )
            if version is None or not self._is_leftover(version, number, known):
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
        smoke_test: Callable[[Path], None] = smoke_test,
    ) -> Version:
        """Make an older model champion again: publish its files, as hard links, as a new version.

        Args:
            to: the version to go back to, by default the one before the champion. After a rollback that is the one
                before the model that it went back to, so that each further rollback goes one further back. After the
                champion was retired it is that one, so that the retirement is undone.
            reason: why, for the history and the model card.
            published_by: the run or person who does.
            once: whether `published_by` names one attempt, such as a run id, of which a second call changes nothing.
            smoke_test: called with the version's folder; raises if it cannot be used.

        Raises:
            InputError: if the reason is empty, there is no version to go back to, or it is champion already.
            ModelError: if the version is damaged or does not pass its smoke test, before anything has changed.
            OSError: if something could not be read or written now. If it is raised after the link has moved, the new
                version is champion: `standing` tells.
        """
        _reason(reason)
        with self.writing() as history:
            known = Known(history)
            done = self._published_by(published_by, known) if once else None
            if not (done and done.number in known.moves):
                if done is None or not self._is_leftover(done, last_champion(history), known):
                    done = self.restore(self._target(to, known), known, reason, published_by, smoke_test)
                self.point_at(done)
            self.bring_back(self.came_back(self.recorded()))
            return done

    def prune(self, keep: int) -> list[int]:
        """Remove all but the newest versions; what was written about a removed one stays in `pruned/`.

        Never removed are the champion, the one before it, what a rollback would go back to, and the first whole version
        that a repair would fall back to if the champion and all that has its files were lost. After the champion was
        retired all that is the same for that one.

        Args:
            keep: how many of the newest to keep, at least 1.

        Returns:
            The numbers of the removed versions.

        Raises:
            OSError: if something could only not be read now, before anything is removed; or if a removal fails.
        """
        if keep < 1:
            raise InputError(f"keep: {keep} is less than the minimum of 1")
        with self.writing() as history:
            known, versions = Known(history), {version.number: version for version in self.versions()}
            moves = [event for event in history if "to" in event]
            previous = moves[-1]["from"] if moves else None
            champion = last_champion(history) or previous
            needed = {champion, previous, before(champion, known)}
            # The same by the champion itself, should the history have lost a line.
            if champion in versions:
                needed.add(versions[champion].metadata().get("replaces"))
            needed.add(self._fallback(champion, known, versions))
            removed = [version for version in list(versions.values())[:-keep] if version.number not in needed]
            pruned = {event["version"] for event in history if event.get("event") == "pruned"}
            for version in removed:
                self._remove(version, recorded=version.number in pruned)
            return [version.number for version in removed]

    def _fallback(self, champion: int | None, known: Known, versions: Mapping[int, Version]) -> int | None:
        """What a repair would go to if all versions with the champion's files were lost."""
        for number in known.ways_back(champion):
            if number not in versions or (champion and known.model(number) == known.model(champion)):
                continue
            if not self.damage(versions[number], documents=False, known=known):
                return number
        return None

    @contextmanager
    def writing(self) -> Iterator[list[dict[str, Any]]]:
        """Be the only writer, with leftovers of a killed one cleaned up and the history complete; gives the history."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            for folder in (self.root, self.root / PRUNED):
                remove_staging_folders(folder)
            self._complete_history()
            yield self.recorded()

    def _published_by(self, name: str, known: Known, weights_sha256: str | None = None) -> Version | None:
        """The version that a run has promoted already, with these weights, or restored; it may not be champion yet."""
        for version in reversed(self.versions()):
            # The history is enough for a version that was ever champion, even if its folder is damaged.
            said = known.moves.get(version.number, {})
            if "published_by" not in said:
                said = version.metadata()
            same = "restores" in said if weights_sha256 is None else weights_sha256 == said.get("weights_sha256")
            if said.get("published_by") == name and same:
                return version
        return None

    def _is_leftover(self, version: Version, champion: int | None, known: Known) -> bool:
        """Whether a version that a kill has left can still become champion: newest, whole, and made to replace it."""
        if version != self.versions()[-1] or version.retired or version.number in known.moves:
            return False
        return version.metadata().get("replaces") == champion and not self.damage(version, known=known)

    def _target(self, to: int | None, known: Known) -> Version:
        champion = last_champion(known.events)
        if champion is None:
            number = to or last_retired(known.events)
            if number is None:
                there = [str(version.number) for version in self.versions() if version.number in known.moves]
                way_out = f"name one of {', '.join(there)} with --to" if there else "train one with mnist_training"
                raise InputError(f"{self.root} has no champion to go back from; {way_out}")
        else:
            number = before(champion, known) if to is None else to
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
        known: Known,
        reason: str,
        published_by: str,
        smoke_test: Callable[[Path], None],
    ) -> Version:
        """Write the files of a version again as a new one, the champion's successor; for a writer."""
        self.verify(target)
        smoke_test(target.folder)
        metadata = target.metadata()
        # The card is written anew; a figure that is lost is no reason to do without the model.
        whole = {name: digest for name, digest in metadata["sha256"].items() if not target.changed(name, digest)}
        digests = {name: digest for name, digest in whole.items() if name != CARD}
        added = {
            "event": "rolled back",
            "published_by": published_by,
            "replaces": last_champion(known.events),
            "restores": metadata.get("restores", target.number),
            "reason": reason,
        }
        files = {name: target.folder / name for name in digests}
        return self._write(known.events, files, digests, {**metadata, **added}, documents={}, link=True)

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
        with atomic_folder(self.root / str(number)) as staging:
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

    def pointed_at(self) -> int | None:
        """The number that the champion link leads to, whether there is such a version or not; None if to no number."""
        target = str(self.link.readlink()) if self.link.is_symlink() else ""
        return int(target) if NUMBER.fullmatch(target) else None

    def _numbers_used(self, history: list[dict[str, Any]]) -> Iterator[int]:
        """Every number that a version has, or had."""
        yield from (event[key] for event in history for key in ("from", "to", "version") if event.get(key))
        if number := self.pointed_at():
            yield number
        # Of those that are there, whatever they are, or were pruned or moved aside, should the history be lost.
        for folder in (self.root, self.root / PRUNED, self.root / RETIRED):
            for name in [path.name for path in folder.iterdir()] if folder.is_dir() else []:
                if NUMBER.fullmatch(name):
                    yield int(name)
                elif name.startswith(DAMAGED) and (match := NUMBER.match(name.removeprefix(DAMAGED))):
                    yield int(match[0])

    def _remove(self, version: Version, *, recorded: bool) -> None:
        """Take a version away in one step, after its documents are kept and the history says so."""
        kept = self.root / PRUNED / str(version.number)
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            with atomic_folder(kept) as staging:
                for name in (METADATA, EVALUATION, DECISION, CARD, "history.json"):
                    if (version.folder / name).is_file():
                        with explained_read_errors(version.folder / name):
                            shutil.copyfile(version.folder / name, staging / name)
        if not recorded:
            self.append({"event": "pruned", "version": version.number})
        hidden = self.root / f".staging-pruned-{version.number}"
        version.folder.rename(hidden)
        fsync(version.folder.parent)
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
        return [event for event, known in self._filled(self.history()) if not known]

    def mend_history(self) -> Path:
        """Fill the gaps, and move lines that cannot be read to a file beside it, which is returned; for a writer."""
        aside = self.history_path.with_suffix(".damaged")
        if damaged := [line for _, line, event in self._lines() if not event]:
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
                file.flush()
                os.fsync(file.fileno())
        text = "".join(f"{json.dumps(event)}\n" for event, _ in self._filled(self.history()))
        write_atomically(self.history_path, lambda temporary: write_text(temporary, text))
        return aside

    def _filled(self, events: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bool]]:
        """The events and, before each move, those that lead to where it found the link; and whether it was known."""
        previous = None
        for event in events:
            if "to" in event:
                yield from ((move, False) for move in self._moves(previous, event["from"]))
                previous = event["to"]
            yield event, True

    def _moves(self, previous: int | None, number: int | None) -> list[dict[str, Any]]:
        """The moves from one champion to another by what the versions in between say they replaced; none if unknown."""
        moves: dict[int, dict[str, Any]] = {}
        while number is not None and number != previous and number not in moves:
            places = (self.root, self.root / RETIRED, self.root / PRUNED)
            move = next(filter(None, (promotion(place / str(number)) for place in places)), None)
            if move is None:
                break
            moves[number] = move
            number = move["from"]
        return [*reversed(moves.values())]

    def _damaged_line(self, number: int, line: bytes) -> str:
        return f"{self.history_path}: line {number} is damaged and left out: {line[:80]!r}"

    def _lines(self) -> list[tuple[int, bytes, dict[str, Any] | None]]:
        """The number, the bytes and the event of each line; no event if it is damaged."""
        if not self.history_path.exists():
            return []
        with explained_read_errors(self.history_path):
            content = self.history_path.read_bytes()
        lines = content.removesuffix(b"\n").split(b"\n")
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
        if event and champion.number not in Known(history).moves:
            return event
        reason = "the champion link was moved from outside"
        return {"time": time, "event": "moved by hand", "from": last, "to": champion.number, "reason": reason}

    def retire(self, reason: str, published_by: str) -> int:
        """Have no champion any more; all versions move below `retired`, where TF Serving does not look.

        The way out where no version can be used: the next candidate is then judged by the floors alone. A rollback
        undoes it. After a kill it, or a repair, ends what was begun.

        Returns:
            The number of the version that was champion.

        Raises:
            InputError: if the reason is empty, or there is no champion.
            ModelError: if there is something else than a link where the champion's should be.
        """
        _reason(reason)
        with self.writing() as history:
            number = last_champion(history)
            if number is None:
                number = last_retired(history)
                if number is None or not self.left_behind(Known(history)):
                    raise InputError(f"{self.root} has no champion")
            elif os.path.lexists(self.link) and not self.link.is_symlink():
                raise ModelError(f"{self.link} is no link to a version; run {REPAIR}, then retire")
            else:
                self.link.unlink(missing_ok=True)
                fsync(self.root)
                self.append(retirement(number, reason, published_by))
            self.set_aside(self.left_behind(Known(self.recorded())))
            return number

    def left_behind(self, known: Known) -> list[Version]:
        """The versions that TF Serving still sees although the champion was retired; none if it was not."""
        if last_retired(known.events) is None or os.path.lexists(self.link):
            return []
        # Not one that a run was killed over before it became champion.
        return [each for each in self.served() if each.number in known.moves or not self._awaits(each)]

    def _awaits(self, version: Version) -> bool:
        """Whether a version was made to be champion where there is none."""
        try:
            return version.metadata().get("replaces", 0) is None
        except ModelError:
            return False

    def came_back(self, history: list[dict[str, Any]]) -> list[Version]:
        """The versions still in `retired` although a rollback has ended the retirement; the first is to move first."""
        retired = {version.number: version for version in self.versions() if version.retired}
        known = Known(history)
        for event in reversed(history if retired else []):
            if event.get("event") == "retired":
                break
            if "restores" in event and event.get("to") not in retired:
                model = known.model(event["restores"])
                same = {number for number in retired if known.model(number) == model}
                if same:  # they are the last to come, as they are how this is known after a kill
                    return [retired[number] for number in sorted(retired, key=lambda n: (n in same, -n))]
        return []

    def set_aside(self, versions: list[Version]) -> list[Path]:
        """Move versions below `retired`, the oldest first: TF Serving serves the newest to the end; for a writer."""
        if versions:
            (self.root / RETIRED).mkdir(exist_ok=True)
        return self._move(versions, self.root / RETIRED)

    def bring_back(self, versions: list[Version]) -> list[Path]:
        """Move versions from `retired` back to where they were, beside a newer champion; for a writer."""
        return self._move(versions, self.root)

    def _move(self, versions: list[Version], folder: Path) -> list[Path]:
        """Move versions to another folder, or beside what has their name there; where they are then."""
        moved = []
        for version in versions:
            target = folder / version.folder.name
            if os.path.lexists(target):
                target = free_name(target)
            version.folder.rename(target)
            moved.append(target)
        if moved:
            for parent in (folder, versions[0].folder.parent, self.root):
                fsync(parent)
        return moved

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
        numbers = [event.get(name) for name in ("from", "to", "restores", "version")]
        whole = whole and all(number is None or (type(number) is int and number > 0) for number in numbers)
        if event.get("event") == "lost":
            whole = whole and event["version"] and all(isinstance(name, str) for name in event["files"])
        elif event.get("event") == "pruned":
            whole = whole and event["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
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
    except (ModelError, OSError) as error:
        if not is_conclusive(error):
            raise
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
    if _event(json.dumps(moved).encode()) is None:  # an older release, or somebody's hand
        return None
    return {**moved, **known, **forced, "metadata_sha256": digest}


def is_document(name: str) -> bool:
    """Whether a file of a version is for people only; the model works without it."""
    return name in (CARD, "history.json") or name.startswith("figures/")


def before(number: int | None, known: Known) -> int | None:
    """The version that was champion before a model first became champion, whatever was rolled back since."""
    if number is None:
        return None
    previous: int | None = known.moves.get(known.model(number), {}).get("from")
    return previous


def last_champion(history: list[dict[str, Any]]) -> int | None:
    """Where the last move of the link went."""
    return next((event["to"] for event in reversed(history) if "to" in event), None)


def last_retired(history: list[dict[str, Any]]) -> int | None:
    """The champion that was retired, if nothing was champion since."""
    last = next((event for event in reversed(history) if "to" in event), {})
    number: int | None = last["from"] if last.get("event") == "retired" else None
    return number


def retirement(number: int, reason: str, published_by: str) -> dict[str, Any]:
    """The event for a champion that is retired."""
    return {"event": "retired", "from": number, "to": None, "reason": reason, "published_by": published_by}


def free_name(path: Path) -> Path:
    """A name beside `path` that nothing has yet and that hides it from TF Serving."""
    aside, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{DAMAGED}{path.name}-{number}")
    return aside


def _folders(parent: Path) -> list[Path]:
    """The folders in a folder that have a version's number for a name; none if it is not there."""
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if NUMBER.fullmatch(path.name) and path.is_dir()]


def _reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("reason: a reason is needed, for those who read the history later")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        shutil.copyfile(source, target)


def _now() -> str:
    return _time(datetime.now(timezone.utc).timestamp())


def _time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="milliseconds")
