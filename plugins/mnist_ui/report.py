"""What the page about one candidate shows, read from the folder of its run or of its version."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_tasks.documents import (
    Check,
    DatasetDescription,
    DecisionRecord,
    Epoch,
    Evaluation,
    Mistakes,
    ModelEvaluation,
    Training,
    TrainingHistory,
    TrainingProgress,
    ValidationReport,
)
from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import DECISION, EVALUATION, METADATA, MISTAKES, WAY_OUT, Version
from mnist_ui.reading import plain_file, read

FIGURES = {
    "recall.png": "Recall of each digit: the candidate's and the champion's. The table of the digits has the numbers.",
    "mistakes.png": "The test images that were mistaken with the highest probability, each with its true and its "
    "predicted digit. The list below has the same in words.",
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

# All mistaken test images side by side, from which the page about two models takes some.
MISTAKEN = "mistaken.png"

CLOSEST_CHECKS = 5


@dataclass
class Report:
    """Everything that the page about one candidate shows: the content of its folder, and the problems with it."""

    folder: Path
    training: Training | None = None
    history: list[Epoch] = field(default_factory=list)
    progress: TrainingProgress | None = None
    evaluation: Evaluation | None = None
    mistakes: Mistakes | None = None
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
    found.training = read(folder / training, Training, found.problems)
    epochs = read(folder / "history.json", TrainingHistory, found.problems)
    found.history = epochs.root if epochs else []
    found.progress = read(folder / "progress.json", TrainingProgress, [])  # gone at any moment
    found.evaluation = read(folder / EVALUATION, Evaluation, found.problems)
    found.mistakes = read(folder / MISTAKES, Mistakes, found.problems)
    found.decision = read(folder / DECISION, DecisionRecord, found.problems)
    if found.training and re.fullmatch("[0-9a-f]{64}", found.training.dataset or ""):
        description = read(datasets / str(found.training.dataset) / "dataset.json", DatasetDescription, [])
        found.dataset = description.to_json_value() if description else {}
    found.data = read(folder / "data" / "validation.json", ValidationReport, found.problems)
    batches = found.data.batches if found.data else []
    sheets = {batch.picture: SHEET_TEXT.format(batch.name) for batch in batches if batch.picture}
    texts = {**FIGURES, MEANS: MEANS_TEXT, **sheets}
    found.figures = {name: text for name, text in texts.items() if figure(folder, name)}
    return found


def figure(folder: Path, name: str) -> Path | None:
    """The file of a figure of a candidate or of its data; None if there is none."""
    of_data = name == MEANS or SHEET.fullmatch(name)
    path = folder / ("data" if of_data else "figures") / name
    return path if (of_data or name in FIGURES or name == MISTAKEN) and plain_file(path, folder.parent) else None


def damage(models: ModelDirectory, version: Version) -> list[str]:
    """The problems with a version's files, or why they cannot be looked for now."""
    try:
        return find_damage(models, version)
    except OSError as error:  # this says nothing about the version
        return [f"version {version.number} cannot be checked for damage now: {error}"]


def find_damage(
    models: ModelDirectory, version: Version, history: ChampionHistory | None = None, *, documents: bool = True
) -> list[str]:
    """The problems with a version's files. They are not read if one of them is a link to another place.

    Args:
        models: the model directory.
        version: the version.
        history: what the history says, for callers who ask about many versions.
        documents: whether to look at what only people read, too.

    Raises:
        OSError: if a file cannot be read now.
    """
    root = version.folder.parent.resolve()
    for path in (version.folder, *version.folder.rglob("*")):
        if not (path.is_dir() or path.is_file()) or not path.resolve().is_relative_to(root):
            return [f"version {version.number} is damaged: {path} is not a file of the model directory{WAY_OUT}"]
    try:
        return models.damage(version, documents=documents, history=history)
    except ValueError as error:  # a name in metadata.json that is not a possible file name
        return [f"version {version.number} is damaged: {METADATA}: {error}{WAY_OUT}"]
