"""The gate: the rules a candidate must pass, as a pure function. No I/O, no clock, no TensorFlow.

Semantics are those of TensorFlow Model Analysis: bounds are inclusive; a change check compares candidate minus
champion, both measured on the same images; with no champion yet, change checks are skipped and value checks still hold;
a metric that is missing or no number of its range fails its check. Every check is evaluated, so that a decision names
all that is wrong.

Quality can be overruled by a person who gives a reason. Integrity cannot: a model that does not load, whose files
disagree or whose champion cannot be measured is refused whatever the policy says. Nor can the yardstick: where the
champion measures far below its published accuracy, it is the test images that have changed, and nothing measured with
them means anything.

Accuracy is judged twice where tonight's test images are not MNIST's: on them, and on MNIST's own 10,000, which no
source and no batch can change.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from mnist_tasks.system.errors import InputError
from mnist_tasks.system.parameters import Parameters, one_of

DIGITS = 10  # as in `dataset`, which imports NumPy

# Accuracies are fractions k/n, so that 0.978 - 0.980 is -0.0020000000000000018 in binary floating point. The slack
# keeps the bounds inclusive; it is far below the smallest step of any accuracy (1/10,000 on MNIST's test set).
SLACK = 1e-9

LONGEST = 40  # characters of a value in a message

# More failures than these are counted in the reason; the decision has them all.
NAMED_FAILURES = 3

OVERALL, INTEGRITY, APPROVAL = "overall", "integrity", "approval"
MNIST = "MNIST"  # the slice of the checks on MNIST's own test set

# The checks whose failure may be the test images' doing: then the reason names the accuracy on each part of them.
ON_ACCURACY = {"min_accuracy", "max_accuracy", "max_regression", "max_champion_drop"}

Outcome = Literal["approved", "rejected", "refused"]
Verdict = Literal["passed", "failed", "skipped"]


class GateConfig(Parameters):
    """What the gate asks of a candidate; all shares are fractions of the test images."""

    min_accuracy: float = Field(
        0.97, ge=0, le=1, title="Minimum accuracy", description="A candidate below it is rejected."
    )
    max_accuracy: float = Field(
        0.9985,
        ge=0,
        le=1,
        title="Suspicious accuracy",
        description="A candidate above it is rejected: it is better than any single network known, so that test images "
        "have probably got into its training.",
    )
    max_loss: float = Field(
        0.3, ge=0, title="Maximum loss", description="Mean cross-entropy, in nats; a candidate above it is rejected."
    )
    min_digit_recall: float = Field(
        0.93,
        ge=0,
        le=1,
        title="Minimum recall of a digit",
        description="Share of each digit's images that must be recognized.",
    )
    min_digit_precision: float = Field(
        0.93,
        ge=0,
        le=1,
        title="Minimum precision of a digit",
        description="Share of the images taken for a digit that must be that digit.",
    )
    max_regression: float = Field(
        0.004,
        ge=0,
        le=1,
        title="Allowed regression",
        description="How far the candidate's accuracy may lie below the champion's, both measured in this run.",
    )
    max_digit_regression: float = Field(
        0.04,
        ge=0,
        le=1,
        title="Allowed regression of a digit",
        description="How far the candidate's recall of a digit may lie below the champion's.",
    )
    max_loss_increase: float = Field(
        0.01,
        ge=0,
        title="Allowed increase of the loss",
        description="How far the candidate's loss may lie above the champion's, in nats. Shows wrong labels long "
        "before the accuracy does. Skipped if the two were trained for different losses, as with label smoothing.",
    )
    max_champion_drop: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Allowed drop of the champion",
        description="How far the champion's accuracy on tonight's test images may lie below its published one, beyond "
        "what chance explains. More stops the run: it is the test images that have changed, not the candidate. 1 for "
        "new test images that are meant to be much harder.",
    )
    fixed_test_set: bool = Field(
        True,
        title="MNIST's test set counts",
        description="Whatever the source and the inbox say, accuracy must also keep its bounds on MNIST's own 10,000 "
        "test images, which are always measured. Switch it off only for digits that are not to look like MNIST's.",
    )
    min_support: int = Field(
        100,
        ge=1,
        le=1_000_000,
        title="Minimum support",
        description="A digit with fewer test images is not judged by itself: chance would decide.",
    )
    on_rejection: Annotated[str, one_of("skip", "fail")] = Field(
        "skip",
        title="On rejection",
        description="`skip`: the task promote is skipped, the run succeeds; `fail`: both fail.",
    )
    force: bool = Field(
        False,
        title="Force",
        description="Publish in spite of failed quality checks. Never overrules an integrity check. Needs a reason.",
    )
    # Null, as Airflow's form takes an empty text for one that is missing.
    force_reason: Annotated[str | None, WithJsonSchema({"type": ["string", "null"], "maxLength": 500})] = Field(
        None,
        title="Reason to force",
        description="Who decided so and why; it goes into the decision, the history and the model card.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> GateConfig:
        if self.min_accuracy > self.max_accuracy:
            raise InputError(
                f"min_accuracy: {self.min_accuracy} is above max_accuracy, {self.max_accuracy}, so that no model could "
                "pass; lower the one or raise the other"
            )
        if self.force and not (self.force_reason or "").strip():
            raise InputError("force: a reason is needed; set force_reason to who decided so and why")
        if self.force_reason and not self.force:
            raise InputError(f"force_reason: {self.force_reason!r} without force; set force=true, or leave it out")
        return self


@dataclass(frozen=True)
class Check:
    """One rule and how the candidate stood against it.

    `rule` is the policy's field, `integrity` or `approval`; `slice` is `overall` or a digit. `value` is what was
    compared with `bound` (for a change check candidate minus champion), `baseline` the champion's metric; each is None
    where there is no finite number.
    """

    rule: str
    metric: str
    slice: str
    value: float | None
    bound: float | None
    baseline: float | None
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class Decision:
    """The outcome of the gate and every check.

    `approved` is the gate's word only: nothing is published by it. `rejected` is a matter of quality, `refused` one of
    integrity or of the yardstick; `forced` is an approval in spite of failed checks.
    """

    outcome: Outcome
    forced: bool
    reason: str
    checks: tuple[Check, ...]

    @property
    def approved(self) -> bool:
        return self.outcome == "approved"


@dataclass(frozen=True)
class Approval:
    """What a person said about a candidate that the gate lets pass.

    `approved` is None if nobody was asked, as the gate does not let it pass; `by` is None if nobody answered in time.
    `evaluation` is the SHA-256 of the `evaluation.json` that the answer is about.
    """

    evaluation: str
    approved: bool | None = None
    by: str | None = None
    at: str | None = None
    comment: str = ""


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: GateConfig) -> Decision:
    """Whether the candidate may become champion.

    Args:
        candidate: its part of `evaluation.json`: `accuracy`, `loss`, `digits` (with `digit`, `support`, `recall` and
            `precision`), `dataset` (the digest of the data it was measured on), `objective` (what it was trained to
            minimize), `integrity`, a sequence of mappings with `metric`, `value`, `bound`, `passed` and `message`, and
            `mnist`, the `accuracy` on MNIST's own test set and whether it `is_test_set` of tonight. Optional: `parts`,
            the `accuracy` on parts of the test images, each with its `name` and `images`.
        champion: the champion's in the same form, or None if there is no champion yet. Its `published` has the
            `accuracy` and the interval `accuracy_95` with which it was promoted.
        policy: the bounds.
    """
    integrity = [*_integrity("candidate", candidate)]
    if champion is not None:
        integrity += [*_integrity("champion", champion), _same_images(candidate, champion)]
        integrity.append(_champion_drop(champion, policy.max_champion_drop))
    quality = [
        floor := _minimum("min_accuracy", "accuracy", OVERALL, candidate, policy.min_accuracy),
        _maximum("max_accuracy", "accuracy", candidate, policy.max_accuracy),
        _maximum("max_loss", "loss", candidate, policy.max_loss),
        accuracy_change := _change("max_regression", "accuracy", OVERALL, candidate, champion, policy.max_regression),
        _loss_increase(candidate, champion, policy.max_loss_increase),
        *_on_mnist(candidate, champion, policy),
    ]
    digit_floors = {"recall": policy.min_digit_recall, "precision": policy.min_digit_precision}
    for digit in range(DIGITS):
        of_candidate, of_champion = _digit(candidate, digit), champion and _digit(champion, digit)
        for metric, minimum in digit_floors.items():
            check = _minimum(f"min_digit_{metric}", metric, str(digit), of_candidate, minimum)
            quality.append(_if_supported(check, policy, of_candidate))
        allowed = policy.max_digit_regression
        check = _change("max_digit_regression", "recall", str(digit), of_candidate, of_champion, allowed)
        quality.append(_if_supported(check, policy, of_candidate))

    broken, bad = ([check for check in checks if check.verdict == "failed"] for checks in (integrity, quality))
    checks = (*integrity, *quality)
    if broken:
        return Decision("refused", False, _why(broken, "champion", champion), checks)
    if bad and policy.force:
        return Decision("approved", True, f"forced ({policy.force_reason}) although {_why(bad)}", checks)
    if bad:
        return Decision("rejected", False, _why(bad, "candidate", candidate), checks)
    return Decision("approved", False, f"{floor.message}; {accuracy_change.message}", checks)


def with_approval(decision: Decision, approval: Approval) -> Decision:
    """The decision with a person's answer as one more check: it can stop a promotion, and never make one."""
    answered = approval.approved is not None
    comment = f": {approval.comment}" if approval.comment else ""
    if not answered:
        why = "; clear the approve task" if decision.approved else ", as the gate does not let the candidate pass"
        message = f"nobody was asked for approval{why}"
    elif approval.by is None:
        message = "rejected: nobody answered in time"
    else:
        message = f"{'approved' if approval.approved else 'rejected'} by {approval.by}{comment}"
    # A yes counts only with a name to it.
    passed = approval.approved is True and approval.by is not None
    verdict: Verdict = "passed" if passed else "failed" if answered or decision.approved else "skipped"
    check = Check(APPROVAL, APPROVAL, OVERALL, None, None, None, verdict, message)
    checks = (*decision.checks, check)
    if not decision.approved:
        return replace(decision, checks=checks)
    if passed:
        return replace(decision, reason=f"{decision.reason}; {message}", checks=checks)
    return Decision("rejected", False, message, checks)


def _integrity(whose: str, evaluation: Mapping[str, Any]) -> Iterator[Check]:
    """The integrity checks that were made when the model was evaluated; none at all is a failure."""
    made = _entries(evaluation, "integrity")
    if not made:
        yield Check(INTEGRITY, whose, OVERALL, None, None, None, "failed", f"the {whose}'s integrity was not checked")
    for check in made:
        verdict: Verdict = "passed" if check.get("passed") is True else "failed"
        value, bound = _number(check.get("value")), _number(check.get("bound"))
        message = f"the {whose}: {check.get('message')}"
        yield Check(INTEGRITY, f"{whose} {check.get('metric')}", OVERALL, value, bound, None, verdict, message)


def _same_images(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Check:
    """Two scores can be compared only if they are of the same images."""
    ours, theirs = candidate.get("dataset"), champion.get("dataset")
    same = ours is not None and ours == theirs
    message = (
        "candidate and champion were measured on the same images"
        if same
        else f"the candidate was measured on dataset {ours}, the champion on {theirs}, so that they cannot be compared"
    )
    return Check(INTEGRITY, "dataset", OVERALL, None, None, None, "passed" if same else "failed", message)


def _champion_drop(champion: Mapping[str, Any], bound: float) -> Check:
    """Whether the champion still measures what it was published with, as far as the two test sets can tell.

    The upper end of tonight's 95 % interval is compared with the lower end of the published one.
    """
    rule, metric = "max_champion_drop", "champion's accuracy"
    published = _mapping(champion, "published")
    then, now = _metric("accuracy", published), _metric("accuracy", champion)
    if then is None or now is None:
        message = "the champion's published accuracy is not known, or it could not be measured"
        return Check(rule, metric, OVERALL, None, bound, None, "skipped", message)
    drop = max(0.0, _interval(published, then)[0] - _interval(champion, now)[1])
    passed = drop <= bound + SLACK
    message = (
        f"the champion's accuracy is {now:.4f} on tonight's test images and was {then:.4f} when it was published: "
        f"beyond chance a drop of {drop:.4f}, {'within' if passed else 'more than'} the allowed {bound:.4f}"
    )
    if not passed:
        message += (
            "; the test images have changed, not the candidate: look at the source and at the inbox, or, if they are "
            "meant to be so much harder, set max_champion_drop=1"
        )
    return Check(rule, metric, OVERALL, drop, bound, then, "passed" if passed else "failed", message)


def _on_mnist(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, policy: GateConfig) -> Iterator[Check]:
    """The checks of the accuracy on MNIST's own test set; none if that is tonight's test set anyway."""
    ours, theirs = _mapping(candidate, "mnist"), champion and _mapping(champion, "mnist")
    if ours.get("is_test_set") is True:
        return
    checks = (
        _minimum("min_accuracy", "accuracy", MNIST, ours, policy.min_accuracy),
        _maximum("max_accuracy", "accuracy", ours, policy.max_accuracy, MNIST),
        _change("max_regression", "accuracy", MNIST, ours, theirs, policy.max_regression),
    )
    for check in checks:
        if not policy.fixed_test_set:
            yield replace(check, verdict="skipped", message=f"{check.message}; it does not count: fixed_test_set=false")
        elif check.verdict == "failed":
            unlike = "if these digits are not to look like MNIST's, set fixed_test_set=false"
            way_out = unlike if "accuracy" in ours else "clear the evaluate task to measure it"
            yield replace(check, message=f"{check.message} ({way_out})")
        else:
            yield check


def _interval(measured: Mapping[str, Any], accuracy: float) -> tuple[float, float]:
    """The 95 % interval of an accuracy; the accuracy itself where none is known."""
    ends = measured.get("accuracy_95")
    low, high = map(_number, ends) if isinstance(ends, list | tuple) and len(ends) == 2 else (None, None)
    return accuracy if low is None else low, accuracy if high is None else high


def _mapping(evaluation: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping under a name; empty if there is anything else."""
    found = evaluation.get(name)
    return found if isinstance(found, Mapping) else {}


def _digit(evaluation: Mapping[str, Any], digit: int) -> Mapping[str, Any]:
    """One digit's part of an evaluation; empty if there is none."""
    return next((entry for entry in _entries(evaluation, "digits") if entry.get("digit") == digit), {})


def _entries(evaluation: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The list of mappings under a name; empty if there is anything else."""
    entries = evaluation.get(name)
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, Mapping) for entry in entries):
        return []
    return list(entries)


def _if_supported(check: Check, policy: GateConfig, measured: Mapping[str, Any]) -> Check:
    """The check, skipped if there are too few images of its digit for it to mean anything."""
    support = _number(measured.get("support"))
    if support is None or not 0 <= support < policy.min_support:
        return check
    message = f"{_what(check.metric, check.slice)} rests on {support:g} images, fewer than {policy.min_support}"
    return replace(check, verdict="skipped", message=message)


def _minimum(rule: str, metric: str, slice_: str, measured: Mapping[str, Any], bound: float) -> Check:
    value = _metric(metric, measured)
    if value is None:
        return _no_number(rule, metric, slice_, "candidate", measured, bound)
    passed = value >= bound - SLACK
    (value_text, bound_text), relation = _texts(value, bound), "reaches" if passed else "is below"
    message = f"{_what(metric, slice_)} {value_text} {relation} the minimum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, "passed" if passed else "failed", message)


def _maximum(rule: str, metric: str, measured: Mapping[str, Any], bound: float, slice_: str = OVERALL) -> Check:
    value = _metric(metric, measured)
    if value is None:
        return _no_number(rule, metric, slice_, "candidate", measured, bound)
    passed = value <= bound + SLACK
    (value_text, bound_text), relation = _texts(value, bound), "is within" if passed else "is above"
    message = f"{_what(metric, slice_)} {value_text} {relation} the maximum of {bound_text}"
    return Check(rule, metric, slice_, value, bound, None, "passed" if passed else "failed", message)


def _change(
    rule: str,
    metric: str,
    slice_: str,
    measured: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    tolerance: float,
) -> Check:
    """Whether the candidate is worse than the champion by no more than the tolerance."""
    bound = tolerance if metric == "loss" else 0 - tolerance  # and not -0.0
    if champion is None:
        return Check(rule, metric, slice_, None, bound, None, "skipped", "no champion yet to compare with")
    value, baseline = _metric(metric, measured), _metric(metric, champion)
    if baseline is None:
        return _no_number(rule, metric, slice_, "champion", champion, bound)
    if value is None:
        return _no_number(rule, metric, slice_, "candidate", measured, bound)
    change = value - baseline
    passed = change <= bound + SLACK if metric == "loss" else change >= bound - SLACK
    value_text, baseline_text = _texts(value, baseline)
    change_text, bound_text = _texts(change, bound, sign="+")
    message = (
        f"{_what(metric, slice_)} {value_text} against the champion's {baseline_text}, a change of {change_text}, "
        f"is {'within' if passed else 'worse than'} the allowed {bound_text}"
    )
    return Check(rule, metric, slice_, change, bound, baseline, "passed" if passed else "failed", message)


def _loss_increase(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, bound: float) -> Check:
    """The change of the loss, which means something only between models that were trained to minimize the same."""
    ours, theirs = candidate.get("objective"), (champion or {}).get("objective")
    if ours is not None and theirs is not None and ours != theirs:
        message = f"the candidate was trained for {ours}, the champion for {theirs}: their losses cannot be compared"
        return Check("max_loss_increase", "loss", OVERALL, None, bound, None, "skipped", message)
    return _change("max_loss_increase", "loss", OVERALL, candidate, champion, bound)


def _metric(metric: str, measured: Mapping[str, Any]) -> float | None:
    """The metric, or None if it is no number that it could be: a loss is not negative, a share within [0, 1]."""
    value = _number(measured.get(metric))
    highest = math.inf if metric == "loss" else 1
    return value if value is not None and 0 <= value <= highest else None


def _number(value: Any) -> float | None:
    """The finite number that a value is, or None."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _no_number(rule: str, metric: str, slice_: str, whose: str, measured: Mapping[str, Any], bound: float) -> Check:
    found = measured.get(metric)
    try:
        problem = "missing" if found is None else f"{repr(found)[:LONGEST]}, which it cannot be"
    except ValueError:  # Python refuses to write an integer of more than some thousand digits
        problem = "an integer of thousands of digits, which it cannot be"
    message = f"the {whose}'s {_what(metric, slice_)} is {problem}"
    return Check(rule, metric, slice_, None, bound, None, "failed", message)


def _what(metric: str, slice_: str) -> str:
    if slice_ == MNIST:
        return f"{metric} on MNIST's own test set"
    return metric if slice_ == OVERALL else f"{metric} of digit {slice_}"


def _why(failed: Sequence[Check], whose: str = "", measured: Mapping[str, Any] | None = None) -> str:
    """The messages of failed checks; and, if one is of the accuracy, what it is on each part of the test images."""
    reason = _several([check.message for check in failed])
    on_accuracy = ON_ACCURACY & {check.rule for check in failed}
    entries = _entries(measured or {}, "parts")
    parts = [(part.get("name"), _number(part.get("images")), _metric("accuracy", part)) for part in entries]
    texts = [f"{share:.4f} on {name} ({images:,.0f})" for name, images, share in parts if images and share is not None]
    return f"{reason}; the {whose}'s accuracy is {', '.join(texts)}" if on_accuracy and texts else reason


def _several(messages: Sequence[str]) -> str:
    """The first messages, each once, and how many more there are."""
    distinct = list(dict.fromkeys(messages))
    named, more = distinct[:NAMED_FAILURES], len(distinct[NAMED_FAILURES:])
    return "; ".join(named + [f"and {more} more failed check{'s' if more > 1 else ''}"] * bool(more))


def _texts(first: float, second: float, sign: str = "") -> tuple[str, str]:
    """Two numbers with as many decimals as it takes to tell them apart, four at least."""
    for decimals in range(4, 18):
        texts = (f"{first:{sign}.{decimals}f}", f"{second:{sign}.{decimals}f}")
        if texts[0] != texts[1] or abs(first - second) <= SLACK:
            break
    return texts if max(map(len, texts)) < LONGEST else (f"{first:{sign}g}", f"{second:{sign}g}")
