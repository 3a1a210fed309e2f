"""What the pages show, read from the model directory and the runs' folders; no web framework, no TensorFlow.

A version never changes, so its documents are cached as long as its files look the same. What cannot be read becomes a
sentence for the reader of the page, not an exception. No file is read through a link that leads out of the folder of
all versions or of all runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from mnist_tasks.documents import (
    Check,
    DatasetDescription,
    DecisionRecord,
    Epoch,
    Evaluation,
    HistoryEvent,
    JsonFile,
    Metadata,
    ModelEvaluation,
    Training,
    TrainingHistory,
    ValidationReport,
)
from mnist_tasks.registry.freshness import freshness
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import DECISION, EVALUATION, METADATA, WAY_OUT, Version
from mnist_tasks.system.errors import ModelError

FIGURES = {
    "recall.png": "Recall of each digit: the candidate's and the champion's. The table of the digits has the numbers.",
    "mistakes.png": "The test images that were mistaken with the highest probability, each with its true and its "
    "predicted digit. The list below has the same in words.",
    "training.png": "Loss and accuracy of each epoch. The table of the epochs has the numbers.",
    "calibration.png": "How often the model is right where it is so sure",
    "lost.png": "Test images that only the champion gets right",
    "gained.png": "Test images that only the candidate gets right",
    "suspects.png": "Training images whose label is doubted most",
}

# What the task load draws of the data, in a folder of its own.
MEANS = "means.png"
MEANS_TEXT = "The mean image of each digit in the training set, from 0 on the left to 9 on the right."
SHEET = re.compile(r"batch-[0-9]{2,6}\.png")
SHEET_TEXT = (
    "Contact sheet of the batch {}: a row for each digit, from 0 to 9, with images that have this label. The "
    "framed ones have a doubtful label."
)

T = TypeVar("T", bound=JsonFile)


@dataclass(frozen=True)
class VersionSummary:
    """What the list shows of a version; `damage` says why the rest is unknown.

    Nothing else of its documents is kept: thousands of checks would slow every garbage collection.
    """

    damage: str | None = None
    run_id: str | None = None
    published: str | None = None
    architecture: str | None = None
    restores: int | None = None
    forced: bool = False
    reason: str = ""
    accuracy: float | None = None
    accuracy_95: tuple[float, float] | None = None
    loss: float | None = None
    min_accuracy: float | None = None


@dataclass(frozen=True)
class VersionRow:
    """One row of the list of versions."""

    number: int
    status: str
    summary: VersionSummary


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
    were_champion = {event.to for event in moves}
    for version in reversed(models.versions()):
        status = "champion" if version == champion else "was champion" if version.number in were_champion else ""
        found.versions.append(version_row(version, status))
    found.champion = next((version for version in found.versions if version.status == "champion"), None)
    ends = [event.time for event in moves[1:]]
    found.reigns = [Reign(event, end) for event, end in zip_longest(moves, ends)][::-1]
    return found


def _moves(models: ModelDirectory) -> list[HistoryEvent]:
    """The moves of the champion link, the oldest first."""
    return [event for event in models.history() if event.is_move]


def moves_by(run_id: str, models: ModelDirectory) -> list[HistoryEvent]:
    """The moves with which a run made a version champion, the oldest first."""
    # An older release wrote only the run.
    return [event for event in _moves(models) if event.to and (event.published_by or event.run_id) == run_id]


def was_champion(number: int, models: ModelDirectory) -> bool:
    """Whether a version was ever champion. One that was left behind when its task was killed was not."""
    return any(event.to == number for event in _moves(models))


def version_row(version: Version, status: str) -> VersionRow:
    """One version's row. The documents are read again only if their time, size or inode has changed."""
    signature = tuple(_file_signature(f"{version.folder}/{name}") for name in (METADATA, EVALUATION, DECISION))
    return VersionRow(version.number, status, _read_version(version, signature))


@lru_cache(maxsize=10_000)
def _read_version(version: Version, _: object) -> VersionSummary:
    problems: list[str] = []
    metadata = _needed(version.folder / METADATA, Metadata, problems)
    evaluation = _needed(version.folder / EVALUATION, Evaluation, problems)
    decision = _needed(version.folder / DECISION, DecisionRecord, problems)
    if not (metadata and evaluation and decision):
        return VersionSummary(damage=f"version {version.number} is damaged: {'; '.join(problems)}{WAY_OUT}")
    return VersionSummary(
        run_id=metadata.run_id,
        published=metadata.published,
        architecture=metadata.config.get("architecture"),
        restores=metadata.restores,
        forced=metadata.forced or decision.forced,
        reason=decision.reason,
        accuracy=evaluation.candidate.accuracy,
        accuracy_95=evaluation.candidate.accuracy_95,
        loss=evaluation.candidate.loss,
        min_accuracy=decision.min_accuracy,
    )


def _file_signature(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, and there are thousands
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


CLOSEST_CHECKS = 5


@dataclass
class Report:
    """Everything that the page about one candidate shows: the content of its folder, and the problems with it."""

    folder: Path
    training: Training | None = None
    history: list[Epoch] = field(default_factory=list)
    evaluation: Evaluation | None = None
    decision: DecisionRecord | None = None
    data: ValidationReport | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """The checks of the decision: the failed ones first, integrity last."""
        checks = self.decision.checks if self.decision else []
        return sorted(checks, key=lambda check: (check.verdict != "failed", check.rule == "integrity"))

    @property
    def closest_checks(self) -> list[Check]:
        """The passed checks that are closest to their bounds, relative to the room that the bound leaves."""
        measured = [check for check in self.checks if check.verdict == "passed" and check.rule != "integrity"]
        rooms = [(room, check) for check in measured if (room := _room(check)) is not None]
        return [check for _, check in sorted(rooms, key=lambda pair: pair[0])[:CLOSEST_CHECKS]]

    @property
    def models(self) -> dict[str, ModelEvaluation]:
        """The metrics of candidate and champion, without a model that could not be measured."""
        if self.evaluation is None:
            return {}
        found = {"candidate": self.evaluation.candidate, "champion": self.evaluation.champion}
        return {name: metrics for name, metrics in found.items() if metrics and metrics.accuracy is not None}

    @property
    def on_mnist(self) -> dict[str, float | None]:
        """The accuracy of these models on MNIST's own test set; empty if that was the test set or was not measured."""
        measured = {name: metrics.mnist for name, metrics in self.models.items()}
        apart = any(mnist.is_test_set is False for mnist in measured.values())
        return {name: mnist.accuracy for name, mnist in measured.items()} if apart else {}


def _room(check: Check) -> float | None:
    """How far a value is from its bound: 1 if a share is perfect or a change is nothing."""
    if check.value is None or check.bound is None:
        return None
    whole = 1 - check.bound if check.rule.startswith("min_") else abs(check.bound)
    return abs(check.value - check.bound) / whole if whole else None


def report(folder: Path, datasets: Path, training: str = "training.json") -> Report:
    """Read what there is about a candidate in a run's folder, even of a run that has not ended, or in a version's.

    Args:
        folder: the run's folder, or that of a version.
        datasets: the folder of all datasets.
        training: the name of the file that describes the training.
    """
    found = Report(folder)
    found.training = _read(folder / training, Training, found.problems)
    epochs = _read(folder / "history.json", TrainingHistory, found.problems)
    found.history = epochs.root if epochs else []
    found.evaluation = _read(folder / EVALUATION, Evaluation, found.problems)
    found.decision = _read(folder / DECISION, DecisionRecord, found.problems)
    if found.training and re.fullmatch("[0-9a-f]{64}", found.training.dataset or ""):
        description = _read(datasets / str(found.training.dataset) / "dataset.json", DatasetDescription, [])
        found.dataset = description.to_json_value() if description else {}
    found.data = _read(folder / "data" / "validation.json", ValidationReport, found.problems)
    batches = found.data.batches if found.data else []
    sheets = {batch.picture: SHEET_TEXT.format(batch.name) for batch in batches if batch.picture}
    texts = {**FIGURES, MEANS: MEANS_TEXT, **sheets}
    found.figures = {name: text for name, text in texts.items() if figure(folder, name)}
    return found


def figure(folder: Path, name: str) -> Path | None:
    """The file of a figure of a candidate or of its data; None if there is none."""
    of_data = name == MEANS or SHEET.fullmatch(name)
    path = folder / ("data" if of_data else "figures") / name
    return path if (of_data or name in FIGURES) and plain_file(path, folder.parent) else None


def damage(models: ModelDirectory, version: Version) -> list[str]:
    """The problems with a version's files. They are not read if one of them is a link to another place."""
    root = version.folder.parent.resolve()
    for path in (version.folder, *version.folder.rglob("*")):
        if not (path.is_dir() or path.is_file()) or not path.resolve().is_relative_to(root):
            return [f"version {version.number} is damaged: {path} is not a file of the model directory{WAY_OUT}"]
    try:
        return models.damage(version)
    except OSError as error:  # this says nothing about the version
        return [f"version {version.number} cannot be checked for damage now: {error}"]
    except ValueError as error:  # a name in metadata.json that is not a possible file name
        return [f"version {version.number} is damaged: {METADATA}: {error}{WAY_OUT}"]


def plain_file(path: Path, root: Path) -> bool:
    """Whether the path is a file, and not a link to one outside of `root`."""
    if not path.is_file():
        return False
    # Resolving takes ten times as long, and there are thousands of files, of which none is a link.
    steps = takewhile(lambda step: step != root, (path, *path.parents))
    if path.is_relative_to(root) and not any(step.is_symlink() for step in steps):
        return True
    return path.resolve().is_relative_to(root.resolve())


def _needed(path: Path, kind: type[T], problems: list[str]) -> T | None:
    """Read a JSON file that must exist. If it cannot be used, return None and add the reason to the problems."""
    count = len(problems)
    content = _read(path, kind, problems)
    if content is None and len(problems) == count:
        problems.append(f"{path.name} is missing")
    return content


def _read(path: Path, kind: type[T], problems: list[str]) -> T | None:
    """Read a JSON file. Return None if it does not exist yet or cannot be used; add the reason to the problems."""
    try:
        if plain_file(path, path.parent.parent):
            return kind.parse(path.read_bytes())
        if path.exists():
            problems.append(f"{path.name} is not a file of this folder, so it is not read")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        problems.append(f"{path.name} cannot be read: {where}{first['msg']}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    return None
