"""What the pages show, read from the model directory and the runs' folders; no web framework, no TensorFlow.

A version never changes, so that what was read of it once is kept as long as its files look the same. What cannot be
read becomes a sentence for the reader of the page, not an exception. No file is read through a link that leads out of
the folder of all versions, or of all runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import DECISION, EVALUATION, METADATA, WAY_OUT, Version
from mnist_tasks.system.errors import ModelError
from mnist_ui.documents import Check, Data, Decision, Epoch, Evaluation, Metrics, Training

FIGURES = {
    "recall.png": "Recall of each digit: the candidate's and the champion's. The table of the digits has the numbers.",
    "mistakes.png": "The test images that were mistaken with the highest probability, each with its true and its "
    "predicted digit. The list below has the same in words.",
    "training.png": "Loss and accuracy of each epoch. The table of the epochs has the numbers.",
}

# What the task load draws of the data, in a folder of its own.
MEANS = "means.png"
MEANS_TEXT = "The mean image of each digit in the training set, from 0 on the left to 9 on the right."
SHEET = re.compile(r"batch-[0-9]{2,6}\.png")
SHEET_TEXT = (
    "Contact sheet of the batch {}: a row for each digit, from 0 to 9, with images that are labelled so. Framed are "
    "those of which the label is doubted."
)

T = TypeVar("T")
TRAINING = TypeAdapter(Training)
HISTORY = TypeAdapter(list[Epoch])
EVALUATED = TypeAdapter(Evaluation)
DECIDED = TypeAdapter(Decision)
LOADED = TypeAdapter(Data)
DATASET = TypeAdapter(dict[str, Any])


@dataclass(frozen=True)
class Known:
    """What the list says of a version; `damage` says why the rest is unknown.

    No more than that is kept of its documents: thousands of checks would make every garbage collection take longer.
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
class Summary:
    """A version in one row."""

    number: int
    status: str
    known: Known


@dataclass(frozen=True)
class Reign:
    """A time during which one version was champion, and the event that began it; `until` is None for today's."""

    event: dict[str, Any]
    until: str | None


@dataclass
class Overview:
    """All that the page about the models shows."""

    root: Path
    champion: Summary | None = None
    versions: list[Summary] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def overview(models: ModelDirectory) -> Overview:
    """The model directory as it is now: the newest version and the newest champion first."""
    found = Overview(models.root)
    champion = None
    try:
        champion = models.champion()
    except (ModelError, OSError) as error:
        found.problems.append(str(error))
    found.problems += models.damaged_lines()
    moves = list(_moves(models))
    were_champion = {event["to"] for event in moves}
    for version in reversed(models.versions()):
        status = "champion" if version == champion else "was champion" if version.number in were_champion else ""
        found.versions.append(summary(version, status))
    found.champion = next((version for version in found.versions if version.status == "champion"), None)
    ends = [event["time"] for event in moves[1:]]
    found.reigns = [Reign(event, end) for event, end in zip_longest(moves, ends)][::-1]
    return found


def _moves(models: ModelDirectory) -> Iterator[dict[str, Any]]:
    """The moves of the champion link, the oldest first."""
    for event in models.history():
        # An event may say anything: somebody may have written it by hand.
        if "to" in event and isinstance(event["to"], int | None):
            yield event


def published_by(run_id: str, models: ModelDirectory) -> list[int]:
    """The versions that a run made champion."""
    events = (event for event in _moves(models) if event["to"])
    # An older release wrote no more than the run.
    return [event["to"] for event in events if event.get("published_by", event.get("run_id")) == run_id]


def was_champion(number: int, models: ModelDirectory) -> bool:
    """Whether a version was ever champion: one that a kill has left is not."""
    return any(event["to"] == number for event in _moves(models))


def summary(version: Version, status: str) -> Summary:
    """One version; the documents are read again only if they look changed."""
    signature = tuple(_look(f"{version.folder}/{name}") for name in (METADATA, EVALUATION, DECISION))
    return Summary(version.number, status, _read_version(version, signature))


@lru_cache(maxsize=10_000)
def _read_version(version: Version, _: object) -> Known:
    problems: list[str] = []
    metadata = _needed(version.folder / METADATA, TRAINING, problems)
    evaluation = _needed(version.folder / EVALUATION, EVALUATED, problems)
    decision = _needed(version.folder / DECISION, DECIDED, problems)
    if not (metadata and evaluation and decision):
        return Known(damage=f"version {version.number} is damaged: {'; '.join(problems)}{WAY_OUT}")
    return Known(
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


def _look(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, and there are thousands
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass
class Report:
    """All that the page about one candidate shows: what its folder holds, and what is wrong there."""

    folder: Path
    training: Training | None = None
    history: list[Epoch] = field(default_factory=list)
    evaluation: Evaluation | None = None
    decision: Decision | None = None
    data: Data | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """The checks of the decision: the failed ones first, integrity last."""
        checks = self.decision.checks if self.decision else []
        return sorted(checks, key=lambda check: (check.verdict != "failed", check.rule == "integrity"))

    @property
    def models(self) -> dict[str, Metrics]:
        """The metrics of the candidate and of the champion, of those that could be measured."""
        if self.evaluation is None:
            return {}
        found = {"candidate": self.evaluation.candidate, "champion": self.evaluation.champion}
        return {name: metrics for name, metrics in found.items() if metrics and metrics.accuracy is not None}

    @property
    def on_mnist(self) -> dict[str, float | None]:
        """The accuracy of each of these models on MNIST's own test set; empty if that was the test set, or not used."""
        measured = {name: metrics.mnist for name, metrics in self.models.items()}
        apart = any(not mnist.is_test_set for mnist in measured.values())
        return {name: mnist.accuracy for name, mnist in measured.items()} if apart else {}


def report(folder: Path, datasets: Path, training: str = "training.json") -> Report:
    """What is known about a candidate, from a run's folder or a version's; for a run still going, what is there so far.

    Args:
        folder: the run's folder, or that of a version.
        datasets: the folder of all datasets.
        training: the name of the file about the training.
    """
    found = Report(folder)
    found.training = _read(folder / training, TRAINING, found.problems)
    found.history = _read(folder / "history.json", HISTORY, found.problems) or []
    found.evaluation = _read(folder / EVALUATION, EVALUATED, found.problems)
    found.decision = _read(folder / DECISION, DECIDED, found.problems)
    if found.training and re.fullmatch("[0-9a-f]{64}", found.training.dataset or ""):
        found.dataset = _read(datasets / str(found.training.dataset) / "dataset.json", DATASET, []) or {}
    found.data = _read(folder / "data" / "validation.json", LOADED, found.problems)
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
    """What is wrong with the files of a version; its files are not read if one of them is a link to elsewhere."""
    root = version.folder.parent.resolve()
    for path in (version.folder, *version.folder.rglob("*")):
        if not (path.is_dir() or path.is_file()) or not path.resolve().is_relative_to(root):
            return [f"version {version.number} is damaged: {path} is no file of the model directory{WAY_OUT}"]
    try:
        return models.damage(version)
    except OSError as error:  # which says nothing about the version
        return [f"whether version {version.number} is damaged cannot be said now: {error}"]
    except ValueError as error:  # a name in metadata.json that no file can have
        return [f"version {version.number} is damaged: {METADATA}: {error}{WAY_OUT}"]


def plain_file(path: Path, root: Path) -> bool:
    """Whether there is a file, and not one outside of `root` that a link leads to."""
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def _needed(path: Path, shape: TypeAdapter[T], problems: list[str]) -> T | None:
    """The content of a JSON file that has to be there; None if it cannot be used: then a problem says why."""
    before = len(problems)
    content = _read(path, shape, problems)
    if content is None and len(problems) == before:
        problems.append(f"{path.name} is missing")
    return content


def _read(path: Path, shape: TypeAdapter[T], problems: list[str]) -> T | None:
    """The content of a JSON file; None if there is none yet, or it cannot be used: then a problem says why."""
    try:
        if plain_file(path, path.parent.parent):
            return shape.validate_json(path.read_bytes())
        if path.exists():
            problems.append(f"{path.name} is no file of this folder, so it is not read")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        problems.append(f"{path.name} cannot be read: {where}{first['msg']}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    return None
