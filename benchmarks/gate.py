"""A year of nightly retrains before the gate: what it rejects wrongly, what gets past it, where the champion goes.

Usage: python -m benchmarks.gate [JSON FILE [PNG FILE]]. Really trains the default recipe with many seeds on
MNIST, and on MNIST with a defect: one digit lost, 2 % of the labels shuffled, as few images as cost one point. The
models' metrics go to the JSON file and are read from there the next time; the results go there too, and are drawn in
the PNG file. A year is 365 of the healthy models drawn at random, each before the real gate, with the real champion;
each night every defective model is shown to the gate as well, but never promoted.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from benchmarks.machine import machine
from mnist_tasks.config import DataRules, TrainConfig
from mnist_tasks.data.dataset import DIGITS, Dataset, Digits
from mnist_tasks.data.sources import read_source
from mnist_tasks.documents import Finding, MnistMetrics, ModelEvaluation
from mnist_tasks.evaluation.metrics import compute_metrics
from mnist_tasks.gate import decide
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.train import train

HEALTHY = "healthy"
HEALTHY_SEEDS, DEFECTIVE_SEEDS = 60, 10
SHUFFLED = 0.02
FEW_IMAGES = 22_000  # cost one point of accuracy
YEARS, NIGHTS = 200, 365
SEED = 0  # the same candidates before every policy, and the same table from every run
QUIET_SECONDS = 60  # nights after which the champion no longer depends on the first one

REGRESSIONS = (0.0, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01)
OFF = 1.0  # a bound so wide that it never fails
SWEEPS = {
    "max_regression": REGRESSIONS,
    "max_loss_increase": (0.005, 0.008, 0.010, 0.012, 0.015, 0.02, OFF),
    "max_digit_regression": (0.01, 0.02, 0.03, 0.04, 0.05, OFF),
}
NO_FLOORS = {"min_accuracy": 0.0, "max_loss": 100.0, "min_digit_recall": 0.0, "min_digit_precision": 0.0}

# What every candidate loses a night in the ratchet test: far less than one model differs from the next.
DRIFTS = (0.0005, 0.0001)
LOSS_PER_ACCURACY = 4  # nats; 0.002 for 0.0005
RATCHET_YEARS = 50  # fewer: drifting models are new each night, so that no outcome can be computed once for all

DPI = 120
# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
LOST, MISLABELLED, WORSE = "a digit lost", "2 % of labels shuffled", "one point worse"
STYLES = {LOST: (GREEN, "v", 9), MISLABELLED: (VERMILION, "^", 7), WORSE: (PURPLE, "D", 5)}  # the size: lines overlap
SHOWN_EVERY = 20  # nights between the defective models in the picture
LOWEST_SHOWN = 0.959

Pool = dict[str, list[ModelEvaluation]]
Passes = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Nights:
    """All nights of all years, each array of shape (nights, years); models are numbers in the pool.

    `champions` are those the candidates met. The number after the last healthy model's means that there was none yet.
    """

    candidates: NDArray[np.int64]
    champions: NDArray[np.int64]
    promoted: NDArray[np.bool_]

    @property
    def afterwards(self) -> NDArray[np.int64]:
        """The champions in the morning."""
        return np.where(self.promoted, self.candidates, self.champions)


@dataclass(frozen=True)
class Row:
    """One policy's results; shares are fractions of the models shown to the gate."""

    changed: dict[str, float]
    false_rejections: float
    false_promotions: dict[str, float]
    champion_accuracy: float
    lowest_champion: float
    changes_a_year: float


@dataclass(frozen=True)
class Ratchet:
    """How far the champion slid where every candidate was a little worse than the last; medians over the years."""

    drift: float
    floors: bool
    last_promotion: float
    champion_accuracy: float


def training_sets() -> Iterator[tuple[str, int, Digits]]:
    """Kind, seed and digits of each model to train."""
    mnist = read_source("builtin")
    for seed in range(HEALTHY_SEEDS):
        yield HEALTHY, seed, mnist
    for seed in range(DEFECTIVE_SEEDS):
        random = np.random.default_rng(seed)
        kept = mnist.y_train != seed % DIGITS
        yield LOST, seed, Digits(mnist.x_train[kept], mnist.y_train[kept], mnist.x_test, mnist.y_test)
        labels = mnist.y_train.copy()
        chosen = random.choice(len(labels), int(SHUFFLED * len(labels)), replace=False)
        labels[chosen] = random.permutation(labels[chosen])
        yield MISLABELLED, seed, Digits(mnist.x_train, labels, mnist.x_test, mnist.y_test)
        few = random.permutation(len(labels))[:FEW_IMAGES]
        yield WORSE, seed, Digits(mnist.x_train[few], mnist.y_train[few], mnist.x_test, mnist.y_test)


def trained_models(home: Path) -> Pool:
    """The metrics of each model on MNIST's test set, by kind, as `evaluate` would write them."""
    import keras

    found: Pool = {}
    rules = DataRules(min_digit_share=0, max_source_wrong_labels=1)  # the gate is what is asked here
    for kind, seed, digits in training_sets():
        source = home / "digits.npz"
        np.savez(source, **vars(digits))
        dataset = Dataset(home / load(str(source), home, rules=rules).digest)
        normalize(dataset.folder)
        run = home / "run"
        run.mkdir(exist_ok=True)
        train(dataset.folder, TrainConfig(seed=seed), run)
        model = keras.saving.load_model(run / "model.keras")
        probabilities = model.predict(dataset.normalized("test"), batch_size=1000, verbose=0)
        metrics = compute_metrics(probabilities, dataset.labels("test"))
        found.setdefault(kind, []).append(
            ModelEvaluation(
                **vars(metrics),
                dataset="MNIST's test set",
                integrity=[Finding("loads", True, "loads")],
                mnist=MnistMetrics(is_test_set=True),
            )
        )
        print(f"{kind}, seed {seed}: accuracy {metrics.accuracy:.4f}, loss {metrics.loss:.4f}", file=sys.stderr)
    return found


def outcomes(pool: Pool, policy: GateConfig) -> Passes:
    """Whether each model of a kind (columns) would be promoted over each healthy champion (rows; the last: none)."""
    champions = [*pool[HEALTHY], None]
    return {
        kind: np.array([[decide(model, champion, policy).approved for model in models] for champion in champions])
        for kind, models in pool.items()
    }


def simulate(passes: NDArray[np.bool_]) -> Nights:
    random = np.random.default_rng(SEED)
    healthy = passes.shape[1]
    champions: NDArray[np.int64] = np.full(YEARS, healthy)
    nights = []
    for _ in range(NIGHTS):
        drawn = random.integers(healthy - 1, size=YEARS)
        candidates = drawn + (drawn >= champions)  # any but the champion itself, which would pass for certain
        promoted = passes[champions, candidates]
        nights.append((candidates, champions, promoted))
        champions = np.where(promoted, candidates, champions)
    return Nights(*map(np.array, zip(*nights, strict=True)))


def row(pool: Pool, changed: dict[str, float]) -> Row:
    passes = outcomes(pool, GateConfig(**changed))
    nights = simulate(passes[HEALTHY])
    accuracies = np.array([*(model.accuracy for model in pool[HEALTHY]), np.nan])[nights.afterwards]
    return Row(
        changed,
        false_rejections=1 - float(nights.promoted.mean()),
        # Without the first night: the changes have nothing to compare with yet, and the floors stand alone.
        false_promotions={k: float(p[nights.champions[1:]].mean()) for k, p in passes.items() if k != HEALTHY},
        champion_accuracy=float(np.nanmean(accuracies[QUIET_SECONDS:])),
        lowest_champion=float(np.nanmin(accuracies)),
        changes_a_year=float(nights.promoted.sum(axis=0).mean()),
    )


def drifted(model: ModelEvaluation, lost: float) -> ModelEvaluation:
    """The model with all its shares lower, and its loss higher."""
    return model.model_copy(
        update={
            "accuracy": lowered(model.accuracy, lost),
            "loss": (model.loss or 0) + LOSS_PER_ACCURACY * lost,
            "digits": [
                replace(digit, recall=lowered(digit.recall, lost), precision=lowered(digit.precision, lost))
                for digit in model.digits
            ],
        }
    )


def lowered(share: float | None, lost: float) -> float:
    return max(0.0, (share or 0) - lost)


def ratchet(healthy: Sequence[ModelEvaluation], drift: float, floors: bool) -> Ratchet:
    random = np.random.default_rng(SEED)
    policy = GateConfig(**({} if floors else NO_FLOORS))
    ends = []
    for _ in range(RATCHET_YEARS):
        champion, last = None, 0
        for night, number in enumerate(random.integers(len(healthy), size=NIGHTS), start=1):
            candidate = drifted(healthy[number], night * drift)
            if decide(candidate, champion, policy).approved:
                champion, last = candidate, night
        if champion:
            ends.append((last, champion.accuracy))
    nights, accuracies = zip(*ends, strict=True)
    return Ratchet(drift, floors, statistics.median(nights), statistics.median(accuracies))


def print_pool(pool: Pool) -> None:
    print(f"{'model':<24}{'trained':>8}{'accuracy':>28}{'loss':>26}{'passes as the first':>21}")
    for kind, models in pool.items():
        first = statistics.mean(decide(model, None, GateConfig()).approved for model in models)
        spreads = []
        for metric in ("accuracy", "loss"):
            values = [getattr(model, metric) for model in models]
            spreads.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        print(f"{kind:<24}{len(models):>8}{spreads[0]:>28}{spreads[1]:>26}{first:>21.0%}")


def print_rows(rows: Sequence[Row], kinds: Sequence[str]) -> None:
    print(f"\n{YEARS} years of {NIGHTS} nights for each policy; the champion's accuracy after {QUIET_SECONDS} nights")
    titles = ("false rejections", "(nights a year)", *kinds, "champion", "lowest", "changes a year")
    widths = [max(9, len(title) + 2) for title in titles]
    print(f"{'':<38}" + "".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True)))
    for each in rows:
        cells = (
            f"{each.false_rejections:.2%}",
            f"{each.false_rejections * NIGHTS:.1f}",
            *(f"{each.false_promotions[kind]:.1%}" for kind in kinds),
            f"{each.champion_accuracy:.4f}",
            f"{each.lowest_champion:.4f}",
            f"{each.changes_a_year:.1f}",
        )
        print(f"{_name(each):<38}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _name(each: Row) -> str:
    if not each.changed:
        return "the default policy"
    if each.changed == NO_FLOORS:
        return "no floors"
    ((field, value),) = each.changed.items()
    return f"{field} {'off' if value == OFF else f'{value:.3f}'}{' (default)' if value == default(field) else ''}"


def default(field: str) -> float:
    value: float = getattr(GateConfig(), field)
    return value


def print_ratchets(ratchets: Sequence[Ratchet]) -> None:
    print(f"\nEvery candidate worse than the last; medians of {RATCHET_YEARS} years")
    print(f"{'accuracy lost a night':<24}{'floors':>8}{'last promotion':>18}{'accuracy of that champion':>28}")
    for each in ratchets:
        last = f"night {each.last_promotion:.0f}"
        print(f"{each.drift:<24}{'on' if each.floors else 'off':>8}{last:>18}{each.champion_accuracy:>28.4f}")


def draw(pool: Pool, rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(9, 7), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1.2, 1))
    draw_year(figure.add_subplot(grid[0, :]), pool)
    left = figure.add_subplot(grid[1, 0])
    right = figure.add_subplot(grid[1, 1], sharey=left)
    draw_sweep(left, rows, "max_regression", "accuracy, percentage points", 100)
    draw_sweep(right, rows, "max_loss_increase", "nats", 1)
    left.set_ylabel("share of models (%)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
    figure.savefig(path, pil_kwargs={"optimize": True})


def draw_year(axes: Axes, pool: Pool) -> None:
    """The first of the simulated years with the default policy."""
    passes = outcomes(pool, GateConfig())
    year = simulate(passes[HEALTHY])
    candidates, champions, promoted, afterwards = (
        array[:, 0] for array in (year.candidates, year.champions, year.promoted, year.afterwards)
    )
    nights = np.arange(1, NIGHTS + 1)
    percent = {kind: np.array([100 * (model.accuracy or 0) for model in models]) for kind, models in pool.items()}
    healthy = percent[HEALTHY]
    axes.step(nights, healthy[afterwards], where="post", color="black", linewidth=0.6, label="champion")
    for through, name, marker, colour, area in (
        (promoted, "promoted", "o", BLUE, 12),
        (~promoted, "rejected", "X", ORANGE, 60),
    ):
        shown = healthy[candidates[through]]
        style: dict[str, Any] = {"s": area, "c": colour, "marker": marker, "label": f"healthy candidate, {name}"}
        axes.scatter(nights[through], shown, zorder=3, **style)
    axes.axhline(100 * default("min_accuracy"), color="black", linestyle="--", linewidth=1, label="min_accuracy")

    bottom = 100 * LOWEST_SHOWN
    for turn, (kind, (colour, marker, size)) in enumerate(STYLES.items(), start=1):
        when = np.arange(turn * SHOWN_EVERY, NIGHTS, len(STYLES) * SHOWN_EVERY)
        models = np.arange(len(when)) % len(pool[kind])
        through = passes[kind][champions[when - 1], models]
        faces = np.where(through, colour, "white").tolist()
        lowest, highest = percent[kind].min(), percent[kind].max()
        label = f"{kind} ({lowest:.0f} to {highest:.0f} %, off the axis)" if highest < bottom else kind
        style = {"s": size**2, "c": faces, "marker": marker, "edgecolors": colour, "label": label, "clip_on": False}
        axes.scatter(when, np.maximum(percent[kind][models], bottom), zorder=4, **style)
    axes.set(xlim=(0, NIGHTS + 1), ylim=(bottom, 98.1), xlabel="night", ylabel="accuracy on test images (%)")
    axes.set_title("A year before the gate (defective models: hollow if rejected, filled if let through)", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8.5, columnspacing=1)


def draw_sweep(axes: Axes, rows: Sequence[Row], field: str, unit: str, scale: float) -> None:
    swept = [each for each in rows if each.changed.keys() == {field}]
    bounds = [scale * each.changed[field] for each in swept]
    ticks = [f"{bound:g}" for bound in bounds]
    if swept[-1].changed[field] == OFF:
        bounds[-1], ticks[-1] = 2 * bounds[-2] - bounds[-3], "off"  # as if it were the next step
    series = {"healthy, rejected": ([each.false_rejections for each in swept], BLUE, "o", 4)}
    for kind, style in STYLES.items():
        series[f"{kind}, let through"] = ([each.false_promotions[kind] for each in swept], *style)
    for label, (shares, colour, marker, size) in series.items():
        look: dict[str, Any] = {"marker": marker, "markersize": size, "markerfacecolor": "white", "clip_on": False}
        axes.plot(bounds, [100 * share for share in shares], color=colour, label=label, **look)
    axes.axvline(scale * default(field), color="black", linestyle=":", linewidth=1.2)
    axes.annotate("default ", (scale * default(field), 70), ha="right", va="center", fontsize=8.5)
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set(ylim=(0, 100), yticks=(0, 1, 2, 5, 10, 20, 50, 100), xlabel=f"{field} ({unit})")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(bounds, ticks, fontsize=8)
    axes.grid(alpha=0.3)


def as_json(pool: Pool) -> dict[str, Any]:
    return {kind: [model.to_json_value() for model in models] for kind, models in pool.items()}


def main(path: Path | None, picture: Path | None) -> None:
    host = machine()
    earlier: Mapping[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    pool = {
        kind: [ModelEvaluation.model_validate_json(json.dumps(model)) for model in models]
        for kind, models in earlier.get("pool", {}).items()
    }
    if not pool:
        with tempfile.TemporaryDirectory() as home:
            pool = trained_models(Path(home))
        if path:
            # Minutes of work, so it is written before anything else.
            path.write_text(json.dumps({"machine": host, "pool": as_json(pool)}))

    swept = [{field: bound} for field, bounds in SWEEPS.items() for bound in sorted({*bounds, default(field)})]
    rows = [row(pool, changed) for changed in ({}, NO_FLOORS, *swept)]
    ratchets = [ratchet(pool[HEALTHY], drift, floors) for drift in DRIFTS for floors in (True, False)]
    print_pool(pool)
    print_rows(rows, list(STYLES))
    print_ratchets(ratchets)
    if path:
        results = {"policies": [asdict(each) for each in rows], "ratchets": [asdict(each) for each in ratchets]}
        path.write_text(json.dumps({"machine": earlier.get("machine", host), "pool": as_json(pool), **results}))
    if picture:
        draw(pool, rows, picture)


if __name__ == "__main__":
    main(*(Path(sys.argv[place]) if len(sys.argv) > place else None for place in (1, 2)))
