"""How the gate compares one metric with one bound, whatever the documents hold, and the words for it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

from mnist_tasks.documents import (
    MNIST,
    OVERALL,
    Check,
    DigitMetrics,
    MnistMetrics,
    ModelEvaluation,
    Part,
    PublishedMetrics,
    Verdict,
)

Measurement = ModelEvaluation | MnistMetrics | DigitMetrics | PublishedMetrics | Part
T = TypeVar("T")

# Accuracies are fractions k/n, so 0.978 - 0.980 is -0.0020000000000000018 in binary floating point. The slack keeps the
# bounds inclusive. It is far below the smallest step of any accuracy (1/10,000 on MNIST's test set).
SLACK = 1e-9

MAX_VALUE_CHARACTERS = 40  # of a value in a message
MAX_NAMED_FAILURES = 3  # in a reason, which counts the others; the decision has all of them


def minimum(rule: str, metric: str, slice_: str, measured: Measurement, bound: float) -> Check:
    """Check that the candidate's metric is not below the bound."""
    value = metric_of(metric, measured)
    if value is None:
        return _invalid(rule, metric, slice_, "candidate", measured, bound)
    passed = value >= bound - SLACK
    (value_text, bound_text), relation = _number_texts(value, bound), "reaches" if passed else "is below"
    message = f"{metric_name(metric, slice_)} {value_text} {relation} the minimum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, verdict_of(passed), message)


def maximum(rule: str, metric: str, slice_: str, measured: Measurement, bound: float) -> Check:
    """Check that the candidate's metric is not above the bound."""
    value = metric_of(metric, measured)
    if value is None:
        return _invalid(rule, metric, slice_, "candidate", measured, bound)
    passed = value <= bound + SLACK
    (value_text, bound_text), relation = _number_texts(value, bound), "is within" if passed else "is above"
    message = f"{metric_name(metric, slice_)} {value_text} {relation} the maximum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, verdict_of(passed), message)


def change_from_champion(
    rule: str, metric: str, slice_: str, measured: Measurement, champion: Measurement | None, tolerance: float
) -> Check:
    """Check that the candidate is worse than the champion by no more than the tolerance."""
    bound = tolerance if metric == "loss" else 0 - tolerance  # and not -0.0
    if champion is None:
        return Check(rule, metric, slice_, bound=bound, message="no champion yet to compare with")
    value, baseline = metric_of(metric, measured), metric_of(metric, champion)
    if baseline is None:
        return _invalid(rule, metric, slice_, "champion", champion, bound)
    if value is None:
        return _invalid(rule, metric, slice_, "candidate", measured, bound)
    change = value - baseline
    passed = change <= bound + SLACK if metric == "loss" else change >= bound - SLACK
    value_text, baseline_text = _number_texts(value, baseline)
    change_text, bound_text = _number_texts(change, bound, sign="+")
    message = (
        f"{metric_name(metric, slice_)} {value_text} against the champion's {baseline_text}, a change of "
        f"{change_text}, is {'within' if passed else 'worse than'} the allowed {bound_text}"
    )
    return Check(rule, metric, slice_, change, bound, baseline, verdict_of(passed), message)


def _invalid(rule: str, metric: str, slice_: str, model: str, measured: Measurement, bound: float) -> Check:
    """The failed check of a metric that is missing, not finite or out of its range."""
    message = f"the {model}'s {metric_name(metric, slice_)} is {_invalid_value(getattr(measured, metric, None))}"
    return Check(rule, metric, slice_, bound=bound, verdict="failed", message=message)


def verdict_of(passed: bool) -> Verdict:
    """The verdict of a check that was made."""
    return "passed" if passed else "failed"


# Fields may hold anything, as if nothing had validated them.


def entries(values: Any, kind: type[T]) -> list[T]:
    """The entries of a list; none if anything else is there or in it."""
    whole = isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)
    return list(values) if whole else []


def interval(measured: ModelEvaluation | PublishedMetrics, accuracy: float) -> tuple[float, float]:
    """The 95 % interval of an accuracy; the accuracy itself if the interval is unknown."""
    ends = getattr(measured, "accuracy_95", None)
    low, high = map(finite_number, ends) if isinstance(ends, list | tuple) and len(ends) == 2 else (None, None)
    return accuracy if low is None else low, accuracy if high is None else high


def metric_of(metric: str, measured: Measurement) -> float | None:
    """The metric, or None if it is not a possible value: a loss is at least 0, a share within [0, 1]."""
    value = finite_number(getattr(measured, metric, None))
    highest = math.inf if metric == "loss" else 1
    return value if value is not None and 0 <= value <= highest else None


def finite_number(value: Any) -> float | None:
    """The value as a finite number, or None if it is anything else."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


# Words.


def metric_name(metric: str, slice_: str) -> str:
    """What a metric is called on a slice of the test images."""
    if slice_ == MNIST:
        return f"{metric} on MNIST's own test set"
    return metric if slice_ == OVERALL else f"{metric} of digit {slice_}"


def _invalid_value(value: object) -> str:
    """What is wrong with a metric that is missing, not finite or out of its range."""
    if value is None:
        return "missing"
    try:
        return f"{repr(value)[:MAX_VALUE_CHARACTERS]}, which is not a possible value"
    except ValueError:  # Python refuses to write out an integer of more than 4,300 digits
        return "an integer of thousands of digits, which is not a possible value"


def _number_texts(first: float, second: float, sign: str = "") -> tuple[str, str]:
    """Write two numbers with as many decimals as it takes to tell them apart, and at least four."""
    for decimals in range(4, 18):
        texts = (f"{first:{sign}.{decimals}f}", f"{second:{sign}.{decimals}f}")
        if texts[0] != texts[1] or abs(first - second) <= SLACK:
            break
    return texts if max(map(len, texts)) < MAX_VALUE_CHARACTERS else (f"{first:{sign}g}", f"{second:{sign}g}")


def joined_messages(checks: Sequence[Check]) -> str:
    """Join the messages of failed checks: the first ones, each once, and how many more there are."""
    messages = list(dict.fromkeys(check.message for check in checks))
    named, others = messages[:MAX_NAMED_FAILURES], len(messages[MAX_NAMED_FAILURES:])
    return "; ".join(named + [f"and {others} more failed check{'s' if others > 1 else ''}"] * bool(others))
