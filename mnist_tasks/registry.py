"""The model directory: complete numbered versions, a `champion` link to the approved one, and the history of the link.

    models/1/ 2/ 3/ ...     a version: model.keras, metadata.json, evaluation.json, decision.json; never changed
    models/champion -> 3    relative link, moved in one step
    models/history.jsonl    one line for each move: when, from, to, why, by which run

A reader who follows `champion` finds a complete model at every instant: a version is filled in a hidden folder, brought
to the disk and renamed; only then does the link move. TF Serving can read this folder, as it skips all names that are
no integers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_tasks.errors import ModelError
from mnist_tasks.files import fsync, new_folder, remove_staging_folders, sha256, write_json

log = logging.getLogger(__name__)

MODEL = "model.keras"


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
        path = self.folder / "metadata.json"
        try:
            metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"version {self.number} is damaged: {path}: {error}; restore it from a backup") from error
        return metadata

    def verify(self) -> None:
        """Compare the files with the digests taken when they were published.

        Raises:
            ModelError: naming the first file that is missing or has changed.
        """
        for name, expected in self.metadata()["sha256"].items():
            path = self.folder / name
            try:
                found = sha256(path)
            except OSError as error:
                raise ModelError(
                    f"version {self.number} is damaged: {path} cannot be read: {error.strerror}; restore it from a "
                    "backup, or point the champion link at another version"
                ) from error
            if found != expected:
                raise ModelError(
                    f"version {self.number} is damaged: {path} has SHA-256 {found}, but {expected} was published; "
                    "restore it from a backup, or point the champion link at another version"
                )


class ModelDirectory:
    """The versions below one folder, and the champion among them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def link(self) -> Path:
        return self.root / "champion"

    def versions(self) -> list[Version]:
        """All published versions, the oldest first."""
        if not self.root.is_dir():
            return []
        numbers = (path for path in self.root.iterdir() if path.name.isdecimal() and path.is_dir())
        return sorted((Version(int(path.name), path) for path in numbers), key=lambda version: version.number)

    def champion(self) -> Version | None:
        """The version that users load now, or None if none was ever promoted.

        Raises:
            ModelError: if the link leads to no version.
        """
        try:
            target = self.link.readlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelError(
                f"{self.link} is no link to a version: {error.strerror}; remove it or restore it"
            ) from error
        folder = self.root / target
        if not (str(target).isdecimal() and folder.is_dir()):
            raise ModelError(
                f"{self.link} leads to {str(target)!r}, which is no version in {self.root}; restore that folder, or "
                "point the link at one of " + (", ".join(str(version.number) for version in self.versions()) or "none")
            )
        return Version(int(str(target)), folder)

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
        """Each move of the champion link, the oldest first; a line that a crash cut short is left out and logged."""
        path = self.root / "history.jsonl"
        if not path.exists():
            return []
        events = []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                events.append(json.loads(line))
            except ValueError:
                log.warning("%s: line %d is damaged and left out: %r", path, number, line[:80])
        return events

    def publish(
        self,
        model: Path,
        *,
        model_sha256: str,
        run_id: str,
        replaces: int | None,
        reason: str,
        metadata: Mapping[str, Any],
        documents: Mapping[str, Any],
    ) -> Version:
        """Publish a model as the next version and make it champion. The same weights of the same run give one version.

        Args:
            model: the `.keras` file to copy.
            model_sha256: its digest when it was evaluated.
            run_id: the run that trained it.
            replaces: the champion's number that it was compared with, or None for no champion.
            reason: why it was promoted, for the history.
            metadata: what `metadata.json` holds beside version, run, time and digests; `weights_sha256` among it.
            documents: further JSON files by name.

        Raises:
            ModelError: if the file is not the one that was evaluated, or the champion is no longer `replaces`.
            OSError: if the directory is not writable or full; the champion stays.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            remove_staging_folders(self.root)
            champion, history = self.champion(), self.history()
            version = self._published_by(run_id, metadata["weights_sha256"])
            moved = version and any(event["to"] == version.number for event in history)
            if version and moved and champion and champion.number >= version.number:
                # An earlier try of this task got to the end, or a later run has taken over since.
                return version
            number = champion.number if champion else None
            if number != replaces:
                raise ModelError(
                    f"the champion is {_name(number)}, but the candidate was compared with {_name(replaces)}; "
                    "clear the evaluate task to compare them again"
                )
            if version is None:
                numbers = [known.number for known in self.versions()] + [event["to"] for event in history]
                version = self._write(max(numbers, default=0) + 1, model, model_sha256, run_id, metadata, documents)
            if not moved:
                self._record(
                    {"event": "promoted", "from": number, "to": version.number, "run_id": run_id, "reason": reason}
                )
            self._point_at(version)
            return version

    def _published_by(self, run_id: str, weights_sha256: str) -> Version | None:
        for version in reversed(self.versions()):
            metadata = version.metadata()
            if (metadata["run_id"], metadata["weights_sha256"]) == (run_id, weights_sha256):
                return version
        return None

    def _write(
        self,
        number: int,
        model: Path,
        model_sha256: str,
        run_id: str,
        metadata: Mapping[str, Any],
        documents: Mapping[str, Any],
    ) -> Version:
        with new_folder(self.root / str(number)) as staging:
            shutil.copyfile(model, staging / MODEL)
            for name, document in documents.items():
                write_json(staging / name, document)
            digests = {path.name: sha256(path) for path in sorted(staging.iterdir())}
            if digests[MODEL] != model_sha256:
                raise ModelError(
                    f"{model} has SHA-256 {digests[MODEL]}, but {model_sha256} was evaluated; clear the evaluate task"
                )
            write_json(
                staging / "metadata.json",
                {"version": number, "run_id": run_id, "published": _now(), **metadata, "sha256": digests},
            )
        return Version(number, self.root / str(number))

    def _record(self, event: Mapping[str, Any]) -> None:
        """Append an event to the history, on a line of its own even after a line that a crash cut short."""
        path = self.root / "history.jsonl"
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.write(b"\n")
            file.write(json.dumps({"time": _now(), **event}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync(self.root)

    def _point_at(self, version: Version) -> None:
        next_link = self.root / ".champion-next"
        next_link.unlink(missing_ok=True)
        next_link.symlink_to(str(version.number))
        next_link.replace(self.link)
        fsync(self.root)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _name(number: int | None) -> str:
    return "none" if number is None else f"version {number}"
