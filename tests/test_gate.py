"""The gate: its truth table, the wording of its reasons, and properties that hold for every input."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mnist_tasks import gate
from mnist_tasks.documents import (
    Approval,
    Cost,
    DigitMetrics,
    Finding,
    MnistMetrics,
    ModelEvaluation,
    Part,
    PublishedMetrics,
    SliceMetrics,
    TrainingFit,
)
from mnist_tasks.gate import Decision, with_approval
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.gate_rules import DIGITS
from mnist_tasks.system.errors import InputError

Evaluation = dict[str, Any]

# Written out, so that changed defaults do not affect these tests.
BOUNDS: dict[str, Any] = {
    "min_accuracy": 0.97,
    "max_accuracy": 0.9985,
    "max_loss": 0.3,
    "min_digit_recall": 0.93,
    "min_digit_precision": 0.92,
    "max_regression": 0.004,
    "max_digit_regression": 0.04,
    "max_loss_increase": 0.012,
    "min_support": 100,
    "max_label_issues": 0.003,
    "max_training_loss_increase": 0.02,
    "max_calibration_increase": 0.006,
    "min_slice_accuracy": 0.92,
    "max_slice_regression": 0.03,
    "max_robustness_regression": 0.1,
    "max_slide": 0.006,
    "max_loss_slide": 0.012,
}
POLICY = GateConfig(**BOUNDS)
FORCED = GateConfig(**BOUNDS, force=True, force_reason="Ada: the demo is at noon")

ITSELF = "the champion is itself the best"
LOADS = {"metric": "loads", "value": None, "bound": None, "passed": True, "message": "the files load"}
DIFFER = {"metric": "files agree", "value": 0.2, "bound": 0.001, "passed": False, "message": "the two files differ"}

OVERALL_RULES = (
    "min_accuracy",
    "max_accuracy",
    "max_loss",
    "max_regression",
    "max_loss_increase",
    "max_calibration_increase",
    "max_slide",
    "max_loss_slide",
)
DIGIT_RULES = ("min_digit_recall", "min_digit_precision", "max_digit_regression")
METRIC_OF = {
    "min_accuracy": "accuracy",
    "max_accuracy": "accuracy",
    "max_loss": "loss",
    "max_regression": "accuracy",
    "max_loss_increase": "loss",
    "min_digit_recall": "recall",
    "min_digit_precision": "precision",
    "max_digit_regression": "recall",
    "max_calibration_increase": "calibration_error",
    "max_slide": "accuracy",
    "max_loss_slide": "loss",
}
ON_MNIST = {(rule, "accuracy", "MNIST") for rule in ("min_accuracy", "max_accuracy", "max_regression")}
EVERY_QUALITY_CHECK = (
    ON_MNIST
    | {(rule, METRIC_OF[rule], "overall") for rule in OVERALL_RULES}
    | {(rule, METRIC_OF[rule], str(digit)) for rule in DIGIT_RULES for digit in range(DIGITS)}
    | {("max_label_issues", "label_issues", "training"), ("max_training_loss_increase", "loss", "training")}
    | {(rule, "accuracy", "thin strokes") for rule in ("min_slice_accuracy", "max_slice_regression")}
    | {("max_robustness_regression", "accuracy", "faint")}
)
CHANGES = {
    "max_regression",
    "max_loss_increase",
    "max_training_loss_increase training",
    "max_calibration_increase",
    "max_slide",
    "max_loss_slide",
    "max_slice_regression thin strokes",
    "max_robustness_regression faint",
    *(f"max_digit_regression {digit}" for digit in range(DIGITS)),
}


def evaluation(**changes: Any) -> Evaluation:
    """Return the evaluation of a model that passes every check, with changes."""
    good = {
        "accuracy": 0.98,
        "loss": 0.06,
        "digits": digits(),
        "dataset": "d1",
        "objective": {"loss": "crossentropy", "label_smoothing": 0.0},
        "integrity": [LOADS],
        "mnist": {"is_test_set": True},
        "published": {"accuracy": 0.98, "accuracy_95": [0.977, 0.983]},
        "calibration_error": 0.002,
        "slices": [{"name": "thin strokes", "support": 1000, "accuracy": 0.95}],
        "changed": [{"name": "faint", "support": 2000, "accuracy": 0.97}],
        "training": {"dataset": "d1", "images": 60_000, "loss": 0.04, "accuracy": 0.988, "label_issues": 0.0005},
        "cost": {"megabytes": 1.2, "parameters": 101_770, "seconds_for_one": 0.002, "seconds_for_many": 0.008},
    }
    return good | changes


def thin(**changes: Any) -> Evaluation:
    """Return a change to an evaluation that gives the slice of thin strokes other values."""
    return {"slices": [{"name": "thin strokes", "support": 1000, "accuracy": 0.95} | changes]}


def faint(**changes: Any) -> Evaluation:
    """Return a change to an evaluation that gives faint images other values."""
    return {"changed": [{"name": "faint", "support": 2000, "accuracy": 0.97} | changes]}


def fitted(**changes: Any) -> Evaluation:
    """Return a change to an evaluation that gives the training images other values."""
    return {"training": evaluation()["training"] | changes}


def digits(changes: dict[int, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return the metrics of a good model for the ten digits, with changes to some digits."""
    good = {"support": 1000, "recall": 0.98, "precision": 0.98}
    return [{"digit": digit} | good | (changes or {}).get(digit, {}) for digit in range(DIGITS)]


def unvalidated(values: Evaluation) -> ModelEvaluation:
    """Return a document with any values, without validation."""

    def each(name: str, build: Callable[[dict[str, Any]], Any]) -> Any:
        entries = values.get(name)
        if not isinstance(entries, list):
            return entries
        return [build(entry) if isinstance(entry, dict) else entry for entry in entries]

    def one(name: str, kind: type[BaseModel]) -> Any:
        entry = values.get(name)
        return kind.model_construct(**entry) if isinstance(entry, dict) else entry

    parts = {
        "digits": each("digits", lambda entry: DigitMetrics(**{"digit": None, "support": None} | entry)),
        "integrity": each(
            "integrity", lambda entry: Finding(**{"metric": None, "passed": None, "message": None} | entry)
        ),
        "parts": each("parts", lambda entry: Part.model_construct(**{"name": None, "images": None} | entry)),
        "slices": each("slices", lambda entry: SliceMetrics(**{"name": None, "support": None} | entry)),
        "changed": each("changed", lambda entry: SliceMetrics(**{"name": None, "support": None} | entry)),
        "training": one("training", TrainingFit),
        "cost": Cost(**values["cost"]) if isinstance(values.get("cost"), dict) else values.get("cost"),
        "mnist": one("mnist", MnistMetrics),
        "published": one("published", PublishedMetrics),
    }
    return ModelEvaluation.model_construct(**values | {name: parts[name] for name in parts if name in values})


def decide(
    candidate: Evaluation, champion: Evaluation | None, config: GateConfig, reference: Evaluation | None = None
) -> Decision:
    models = [None if model is None else unvalidated(model) for model in (champion, reference)]
    return gate.decide(unvalidated(candidate), models[0], config, models[1], ITSELF)


def three(**changes: Any) -> Evaluation:
    """Return a change to an evaluation that gives the digit 3 other values."""
    return {"digits": digits({3: changes})}


def without(*names: str, **changes: Any) -> Evaluation:
    return {name: value for name, value in evaluation(**changes).items() if name not in names}


def by_verdict(decision: Decision, verdict: str) -> set[str]:
    """Return the checks with a verdict: `rule` for an overall check, else `rule slice`."""
    checks = (check for check in decision.checks if check.verdict == verdict)
    return {check.rule if check.slice == "overall" else f"{check.rule} {check.slice}" for check in checks}


def failed(decision: Decision) -> set[str]:
    return by_verdict(decision, "failed")


SLICE_RULES = ("min_slice_accuracy", "max_slice_regression")

# fmt: off
TRUTH_TABLE: list[tuple[str, Evaluation, Evaluation | None, str, set[str]]] = [
    # case, changes to the candidate, changes to the champion (None: no champion), outcome, failed checks
    ("first run", {}, None, "approved", set()),
    ("first run, below the floor", {"accuracy": 0.9699}, None, "rejected", {"min_accuracy"}),
    ("better", {"accuracy": 0.985}, {}, "approved", set()),
    ("tie", {}, {}, "approved", set()),
    # 0.976 - 0.98 is -0.0040000000000000036 in floats
    ("worse by just the tolerance", {"accuracy": 0.976}, {}, "approved", set()),
    ("worse by one image more than the tolerance", {"accuracy": 0.9759}, {}, "rejected", {"max_regression"}),
    ("exactly at the floor", {"accuracy": 0.97}, {"accuracy": 0.97}, "approved", set()),
    ("below the floor, but better", {"accuracy": 0.9699}, {"accuracy": 0.96}, "rejected", {"min_accuracy"}),
    ("below the floor and worse", {"accuracy": 0.9}, {}, "rejected", {"min_accuracy", "max_regression"}),
    ("as accurate as can be believed", {"accuracy": 0.9985}, {}, "approved", set()),
    ("suspiciously accurate", {"accuracy": 0.9986}, {}, "rejected", {"max_accuracy"}),
    ("suspiciously accurate, first run", {"accuracy": 1.0}, None, "rejected", {"max_accuracy"}),
    ("loss at its maximum", {"loss": 0.3}, {"loss": 0.3}, "approved", set()),
    ("loss above its maximum", {"loss": 0.301}, {"loss": 0.3}, "rejected", {"max_loss"}),
    ("loss above its maximum, first run", {"loss": 0.301}, None, "rejected", {"max_loss"}),
    ("no loss at all", {"loss": 0}, {}, "approved", set()),
    # 0.132 - 0.12 is 0.01200000000000001
    ("loss higher by just the tolerance", {"loss": 0.132}, {"loss": 0.12}, "approved", set()),
    ("loss higher by more than that", {"loss": 0.0721}, {}, "rejected", {"max_loss_increase"}),
    ("loss higher, trained for another", {"loss": 0.2, "objective": {"loss": "mse"}}, {}, "approved", set()),
    ("loss too high, trained for another", {"loss": 0.4, "objective": {"loss": "mse"}}, {}, "rejected", {"max_loss"}),
    ("a digit at both floors", three(recall=0.93, precision=0.92), three(recall=0.93), "approved", set()),
    ("one bad digit in a good average", three(recall=0.9), three(recall=0.9), "rejected", {"min_digit_recall 3"}),
    ("one digit that others are taken for", three(precision=0.9), {}, "rejected", {"min_digit_precision 3"}),
    ("one bad digit, first run", three(recall=0.9), None, "rejected", {"min_digit_recall 3"}),
    ("a digit worse by just the tolerance", three(recall=0.94), {}, "approved", set()),
    ("a digit worse by more than that", three(recall=0.9399), {}, "rejected", {"max_digit_regression 3"}),
    ("a digit with enough images", three(support=100, recall=0.9), None, "rejected", {"min_digit_recall 3"}),
    ("a digit with too few images", three(support=99, recall=0.1, precision=0.1), {}, "approved", set()),
    ("a digit with no images", three(support=0, recall=None, precision=None), {}, "approved", set()),
    ("a digit never recognized", three(recall=0.0, precision=None), None, "rejected",
     {"min_digit_recall 3", "min_digit_precision 3"}),
    # A digit of unknown support may have enough images, so it is judged.
    ("a digit of unknown support", three(support=None, recall=0.9), None, "rejected", {"min_digit_recall 3"}),
    ("a digit left out", {"digits": digits()[1:]}, {}, "rejected", {f"{rule} 0" for rule in DIGIT_RULES}),
    ("a digit left out of the champion", {}, {"digits": digits()[1:]}, "rejected", {"max_digit_regression 0"}),
    ("no digits", {"digits": None}, {}, "rejected", {f"{rule} {n}" for rule in DIGIT_RULES for n in range(DIGITS)}),
    ("champion without digits", {}, {"digits": []}, "rejected", {f"max_digit_regression {n}" for n in range(DIGITS)}),
    ("doubtful labels, as many as allowed", fitted(label_issues=0.003), {}, "approved", set()),
    ("doubtful labels", fitted(label_issues=0.0031), {}, "rejected", {"max_label_issues training"}),
    ("doubtful labels, first run", fitted(label_issues=0.0031), None, "rejected", {"max_label_issues training"}),
    ("labels that cannot be learnt", fitted(loss=0.0601), {}, "rejected", {"max_training_loss_increase training"}),
    ("more of a training loss, within", fitted(loss=0.06), {}, "approved", set()),
    ("a champion of another recipe", fitted(loss=1), {"training": {"not_measured": "another recipe"}}, "approved",
     set()),
    ("nothing known of the training images", {"training": {}}, {}, "rejected",
     {"max_label_issues training", "max_training_loss_increase training"}),
    ("surer than it is right", {"calibration_error": 0.0081}, {}, "rejected", {"max_calibration_increase"}),
    ("as sure as it may be", {"calibration_error": 0.008}, {}, "approved", set()),
    ("surer, trained for another loss", {"calibration_error": 0.1, "objective": {"loss": "mse"}}, {}, "approved",
     set()),
    ("a slice below its floor", thin(accuracy=0.91), thin(accuracy=0.91), "rejected",
     {"min_slice_accuracy thin strokes"}),
    ("a slice below its floor, first run", thin(accuracy=0.91), None, "rejected", {"min_slice_accuracy thin strokes"}),
    ("a slice worse than before", thin(accuracy=0.9499), thin(accuracy=0.98), "rejected",
     {"max_slice_regression thin strokes"}),
    ("a slice with too few images", thin(accuracy=0.1, support=99), {}, "approved", set()),
    ("no slices", {"slices": []}, {}, "rejected", {f"{rule} slices" for rule in SLICE_RULES}),
    ("champion without slices", {}, {"slices": None}, "rejected", {"max_slice_regression thin strokes"}),
    ("less robust, within", faint(accuracy=0.87), {}, "approved", set()),
    ("less robust", faint(accuracy=0.8699), {}, "rejected", {"max_robustness_regression faint"}),
    ("not measured after a change", faint(accuracy=None), {}, "rejected", {"max_robustness_regression faint"}),
    ("measured on other images", {}, {"dataset": "d2"}, "refused", {"integrity"}),
    ("candidate measured on nobody knows what", {"dataset": None}, {}, "refused", {"integrity"}),
    ("both measured on nobody knows what", {"dataset": None}, {"dataset": None}, "refused", {"integrity"}),
    ("champion unreadable", {}, {"integrity": [DIFFER]}, "refused", {"integrity"}),
    ("candidate broken", {"integrity": [LOADS, DIFFER]}, {}, "refused", {"integrity"}),
    ("candidate broken, first run", {"integrity": [DIFFER]}, None, "refused", {"integrity"}),
    ("candidate broken and bad", {"integrity": [DIFFER], "accuracy": 0.5}, None, "refused",
     {"integrity", "min_accuracy"}),
    ("nothing found out about the candidate", {"integrity": []}, None, "refused", {"integrity"}),
    ("nothing found out about the champion", {}, {"integrity": None}, "refused", {"integrity"}),
    ("a finding that did not say that it passed", {"integrity": [{"metric": "loads"}]}, None, "refused", {"integrity"}),
    ("a finding that passed in words", {"integrity": [LOADS | {"passed": "no"}]}, None, "refused", {"integrity"}),
]
# fmt: on


@pytest.mark.parametrize(
    ("candidate", "champion", "outcome", "expected"),
    [pytest.param(*values, id=name) for name, *values in TRUTH_TABLE],
)
def test_the_truth_table(candidate: Evaluation, champion: Evaluation | None, outcome: str, expected: set[str]) -> None:
    decision = decide(evaluation(**candidate), None if champion is None else evaluation(**champion), POLICY)

    assert (decision.outcome, decision.approved, failed(decision)) == (outcome, outcome == "approved", expected)
    assert not decision.forced


MISSING = object()


@pytest.mark.parametrize(
    "odd",
    [math.nan, math.inf, -math.inf, 10**400, -(10**400), "0.98", "", True, False, None, [], -0.01, MISSING],
    ids=lambda odd: "missing" if odd is MISSING else "10**400" if odd == 10**400 else repr(odd)[:8],
)
@pytest.mark.parametrize(
    ("whose", "metric", "expected"),
    [
        ("candidate", "accuracy", {"min_accuracy", "max_accuracy", "max_regression"}),
        ("candidate", "loss", {"max_loss", "max_loss_increase"}),
        ("candidate", "recall", {"min_digit_recall 3", "max_digit_regression 3"}),
        ("candidate", "precision", {"min_digit_precision 3"}),
        ("champion", "accuracy", {"max_regression"}),
        ("champion", "loss", {"max_loss_increase"}),
        ("champion", "recall", {"max_digit_regression 3"}),
        ("champion", "precision", set()),  # not compared with anything
    ],
)
def test_a_metric_that_is_not_a_possible_value_fails_its_checks(
    whose: str, metric: str, expected: set[str], odd: Any
) -> None:
    models = {"candidate": evaluation(), "champion": evaluation()}
    part = models[whose]["digits"][3] if metric in ("recall", "precision") else models[whose]
    part[metric] = odd
    if odd is MISSING:
        del part[metric]

    decision = decide(models["candidate"], models["champion"], POLICY)

    assert failed(decision) == expected
    assert decision.outcome == ("rejected" if expected else "approved")
    if expected:
        assert f"the {whose}'s {metric}" in decision.reason


@pytest.mark.parametrize("share", ["accuracy", "recall", "precision"])
def test_a_share_above_one_fails_however_lenient_the_policy(share: str) -> None:
    changes = {"accuracy": 1.5} if share == "accuracy" else three(**{share: 1.5})

    decision = decide(evaluation(**changes), None, GateConfig(min_accuracy=0, max_accuracy=1))

    assert decision.outcome == "rejected"
    assert "1.5, which is not a possible value" in decision.reason


def test_whole_numbers_are_numbers() -> None:
    assert decide(evaluation(accuracy=1, loss=0), None, GateConfig(max_accuracy=1)).approved


def test_a_missing_metric_is_called_missing() -> None:
    assert decide(without("loss"), None, POLICY).reason == "the candidate's loss is missing"


def test_on_the_first_run_only_the_changes_are_skipped() -> None:
    decision = decide(evaluation(), None, POLICY)

    assert by_verdict(decision, "skipped") == CHANGES
    messages = {check.message for check in decision.checks if check.verdict == "skipped"}
    assert messages == {"no champion yet to compare with"}
    assert "no champion yet" in decision.reason


def constant(share: float = 1.0) -> list[list[int]]:
    """Return the confusion matrix of a model that takes this share of the images of each digit for a 1."""
    mistaken = round(1000 * share)
    rows = []
    for digit in range(DIGITS):
        row = [0] * DIGITS
        row[1] += mistaken
        row[digit] += 1000 - mistaken
        rows.append(row)
    return rows


def test_a_training_that_blew_up_is_called_that_and_not_one_of_thirty_failures() -> None:
    bad = digits({digit: {"recall": 0.1, "precision": 0.0} for digit in range(DIGITS)})
    candidate = evaluation(accuracy=0.1135, loss=2.3, digits=bad, confusion=constant())
    decision = decide(candidate, evaluation(), POLICY)
    assert decision.reason == (
        "the training has failed: 100% of the test images are taken for a 1; lower the learning rate; accuracy 0.1135 "
        "is below the minimum of 0.9700"
    )
    assert len(failed(decision)) > 20


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": 0.6, "confusion": constant(0.4)},
        {"accuracy": 0.4, "confusion": []},
        {"accuracy": 0.4, "confusion": [[0] * DIGITS] * DIGITS},
        {"accuracy": 0.4, "confusion": "text"},
        {"accuracy": 0.4, "confusion": [["1"]]},
        {"accuracy": 0.4},
    ],
)
def test_other_bad_models_are_not_called_so(changes: dict[str, Any]) -> None:
    decision = decide(evaluation(**changes), None, POLICY)
    assert decision.reason.startswith(f"accuracy {changes['accuracy']:.4f} is below the minimum of 0.9700")


def test_an_empty_champion_is_not_the_same_as_none() -> None:
    decision = decide(evaluation(), {}, POLICY)

    assert decision.outcome == "refused"
    assert {"max_regression", *(f"max_digit_regression {digit}" for digit in range(DIGITS))} <= failed(decision)


def test_a_digit_with_too_few_images_is_skipped_and_says_so() -> None:
    decision = decide(evaluation(**three(support=99, recall=0.1)), evaluation(), POLICY)

    skipped = [check for check in decision.checks if check.verdict == "skipped" and check.slice == "3"]
    assert [check.rule for check in skipped] == list(DIGIT_RULES)
    for check in skipped:
        assert check.message == f"{check.metric} of digit 3 rests on 99 images, fewer than 100"


def test_losses_of_models_trained_for_different_ones_are_not_compared_and_it_says_so() -> None:
    decision = decide(evaluation(objective={"loss": "mse"}, loss=0.2), evaluation(), POLICY)

    skipped = {check.rule: check.message for check in decision.checks if check.verdict == "skipped"}
    assert {"max_loss_increase", "max_calibration_increase"} <= skipped.keys()
    assert "trained for {'loss': 'mse'}" in skipped["max_loss_increase"]
    assert "loss cannot be compared" in skipped["max_loss_increase"]


def test_a_check_holds_what_was_compared_with_what() -> None:
    decision = decide(evaluation(accuracy=0.96, loss=0.07), evaluation(), POLICY)

    numbers = {check.rule: (check.value, check.bound, check.baseline) for check in decision.checks}
    assert numbers["min_accuracy"] == (0.96, 0.97, None)
    assert numbers["max_loss"] == (0.07, 0.3, None)
    assert numbers["max_regression"] == pytest.approx((-0.02, -0.004, 0.98))
    assert numbers["max_loss_increase"] == pytest.approx((0.01, 0.012, 0.06))


def test_findings_about_both_models_are_checks_with_their_numbers() -> None:
    decision = decide(evaluation(), evaluation(integrity=[DIFFER]), POLICY)

    found = {check.metric: check for check in decision.checks if check.rule == "integrity"}
    assert {metric: check.verdict for metric, check in found.items()} == {
        "candidate loads": "passed",
        "champion files agree": "failed",
        "dataset": "passed",
    }
    assert (found["champion files agree"].value, found["champion files agree"].bound) == (0.2, 0.001)
    assert decision.reason == "the champion: the two files differ"


class TestReference:
    """What is compared with the best of the last champions."""

    def test_a_candidate_may_lie_below_it_by_just_the_tolerance(self) -> None:
        best = evaluation(version=3, champions_since=4, accuracy=0.983, loss=0.055)

        decision = decide(evaluation(accuracy=0.977, loss=0.067), evaluation(accuracy=0.98), POLICY, best)

        assert decision.approved
        changes = {check.rule: check for check in decision.checks if check.rule in ("max_slide", "max_loss_slide")}
        assert changes["max_slide"].value == pytest.approx(-0.006)
        assert changes["max_loss_slide"].value == pytest.approx(0.012)
        assert "against version 3's 0.9830" in changes["max_slide"].message

    @pytest.mark.parametrize(
        ("candidate", "rule"), [({"accuracy": 0.9769}, "max_slide"), ({"loss": 0.0671}, "max_loss_slide")]
    )
    def test_a_slide_that_no_single_night_shows_is_rejected(self, candidate: Evaluation, rule: str) -> None:
        best = evaluation(version=3, champions_since=13, accuracy=0.983, loss=0.055)

        decision = decide(evaluation(**candidate), evaluation(accuracy=0.979, loss=0.064), POLICY, best)

        assert failed(decision) == {rule}
        assert "the champions slide, this would be number 14 since version 3" in decision.reason
        assert "accept the new level with force=true and a reason" in decision.reason

    def test_without_one_it_says_why(self) -> None:
        decision = decide(evaluation(), evaluation(), POLICY)

        slides = [check for check in decision.checks if check.rule in ("max_slide", "max_loss_slide")]
        assert [(check.verdict, check.message) for check in slides] == [("skipped", ITSELF)] * 2

    def test_a_loss_of_another_kind_is_not_compared_and_the_accuracy_is(self) -> None:
        best = evaluation(objective={"loss": "mse"}, version=1, champions_since=2, loss=0.001, accuracy=0.99)

        assert failed(decide(evaluation(), evaluation(), POLICY, best)) == {"max_slide"}

    @pytest.mark.parametrize("odd", [None, math.nan, "0.98"])
    def test_one_that_was_not_measured_is_no_pass(self, odd: Any) -> None:
        decision = decide(evaluation(), evaluation(), POLICY, evaluation(version=2, accuracy=odd))

        assert failed(decision) == {"max_slide"}
        assert "version 2's accuracy is" in decision.reason


class TestCost:
    """Bounds that hold only if they were asked for."""

    def test_nothing_is_asked_by_default(self) -> None:
        slow = {"cost": {"megabytes": 900, "seconds_for_one": 9, "seconds_for_many": 9}}

        assert decide(evaluation(**slow), evaluation(), POLICY).approved
        assert decide(evaluation(cost=None), evaluation(cost=None), POLICY).approved

    @pytest.mark.parametrize(("megabytes", "outcome"), [(1.5, "approved"), (1.51, "rejected"), (None, "rejected")])
    def test_a_size(self, megabytes: float | None, outcome: str) -> None:
        decision = decide(evaluation(cost={"megabytes": megabytes}), None, GateConfig(**BOUNDS, max_size_mb=1.5))

        assert decision.outcome == outcome

    @pytest.mark.parametrize(("seconds", "expected"), [(0.004, set()), (0.0041, {"max_slowdown"})])
    def test_a_slowdown(self, seconds: float, expected: set[str]) -> None:
        cost = {"megabytes": 1, "seconds_for_one": seconds, "seconds_for_many": 0.008}

        decision = decide(evaluation(cost=cost), evaluation(), GateConfig(**BOUNDS, max_slowdown=2))

        assert failed(decision) == expected
        if expected:
            assert (
                "seconds to predict one image 0.0041 is 2.0500 times the champion's 0.002, more than" in decision.reason
            )

    def test_without_a_champion_there_is_no_slowdown(self) -> None:
        decision = decide(evaluation(), None, GateConfig(**BOUNDS, max_slowdown=1))

        assert {check.message for check in decision.checks if check.rule == "max_slowdown"} == {
            "no champion yet to compare with"
        }


def test_a_champion_of_another_recipe_is_not_compared_on_training_images_and_it_says_so() -> None:
    champion = evaluation(training={"not_measured": "the champion was trained by another recipe (epochs)"})

    decision = decide(evaluation(), champion, POLICY)

    (check,) = (check for check in decision.checks if check.rule == "max_training_loss_increase")
    assert (check.verdict, check.message) == ("skipped", "the champion was trained by another recipe (epochs)")


def test_doubtful_labels_name_the_worklist() -> None:
    reason = decide(evaluation(**fitted(label_issues=0.02)), evaluation(), POLICY).reason

    assert "share of doubtful labels on the training images 0.0200 is above the maximum of 0.0030" in reason
    assert "suspects.csv in the run's folder lists the images: correct their labels" in reason


class TestForce:
    def test_it_publishes_what_failed_and_names_the_persons_reason_and_what_failed(self) -> None:
        decision = decide(evaluation(accuracy=0.96), evaluation(), FORCED)

        assert (decision.outcome, decision.forced) == ("approved", True)
        assert "Ada: the demo is at noon" in decision.reason
        assert "accuracy 0.9600 is below the minimum of 0.9700" in decision.reason
        assert "a change of -0.0200" in decision.reason
        assert failed(decision) == {"min_accuracy", "max_regression"}

    def test_a_promotion_that_needed_no_force_is_not_called_forced(self) -> None:
        assert decide(evaluation(), evaluation(), FORCED) == decide(evaluation(), evaluation(), POLICY)

    @pytest.mark.parametrize("accuracy", [0.98, 0.5])
    @pytest.mark.parametrize(
        ("candidate", "champion"),
        [
            ({"integrity": [DIFFER]}, None),
            ({"integrity": [LOADS, DIFFER]}, {}),
            ({"integrity": []}, {}),
            ({}, {"integrity": [DIFFER]}),
            ({}, {"dataset": "d2"}),
        ],
    )
    def test_it_never_overrules_integrity(
        self, candidate: Evaluation, champion: Evaluation | None, accuracy: float
    ) -> None:
        models = evaluation(**candidate, accuracy=accuracy), None if champion is None else evaluation(**champion)

        decision = decide(*models, FORCED)

        assert (decision.outcome, decision.forced) == ("refused", False)
        assert "Ada" not in decision.reason


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"min_accuracy": 0.99, "max_accuracy": 0.98}, "min_accuracy: 0.99 is above max_accuracy, 0.98"),
        ({"force": True}, "force: a reason is needed"),
        ({"force": True, "force_reason": " \n"}, "force: a reason is needed"),
        ({"force_reason": "Ada"}, "force_reason: 'Ada' without force"),
        ({"force": True, "force_reason": "x" * 501}, "force_reason: .* is too long"),
        ({"force": "yes"}, "force: 'yes' is not of type 'boolean'"),
        ({"min_accuracy": 1.01}, "min_accuracy: 1.01 is greater than the maximum of 1"),
        ({"min_accuracy": 97}, "min_accuracy: 97 is greater than the maximum of 1"),
        ({"max_loss": -0.1}, "max_loss: -0.1 is less than the minimum of 0"),
        ({"max_regression": -0.004}, "max_regression: -0.004 is less than the minimum of 0"),
        ({"min_digit_recall": "0.9"}, "min_digit_recall: '0.9' is not of type 'number'"),
        ({"min_digit_recall": True}, "min_digit_recall: True is not of type 'number'"),
        ({"min_support": 0}, "min_support: 0 is less than the minimum of 1"),
        ({"min_support": 99.5}, "min_support: 99.5 is not of type 'integer'"),
        ({"on_rejection": "shout"}, r"on_rejection: 'shout' is not one of \['skip', 'fail'\]"),
        ({"min_acuracy": 0.9}, "min_acuracy: unknown parameter; did you mean min_accuracy"),
        *(({name: math.nan}, f"{name}: nan: Input should be a finite number") for name in BOUNDS if name[-1] != "t"),
        ({"max_loss": math.inf}, "max_loss: inf: Input should be a finite number"),
        ({"max_loss": 10**400}, "max_loss: 1000.*: Input should be a valid number"),
    ],
)
def test_an_absurd_policy_is_refused_with_the_name_and_the_value(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        GateConfig(**values)


def test_floor_and_ceiling_of_the_accuracy_may_be_the_same() -> None:
    policy = GateConfig(min_accuracy=0.98, max_accuracy=0.98)

    assert decide(evaluation(accuracy=0.98), None, policy).approved


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        ({"accuracy": 0.96}, "accuracy 0.9600 is below the minimum of 0.9700"),
        ({"accuracy": 0.999}, "accuracy 0.9990 is above the maximum of 0.9985"),
        ({"loss": 0.4}, "loss 0.4000 is above the maximum of 0.3000"),
        ({"accuracy": 0.96}, "against the champion's 0.9800, a change of -0.0200, is worse than the allowed -0.0040"),
        ({"loss": 0.1}, "against the champion's 0.0600, a change of +0.0400, is worse than the allowed +0.0120"),
        (three(recall=0.9), "recall of digit 3 0.9000 is below the minimum of 0.9300"),
        (three(precision=0.9), "precision of digit 3 0.9000 is below the minimum of 0.9200"),
        (three(recall=0.9), "a change of -0.0800, is worse than the allowed -0.0400"),
    ],
)
def test_the_reason_names_value_and_bound(candidate: Evaluation, words: str) -> None:
    assert words in decide(evaluation(**candidate), evaluation(), POLICY).reason


def test_the_reason_of_a_promotion_names_the_accuracy_and_its_change() -> None:
    reason = decide(evaluation(accuracy=0.979), evaluation(), POLICY).reason

    assert "accuracy 0.9790 reaches the minimum of 0.9700" in reason
    assert "a change of -0.0010, is within the allowed -0.0040" in reason


def test_the_first_three_failures_are_named_and_the_rest_counted() -> None:
    decision = decide(evaluation(accuracy=0.9, loss=0.5, **three(recall=0.8)), evaluation(), POLICY)

    messages = [check.message for check in decision.checks if check.verdict == "failed"]
    assert len(messages) == 6
    assert decision.reason == "; ".join([*messages[:3], "and 3 more failed checks"])


def test_three_failures_are_all_named_and_nothing_is_counted() -> None:
    decision = decide(evaluation(accuracy=0.9, loss=0.072, **three(precision=0.8)), evaluation(), POLICY)

    messages = [check.message for check in decision.checks if check.verdict == "failed"]
    assert len(messages) == 3
    assert decision.reason == "; ".join(messages)


def test_what_fails_several_checks_in_the_same_words_is_said_once() -> None:
    decision = decide(without("accuracy"), evaluation(), POLICY)

    assert failed(decision) == {"min_accuracy", "max_accuracy", "max_regression"}
    assert decision.reason == "the candidate's accuracy is missing"


@pytest.mark.parametrize(
    ("candidate", "policy", "rule"),
    [
        ({"accuracy": 0.96996}, {}, "min_accuracy"),
        ({"accuracy": 0.969996}, {}, "min_accuracy"),
        (three(recall=0.92996), {}, "min_digit_recall"),
        ({"accuracy": 0.9699996}, {}, "min_accuracy"),
        ({"accuracy": 0.99850004}, {}, "max_accuracy"),
        ({"loss": 0.3000002}, {}, "max_loss"),
        ({"loss": 0.00001}, {"max_loss": 0}, "max_loss"),
        # An accuracy is a multiple of 1/images and a recall one of 1/images of the digit. A loss can have any value.
        ({"loss": 0.07204}, {}, "max_loss_increase"),
        ({"accuracy": 0.97598}, {}, "max_regression"),
        (three(recall=0.93996), {}, "max_digit_regression"),
    ],
)
def test_values_that_differ_never_look_alike(candidate: Evaluation, policy: dict[str, Any], rule: str) -> None:
    decision = decide(evaluation(**candidate), evaluation(), GateConfig(**BOUNDS | policy))

    (message,) = (check.message for check in decision.checks if check.rule == rule and check.verdict == "failed")
    value, bound = map(float, re.findall(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?", message)[-2:])  # value or change, and bound
    assert value != bound


def test_a_validated_document_is_decided_as_an_unvalidated_one() -> None:
    values = evaluation(digits=[{"f1": 0.98} | digit for digit in digits()], objective={"loss": "crossentropy"})

    validated = ModelEvaluation.model_validate_json(json.dumps(values))

    assert gate.decide(validated, validated, POLICY, None, ITSELF) == decide(values, values, POLICY)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"digits": 5}, "rejected"),
        ({"digits": "none"}, "rejected"),
        ({"digits": [None] * DIGITS}, "rejected"),
        (three(support=-1, recall=0.1), "rejected"),
        ({"accuracy": 10**5000}, "rejected"),  # Python refuses to print an int of more than 4,300 digits
        ({"integrity": "passed"}, "refused"),
        ({"integrity": [None]}, "refused"),
    ],
    ids=lambda value: "huge" if value == {"accuracy": 10**5000} else None,
)
def test_an_evaluation_of_the_wrong_form_fails(changes: Evaluation, outcome: str) -> None:
    assert decide(evaluation(**changes), evaluation(), POLICY).outcome == outcome


# Properties that hold for every input of the gate.

PROPERTY = settings(max_examples=200, deadline=None)

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.integers(),
    st.sampled_from([10**400, -(10**400)]),
    st.floats(),
    st.floats(0, 1),
)


def odd_mappings(*names: str, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Evaluation]:
    """Return a strategy for mappings from names to odd values and parts to drawn values; any key may be missing."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, odd_values) | parts)


odd_evaluations = odd_mappings(
    "accuracy",
    "loss",
    "dataset",
    "objective",
    "calibration_error",
    slices=odd_values | st.lists(odd_mappings("name", "support", "accuracy"), max_size=2),
    changed=odd_values | st.lists(odd_mappings("name", "support", "accuracy"), max_size=2),
    training=odd_values | odd_mappings("loss", "label_issues", "not_measured"),
    cost=odd_values | odd_mappings("megabytes", "seconds_for_one", "seconds_for_many"),
    digits=st.none()
    | st.lists(odd_mappings("support", "recall", "precision", digit=st.integers(-1, 10) | odd_values), max_size=12),
    mnist=odd_mappings("accuracy", "is_test_set") | odd_values,
    published=odd_mappings("accuracy", "accuracy_95") | odd_values,
    parts=odd_values | st.lists(odd_mappings("name", "images", "accuracy"), max_size=2),
    integrity=st.none() | st.lists(odd_mappings("metric", "value", "bound", "passed", "message"), max_size=2),
)


@st.composite
def plausible_evaluations(draw: st.DrawFn) -> Evaluation:
    """Draw an evaluation of a sound model, on either side of each bound, with at most a few bad digits."""
    near = st.floats(0.9, 1)
    changes = st.fixed_dictionaries({}, optional={"recall": near, "precision": near, "support": st.integers(0, 200)})
    return evaluation(
        accuracy=draw(st.floats(0.96, 1)),
        loss=draw(st.floats(0, 0.1) | st.floats(0, 1)),
        digits=digits(draw(st.dictionaries(st.integers(0, DIGITS - 1), changes, max_size=2))),
        objective=draw(st.sampled_from(["crossentropy", "mse"])),
        mnist=draw(st.just({"is_test_set": True}) | st.fixed_dictionaries({"accuracy": st.floats(0.96, 1)})),
        published={"accuracy": draw(near)},
        calibration_error=draw(st.floats(0, 0.02)),
        **thin(accuracy=draw(near), support=draw(st.integers(0, 200))),
        **faint(accuracy=draw(near), support=draw(st.integers(0, 200))),
        **fitted(loss=draw(st.floats(0, 0.1)), label_issues=draw(st.floats(0, 0.01))),
    )


evaluations = plausible_evaluations() | odd_evaluations
champions = st.none() | evaluations


@PROPERTY
@given(evaluations, champions, st.sampled_from([POLICY, FORCED]))
def test_it_never_raises_and_its_decision_is_json(
    candidate: Evaluation, champion: Evaluation | None, policy: GateConfig
) -> None:
    decision = decide(candidate, champion, policy)

    assert decision.reason
    for check in decision.checks:
        assert check.verdict in ("passed", "failed", "skipped")
        assert check.message
        for number in (check.value, check.bound, check.baseline):
            assert number is None or (type(number) is float and math.isfinite(number))
    assert json.loads(json.dumps(asdict(decision), allow_nan=False))["outcome"] == decision.outcome


SLICES = ("thin strokes", "faint")
OF_NAMED = {"min_slice_accuracy": "slices", "max_slice_regression": "slices", "max_robustness_regression": "changed"}


def names(candidate: Evaluation, part: str) -> set[str]:
    """Return the slices that are named in a part of an evaluation; without any, the checks have the part's name."""
    entries = candidate.get(part)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        entries = []
    found = {entry["name"] for entry in entries if isinstance(entry.get("name"), str)}
    return found or {{"slices": "slices", "changed": "changed images"}[part]}


@PROPERTY
@given(evaluations, champions)
def test_every_check_is_made_whatever_fails(candidate: Evaluation, champion: Evaluation | None) -> None:
    decision = decide(candidate, champion, POLICY)

    not_quality = ("integrity", "max_champion_drop")
    quality = [(check.rule, check.metric, check.slice) for check in decision.checks if check.rule not in not_quality]
    on_mnist = candidate.get("mnist")
    once = isinstance(on_mnist, dict) and on_mnist.get("is_test_set") is True
    expected = EVERY_QUALITY_CHECK - (ON_MNIST if once else set())
    expected = {each for each in expected if each[2] not in SLICES} | {
        (rule, "accuracy", name) for rule, part in OF_NAMED.items() for name in names(candidate, part)
    }
    assert len(quality) == len(expected)
    assert set(quality) == expected
    assert len([check for check in decision.checks if check.rule == "max_champion_drop"]) == (champion is not None)
    integrity = [check for check in decision.checks if check.rule == "integrity"]
    findings = max(len(candidate.get("integrity") or ()), 1)  # no finding at all is one failed check
    if champion is not None:
        findings += max(len(champion.get("integrity") or ()), 1) + 1  # one more check compares the images
    assert len(integrity) == findings


@PROPERTY
@given(evaluations, champions)
def test_it_promotes_if_and_only_if_nothing_failed_or_a_person_forced_it(
    candidate: Evaluation, champion: Evaluation | None
) -> None:
    decision, forced = (decide(candidate, champion, policy) for policy in (POLICY, FORCED))

    assert decision.checks == forced.checks
    assert decision.approved == (not failed(decision))
    assert not decision.forced
    broken = bool({"integrity", "max_champion_drop"} & failed(decision))
    assert (decision.outcome == "refused") == broken
    assert forced.approved == (not broken)
    assert forced.forced == (not broken and bool(failed(decision)))


@PROPERTY
@given(evaluations, champions, st.booleans())
def test_failed_integrity_is_refused_even_with_force(
    candidate: Evaluation, champion: Evaluation | None, of_champion: bool
) -> None:
    if of_champion and champion is not None:
        champion = champion | {"integrity": [LOADS, DIFFER]}
    else:
        candidate = candidate | {"integrity": [DIFFER, LOADS]}

    for policy in (POLICY, FORCED):
        decision = decide(candidate, champion, policy)
        assert (decision.outcome, decision.forced) == ("refused", False)


@st.composite
def improvements(draw: st.DrawFn) -> tuple[Evaluation, Evaluation]:
    """Draw a plausible evaluation, and the same evaluation with one metric improved by a little or a lot."""
    worse = draw(plausible_evaluations())
    better = copy.deepcopy(worse)
    metric, best = draw(st.sampled_from([("accuracy", 1.0), ("loss", 0.0), ("recall", 1.0), ("precision", 1.0)]))
    part = better if metric in better else better["digits"][draw(st.integers(0, DIGITS - 1))]
    part[metric] = draw(st.floats(*sorted((part[metric], best))))
    return worse, better


UNSUSPECTING = GateConfig(**BOUNDS | {"max_accuracy": 1})


# The property holds for each check, which is stronger than for the outcome: only a candidate without a failed check is
# promoted, as tested above.
@PROPERTY
@given(improvements(), st.none() | plausible_evaluations())
def test_no_check_fails_because_the_candidate_got_better(
    candidates: tuple[Evaluation, Evaluation], champion: Evaluation | None
) -> None:
    worse, better = (decide(candidate, champion, UNSUSPECTING) for candidate in candidates)

    assert failed(better) <= failed(worse)
    assert better.approved >= worse.approved


@PROPERTY
@given(plausible_evaluations(), improvements())
def test_no_check_passes_because_the_champion_got_better(
    candidate: Evaluation, champions: tuple[Evaluation, Evaluation]
) -> None:
    against_worse, against_better = (decide(candidate, champion, POLICY) for champion in champions)

    # The exception is a champion whose score is so bad that the test images are in doubt.
    assert failed(against_worse) - {"max_champion_drop"} <= failed(against_better)
    if "max_champion_drop" not in failed(against_worse):
        assert against_better.approved <= against_worse.approved


@PROPERTY
@given(evaluations, champions)
def test_it_decides_the_same_every_time_and_changes_nothing(candidate: Evaluation, champion: Evaluation | None) -> None:
    before = repr((candidate, champion))  # NaN does not equal itself, but its text does
    copies = copy.deepcopy((candidate, champion))

    first, second = decide(candidate, champion, POLICY), decide(candidate, champion, POLICY)

    assert first == second == decide(*copies, POLICY)
    assert repr((candidate, champion)) == before


YES = Approval("digest", True, "Ada (admin)", "2026-11-24T02:00:00+00:00")
NO = Approval("digest", False, "Ada (admin)", "2026-11-24T02:00:00+00:00", "looks odd on 7")
NO_ANSWER = Approval("digest", False, None, "2026-11-24T02:00:00+00:00")
NOBODY_ASKED = Approval("digest")
PROMOTED, REFUSED = decide(evaluation(), None, POLICY), decide(evaluation(integrity=[DIFFER]), None, POLICY)
REJECTED, OVERRULED = (decide(evaluation(accuracy=0.5), None, policy) for policy in (POLICY, FORCED))


@pytest.mark.parametrize(
    ("approval", "outcome", "reason", "verdict"),
    [
        (YES, "approved", f"{PROMOTED.reason}; approved by Ada (admin)", "passed"),
        (NO, "rejected", "rejected by Ada (admin): looks odd on 7", "failed"),
        (NO_ANSWER, "rejected", "rejected: nobody answered in time", "failed"),
        (replace(NO_ANSWER, approved=True), "rejected", "rejected: nobody answered in time", "failed"),
        (NOBODY_ASKED, "rejected", "nobody was asked for approval; clear the approve task", "failed"),
    ],
)
def test_a_promotion_needs_a_yes_with_a_name(approval: Approval, outcome: str, reason: str, verdict: str) -> None:
    decision = with_approval(PROMOTED, approval)

    assert (decision.outcome, decision.reason) == (outcome, reason)
    assert decision.checks[:-1] == PROMOTED.checks
    assert (decision.checks[-1].rule, decision.checks[-1].verdict) == ("approval", verdict)
    assert decision.checks[-1].message in decision.reason


def test_a_forced_promotion_stays_forced_if_it_is_approved_and_is_none_if_not() -> None:
    approved, rejected = with_approval(OVERRULED, YES), with_approval(OVERRULED, NO)

    assert (approved.outcome, approved.forced) == ("approved", True)
    assert approved.reason.startswith("forced (Ada: the demo is at noon) although")
    assert (rejected.outcome, rejected.forced) == ("rejected", False)


@pytest.mark.parametrize("decision", [REJECTED, REFUSED])
@pytest.mark.parametrize("approval", [YES, NO, NO_ANSWER, NOBODY_ASKED])
def test_no_answer_promotes_what_the_gate_does_not(decision: Decision, approval: Approval) -> None:
    answered = with_approval(decision, approval)

    assert (answered.outcome, answered.reason) == (decision.outcome, decision.reason)
    assert answered.checks[:-1] == decision.checks


def test_where_nobody_was_asked_the_check_is_skipped_and_says_why() -> None:
    check = with_approval(REJECTED, NOBODY_ASKED).checks[-1]

    assert check.verdict == "skipped"
    assert check.message == "nobody was asked for approval, because the candidate does not pass the gate"


def mnist(accuracy: float) -> Evaluation:
    """Return a change to an evaluation: the test images are not MNIST's, and it has this accuracy on MNIST's."""
    return {"mnist": {"is_test_set": False, "accuracy": accuracy}}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (0.98, 0.98, set()),
        (0.97, 0.974, set()),
        (0.148, 0.98, {"min_accuracy", "max_regression"}),  # transposed digits from a source with its own test set
        (0.975, 0.98, {"max_regression"}),
        (0.9986, 0.98, {"max_accuracy"}),
        (0.148, None, {"min_accuracy"}),  # the first model
    ],
)
def test_mnists_own_test_set_is_gated_on_as_tonights_is(ours: float, theirs: float | None, expected: set[str]) -> None:
    champion = None if theirs is None else evaluation(**mnist(theirs))

    decision = decide(evaluation(**mnist(ours)), champion, POLICY)

    assert decision.outcome == ("rejected" if expected else "approved")
    found = [check for check in decision.checks if check.verdict == "failed"]
    assert {check.rule for check in found} == expected
    for check in found:
        assert check.slice == "MNIST"
        assert f"accuracy on MNIST's own test set {ours:.4f}" in check.message
        assert "set fixed_test_set=false" in check.message


def test_mnists_own_test_set_can_be_left_out_and_the_checks_say_so() -> None:
    decision = decide(evaluation(**mnist(0.148)), None, GateConfig(**BOUNDS, fixed_test_set=False))

    assert decision.outcome == "approved"
    left_out = [check for check in decision.checks if check.slice == "MNIST"]
    assert [check.verdict for check in left_out] == ["skipped"] * 3
    assert all(check.message.endswith("it does not count: fixed_test_set=false") for check in left_out)


def test_an_evaluation_of_before_mnist_was_measured_does_not_pass() -> None:
    decision = decide(without("mnist"), None, POLICY)

    assert decision.outcome == "rejected"
    assert "accuracy on MNIST's own test set is missing (clear the evaluate task to measure it)" in decision.reason


@pytest.mark.parametrize(
    ("published", "tonight", "fails"),
    [
        ({"accuracy": 0.96}, {"accuracy": 0.9}, True),
        ({"accuracy": 0.96}, {"accuracy": 0.91}, False),
        ({"accuracy": 0.96}, {"accuracy": 0.99}, False),
        # With only 100 images, chance explains a loss of six points.
        ({"accuracy": 0.96, "accuracy_95": [0.902, 0.984]}, {"accuracy": 0.9, "accuracy_95": [0.826, 0.945]}, False),
        ({"accuracy": 0.96, "accuracy_95": [0.956, 0.964]}, {"accuracy": 0.15, "accuracy_95": [0.14, 0.16]}, True),
        ({}, {"accuracy": 0.15}, False),  # an older release did not record the accuracy
    ],
)
def test_a_champion_that_collapses_on_tonights_images_stops_the_run_even_by_force(
    published: Evaluation, tonight: Evaluation, fails: bool
) -> None:
    champion = evaluation(**{**tonight, "published": published})

    for policy in (POLICY, FORCED):
        decision = decide(evaluation(), champion, policy)
        assert (decision.outcome == "refused") is fails
        if fails:
            words = f"the champion's accuracy is {tonight['accuracy']:.4f} on tonight's test images and was 0.9600 when"
            assert decision.reason.startswith(words)
            assert "set max_champion_drop=1" in decision.reason
    assert decide(evaluation(), champion, GateConfig(**BOUNDS, max_champion_drop=1)).outcome != "refused"


def test_the_reason_says_which_part_of_the_test_images_it_is() -> None:
    parts = [
        {"name": "the source's own test images", "images": 10_000, "accuracy": 0.977},
        {"name": "those that the inbox adds", "images": 2_000, "accuracy": 0.0955},
        {"name": "MNIST's own test set", "images": 10_000, "accuracy": 0.977},
    ]
    candidate = evaluation(accuracy=0.83, parts=parts, **mnist(0.977))

    assert decide(candidate, None, POLICY).reason == (
        "accuracy 0.8300 is below the minimum of 0.9700; the candidate's accuracy is 0.9770 on the source's own test "
        "images (10,000), 0.0955 on those that the inbox adds (2,000), 0.9770 on MNIST's own test set (10,000)"
    )
    assert "2,000" not in decide(candidate | {"accuracy": 0.98, "loss": 1}, None, POLICY).reason
