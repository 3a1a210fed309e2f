"""Small batches with a few wrong labels each are judged together."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_tasks.data.pooled import ALARM, Labels, doubted_together, origin

BOUND = 0.02


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("night-0001.npz", "night"),
        ("scanner-b_2026-11-27.csv", "scanner-b"),
        ("scanner-b_2026-11-28T02:00:00.csv.gz", "scanner-b"),
        ("letters", "letters"),
        ("2026-11-27.npz", ""),
        ("2026-11-27", ""),
        ("0042.parquet", ""),
        ("post office 17", "post office"),
        ("2026-11-27_scanner-b.npz", "scanner-b"),
        ("20261127 scanner-b 3.npz", "scanner-b"),
    ],
)
def test_an_origin_is_the_name_before_the_number_or_date(name: str, expected: str) -> None:
    assert origin(name) == expected


def series(*contradicted: int, images: int = 30, origin: str = "night") -> list[Labels]:
    return [Labels(f"{origin}-{number:03}", images, count) for number, count in enumerate(contradicted)]


def test_a_series_of_batches_that_each_pass_is_stopped_together_and_says_so() -> None:
    batches = series(0, 0, 2, 1, 2, 2, 2, 2, 0)

    found = doubted_together(batches, BOUND)

    assert list(found) == [f"night-00{number}" for number in range(2, 8)]
    (check,) = set(found.values())
    assert (check.rule, check.verdict, check.bound) == ("max_wrong_labels", "failed", BOUND)
    assert check.value == pytest.approx(11 / 180)
    assert "11 of 180 labels (6.11%) of the 6 batches night-002 to night-007 of the origin 'night'" in check.message
    assert "correct them, or raise max_wrong_labels" in check.message


def test_what_came_before_in_clean_batches_hides_nothing() -> None:
    dirty = [2, 1, 2, 2, 2, 2]

    assert len(doubted_together(series(*[0] * 300, *dirty), BOUND)) == len(dirty)


def test_origins_are_judged_apart() -> None:
    clean, dirty = series(*[0] * 6, origin="a"), series(2, 1, 2, 2, 2, 2, origin="b")
    mixed = [batch for pair in zip(clean, dirty, strict=True) for batch in pair]

    assert set(doubted_together(mixed, BOUND)) == {batch.name for batch in dirty}


def test_a_batch_that_is_left_out_for_itself_stops_no_other_and_still_counts() -> None:
    bad = [Labels(f"night-9{number}", 30, 20) for number in range(3)]

    assert doubted_together([*series(0, 1), bad[0], *series(1)], BOUND) == {}
    assert len(doubted_together([*series(0, 1), *bad], BOUND)) >= 3


@pytest.mark.parametrize("bound", [0, 0.5, 1])
def test_with_a_bound_that_no_share_can_double_nothing_is_pooled(bound: float) -> None:
    assert doubted_together(series(*[15] * 50), bound) == {}


def test_more_batches_never_change_what_was_stopped_before_them() -> None:
    counts = np.random.default_rng(0).binomial(30, 0.05, 60).tolist()
    batches = series(*counts)

    everything = doubted_together(batches, BOUND)

    for end in range(len(batches)):
        earlier = doubted_together(batches[:end], BOUND)
        assert earlier.items() <= everything.items()


def test_false_alarms_are_as_rare_as_the_threshold_says_and_dirty_batches_are_found_within_a_month() -> None:
    random = np.random.default_rng(1)

    def first_alarm(share: float, days: int) -> int | None:
        batches = series(*random.binomial(30, share, days).tolist())
        found = doubted_together(batches, BOUND)
        return next((day for day, batch in enumerate(batches) if batch.name in found), None)

    assert np.exp(-ALARM) == pytest.approx(0.0001)
    assert sum(first_alarm(0.009, 365) is not None for _ in range(100)) == 0
    assert sum(first_alarm(0.048, 30) is None for _ in range(200)) <= 2
