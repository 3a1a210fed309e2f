"""The gate's truth table."""

from __future__ import annotations

import math

import pytest

from mnist_tasks.gate import Policy, decide

POLICY = Policy(min_accuracy=0.97, max_regression=0.002)


def verdicts(candidate: dict[str, float], champion: dict[str, float] | None) -> tuple[bool, list[str]]:
    decision = decide(candidate, champion, POLICY)
    return decision.promoted, [check.verdict for check in decision.checks]


@pytest.mark.parametrize(
    ("candidate", "champion", "promoted", "expected"),
    [
        (0.98, None, True, ["passed", "skipped"]),  # first run
        (0.96, None, False, ["failed", "skipped"]),  # first run, below the floor
        (0.97, None, True, ["passed", "skipped"]),  # bounds are inclusive
        (0.9699, None, False, ["failed", "skipped"]),
        (0.985, 0.98, True, ["passed", "passed"]),  # better
        (0.98, 0.98, True, ["passed", "passed"]),  # tie
        (0.978, 0.98, True, ["passed", "passed"]),  # worse by just the tolerance: -0.0020000000000000018 in floats
        (0.9779, 0.98, False, ["passed", "failed"]),
        (0.969, 0.95, False, ["failed", "passed"]),  # better than the champion, but below the floor
        (0.96, 0.98, False, ["failed", "failed"]),
        (math.nan, None, False, ["failed", "skipped"]),
        (math.nan, 0.98, False, ["failed", "failed"]),
        (math.inf, 0.98, False, ["failed", "failed"]),
        (-math.inf, 0.98, False, ["failed", "failed"]),
        (0.98, math.nan, False, ["passed", "failed"]),
        (0.98, math.inf, False, ["passed", "failed"]),
        (0.98, -math.inf, False, ["passed", "failed"]),
    ],
)
def test_accuracy(candidate: float, champion: float | None, promoted: bool, expected: list[str]) -> None:
    baseline = None if champion is None else {"accuracy": champion}

    assert verdicts({"accuracy": candidate}, baseline) == (promoted, expected)


def test_a_missing_metric_fails() -> None:
    assert verdicts({}, None) == (False, ["failed", "skipped"])
    assert verdicts({"accuracy": 0.98}, {}) == (False, ["passed", "failed"])


def test_the_reason_names_value_and_bound_of_all_that_failed() -> None:
    decision = decide({"accuracy": 0.96}, {"accuracy": 0.98}, POLICY)

    assert "accuracy 0.9600 is below the minimum of 0.9700" in decision.reason
    assert "a change of -0.0200, is worse than the allowed -0.0020" in decision.reason


def test_values_that_differ_never_look_the_same_in_the_reason() -> None:
    decision = decide({"accuracy": 0.96996}, None, POLICY)

    assert "0.96996 is below the minimum of 0.9700" in decision.reason
