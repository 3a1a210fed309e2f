"""What the page about a sweep shows, read from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnist_tasks.documents import Sweep, SweepResult, Trial
from mnist_tasks.sweep.records import FILE, RESULT, SWEEP, TRIALS, best_first
from mnist_ui.charts import Plot, Series
from mnist_ui.reading import read

CURVES = 6  # of the best trials


@dataclass
class SweepReport:
    """A sweep: what is searched, its trials, the best first, its result and charts, and the problems with its files."""

    folder: Path
    sweep: Sweep | None = None
    trials: list[Trial] = field(default_factory=list)
    result: SweepResult | None = None
    problems: list[str] = field(default_factory=list)
    curves: Plot | None = None
    front: Plot | None = None

    @property
    def drawn(self) -> list[Trial]:
        """The trials whose curves are drawn."""
        return [trial for trial in self.trials if trial.epochs][:CURVES]

    @property
    def counts(self) -> dict[str, int]:
        """How many trials have each state."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in sorted(set(states))}


def sweep_report(folder: Path) -> SweepReport:
    """Read a sweep, even one that has not ended."""
    found = SweepReport(folder)
    found.sweep = read(folder / SWEEP, Sweep, found.problems)
    found.result = read(folder / RESULT, SweepResult, found.problems)
    read_trials = (read(path, Trial, found.problems) for path in (folder / TRIALS).glob(f"*/{FILE}"))
    found.trials = best_first(trial for trial in read_trials if trial)
    found.curves, found.front = _curves(found.drawn), _front(found.trials)
    return found


def _curves(trials: Sequence[Trial]) -> Plot | None:
    """The validation accuracy of each epoch."""
    if not trials:
        return None
    xs = list(range(1, 1 + max(len(trial.epochs) for trial in trials)))
    series = []
    for place, trial in enumerate(trials):
        values = {epoch.number: epoch.metrics.get("val_accuracy") for epoch in trial.epochs}
        series.append(Series(f"trial {trial.number}", [values.get(x) for x in xs], "other" if place else "line"))
    return Plot("epoch", xs, series)


def _front(trials: Sequence[Trial]) -> Plot | None:
    """Accuracy against the seconds of the training; the line is the best that so many seconds give."""
    timed = sorted((trial.seconds, trial.accuracy) for trial in trials if trial.seconds and trial.accuracy is not None)
    if len(timed) < 2:
        return None
    best, front = 0.0, []
    for _, accuracy in timed:
        best = max(best, accuracy)
        front.append(best)
    accuracies: list[float | None] = [accuracy for _, accuracy in timed]
    return Plot(
        "seconds of training",
        [seconds for seconds, _ in timed],
        [Series("accuracy", accuracies, "dots"), Series("the best so far", list(front), "floor")],
    )
