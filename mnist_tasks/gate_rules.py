"""The rules of quality: which metric is compared with which bound, on which parts of an evaluation.

A new rule is its bound in `gate_config` and its line in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mnist_tasks.documents import (
    MNIST,
    OVERALL,
    TRAINING,
    Check,
    Cost,
    DigitMetrics,
    MnistMetrics,
    ModelEvaluation,
    SliceMetrics,
    TrainingFit,
)
from mnist_tasks.gate_checks import (
    Measurement,
    allowed,
    change,
    entries,
    finite_number,
    maximum,
    metric_name,
    minimum,
    ratio,
)
from mnist_tasks.gate_config import GateConfig

DIGITS = 10  # as in `data.dataset`, which imports NumPy


@dataclass(frozen=True)
class Case:
    """What is judged, and by what.

    `reference` is the best of the last champions; it is None, and `no_reference` says why, if there is nothing else to
    compare with than the champion.
    """

    candidate: ModelEvaluation
    champion: ModelEvaluation | None
    config: GateConfig
    reference: ModelEvaluation | None = None
    no_reference: str | None = None


# What a check that was made says instead, or None: from the case, the check and what was measured.
Words = Callable[[Case, Check, Measurement], "str | None"]


@dataclass(frozen=True)
class Rule:
    """One bound, by the name of its setting: a setting that is None asks for nothing.

    `parts` gives what is measured of an evaluation, by the name of the slice. `unless` says why a check does not count,
    `way_out` what to do about a failed one.
    """

    name: str
    kind: Literal["minimum", "maximum", "change", "ratio"]
    metric: str
    parts: Callable[[ModelEvaluation], Mapping[str, Measurement]]
    against: Literal["champion", "reference"] = "champion"
    unless: tuple[Words, ...] = ()
    way_out: Words | None = None


def quality_checks(case: Case) -> Iterator[Check]:
    """Every check of quality, in the order of the table."""
    for rule in RULES:
        bound = getattr(case.config, rule.name)
        if bound is None:
            continue
        for slice_, measured in rule.parts(case.candidate).items():
            check = _check(rule, case, slice_, measured, bound)
            reason = next((text for unless in rule.unless if (text := unless(case, check, measured))), None)
            if reason:
                check = replace(check, verdict="skipped", message=reason)
            elif check.verdict == "failed" and rule.way_out and (text := rule.way_out(case, check, measured)):
                check = replace(check, message=text)
            yield check


def _check(rule: Rule, case: Case, slice_: str, measured: Measurement, bound: float) -> Check:
    if rule.kind == "minimum":
        return minimum(rule.name, rule.metric, slice_, measured, bound)
    if rule.kind == "maximum":
        return maximum(rule.name, rule.metric, slice_, measured, bound)
    other = case.champion if rule.against == "champion" else case.reference
    if other is None:
        message = "no champion yet to compare with"
        if rule.against == "reference" and case.champion:
            message = case.no_reference or "nothing was measured to compare with but the champion"
        return Check(rule.name, rule.metric, slice_, bound=allowed(rule.metric, bound), message=message)
    compare = change if rule.kind == "change" else ratio
    whose = "the champion" if rule.against == "champion" else f"version {other.version}"
    return compare(rule.name, rule.metric, slice_, measured, rule.parts(other).get(slice_), bound, whose)


# The parts of an evaluation. What a part lacks is missing there, so its checks fail.


def _overall(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    return {OVERALL: evaluation}


def _mnist(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    """MNIST's own test set; nothing if that is tonight's test set anyway."""
    mnist = evaluation.mnist if isinstance(evaluation.mnist, MnistMetrics) else MnistMetrics()
    return {} if mnist.is_test_set is True else {MNIST: mnist}


def _digits(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    missing = {str(digit): DigitMetrics(digit, support=-1) for digit in range(DIGITS)}
    found = {str(entry.digit): entry for entry in entries(evaluation.digits, DigitMetrics)}
    return {digit: found.get(digit, nothing) for digit, nothing in missing.items()}


def _slices(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    return _named(evaluation.slices, "slices")


def _changed(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    return _named(evaluation.changed, "changed images")


def _named(values: object, what: str) -> Mapping[str, Measurement]:
    found = {entry.name: entry for entry in entries(values, SliceMetrics) if isinstance(entry.name, str)}
    return found or {what: SliceMetrics(what, support=-1)}


def _training(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    fit = evaluation.training
    return {TRAINING: fit if isinstance(fit, TrainingFit) else TrainingFit()}


def _cost(evaluation: ModelEvaluation) -> Mapping[str, Measurement]:
    return {OVERALL: evaluation.cost if isinstance(evaluation.cost, Cost) else Cost()}


# Why a check does not count.


def _few_images(case: Case, check: Check, measured: Measurement) -> str | None:
    support = finite_number(getattr(measured, "support", None))
    if support is None or not 0 <= support < case.config.min_support:
        return None
    return f"{metric_name(check.metric, check.slice)} rests on {support:g} images, fewer than {case.config.min_support}"


def _not_mnist(case: Case, check: Check, _: Measurement) -> str | None:
    return None if case.config.fixed_test_set else f"{check.message}; it does not count: fixed_test_set=false"


def _other_objective(case: Case, check: Check, _: Measurement) -> str | None:
    """Losses and confidence can be compared only between models with the same objective."""
    against_reference = check.rule == "max_loss_slide"
    other = case.reference if against_reference else case.champion
    objective, reference = case.candidate.objective, other and other.objective
    if objective is None or reference is None or objective == reference:
        return None
    name = metric_name(check.metric, check.slice)
    whose = f"version {other.version}" if other and against_reference else "the champion"
    return f"the candidate was trained for {objective} and {whose} for {reference}: {name} cannot be compared"


def _not_measured(case: Case, _: Check, __: Measurement) -> str | None:
    reason = getattr(case.champion and case.champion.training, "not_measured", None)
    return reason if isinstance(reason, str) else None


# What to do about a failed check.


def _about_mnist(_: Case, check: Check, measured: Measurement) -> str:
    not_mnist = "if these digits are not meant to look like MNIST's, set fixed_test_set=false"
    measured_at_all = getattr(measured, "accuracy", None) is not None
    return f"{check.message} ({not_mnist if measured_at_all else 'clear the evaluate task to measure it'})"


def _about_labels(_: Case, check: Check, measured: Measurement) -> str:
    if getattr(measured, "label_issues", None) is None:
        return f"{check.message}; clear the evaluate task to measure it"
    return f"{check.message}; suspects.csv in the run's folder lists the images: correct their labels"


def _about_slide(case: Case, check: Check, _: Measurement) -> str:
    reference = case.reference
    steps = finite_number(reference.champions_since) if reference else None
    if reference is None or steps is None:
        return check.message
    return (
        f"{check.message}: the champions slide, this would be number {steps + 1:g} since version {reference.version}; "
        "find out what has changed in the data, or accept the new level with force=true and a reason"
    )


SAME_OBJECTIVE, ENOUGH_IMAGES = (_other_objective,), (_few_images,)

RULES = (
    Rule("min_accuracy", "minimum", "accuracy", _overall),
    Rule("max_accuracy", "maximum", "accuracy", _overall),
    Rule("max_loss", "maximum", "loss", _overall),
    Rule("max_regression", "change", "accuracy", _overall),
    Rule("max_loss_increase", "change", "loss", _overall, unless=SAME_OBJECTIVE),
    Rule("min_accuracy", "minimum", "accuracy", _mnist, unless=(_not_mnist,), way_out=_about_mnist),
    Rule("max_accuracy", "maximum", "accuracy", _mnist, unless=(_not_mnist,), way_out=_about_mnist),
    Rule("max_regression", "change", "accuracy", _mnist, unless=(_not_mnist,), way_out=_about_mnist),
    Rule("max_label_issues", "maximum", "label_issues", _training, way_out=_about_labels),
    Rule("max_training_loss_increase", "change", "loss", _training, unless=(_not_measured,), way_out=_about_labels),
    Rule("max_calibration_increase", "change", "calibration_error", _overall, unless=SAME_OBJECTIVE),
    Rule("max_slide", "change", "accuracy", _overall, "reference", way_out=_about_slide),
    Rule("max_loss_slide", "change", "loss", _overall, "reference", unless=SAME_OBJECTIVE, way_out=_about_slide),
    Rule("min_digit_recall", "minimum", "recall", _digits, unless=ENOUGH_IMAGES),
    Rule("min_digit_precision", "minimum", "precision", _digits, unless=ENOUGH_IMAGES),
    Rule("max_digit_regression", "change", "recall", _digits, unless=ENOUGH_IMAGES),
    Rule("min_slice_accuracy", "minimum", "accuracy", _slices, unless=ENOUGH_IMAGES),
    Rule("max_slice_regression", "change", "accuracy", _slices, unless=ENOUGH_IMAGES),
    Rule("max_robustness_regression", "change", "accuracy", _changed, unless=ENOUGH_IMAGES),
    Rule("max_size_mb", "maximum", "megabytes", _cost),
    Rule("max_slowdown", "ratio", "seconds_for_one", _cost),
    Rule("max_slowdown", "ratio", "seconds_for_many", _cost),
)
