"""What the charts show, as plain lists for `static/plots.js`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnist_tasks.documents import Epoch, TrainingProgress
from mnist_ui.overview import VersionRow

VERSIONS_IN_VIEW = 60

Kind = Literal["line", "other", "low", "high", "floor", "dots"]


@dataclass(frozen=True)
class Series:
    """A line of a chart; None where there is no value.

    `kind` says how it is drawn: `other` is a second model's, `low` and `high` are the ends of an interval, `floor` is a
    bound, `dots` are not joined by a line.
    """

    label: str
    values: list[float | None]
    kind: Kind = "line"


@dataclass(frozen=True)
class Plot:
    """A chart: the name of its horizontal axis, the values on it, and the lines over them.

    `shown` is how many of the last values are in view at first; None for all.
    """

    x: str
    xs: Sequence[float]
    series: list[Series]
    shown: int | None = None


def accuracy_of_versions(versions: Sequence[VersionRow]) -> Plot | None:
    """The accuracy of versions with its 95 % interval and the gate's `min_accuracy`; None if none is known.

    Args:
        versions: the newest first.
    """
    known = [row for row in reversed(versions) if row.summary.accuracy is not None]
    if not known:
        return None
    summaries = [row.summary for row in known]
    intervals = [summary.accuracy_95 or (None, None) for summary in summaries]
    return Plot(
        "version",
        [row.number for row in known],
        [
            Series("accuracy", [summary.accuracy for summary in summaries]),
            Series("95 % from", [low for low, _ in intervals], "low"),
            Series("to", [high for _, high in intervals], "high"),
            Series("min_accuracy", [summary.min_accuracy for summary in summaries], "floor"),
        ],
        VERSIONS_IN_VIEW,
    )


def loss_of_versions(versions: Sequence[VersionRow]) -> Plot | None:
    """The loss of versions; None if none is known. The newest comes first in `versions`."""
    known = [row for row in reversed(versions) if row.summary.loss is not None]
    if not known:
        return None
    losses = Series("loss", [row.summary.loss for row in known])
    return Plot("version", [row.number for row in known], [losses], VERSIONS_IN_VIEW)


def within_epochs(progress: TrainingProgress) -> Plot | None:
    """The loss of a training that is running, at moments within its epochs; None while there are fewer than two."""
    if len(progress.points) < 2:
        return None
    return Plot(
        "epochs",
        [point.epochs for point in progress.points],
        [Series("loss", [point.loss for point in progress.points])],
    )


def epochs(metric: str, histories: dict[str, Sequence[Epoch]]) -> Plot | None:
    """A metric of each epoch, on the training and the validation images; None if no epoch has it.

    Args:
        metric: such as `accuracy`.
        histories: the epochs of one model, under an empty name, or of two.
    """
    xs = list(range(1, 1 + max((epoch.number for epochs in histories.values() for epoch in epochs), default=0)))
    series = []
    for index, (model, history) in enumerate(histories.items()):
        for name in (metric, f"val_{metric}"):
            values = {epoch.number: epoch.metrics.get(name) for epoch in history}
            if any(value is not None for value in values.values()):
                label = {"": name}.get(model, f"{name}, {model}")
                kind: Kind = "other" if index or (name.startswith("val_") and len(histories) == 1) else "line"
                series.append(Series(label, [values.get(x) for x in xs], kind))
    return Plot("epoch", xs, series) if series else None
