"""Which champion a slow slide is measured against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mnist_tasks.documents import HistoryEvent
from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.reference import best_first, last_champions
from mnist_tasks.registry.retention import prune
from mnist_tasks.system.files import write_json
from tests.helpers import publish, stand_in


def history(*moves: tuple[int, int | None, int | None, bool]) -> ChampionHistory:
    """Return a history of moves, each with the new champion, the one before, what it restores and whether forced."""
    return ChampionHistory(
        [
            HistoryEvent(time="2026-01-01T00:00:00+00:00", before=before, to=to, restores=restores, forced=forced)
            for to, before, restores, forced in moves
        ]
    )


PLAIN = [(1, None, None, False), (2, 1, None, False), (3, 2, None, False), (4, 3, None, False)]


def test_the_last_champions_are_those_that_led_to_this_one_the_newest_first() -> None:
    assert last_champions(history(*PLAIN), 4, 100) == [4, 3, 2, 1]
    assert last_champions(history(*PLAIN), 4, 2) == [4, 3]


def test_a_forced_champion_is_the_last_because_a_person_has_accepted_its_level() -> None:
    moves = [*PLAIN[:2], (3, 2, None, True), *PLAIN[3:]]

    assert last_champions(history(*moves), 4, 100) == [4, 3]


def test_what_was_rolled_back_does_not_count() -> None:
    moves = [*PLAIN, (5, 4, 2, False), (6, 5, None, False)]

    assert last_champions(history(*moves), 6, 100) == [6, 2, 1]


def test_a_retirement_ends_the_list() -> None:
    moves = [*PLAIN[:2], (3, None, None, False)]

    assert last_champions(history(*moves), 3, 100) == [3]


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    models = ModelDirectory(tmp_path / "models")
    for number, loss in enumerate((0.08, 0.07, 0.09), start=1):
        evaluation = stand_in("x", tmp_path)["evaluation"]
        evaluation["candidate"]["loss"] = loss
        publish(models, f"run{number}", number - 1 or None, evaluation=evaluation)
    return models


def test_the_lowest_published_loss_comes_first(models: ModelDirectory) -> None:
    assert [version.number for version in best_first(models, [3, 2, 1])] == [2, 1, 3]


def test_what_is_gone_or_damaged_or_has_no_loss_is_left_out(models: ModelDirectory) -> None:
    (models.root / "2" / "evaluation.json").chmod(0o644)
    (models.root / "2" / "evaluation.json").write_text("{")
    path = models.root / "1" / "evaluation.json"
    document = json.loads(path.read_text())
    del document["candidate"]["loss"]
    path.chmod(0o644)
    write_json(path, document)

    assert [version.number for version in best_first(models, [7, 3, 2, 1])] == [3]


def test_the_reference_is_never_pruned(models: ModelDirectory) -> None:
    for number in (4, 5, 6):
        publish(models, f"run{number}", number - 1)

    assert prune(models, 1, reference=1) == [3, 4]  # 2 has the lowest loss, 5 was champion before

    assert [version.number for version in models.versions()] == [1, 2, 5, 6]
