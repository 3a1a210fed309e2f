"""The night before a deadline: when it begins, and what is said if no run has ended in it."""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone

import pytest

from mnist_tasks.night import SHOWN_RUNS, SeenRun, beginning, last_deadline, silence

SIX = time(6)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


BEGAN = at("2026-11-24T02:00")


def run(state: str, rejected: bool = False, **tasks: str) -> SeenRun:
    return SeenRun("night", state, BEGAN, tasks, rejected)


@pytest.mark.parametrize(
    ("now", "deadline"),
    [
        ("2026-11-24T06:00", "2026-11-24T06:00"),
        ("2026-11-24T14:30", "2026-11-24T06:00"),
        ("2026-11-24T05:59:59", "2026-11-23T06:00"),
    ],
)
def test_a_late_look_is_about_the_deadline_that_has_passed(now: str, deadline: str) -> None:
    assert last_deadline(at(now), SIX) == at(deadline)
    assert last_deadline(at(now).astimezone(timezone(timedelta(hours=9))), SIX) == at(deadline)


@pytest.mark.parametrize(
    ("schedule", "began"),
    [
        ("0 2 * * *", "2026-11-24T02:00"),
        ("0 22 * * *", "2026-11-23T22:00"),
        ("0 6 * * *", "2026-11-23T06:00"),  # what is due at the deadline belongs to the next night
        ("30 * * * *", "2026-11-23T06:30"),
        ("0 2,4 * * *", "2026-11-24T02:00"),
        ("0 2 * * 3", None),  # the 24th is a Tuesday
        ("@daily", "2026-11-24T00:00"),
        ("@quarterly", None),
        (None, "2026-11-23T06:00"),
    ],
)
def test_a_night_begins_with_the_first_run_that_was_due(schedule: str | None, began: str | None) -> None:
    assert beginning(at("2026-11-24T06:00"), schedule) == (at(began) if began else None)


@pytest.mark.parametrize("ended", [run("success"), run("failed", rejected=True)])
def test_nothing_is_said_if_any_run_has_come_to_a_decision(ended: SeenRun) -> None:
    assert silence([ended], BEGAN, paused=False) is None
    assert silence([run("failed"), ended, run("running")], BEGAN, paused=True) is None


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (run("failed", load="success", train="failed", evaluate="upstream_failed"), "has failed in train"),
        (run("failed"), "has failed"),
        (run("running", load="success", train="running"), "is still running: train"),
        (run("running", load="up_for_retry"), "is still running: load will be tried again"),
        (run("running", load="success"), "is still running"),
        (run("running", evaluate="success", approve="awaiting_input"), "waits for a person's approval"),
        (run("queued"), "is queued and has not begun"),
    ],
)
def test_what_the_run_does_is_said(seen: SeenRun, words: str) -> None:
    assert silence([seen], BEGAN, paused=False) == f"Run night {words}."


def test_a_night_without_a_run_is_explained_as_far_as_it_is_known() -> None:
    none = "No run has been started since 02:00 UTC."
    earlier = SeenRun("before", "running", at("2026-11-23T02:00"), {"approve": "awaiting_input"})
    waits = "Run before of 2026-11-23 02:00 UTC waits for a person's approval: others wait for it."

    assert silence([], BEGAN, paused=True) == f"{none}\nThe DAG is paused: switch it on in Airflow's UI."
    assert silence([], BEGAN, paused=False, earlier=earlier) == f"{none}\n{waits}"
    assert (silence([], BEGAN, paused=False) or "").startswith(f"{none}\nLook whether Airflow's scheduler")
    assert silence([run("queued")], BEGAN, paused=False, earlier=earlier) == (
        f"Run night is queued and has not begun.\n{waits}"
    )


def test_many_failed_runs_make_a_short_message() -> None:
    text = silence([run("failed")] * 100, BEGAN, paused=False) or ""

    assert text.splitlines()[-1] == "95 more runs have not ended well either."
    assert len(text.splitlines()) == SHOWN_RUNS + 1
