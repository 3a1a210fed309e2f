"""The figures of an evaluation as PNG: training curves, confusion matrix, recall, calibration.

They appear in the model card and in the UI, so each is complete on its own: axes with units, and a title. Draw them
within `plain`, so that the user's own matplotlib settings have no effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mnist_tasks.data.dataset import DIGITS
from mnist_tasks.documents import CalibrationBin, DigitMetrics, Epoch
from mnist_tasks.system.library_settings import PLAIN_MATPLOTLIB, environment

with environment(PLAIN_MATPLOTLIB):
    import matplotlib as mpl
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

DPI = 120

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE = "#0072B2", "#D55E00"


@contextmanager
def plain() -> Iterator[None]:
    """Use the settings that matplotlib comes with in the block."""
    with mpl.rc_context():
        mpl.rcdefaults()
        yield


def training_curves(history: Sequence[Epoch], path: Path) -> None:
    """Loss and accuracy of each epoch, of the training and, if there was one, the validation set."""
    figure = Figure(figsize=(8, 3.4), dpi=DPI, layout="constrained")
    epochs = [epoch.number for epoch in history]
    for axes, metric, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("nats", "share of images"), strict=True
    ):
        for name, label, colour in ((metric, "training", BLUE), (f"val_{metric}", "validation", ORANGE)):
            if name in history[0].metrics:
                axes.plot(
                    epochs, [epoch.metrics[name] for epoch in history], "o-", color=colour, label=label, markersize=4
                )
        axes.set(xlabel="epoch", ylabel=f"{metric} ({unit})", title=f"{metric.capitalize()} while training")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def confusion_matrix(confusion: Sequence[Sequence[int]], path: Path) -> None:
    """Counts of true digits (rows) by predicted digits (columns), the mistakes coloured."""
    counts = np.array(confusion)
    mistakes = np.where(np.eye(DIGITS, dtype=bool) | (counts == 0), np.nan, counts)
    figure = Figure(figsize=(6.4, 5.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    highest = max(2.0, float(np.nanmax(mistakes, initial=0)))
    image = axes.imshow(mistakes, cmap="Oranges", norm=LogNorm(1, highest))
    for true, predicted in np.ndindex(counts.shape):
        count = counts[true, predicted]
        if count:
            dark = true != predicted and count > math.sqrt(highest)
            weight, colour = ("bold", "black") if true == predicted else ("normal", "white" if dark else "black")
            axes.text(predicted, true, f"{count:,}", ha="center", va="center", color=colour, weight=weight, fontsize=8)
    axes.set(xlabel="predicted digit", ylabel="true digit", title="Test images by true and predicted digit")
    axes.set(xticks=range(DIGITS), yticks=range(DIGITS))
    bar = figure.colorbar(image, ax=axes, label="mistakes (images)", shrink=0.8, format=ScalarFormatter())
    bar.ax.yaxis.set_minor_formatter("")
    figure.savefig(path)


def recall_by_digit(candidate: Sequence[DigitMetrics], champion: Sequence[DigitMetrics] | None, path: Path) -> None:
    """Recall of each digit, the candidate's beside the champion's."""
    figure = Figure(figsize=(7, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    models = [("candidate", candidate, BLUE, "o"), *([("champion", champion, ORANGE, "D")] if champion else [])]
    lowest = 1.0
    for shift, (name, digits, colour, marker) in zip((-0.12, 0.12), models, strict=False):
        recalls = {entry.digit: entry.recall for entry in digits if entry.recall is not None}
        lowest = min([lowest, *recalls.values()])
        places = [digit + shift for digit in recalls]
        axes.plot(places, list(recalls.values()), marker, color=colour, label=name, markersize=6)
    axes.set(xlabel="digit", ylabel="recall (share of its test images)", title="Recall of each digit")
    axes.set(xticks=range(DIGITS), ylim=(lowest - 0.15 * (1.003 - lowest) - 0.002, 1.003))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", ncols=2)
    figure.savefig(path)


def reliability(candidate: Sequence[CalibrationBin], champion: Sequence[CalibrationBin], path: Path) -> None:
    """How often a model is right (vertical) where it is so sure (horizontal): on the diagonal it can be believed."""
    figure = Figure(figsize=(5, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    lowest = min([1.0, *(min(entry.confidence, entry.accuracy) for entry in (*candidate, *champion))])
    axes.plot((lowest, 1), (lowest, 1), ":", color="grey", label="as sure as right")
    for name, bins, colour, marker in (("candidate", candidate, BLUE, "o"), ("champion", champion, ORANGE, "D")):
        if bins:
            places = [entry.confidence for entry in bins], [entry.accuracy for entry in bins]
            axes.plot(*places, f"{marker}-", color=colour, label=name, markersize=5)
    axes.set(xlabel="mean probability of the predicted digit", ylabel="share of images that are right")
    axes.set_title("Calibration on the test set")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path)
