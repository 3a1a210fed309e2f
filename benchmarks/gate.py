"""A year of nightly retrains before the gate: what it rejects wrongly, what gets past it, where the champion goes.

Usage: python -m benchmarks.gate [JSON FILE [PNG FILE]]. The candidates are the really trained models of
`benchmarks.gate_models`, whose scores are in `benchmarks/gate_scores.csv`. A year is 365 of the healthy ones drawn at
random, each before the real gate, with the real champion and the best of the last champions as the reference; each
night every defective model is shown to the gate as well, but never promoted. Then every rule stands alone: the share of
healthy models that it rejects and of defective ones that it misses, for every bound. Results go to the JSON file and
are drawn in the PNG file.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.gate_scores import read_scores
from benchmarks.machine import machine
from mnist_tasks.documents import Check, ModelEvaluation
from mnist_tasks.gate import decide
from mnist_tasks.gate_config import GateConfig

HEALTHY = "healthy"
YEARS, NIGHTS = 200, 365
SEED = 0  # the same candidates before every policy, and the same table from every run
FALSE_REJECTIONS = 0.002  # of a rule that stands alone, for the table of what it misses then

# What every candidate loses a night in the ratchet test, in nats: far less than one model differs from the next.
DRIFTS = (25e-3 / 60, 5e-3 / 60)
ACCURACY_PER_LOSS = 4e-3 / 25e-3
RATCHET_NIGHTS, RATCHET_YEARS = 60, 200

DPI = 120

Pool = Mapping[str, Sequence[ModelEvaluation]]
NOT_QUALITY = ("integrity", "max_champion_drop")


@dataclass(frozen=True)
class Rates:
    """Shares of the models that were shown to the gate."""

    false_rejections: float
    false_promotions: dict[str, float]
    first: dict[str, float]
    champion_loss: float


@dataclass(frozen=True)
class Ratchet:
    """How far the champion slid where every candidate was a little worse than the last; medians over the years.

    `before` counts the nights before; 0 if nothing was compared with a reference. `increase` is that of the champion's
    loss in the end against the mean of the healthy models.
    """

    loss_a_night: float
    before: int
    last_promotion: float
    increase: float


class Matches:
    """Each model before the gate with each healthy champion, and with each healthy reference.

    Attributes:
        losses: of the healthy models.
        passes: by kind, whether the gate approves; a row for each champion, the last one for none, a column a model.
        keeps_level: by kind, whether the checks against a reference pass; a row for each reference.
        margins: by kind and rule, how far each model is inside the bound (negative: outside) at its worst slice, for
            each pair of a champion and a model.
    """

    def __init__(self, pool: Pool, policy: GateConfig) -> None:
        healthy = pool[HEALTHY]
        self.losses = [model.loss or 0.0 for model in healthy]
        self.passes, self.keeps_level, self.margins = {}, {}, {}
        for kind, models in pool.items():
            margins: dict[str, list[float]] = defaultdict(list)
            passes = np.empty((len(healthy) + 1, len(models)), np.bool_)
            for row, champion in enumerate((*healthy, None)):
                for column, model in enumerate(models):
                    decision = decide(model, champion, policy)
                    passes[row, column] = decision.approved
                    if champion and champion is not model:
                        for rule, margin in _margins(decision.checks).items():
                            margins[rule].append(margin)
            self.passes[kind] = passes
            self.margins[kind] = {rule: np.array(values) for rule, values in margins.items()}
            self.keeps_level[kind] = np.array(
                [[_keeps_level(model, best, policy) for model in models] for best in healthy]
            )


def _margins(checks: Sequence[Check]) -> dict[str, float]:
    """For each rule of quality how far the worst slice is inside the bound."""
    found: dict[str, float] = {}
    for check in checks:
        if check.verdict == "skipped" or check.value is None or check.bound is None or check.rule in NOT_QUALITY:
            continue
        margin = abs(check.value - check.bound) * (1 if check.verdict == "passed" else -1)
        found[check.rule] = min(margin, found.get(check.rule, np.inf))
    return found


def _keeps_level(model: ModelEvaluation, best: ModelEvaluation, policy: GateConfig) -> bool:
    """Whether the candidate passes the checks against a reference."""
    checks = decide(model, model, policy, best.model_copy(update={"version": 1, "champions_since": 1})).checks
    return all(check.verdict != "failed" for check in checks if check.rule in ("max_slide", "max_loss_slide"))


def simulate(matches: Matches, versions: int) -> Rates:
    """Simulate all years."""
    random = np.random.default_rng(SEED)
    count = len(matches.losses)
    promoted, defects, champions = [], defaultdict(list), []
    for _ in range(YEARS):
        champion, last = count, deque[int](maxlen=versions)
        for night, drawn in enumerate(random.integers(count - 1, size=NIGHTS)):
            candidate = int(drawn + (drawn >= champion))  # any but the champion itself, which would pass for certain
            best = min(last, key=matches.losses.__getitem__, default=None)

            def through(kind: str, best: int | None = best, champion: int = champion) -> NDArray[np.bool_]:
                passes: NDArray[np.bool_] = matches.passes[kind][champion]
                return passes if best in (None, champion) else passes & matches.keeps_level[kind][best]

            if night:
                for kind in matches.passes:
                    defects[kind].append(float(through(kind).mean()))
            passed = bool(through(HEALTHY)[candidate])
            promoted.append(passed)
            if passed:
                champion = candidate
                last.append(candidate)
        champions.append(champion)
    first = {kind: float(passes[count].mean()) for kind, passes in matches.passes.items()}
    losses = [matches.losses[champion] for champion in champions]
    missed = {kind: statistics.mean(shares) for kind, shares in defects.items() if kind != HEALTHY}
    return Rates(1 - statistics.mean(promoted), missed, first, statistics.mean(losses))


def curves(matches: Matches, kinds: Sequence[str]) -> dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """By defect and rule: shares of healthy models rejected, and of defective ones missed, for every bound."""
    healthy = matches.margins[HEALTHY]
    found: dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]] = {}
    for kind in kinds:
        defective = matches.margins[kind]
        for rule, values in healthy.items():
            bounds = np.unique(np.concatenate([values, defective[rule]]))
            rejected = np.searchsorted(np.sort(values), bounds, side="left") / len(values)
            missed = 1 - np.searchsorted(np.sort(defective[rule]), bounds, side="left") / len(defective[rule])
            found.setdefault(kind, {})[rule] = (rejected, missed)
    return found


def missed_at(curve: tuple[NDArray[Any], NDArray[Any]], rejected: float) -> float:
    """The smallest share that a rule misses if it rejects no more healthy models than that."""
    return float(curve[1][curve[0] <= rejected].min(initial=1))


def ratchet(healthy: Sequence[ModelEvaluation], drift: float, policy: GateConfig, before: int) -> Ratchet:
    """Let every candidate be worse than the last, after so many nights without a drift; none: without a reference."""
    random, usual = np.random.default_rng(SEED), statistics.mean(model.loss or 0.0 for model in healthy)
    ends = []
    for _ in range(RATCHET_YEARS):
        champion, last, last_night = None, deque[ModelEvaluation](maxlen=policy.reference_versions), 0
        numbers = random.integers(len(healthy), size=before + RATCHET_NIGHTS)
        for night, number in enumerate(numbers, start=1 - before):
            candidate = drifted(healthy[number], max(0, night) * drift)
            best = min(last, key=lambda model: model.loss or 0.0, default=None) if before else None
            if decide(candidate, champion, policy, None if best is champion else best).approved:
                champion, last_night = candidate, night
                last.append(candidate)
        ends.append((last_night, (champion.loss or 0.0 if champion else usual) - usual))
    nights, increases = zip(*ends, strict=True)
    return Ratchet(drift, before, statistics.median(nights), statistics.median(increases))


def drifted(model: ModelEvaluation, more: float) -> ModelEvaluation:
    """The model with a higher loss on test images, and lower shares."""
    lost = more * ACCURACY_PER_LOSS

    def lowered(share: float | None) -> float:
        return max(0.0, (share or 0.0) - lost)

    changed = {
        "version": 1,
        "accuracy": lowered(model.accuracy),
        "loss": (model.loss or 0.0) + more,
        "digits": [
            replace(digit, recall=lowered(digit.recall), precision=lowered(digit.precision)) for digit in model.digits
        ],
        "slices": [replace(part, accuracy=lowered(part.accuracy)) for part in model.slices],
        "changed": [replace(part, accuracy=lowered(part.accuracy)) for part in model.changed],
    }
    return model.model_copy(update=changed)


def print_pool(pool: Pool) -> None:
    metrics = ("accuracy", "loss", "training loss", "doubtful labels", "calibration error")
    print(f"{'models':<26}{'':>5}" + "".join(f"{name:>26}" for name in metrics))
    for kind, models in pool.items():
        cells = [
            [getattr(part, name) for part in parts]
            for parts, name in (
                (models, "accuracy"),
                (models, "loss"),
                ([model.training for model in models], "loss"),
                ([model.training for model in models], "label_issues"),
                (models, "calibration_error"),
            )
        ]
        texts = (f"{statistics.mean(each):.4f} ({min(each):.4f}-{max(each):.4f})" for each in cells)
        print(f"{kind:<26}{len(models):>5}" + "".join(f"{text:>26}" for text in texts))


def print_rates(title: str, rates: Rates) -> None:
    print(f"\n{title}: {rates.false_rejections:.2%} of healthy candidates rejected")
    print(f"the champion's loss at the end of a year: {rates.champion_loss:.4f}")
    print(f"{'':<26}{'let through':>14}{'as the first model':>22}")
    for kind, share in rates.false_promotions.items():
        print(f"{kind:<26}{share:>14.2%}{rates.first[kind]:>22.1%}")


def print_curves(found: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]) -> None:
    print(f"\nEach rule alone, with the bound at which it rejects {FALSE_REJECTIONS:.1%} of healthy models: missed")
    kinds = list(found)
    print(f"{'':<28}" + "".join(f"{kind[:17]:>19}" for kind in kinds))
    for rule in next(iter(found.values())):
        shares = [missed_at(found[kind][rule], FALSE_REJECTIONS) for kind in kinds]
        if min(shares) < 1:
            print(f"{rule:<28}" + "".join(f"{share:>19.1%}" for share in shares))


def _history(before: int) -> str:
    return f"with a reference, after {before} healthy nights" if before else "without a reference"


def draw(found: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]], path: Path) -> None:
    """One small chart for each defect, with the rules that see it best."""
    figure = Figure(figsize=(12, 6.6), dpi=DPI, layout="constrained")
    for axes, (kind, rules) in zip(figure.subplots(2, 5, sharex=True, sharey=True).flat, found.items(), strict=True):
        best = sorted(rules, key=lambda rule: np.trapezoid(1 - rules[rule][1], rules[rule][0]), reverse=True)[:4]
        for rule in best:
            rejected, missed = rules[rule]
            axes.step(100 * rejected, 100 * (1 - missed), where="post", label=rule)
        axes.set_title(kind, fontsize=10)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set(xlim=(0, 100), ylim=(-2, 102))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7.5, loc="lower right")
    figure.supxlabel("healthy models rejected (%)")
    figure.supylabel("defective models caught (%)")
    figure.savefig(path, pil_kwargs={"optimize": True})


def main(path: Path | None, picture: Path | None) -> None:
    host, pool, policy = machine(), read_scores(), GateConfig()
    print_pool(pool)
    matches = Matches(pool, policy)
    rates = simulate(matches, policy.reference_versions)
    print_rates(f"{YEARS} years of {NIGHTS} nights with the defaults", rates)
    found = curves(matches, [kind for kind in pool if kind != HEALTHY])
    print_curves(found)
    ratchets = [ratchet(pool[HEALTHY], drift, policy, before) for drift in DRIFTS for before in (0, 1, 100)]
    print(f"\nEvery candidate worse than the last, {RATCHET_NIGHTS} nights; medians of {RATCHET_YEARS}")
    for each in ratchets:
        print(
            f"loss +{each.loss_a_night:.5f} a night, {_history(each.before)}: the last "
            f"promotion in night {each.last_promotion:.0f}, the champion's loss {each.increase:+.4f}"
        )
    if path:
        results = {"rates": asdict(rates), "ratchets": [asdict(each) for each in ratchets]}
        path.write_text(json.dumps({"machine": host, **results}, indent=2))
    if picture:
        draw(found, picture)


if __name__ == "__main__":
    main(*(Path(sys.argv[place]) if len(sys.argv) > place else None for place in (1, 2)))
