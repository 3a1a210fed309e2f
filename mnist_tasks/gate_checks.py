"""How the gate compares one metric with one bound, whatever the documents hold, and the words for it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeVar

from mnist_tasks.documents import (
    MNIST,
    OVERALL,
    TRAINING,
    Check,
    Cost,
    DigitMetrics,
    MnistMetrics,
    ModelEvaluation,
    Part,
    PublishedMetrics,
    SliceMetrics,
    TrainingFit,
    Verdict,
)

Measurement = (
    ModelEvaluation | MnistMetrics | DigitMetrics | PublishedMetrics | Part | SliceMetrics | TrainingFit | Cost
)
T = TypeVar("T")

# Accuracies are fractions k/n, so 0.978 - 0.980 is -0.0020000000000000018 in binary floating point. The slack keeps the
# bounds inclusive. It is far below the smallest step of any accuracy (1/10,000 on MNIST's test set).
SLACK = 1e-9

# Metrics that are better the lower they are, and those that are no shares: they have no highest value.
LOWER_IS_BETTER = {"loss", "calibration_error", "label_issues"}
UNBOUNDED = {"loss", "megabytes", "seconds_for_one", "seconds_for_many"}

NAMES = {
    "calibration_error": "calibration error",
    "label_issues": "share of doubtful labels",
    "megabytes": "size in MB",
    "seconds_for_one": "seconds to predict one image",
    "seconds_for_many": "seconds to predict many images",
}
MAX_VALUE_CHARACTERS = 40  # of a value in a message
MAX_NAMED_FAILURES = 3  # in a reason, which counts the others; the decision has all of them


def minimum(rule: str, metric: str, slice_: str, measured: Measurement, bound: float) -> Check:
    """Check that the candidate's metric is not below the bound."""
    value = metric_of(metric, measured)
    if value is None:
        return _invalid(rule, metric, slice_, "the candidate", measured, bound)
    passed = value >= bound - SLACK
    (value_text, bound_text), relation = _number_texts(value, bound), "reaches" if passed else "is below"
    message = f"{metric_name(metric, slice_)} {value_text} {relation} the minimum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, verdict_of(passed), message)


def maximum(rule: str, metric: str, slice_: str, measured: Measurement, bound: float) -> Check:
    """Check that the candidate's metric is not above the bound."""
    value = metric_of(metric, measured)
    if value is None:
        return _invalid(rule, metric, slice_, "the candidate", measured, bound)
    passed = value <= bound + SLACK
    (value_text, bound_text), relation = _number_texts(value, bound), "is within" if passed else "is above"
    message = f"{metric_name(metric, slice_)} {value_text} {relation} the maximum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, verdict_of(passed), message)


def change(
    rule: str,
    metric: str,
    slice_: str,
    measured: Measurement,
    baseline: Measurement | None,
    tolerance: float,
    whose: str = "the champion",
) -> Check:
    """Check that the candidate is worse than another model by no more than the tolerance.

    Args:
        rule: the name of the setting.
        metric: what is compared.
        slice_: on which images.
        measured: the candidate there.
        baseline: the other model there; None if it lacks them.
        tolerance: the setting's value.
        whose: what the other model is called.
    """
    bound = allowed(metric, tolerance)
    value, other = metric_of(metric, measured), metric_of(metric, baseline)
    if other is None:
        return _invalid(rule, metric, slice_, whose, baseline, bound)
    if value is None:
        return _invalid(rule, metric, slice_, "the candidate", measured, bound)
    difference = value - other
    passed = difference <= bound + SLACK if metric in LOWER_IS_BETTER else difference >= bound - SLACK
    value_text, other_text = _number_texts(value, other)
    difference_text, bound_text = _number_texts(difference, bound, sign="+")
    message = (
        f"{metric_name(metric, slice_)} {value_text} against {whose}'s {other_text}, a change of {difference_text}, is "
        f"{'within' if passed else 'worse than'} the allowed {bound_text}"
    )
    return Check(rule, metric, slice_, difference, bound, other, verdict_of(passed), message)


def ratio(
    rule: str,
    metric: str,
    slice_: str,
    measured: Measurement,
    baseline: Measurement | None,
    highest: float,
    whose: str = "the champion",
) -> Check:
    """Check that the candidate's metric is at most so many times another model's; arguments as for `change`."""
    value, other = metric_of(metric, measured), metric_of(metric, baseline)
    if not other:
        return _invalid(rule, metric, slice_, whose, baseline, highest)
    if value is None:
        return _invalid(rule, metric, slice_, "the candidate", measured, highest)
    quotient = value / other
    passed = quotient <= highest + SLACK
    quotient_text, highest_text = _number_texts(quotient, highest)
    message = (
        f"{metric_name(metric, slice_)} {value:.4g} is {quotient_text} times {whose}'s {other:.4g}, "
        f"{'within' if passed else 'more than'} the allowed {highest_text} times"
    )
    return Check(rule, metric, slice_, quotient, highest, other, verdict_of(passed), message)


def allowed(metric: str, tolerance: float) -> float:
    """The bound of a change: negative for a metric that is better the higher it is."""
    return tolerance if metric in LOWER_IS_BETTER else 0 - tolerance  # and not -0.0


def _invalid(rule: str, metric: str, slice_: str, whose: str, measured: Measurement | None, bound: float) -> Check:
    """The failed check of a metric that is missing, not finite or out of its range."""
    message = f"{whose}'s {metric_name(metric, slice_)} is {_invalid_value(getattr(measured, metric, None))}"
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


def metric_of(metric: str, measured: Measurement | None) -> float | None:
    """The metric, or None if it is not a possible value: a loss is at least 0, a share within [0, 1]."""
    value = finite_number(getattr(measured, metric, None))
    highest = math.inf if metric in UNBOUNDED else 1
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
    """What a metric is called on a slice of the test images, or on the training images."""
    name = NAMES.get(metric, metric)
    if slice_ == OVERALL:
        return name
    if slice_ == MNIST:
        return f"{name} on MNIST's own test set"
    if slice_ == TRAINING:
        return f"{name} on the training images"
    return f"{name} of digit {slice_}" if slice_.isdigit() else f"{name} ({slice_})"


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
