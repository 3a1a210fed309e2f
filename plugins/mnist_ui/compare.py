"""Two models side by side: what differs first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mnist_tasks.documents import Mistake, Mistakes, ModelEvaluation
from mnist_tasks.evaluation.mcnemar import mcnemar
from mnist_ui.charts import Plot, epochs
from mnist_ui.report import MISTAKEN, Report, figure

TILES, PIXELS = 24, 28  # images shown of those that only one gets right, and their width and height

Value = Callable[[ModelEvaluation], float | int | None]

METRICS: dict[str, Value] = {
    "accuracy": lambda model: model.accuracy,
    "loss (nats)": lambda model: model.loss,
    "accuracy on MNIST's own test set": lambda model: model.mnist.accuracy,
    "calibration error": lambda model: model.calibration_error,
    "Brier score": lambda model: model.brier,
    "loss on its training images (nats)": lambda model: model.training.loss,
    "share of doubtful labels": lambda model: model.training.label_issues,
    "size (MB)": lambda model: model.cost.megabytes if model.cost else None,
    "parameters": lambda model: model.cost.parameters if model.cost else None,
    "time of one prediction (ms)": lambda model: (
        1000 * model.cost.seconds_for_one if model.cost and model.cost.seconds_for_one else None
    ),
}


@dataclass(frozen=True)
class Side:
    """One of the two models: its name, the address of its page, below the plugin's, and its report."""

    name: str
    page: str
    shown: Report
    version: int | None = None


@dataclass(frozen=True)
class Row:
    """A number of both models, and the right one minus the left one; None for what is unknown."""

    name: str
    left: float | int | None
    right: float | int | None

    @property
    def difference(self) -> float | int | None:
        return None if self.left is None or self.right is None else self.right - self.left


@dataclass(frozen=True)
class Setting:
    """A parameter or a fact about the data, as each side has it."""

    name: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Tile:
    """A test image that one of the two models mistook, and where it lies in that model's picture, if it is in there."""

    mistake: Mistake
    x: int | None = None
    y: int | None = None


@dataclass(frozen=True)
class Lost:
    """The test images that only one of two models gets right: their number, and the first as the other mistook them.

    `picture` is the address of the other's picture, below the plugin's; `width` and `height` are its size in pixels.
    """

    count: int
    tiles: list[Tile]
    picture: str
    width: int
    height: int


@dataclass(frozen=True)
class OnlyOne:
    """What only the left and what only the right model gets right, and the p-value of McNemar's exact test."""

    left: Lost
    right: Lost
    p_value: float


@dataclass
class Comparison:
    """Everything that the page about two models shows."""

    left: Side
    right: Side
    metrics: list[Row] = field(default_factory=list)
    recall: list[Row] = field(default_factory=list)
    slices: list[Row] = field(default_factory=list)
    different: list[Setting] = field(default_factory=list)
    same: list[Setting] = field(default_factory=list)
    data: list[Setting] = field(default_factory=list)
    batches_only_left: list[str] = field(default_factory=list)
    batches_only_right: list[str] = field(default_factory=list)
    plots: dict[str, Plot] = field(default_factory=dict)
    same_images: bool = False
    only_one: OnlyOne | None = None


def compare(left: Side, right: Side) -> Comparison:
    """Put two models side by side."""
    found = Comparison(left, right)
    models = [side.shown.evaluation.candidate if side.shown.evaluation else ModelEvaluation() for side in (left, right)]
    ours, theirs = models
    found.metrics = [Row(name, value(ours), value(theirs)) for name, value in METRICS.items()]
    found.metrics = [row for row in found.metrics if row.left is not None or row.right is not None]
    found.recall = _rows({digit.digit: digit.recall for digit in model.digits} for model in models)
    found.slices = _rows({part.name: part.accuracy for part in (*model.slices, *model.changed)} for model in models)
    found.same_images = ours.dataset is not None and ours.dataset == theirs.dataset
    settings = _settings(_parameters(left.shown), _parameters(right.shown))
    found.different = [each for each in settings if each.left != each.right]
    found.same = [each for each in settings if each.left == each.right]
    found.data = [each for each in _settings(_facts(left.shown), _facts(right.shown)) if each.left != each.right]
    batches = [{batch["name"] for batch in side.shown.dataset.get("batches", [])} for side in (left, right)]
    found.batches_only_left, found.batches_only_right = sorted(batches[0] - batches[1]), sorted(batches[1] - batches[0])
    for metric in ("accuracy", "loss"):
        plot = epochs(metric, {left.name: left.shown.history, right.name: right.shown.history})
        if plot:
            found.plots[metric] = plot
    wrong_left, wrong_right = left.shown.mistakes, right.shown.mistakes
    if wrong_left and wrong_right:
        found.same_images = wrong_left.test_set_sha256 == wrong_right.test_set_sha256
        if found.same_images:
            only_left, only_right = _lost(right, wrong_right, wrong_left), _lost(left, wrong_left, wrong_right)
            found.only_one = OnlyOne(only_left, only_right, mcnemar(only_left.count, only_right.count))
    return found


def _lost(side: Side, mistakes: Mistakes, other: Mistakes) -> Lost:
    """The test images that this side mistook and the other did not, the surest first."""
    right = {mistake.index for mistake in mistakes.mistakes} - {mistake.index for mistake in other.mistakes}
    lost = [(place, mistake) for place, mistake in enumerate(mistakes.mistakes) if mistake.index in right]
    pictured = mistakes.pictured if figure(side.shown.folder, MISTAKEN) else 0
    tiles = [
        Tile(mistake, PIXELS * (place % mistakes.columns), PIXELS * (place // mistakes.columns))
        if place < pictured
        else Tile(mistake)
        for place, mistake in lost[:TILES]
    ]
    rows = -(-mistakes.pictured // mistakes.columns)
    return Lost(len(lost), tiles, f"{side.page}/figures/{MISTAKEN}", PIXELS * mistakes.columns, PIXELS * rows)


def _rows(values: Iterable[dict[Any, float | None]]) -> list[Row]:
    left, right = values
    return [Row(str(name), left.get(name), right.get(name)) for name in dict.fromkeys((*left, *right))]


def _settings(left: dict[str, Any], right: dict[str, Any]) -> list[Setting]:
    return [Setting(name, left.get(name), right.get(name)) for name in dict.fromkeys((*left, *right))]


def _parameters(shown: Report) -> dict[str, Any]:
    """The parameters of the training and of the gate, and what they ran with."""
    training = shown.training
    policy = shown.decision.policy if shown.decision else {}
    if training is None:
        return policy
    libraries = {f"{name} (library)": version for name, version in training.library_versions.items()}
    return {**training.config, **policy, "device it ran on": training.device, **libraries}


def _facts(shown: Report) -> dict[str, Any]:
    """What is known about the data, without the lists."""
    facts = {
        name.replace("_", " "): value for name, value in shown.dataset.items() if not isinstance(value, list | dict)
    }
    return facts or {"digest": shown.training.dataset if shown.training else None}
