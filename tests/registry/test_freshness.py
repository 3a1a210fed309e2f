"""How old the champion is, and how many of the newest runs were rejected."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.registry.freshness import READ_DECISIONS, Freshness, freshness, in_days
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.errors import ModelError
from tests.helpers import publish

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(tmp_path / "models")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def decide(runs: Path, number: int, outcome: str, **more: Any) -> Path:
    """Write the decision of run `number`; a larger number is a later run."""
    path = runs / f"run-{number}" / "decision.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"outcome": outcome, "champion_version": 1, **more}))
    os.utime(path, (1_700_000_000 + number,) * 2)
    return path


def found(models: ModelDirectory, runs: Path) -> Freshness:
    fresh = freshness(models, runs)
    assert fresh
    return fresh


def test_without_a_champion_nothing_is_old(models: ModelDirectory, runs: Path) -> None:
    decide(runs, 1, "rejected")

    assert freshness(models, runs) is None


def test_an_unknown_champion_is_an_error(models: ModelDirectory, runs: Path) -> None:
    publish(models, "first", None)
    models.link.unlink()

    with pytest.raises(ModelError, match="champion is missing"):
        freshness(models, runs)


def test_rejections_in_a_row_are_counted_from_the_newest_run(models: ModelDirectory, runs: Path) -> None:
    publish(models, "first", None)
    decide(runs, 1, "rejected")
    decide(runs, 2, "promoted")
    assert found(models, runs).rejected == 0

    decide(runs, 3, "rejected")
    assert found(models, runs).describe(NOW).endswith("old. The last run was rejected.")
    decide(runs, 4, "refused")
    decide(runs, 5, "unchanged", rejected_in="run-3")
    (runs / "run-6").mkdir()  # it has not come to a decision
    (runs / "a file").touch()
    assert found(models, runs).rejected == 2
    assert found(models, runs).describe(NOW).endswith("old. The last 2 runs were rejected.")


def test_a_damaged_decision_is_left_out(models: ModelDirectory, runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(models, "first", None)
    decide(runs, 1, "rejected")
    decide(runs, 2, "rejected").write_text("{")

    assert found(models, runs).rejected == 1
    assert "left out of the newest decisions: " in caplog.text


def test_a_run_that_finds_nothing_changed_confirms_the_champion(models: ModelDirectory, runs: Path) -> None:
    publish(models, "first", None)
    decide(runs, 1, "unchanged", champion_version=7)
    assert found(models, runs).confirmed is None
    decide(runs, 2, "unchanged")
    assert found(models, runs).confirmed == datetime.fromtimestamp(1_700_000_002, timezone.utc)
    assert found(models, runs).rejected == 0


def test_a_model_that_is_rolled_back_to_is_as_old_as_before(models: ModelDirectory, runs: Path) -> None:
    publish(models, "first", None)
    since = found(models, runs).since
    publish(models, "second", 1)
    assert found(models, runs).since != since
    roll_back(models, 1, reason="it was bad", published_by="back", smoke_test=lambda _: None)

    assert (found(models, runs).version, found(models, runs).since) == (3, since)


def test_only_the_newest_decisions_are_read(models: ModelDirectory, runs: Path) -> None:
    publish(models, "first", None)
    for number in range(READ_DECISIONS + 20):
        decide(runs, number, "rejected")

    assert found(models, runs).describe(NOW).endswith("At least the last 100 runs were rejected.")


def test_stale_counts_from_the_last_night_that_made_or_confirmed_the_champion() -> None:
    since = NOW - timedelta(days=30)
    assert Freshness(1, since, None, 0).stale_for(NOW) == timedelta(days=30)
    assert Freshness(1, since, NOW - timedelta(days=2), 0).stale_for(NOW) == timedelta(days=2)
    assert Freshness(1, None, None, 0).stale_for(NOW) is None
    assert Freshness(1, NOW + timedelta(hours=1), None, 0).stale_for(NOW) == timedelta()  # the clock was set back


@pytest.mark.parametrize(
    ("age", "words"),
    [(-5, "less than a day"), (0, "less than a day"), (1, "1 day"), (20, "20 days")],
)
def test_an_age_is_said_in_whole_days(age: int, words: str) -> None:
    assert in_days(timedelta(days=age)) == words
