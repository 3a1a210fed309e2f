"""The gate: the rules that a candidate must pass, as a pure function. No I/O, no clock, no TensorFlow.

The semantics are those of TensorFlow Model Analysis. Bounds are inclusive. A change check compares candidate minus
champion, both measured on the same images. Without a champion, change checks are skipped and value checks still hold.
A metric that is missing, not finite or out of its range fails its check. Every check is evaluated, so a decision names
everything that is wrong.

A person who gives a reason can overrule the checks of quality, but not those of integrity: a candidate is refused
whatever the configuration says if a model does not load, its files disagree, or the champion cannot be measured.
It is also refused if the champion measures far below its published accuracy: then the test images have changed, and
nothing that was measured with them can be trusted.

If tonight's test images are not MNIST's, accuracy is judged twice: on tonight's images and on MNIST's own 10,000, which
no source and no batch can change. The rules of quality are a table in `gate_rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mnist_tasks.documents import (
    OVERALL,
    Approval,
    Check,
    Finding,
    ModelEvaluation,
    Part,
    Verdict,
)
from mnist_tasks.gate_checks import (
    SLACK,
    entries,
    finite_number,
    interval,
    joined_messages,
    metric_of,
    verdict_of,
)
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.gate_rules import Case, quality_checks

INTEGRITY, APPROVAL = "integrity", "approval"

# The test images may be the cause if one of these fails, so the reason names the accuracy on each part of them.
ACCURACY_RULES = {"min_accuracy", "max_accuracy", "max_regression", "max_champion_drop"}
COLLAPSED = 0.5  # the share of the images with the same answer, and the accuracy below which a training has failed
REASONS_TO_APPROVE = ("min_accuracy", "max_regression")

Outcome = Literal["approved", "rejected", "refused"]


@dataclass(frozen=True)
class Decision:
    """The outcome of the gate and every check.

    `approved` is only the gate's answer: nothing is published by it. `rejected` means insufficient quality, `refused`
    that a model or the test images cannot be trusted. `forced` is an approval in spite of failed checks.
    """

    outcome: Outcome
    forced: bool
    reason: str
    checks: tuple[Check, ...]

    @property
    def approved(self) -> bool:
        return self.outcome == "approved"


def decide(
    candidate: ModelEvaluation,
    champion: ModelEvaluation | None,
    config: GateConfig,
    reference: ModelEvaluation | None = None,
    no_reference: str | None = None,
) -> Decision:
    """Decide whether the candidate may become champion.

    The documents are validated when they are read. The gate does not rely on it: whatever a field holds, a value that
    is not a possible one fails its check.

    Args:
        candidate: the candidate, as measured in this run.
        champion: the champion, measured in the same task on the same images; None if there is no champion yet.
        config: the bounds.
        reference: the best of the last champions, measured in the same task on the same images.
        no_reference: why there is none.
    """
    integrity = list(_integrity("candidate", candidate))
    if champion is not None:
        integrity += [*_integrity("champion", champion), _same_images(candidate, champion)]
        integrity.append(_champion_drop(champion, config.max_champion_drop))
    quality = list(quality_checks(Case(candidate, champion, config, reference, no_reference)))

    checks = (*integrity, *quality)
    broken, failed = ([check for check in group if check.verdict == "failed"] for group in (integrity, quality))
    if broken:
        parts = _accuracy_on_parts(broken, "champion", champion)
        return Decision("refused", False, joined_messages(broken) + parts, checks)
    if failed and config.force:
        return Decision("approved", True, f"forced ({config.force_reason}) although {joined_messages(failed)}", checks)
    if failed:
        parts = _accuracy_on_parts(failed, "candidate", candidate)
        if collapse := _collapse(candidate):  # all the other failures follow from it
            return Decision("rejected", False, f"{collapse}; {failed[0].message}", checks)
        return Decision("rejected", False, joined_messages(failed) + parts, checks)
    reasons = [check.message for check in quality if check.slice == OVERALL and check.rule in REASONS_TO_APPROVE]
    return Decision("approved", False, "; ".join(reasons), checks)


def _collapse(candidate: ModelEvaluation) -> str:
    """What has become of a training that gives one answer for most images; nothing if it has not.

    No digit is more than half of a test set that is worth measuring on.
    """
    rows = entries(candidate.confusion, list)
    answers = [sum(column) for column in zip(*rows, strict=False)] if all(map(_counts, rows)) else []
    share = max(answers) / sum(answers) if sum(answers) else 0.0
    if share <= COLLAPSED or (metric_of("accuracy", candidate) or 0.0) >= COLLAPSED:
        return ""
    return (
        f"the training has failed: {share:.0%} of the test images are taken for a {answers.index(max(answers))}; lower "
        "the learning rate"
    )


def _counts(row: list[object]) -> bool:
    """Whether a list is a row of a confusion matrix."""
    return all(isinstance(count, int) and count >= 0 for count in row)


def with_approval(decision: Decision, approval: Approval) -> Decision:
    """Add a person's answer to a decision as one more check: it can stop a promotion but never cause one."""
    answered = approval.approved is not None
    comment = f": {approval.comment}" if approval.comment else ""
    if not answered:
        cause = "; clear the approve task" if decision.approved else ", because the candidate does not pass the gate"
        message = f"nobody was asked for approval{cause}"
    elif approval.by is None:
        message = "rejected: nobody answered in time"
    else:
        message = f"{'approved' if approval.approved else 'rejected'} by {approval.by}{comment}"
    passed = approval.approved is True and approval.by is not None  # a yes without a name does not count
    verdict: Verdict = "passed" if passed else "failed" if answered or decision.approved else "skipped"
    checks = (*decision.checks, Check(APPROVAL, APPROVAL, verdict=verdict, message=message))
    if not decision.approved:
        return replace(decision, checks=checks)
    if passed:
        return replace(decision, reason=f"{decision.reason}; {message}", checks=checks)
    return Decision("rejected", False, message, checks)


# Checks of integrity.


def _integrity(model: str, evaluation: ModelEvaluation) -> Iterator[Check]:
    """The integrity checks that were made when the model was evaluated; none at all is a failure."""
    findings = entries(evaluation.integrity, Finding)
    if not findings:
        yield Check(INTEGRITY, model, verdict="failed", message=f"the {model}'s integrity was not checked")
    for finding in findings:
        yield Check(
            INTEGRITY,
            f"{model} {finding.metric}",
            value=finite_number(finding.value),
            bound=finite_number(finding.bound),
            verdict=verdict_of(finding.passed is True),
            message=f"the {model}: {finding.message}",
        )


def _same_images(candidate: ModelEvaluation, champion: ModelEvaluation) -> Check:
    """Check that both models were measured on the same images, without which scores cannot be compared."""
    same = candidate.dataset is not None and candidate.dataset == champion.dataset
    message = (
        "candidate and champion were measured on the same images"
        if same
        else f"the candidate was measured on dataset {candidate.dataset} and the champion on {champion.dataset}, so "
        "they cannot be compared"
    )
    return Check(INTEGRITY, "dataset", verdict=verdict_of(same), message=message)


def _champion_drop(champion: ModelEvaluation, bound: float) -> Check:
    """Check that the champion measures what it was published with, as far as the two test sets can tell.

    The upper end of tonight's 95 % interval is compared with the lower end of the published one.
    """
    rule, metric = "max_champion_drop", "champion's accuracy"
    published, tonight = metric_of("accuracy", champion.published), metric_of("accuracy", champion)
    if published is None or tonight is None:
        message = "the champion's published accuracy is unknown, or the champion could not be measured"
        return Check(rule, metric, bound=bound, message=message)
    drop = max(0.0, interval(champion.published, published)[0] - interval(champion, tonight)[1])
    passed = drop <= bound + SLACK
    message = (
        f"the champion's accuracy is {tonight:.4f} on tonight's test images and was {published:.4f} when it was "
        f"published: beyond chance a drop of {drop:.4f}, {'within' if passed else 'more than'} the allowed {bound:.4f}"
    )
    if not passed:
        message += (
            "; the test images have changed, not the candidate: check the source and the inbox, or, if the images are "
            "meant to be that much harder, set max_champion_drop=1"
        )
    return Check(rule, metric, OVERALL, drop, bound, published, verdict_of(passed), message)


def _accuracy_on_parts(failed: Sequence[Check], model: str, evaluation: ModelEvaluation | None) -> str:
    """The model's accuracy on each part of the test images, to append to a reason, if the accuracy is what failed."""
    parts = entries(evaluation.parts, Part) if evaluation else []
    numbers_of_parts = [(part.name, finite_number(part.images), metric_of("accuracy", part)) for part in parts]
    texts = [
        f"{accuracy:.4f} on {name} ({images:,.0f})"
        for name, images, accuracy in numbers_of_parts
        if images and accuracy is not None
    ]
    about_accuracy = ACCURACY_RULES & {check.rule for check in failed}
    return f"; the {model}'s accuracy is {', '.join(texts)}" if about_accuracy and texts else ""
