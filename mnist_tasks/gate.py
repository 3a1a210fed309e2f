"""The gate: the rules a candidate must pass, as a pure function. No I/O, no clock, no TensorFlow.

Semantics are those of TensorFlow Model Analysis: bounds are inclusive; a change check compares candidate minus
champion, both measured on the same images; with no champion yet, change checks are skipped and value checks still hold;
a metric that is missing or not a number fails its check. Every check is evaluated, so that a decision names all that
is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from pydantic import Field

from mnist_tasks.settings import Settings

# Accuracies are fractions k/n, so that 0.978 - 0.980 is -0.0020000000000000018 in binary floating point. The slack
# keeps the bounds inclusive; it is far below the smallest step of any accuracy (1/10,000 on MNIST's test set).
SLACK = 1e-9

Verdict = Literal["passed", "failed", "skipped"]


class Policy(Settings):
    """What the gate asks of a candidate."""

    min_accuracy: float = Field(
        0.97, ge=0, le=1, title="Minimum accuracy", description="On the test set; a candidate below it is rejected."
    )
    max_regression: float = Field(
        0.002,
        ge=0,
        le=1,
        title="Allowed regression",
        description="How far the candidate's test accuracy may lie below the champion's, both measured in this run.",
    )


@dataclass(frozen=True)
class Check:
    """One rule and how the candidate stood against it.

    `value` is what was compared with `bound` (for a change check candidate minus champion), `baseline` the champion's
    metric; either is None where there is no finite number.
    """

    name: str
    metric: str
    value: float | None
    bound: float
    baseline: float | None
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class Decision:
    """The outcome of the gate: promoted if and only if no check failed."""

    promoted: bool
    reason: str
    checks: tuple[Check, ...]


def decide(candidate: Mapping[str, float], champion: Mapping[str, float] | None, policy: Policy) -> Decision:
    """Whether the candidate may become champion.

    Args:
        candidate: the candidate's metrics by name, `accuracy` among them (a fraction).
        champion: the champion's metrics on the same test images, or None if there is no champion yet.
        policy: the bounds.
    """
    checks = (
        _minimum("accuracy", candidate, policy.min_accuracy),
        _change("accuracy", candidate, champion, -policy.max_regression),
    )
    failures = [check.message for check in checks if check.verdict == "failed"]
    reasons = failures or [check.message for check in checks]
    return Decision(not failures, "; ".join(dict.fromkeys(reasons)), checks)


def _minimum(metric: str, candidate: Mapping[str, float], bound: float) -> Check:
    value = candidate.get(metric)
    if not _is_number(value):
        return _no_number(f"min_{metric}", metric, f"the candidate's {metric}", value, bound)
    passed = value >= bound - SLACK
    relation = "reaches" if passed else "is below"
    message = f"{metric} {_exact(value)} {relation} the minimum of {_exact(bound)}"
    return Check(f"min_{metric}", metric, value, bound, None, "passed" if passed else "failed", message)


def _change(metric: str, candidate: Mapping[str, float], champion: Mapping[str, float] | None, bound: float) -> Check:
    name, value = f"{metric}_change", candidate.get(metric)
    if champion is None:
        return Check(name, metric, None, bound, None, "skipped", "no champion yet to compare with")
    baseline = champion.get(metric)
    if not _is_number(baseline):
        return _no_number(name, metric, f"the champion's {metric}", baseline, bound)
    if not _is_number(value):
        return _no_number(name, metric, f"the candidate's {metric}", value, bound)
    change = value - baseline
    passed = change >= bound - SLACK
    message = f"{metric} {_exact(value)} against the champion's {_exact(baseline)}, a change of {change:+.4f}, " + (
        f"is within the allowed {bound:+.4f}" if passed else f"is worse than the allowed {bound:+.4f}"
    )
    return Check(name, metric, change, bound, baseline, "passed" if passed else "failed", message)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _no_number(name: str, metric: str, whose: str, found: float | None, bound: float) -> Check:
    message = f"{whose} is {'missing' if found is None else f'{found}, not a finite number'}"
    return Check(name, metric, None, bound, None, "failed", message)


def _exact(value: float) -> str:
    """At least four decimals, and more where rounding would make two different values look the same."""
    return max(f"{value:.4f}", f"{value:.6g}", key=len)
