"""What the page about all models shows, read from the model directory; no web framework, no TensorFlow.

A version never changes, so its documents are cached as long as its files look the same. What cannot be read becomes a
sentence for the reader of the page, not an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from mnist_tasks.config import recipe_of
from mnist_tasks.documents import DecisionSummary, EvaluationFigures, HistoryEvent, Metadata, Notes
from mnist_tasks.registry.freshness import freshness
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.notes import FOLDER
from mnist_tasks.registry.version import DECISION, EVALUATION, METADATA, WAY_OUT, Version
from mnist_tasks.system.errors import ModelError
from mnist_ui.reading import file_signature, needed


@dataclass(frozen=True)
class VersionSummary:
    """What the list shows of a version; `damage` says why the rest is unknown.

    Nothing else of its documents is kept: thousands of checks would slow every garbage collection.
    """

    damage: str | None = None
    run_id: str | None = None
    published: str | None = None
    recipe: str | None = None
    recipe_changed: bool = False
    restores: int | None = None
    forced: bool = False
    reason: str = ""
    accuracy: float | None = None
    accuracy_95: tuple[float, float] | None = None
    loss: float | None = None
    min_accuracy: float | None = None
    change: float | None = None
    against: int | None = None
    alone: bool = False  # there was no champion

    @property
    def decision(self) -> str:
        """Why it was published, in a few words."""
        if self.restores:
            return f"version {self.restores} again"
        if self.alone:
            return "no champion before"
        return "-" if self.change is None else f"{self.change:+.4f} vs v{self.against}"


@dataclass(frozen=True)
class VersionRow:
    """One row of the list of versions."""

    number: int
    status: str
    summary: VersionSummary
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reign:
    """A period with one champion: the event that began it, and its end, which is None for the current champion."""

    event: HistoryEvent
    until: str | None


@dataclass
class Overview:
    """Everything that the page about the models shows."""

    root: Path
    champion: VersionRow | None = None
    versions: list[VersionRow] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    freshness: str = ""
    retired: HistoryEvent | None = None  # if the last champion was retired


def overview(models: ModelDirectory, runs: Path, now: datetime) -> Overview:
    """Read the model directory as it is now: the newest version and the newest champion first.

    Args:
        models: the model directory.
        runs: the folder of all runs.
        now: the time, with a time zone, for the champion's age.
    """
    found = Overview(models.root)
    champion = None
    try:
        champion = models.champion()
        fresh = freshness(models, runs)
        found.freshness = fresh.describe(now) if fresh else ""
    except (ModelError, OSError) as error:
        found.problems.append(str(error))
    found.problems += models.history_file.damaged_lines()
    moves = _moves(models)
    found.retired = moves[-1] if moves and moves[-1].event == "retired" else None
    tags = _tags(models, found.problems)
    were_champion = {event.to for event in moves}
    for version in reversed(models.versions()):
        status = "champion" if version == champion else "was champion" if version.number in were_champion else ""
        found.versions.append(replace(version_row(version, status), tags=tags.get(version.number, ())))
    found.champion = next((version for version in found.versions if version.status == "champion"), None)
    ends = [event.time for event in moves[1:]]
    found.reigns = [Reign(event, end) for event, end in zip_longest(moves, ends)][::-1]
    return found


def _tags(models: ModelDirectory, problems: list[str]) -> dict[int, tuple[str, ...]]:
    """The tags of each version that has some."""
    found = {}
    for path in sorted((models.root / FOLDER).glob("[1-9]*.json")):
        signature = file_signature(str(path))
        notes = _read_notes(path, signature)
        if isinstance(notes, str):
            problems.append(notes)
        else:
            found[int(path.stem)] = tuple(tag.name for tag in notes.tags)
    return found


@lru_cache(maxsize=10_000)
def _read_notes(path: Path, _: object) -> Notes | str:
    """Tags and notes; what is wrong with the file if it cannot be read."""
    problems: list[str] = []
    return needed(path, Notes, problems) or problems[0]


def _moves(models: ModelDirectory) -> list[HistoryEvent]:
    """The moves of the champion link, the oldest first."""
    return [event for event in models.history() if event.is_move]


def moves_by(run_id: str, models: ModelDirectory) -> list[HistoryEvent]:
    """The moves with which a run made a version champion, the oldest first."""
    return [event for event in _moves(models) if event.to and event.publisher == run_id]


def was_champion(number: int, models: ModelDirectory) -> bool:
    """Whether a version was ever champion. One that was left behind when its task was killed was not."""
    return any(event.to == number for event in _moves(models))


def version_row(version: Version, status: str) -> VersionRow:
    """One version's row. The documents are read again only if their time, size or inode has changed."""
    signature = tuple(file_signature(f"{version.folder}/{name}") for name in (METADATA, EVALUATION, DECISION))
    return VersionRow(version.number, status, _read_version(version, signature))


@lru_cache(maxsize=10_000)
def _read_version(version: Version, _: object) -> VersionSummary:
    problems: list[str] = []
    metadata = needed(version.folder / METADATA, Metadata, problems)
    evaluation = needed(version.folder / EVALUATION, EvaluationFigures, problems)
    decision = needed(version.folder / DECISION, DecisionSummary, problems)
    if not (metadata and evaluation and decision):
        return VersionSummary(damage=f"version {version.number} is damaged: {'; '.join(problems)}{WAY_OUT}")
    recipe, changes = recipe_of(metadata.config) if metadata.config else (None, {})
    return VersionSummary(
        run_id=metadata.run_id,
        published=metadata.published,
        recipe=recipe,
        recipe_changed=bool(changes),
        restores=metadata.restores,
        forced=metadata.forced or decision.forced,
        reason=decision.reason,
        accuracy=evaluation.candidate.accuracy,
        accuracy_95=evaluation.candidate.accuracy_95,
        loss=evaluation.candidate.loss,
        min_accuracy=decision.min_accuracy,
        change=decision.change,
        against=decision.champion_version,
        alone=decision.champion_version is None and "champion_version" in decision.model_fields_set,
    )
