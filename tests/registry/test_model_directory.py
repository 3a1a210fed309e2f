"""The model directory: whole versions, a link that always leads to one of them, a history, and rollbacks."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.repair import NO_CHAMPION_LEFT, repair
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.verification import has_lost_champion, problems
from mnist_tasks.registry.version import REPAIR, ROLLBACK, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import PROJECT
from tests.crash_points import OPERATIONS
from tests.helpers import COUNTS, publish, published, small_disk, stand_in, without_root

FILES = {
    *("model.keras", "saved_model.pb", "variables/variables.index", "golden.npz"),
    *("evaluation.json", "decision.json", "model_card.md"),
}


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(tmp_path / "models")


@pytest.fixture
def three(models: ModelDirectory) -> ModelDirectory:
    """Three versions, of which the third is champion."""
    return published(models, 3)


def champion_number(models: ModelDirectory) -> int | None:
    champion = models.champion()
    return champion.number if champion else None


def rollback(models: ModelDirectory, to: int | None = None, **options: Any) -> Version:
    """Roll back without the smoke test, which needs real models."""
    return roll_back(
        models, to, **{"reason": "it was bad", "published_by": "me", "smoke_test": lambda _: None, **options}
    )


def mended(models: ModelDirectory) -> list[str]:
    """Repair, check that no problem is left and that the next run can publish, and return the steps of the repair."""
    done = list(repair(models, models.root.parent / "runs", "me", smoke_test=lambda _: None))
    assert list(problems(models)) == []
    publish(models, "the next run", champion_number(models))
    assert list(problems(models)) == []
    return done


# Publishing


def test_an_empty_directory_has_no_champion(models: ModelDirectory) -> None:
    assert models.champion() is None
    assert models.versions() == []
    assert models.history() == []
    assert list(problems(models)) == []


def test_who_is_champion_is_said_after_a_look(models: ModelDirectory) -> None:
    assert models.describe_champion() == "there is no champion"

    publish(models, "run-1", None)
    assert models.describe_champion() == "version 1 is champion"

    models.link.unlink()
    assert models.describe_champion().startswith(f"who is champion is unknown: {models.link} is missing")


def test_a_version_is_complete_and_champion(models: ModelDirectory) -> None:
    version = publish(models, "run-1", None)

    assert models.champion() == version == Version(1, models.root / "1")
    assert models.link.readlink() == Path("1")  # relative, so the folder can be mounted elsewhere
    found = {path.relative_to(version.folder).as_posix() for path in version.folder.rglob("*") if path.is_file()}
    assert found == FILES | {"metadata.json"}
    metadata = version.metadata()
    assert (metadata.version, metadata.run_id, metadata.config["seed"]) == (1, "run-1", 3)
    assert set(metadata.sha256) == FILES
    assert models.damage(version) == []


def test_each_promotion_is_a_line_of_the_history(models: ModelDirectory) -> None:
    publish(models, "run-1", None)
    publish(models, "run-2", 1)

    first, second = models.history()
    assert (first.event, first.before, first.to, first.published_by) == ("promoted", None, 1, "run-1")
    assert (second.before, second.to, second.reason) == (1, 2, "run-2 is better")
    assert first.time <= second.time


def test_a_forced_promotion_is_marked_in_every_record(models: ModelDirectory) -> None:
    version = publish(
        models, "run-1", None, decision={"forced": True, "reason": "forced (I say so) although it is bad"}
    )

    assert models.history()[0].event == version.metadata().event == "forced"
    assert version.decision().forced
    assert "**Forced.** It did not pass its quality checks: forced (I say so)" in version.card()


def test_the_same_run_is_published_once(models: ModelDirectory) -> None:
    first = publish(models, "run-1", None)

    assert publish(models, "run-1", None) == first
    assert [version.number for version in models.versions()] == [1]
    assert len(models.history()) == 1


def test_a_late_retry_does_not_take_the_champion_back(three: ModelDirectory) -> None:
    publish(three, "run-1", None)

    assert champion_number(three) == 3


def test_a_champion_that_changed_since_the_comparison_is_not_replaced(models: ModelDirectory) -> None:
    publish(models, "run-1", None)

    with pytest.raises(ModelError, match="the champion is version 1, but the candidate was compared with none"):
        publish(models, "run-2", None)
    assert [version.number for version in models.versions()] == [1]


def test_a_file_that_changed_since_the_evaluation_is_not_published(models: ModelDirectory) -> None:
    digests = dict.fromkeys(("model.keras", "saved_model.pb", "variables/variables.index", "golden.npz"), "0000")

    with pytest.raises(ModelError, match=r"model\.keras has SHA-256 .*, but 0000 was evaluated"):
        publish(models, "run-1", None, digests=digests)
    assert models.versions() == []
    assert models.champion() is None
    assert not list(models.root.glob(".staging-*"))


def test_no_number_is_used_twice(three: ModelDirectory) -> None:
    prune(three, 1)
    shutil.rmtree(three.root / "3")
    shutil.rmtree(three.root / "2")
    three.link.unlink()
    mended(three)  # publishes a version

    assert champion_number(three) == 4


def test_what_a_kill_left_is_not_made_champion_after_another_run_was(
    three: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise TF Serving, which serves the newest version, would not serve the champion."""
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "set_champion", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            publish(three, "late", 3)
    publish(three, "run-5", 3)

    with pytest.raises(ModelError, match="the champion is version 5, but the candidate was compared with version 3"):
        publish(three, "late", 3)
    assert publish(three, "late", 5).number == champion_number(three) == 6


def test_numbers_stay_used_even_if_the_history_is_lost(three: ModelDirectory) -> None:
    for number in (2, 3):
        (three.root / str(number)).rename(three.root / f".damaged-{number}-2")
    three.link.unlink()
    three.history_file.path.unlink()

    assert publish(three, "run-4", None).number == 4


# The history of champions


def test_who_was_champion_at_a_time(models: ModelDirectory) -> None:
    assert models.who_was_champion(datetime.now(timezone.utc)) is None
    publish(models, "run-1", None)
    publish(models, "run-2", 1)
    first, second = (datetime.fromisoformat(event.time) for event in models.history())

    assert models.who_was_champion(first - timedelta(seconds=1)) is None
    assert models.who_was_champion(second) == 2
    if first < second:
        assert models.who_was_champion(first) == 1
    assert models.who_was_champion(datetime.now(timezone.utc)) == 2


def test_a_link_that_was_moved_by_hand_is_in_the_history(three: ModelDirectory) -> None:
    three.link.unlink()
    three.link.symlink_to("2")

    assert three.who_was_champion(datetime.now(timezone.utc)) == 2  # before a writer has recorded the move
    publish(three, "run-4", 2)

    events = [(event.event, event.before, event.to) for event in three.history()]
    assert events[2:] == [("promoted", 2, 3), ("moved by hand", 3, 2), ("promoted", 2, 4)]


# Rollbacks


def test_a_rollback_publishes_the_version_before_again(three: ModelDirectory) -> None:
    version = rollback(three)

    assert (version.number, champion_number(three)) == (4, 4)
    assert version.model.stat().st_ino == (three.root / "2" / "model.keras").stat().st_ino  # the same file, not a copy
    metadata, event = version.metadata(), three.history()[-1]
    assert (metadata.restores, metadata.replaces, metadata.run_id) == (2, 3, "run-2")
    assert (event.event, event.before, event.to, event.restores) == ("rolled back", 3, 4, 2)
    assert (event.reason, event.published_by) == ("it was bad", "me")
    assert "The files are those of version 2, published again: it was bad (instead of version 3)." in version.card()
    assert three.damage(version) == []


def test_a_second_rollback_goes_one_further_back(three: ModelDirectory) -> None:
    rollback(three)

    assert rollback(three).metadata().restores == 1
    with pytest.raises(InputError, match="there is no version before the champion, version 5, to go back to"):
        rollback(three)


def test_after_a_rollback_and_a_promotion_a_rollback_goes_to_the_restored_model(three: ModelDirectory) -> None:
    rollback(three)
    publish(three, "run-5", 4)

    assert rollback(three).metadata().restores == 2


def test_a_rollback_to_a_version_of_choice(three: ModelDirectory) -> None:
    assert rollback(three, 1).metadata().restores == 1


def test_the_same_run_rolls_back_once(three: ModelDirectory) -> None:
    first = rollback(three, published_by="run-x", once=True)

    assert rollback(three, published_by="run-x", once=True) == first
    assert [version.number for version in three.versions()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("to", "reason", "words"),
    [
        (3, "why", "version 3 is champion already"),
        (9, "why", "has no version 9; it has 1, 2, 3"),
        (1, " ", "reason: a reason is needed"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(to: int, reason: str, words: str, three: ModelDirectory) -> None:
    with pytest.raises((InputError, ModelError), match=words):
        rollback(three, to, reason=reason)
    assert champion_number(three) == 3


def test_a_damaged_version_is_no_way_back(three: ModelDirectory) -> None:
    (three.root / "2" / "model.keras").write_bytes(b"other")

    with pytest.raises(ModelError, match=r"version 2 is damaged: .*model\.keras has SHA-256"):
        rollback(three)
    assert champion_number(three) == 3


def test_a_version_that_fails_its_load_test_is_no_way_back(three: ModelDirectory) -> None:
    def fail(folder: Path) -> None:
        raise ModelError(f"{folder.name} does not load any more")

    with pytest.raises(ModelError, match="2 does not load any more"):
        rollback(three, smoke_test=fail)
    assert champion_number(three) == 3
    assert [version.number for version in three.versions()] == [1, 2, 3]


def test_a_rollback_works_where_hard_links_do_not(three: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no hard links")))

    assert three.damage(rollback(three)) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_link_that_fails_for_another_reason_fails_the_rollback(
    code: int, three: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))

    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        rollback(three)
    assert champion_number(three) == 3


# Pruning


def test_pruning_keeps_the_newest_and_what_was_written_about_the_rest(models: ModelDirectory) -> None:
    for number in range(1, 6):
        publish(models, f"run-{number}", number - 1 or None)

    assert prune(models, 2) == [1, 2, 3]
    assert [version.number for version in models.versions()] == [4, 5]
    assert json.loads((models.root / "pruned" / "2" / "metadata.json").read_text())["run_id"] == "run-2"
    assert [event.version for event in models.history() if event.event == "pruned"] == [1, 2, 3]
    assert prune(models, 2) == []
    assert list(problems(models)) == []


def test_pruning_never_removes_the_champion_or_the_one_before(three: ModelDirectory) -> None:
    rollback(three)  # champion 4 restores 2, and the champion before 2 was 1

    assert prune(three, 1) == [2]
    assert rollback(three).metadata().restores == 1


def test_pruning_everything_is_refused(three: ModelDirectory) -> None:
    with pytest.raises(InputError, match="keep: 0 is less than the minimum of 1"):
        prune(three, 0)


# Damage from outside is found, reported and repaired


def test_a_changed_file_comes_back_from_the_run_that_made_it(three: ModelDirectory) -> None:
    (three.root / "2" / "saved_model.pb").write_bytes(b"tampered")

    (problem,) = problems(three)
    assert "version 2 is damaged" in problem
    assert "2/saved_model.pb has SHA-256" in problem
    assert f"run {REPAIR}" in problem
    (done,) = mended(three)
    assert done.startswith(f"restored {three.root / '2' / 'saved_model.pb'} from ")


def test_a_deleted_file_comes_back_from_the_version_it_was_restored_from(three: ModelDirectory) -> None:
    version = rollback(three)
    shutil.rmtree(three.root.parent / "runs")
    version.model.unlink()

    (problem,) = problems(three)
    assert "4/model.keras cannot be read: No such file or directory" in problem
    assert len(mended(three)) == 1


def test_changed_metadata_are_found_by_the_history(three: ModelDirectory) -> None:
    path = three.root / "2" / "metadata.json"
    shutil.copytree(three.root / "2", three.root.parent / "runs" / "run-2", dirs_exist_ok=True)
    path.write_text(path.read_text().replace("run-2", "run-9"))

    (problem,) = problems(three)
    assert "2/metadata.json has SHA-256" in problem
    mended(three)


def test_a_version_that_cannot_be_restored_is_moved_aside(three: ModelDirectory) -> None:
    (three.root / "1" / "metadata.json").write_text("{")
    (three.root / "1" / "model.keras").write_text("{")

    (done,) = mended(three)
    assert "1 cannot be restored; moved to" in done
    assert (three.root / ".damaged-1" / "saved_model.pb").exists()
    assert champion_number(three) == 4  # the version of the next run


def test_if_the_champion_cannot_be_restored_the_one_before_is_published_again(three: ModelDirectory) -> None:
    shutil.rmtree(three.root.parent / "runs")
    (three.root / "3" / "model.keras").write_text("tampered")

    published, moved = list(repair(three, three.root.parent / "runs", "me", smoke_test=lambda _: None))
    assert "moved to" in moved
    assert published == "published version 2 again as version 4: version 3 cannot be used any more"
    assert champion_number(three) == 4
    assert list(problems(three)) == []


def test_if_nothing_can_be_restored_there_is_no_champion(models: ModelDirectory) -> None:
    publish(models, "run-1", None)
    shutil.rmtree(models.root.parent / "runs")
    (models.root / "1" / "model.keras").write_text("tampered")

    assert mended(models)[0] == "no version is left: there is no champion now"
    assert [(event.before, event.to) for event in models.history()] == [(None, 1), (1, None), (None, 2)]


@pytest.mark.parametrize("target", ["7", "../outside", "1/..", "nothing"])
def test_a_link_that_leads_to_no_version_is_named(target: str, three: ModelDirectory) -> None:
    (three.root.parent / "outside").mkdir()
    three.link.unlink()
    three.link.symlink_to(target)

    with pytest.raises(
        ModelError, match=rf"leads to '{target}', which is not a version in .*; restore it, or run {REPAIR}"
    ):
        three.champion()
    assert len(list(problems(three))) == 1
    assert mended(three) == [f"pointed {three.link} at version 3, as the history says"]


@pytest.mark.parametrize("damage", ["missing", "a folder", "a file"])
def test_a_link_that_is_none_is_named(damage: str, three: ModelDirectory) -> None:
    three.link.unlink()
    if damage == "a folder":
        (three.link / "with content").mkdir(parents=True)
    elif damage == "a file":
        three.link.write_text("3")

    with pytest.raises(ModelError, match=rf"champion is (missing|not a link to a version).*; run {REPAIR}"):
        three.champion()
    assert mended(three)[-1] == f"pointed {three.link} at version 3, as the history says"


def test_a_damaged_line_of_the_history_costs_no_other(three: ModelDirectory, caplog: pytest.LogCaptureFixture) -> None:
    lines = three.history_file.path.read_text().splitlines()
    three.history_file.path.write_text("\n".join([lines[0], lines[1][:20], "7", lines[2]]))  # no newline at the end

    assert [event.to for event in three.history()] == [1, 3]
    assert "line 2 is damaged" in caplog.text
    assert len(problems(three)) == 3  # two damaged lines and a missing move
    mended(three)
    assert three.history_file.path.with_suffix(".damaged").read_text().splitlines() == [lines[1][:20], "7"]
    assert [event.to for event in three.history()] == [1, 2, 3, 4]
    assert three.history()[1].to_json_value() == json.loads(lines[1]) | {
        "time": three.version("2").metadata().published
    }


@pytest.mark.parametrize(
    "line",
    ['{"time": "2026-11-24T02:00:00", "from": 1, "to": 2}', '{"time": "2026-11-24T02:00:00+00:00", "to": 2}', "[]"],
    ids=["no time zone", "no from", "no event"],
)
def test_a_line_that_is_no_event_is_damaged(line: str, three: ModelDirectory) -> None:
    with three.history_file.path.open("a") as file:
        file.write(line + "\n")

    assert three.who_was_champion(datetime.now(timezone.utc)) == 3
    (problem,) = problems(three)
    assert "line 4 is damaged" in problem


def test_what_only_looks_like_a_version_is_none(three: ModelDirectory) -> None:
    for name in ("007", "٣", "0", "4.tmp"):
        (three.root / name).mkdir()

    assert [version.number for version in three.versions()] == [1, 2, 3]
    assert publish(three, "run-4", 3).number == 4


def test_metadata_without_digests_are_damage(three: ModelDirectory) -> None:
    three.history_file.path.unlink()
    (three.root / "1" / "metadata.json").write_text("{}")

    assert "1/metadata.json has no digests" in problems(three)[0]


def test_a_line_that_a_crash_cut_short_is_written_again(three: ModelDirectory) -> None:
    text = three.history_file.path.read_text()
    three.history_file.path.write_text(text[:-30])

    publish(three, "run-4", 3)

    assert [event.to for event in three.history()] == [1, 2, 3, 4]


def test_a_lost_history_is_told_again_by_the_versions(three: ModelDirectory) -> None:
    prune(three, 2)
    rollback(three)
    history = three.history()
    three.history_file.path.unlink()

    assert len(problems(three)) == 3  # the link shows the fourth move
    assert prune(three, 1) == [2]  # 4 is champion, 3 was champion before it, and 1 is pruned already
    mended(three)
    moves = [(event.event, event.before, event.to) for event in history if event.is_move]
    assert [(event.event, event.before, event.to) for event in three.history() if event.is_move][:4] == moves


def test_a_line_that_was_deleted_is_told_again(three: ModelDirectory) -> None:
    lines = three.history_file.path.read_text().splitlines(keepends=True)
    for gone in range(3):
        three.history_file.path.write_text("".join(lines[:gone] + lines[gone + 1 :]))

        assert [event.to for event in three.missing_moves()] == (
            [gone + 1] if gone < 2 else []
        )  # the link shows the last move
        list(repair(three, three.root, "me"))
        assert [event.to for event in three.history()] == [1, 2, 3]


def test_without_link_and_history_no_candidate_goes_unchallenged(three: ModelDirectory) -> None:
    three.history_file.path.unlink()
    three.link.unlink()

    with pytest.raises(ModelError, match=r"champion and .*history\.jsonl are missing, but versions exist"):
        publish(three, "run-4", None)
    assert mended(three)[0] == f"pointed {three.link} at version 3"
    assert [event.to for event in three.history()] == [1, 2, 3, 4]


def test_a_promotion_that_was_never_finished_is_finished(three: ModelDirectory) -> None:
    publish(three, "run-4", 3)
    three.link.unlink()
    three.link.symlink_to("3")
    lines = three.history_file.path.read_text().splitlines(keepends=True)
    three.history_file.path.write_text("".join(lines[:3]))

    (problem,) = problems(three)
    assert "version 4 is newer than the champion, version 3: TF Serving serves it" in problem
    assert mended(three) == ["finished the promotion of version 4"]


def test_a_champion_that_is_not_the_newest_is_published_again(three: ModelDirectory) -> None:
    """Otherwise TF Serving, which serves the largest number, would not serve the model of the link `champion`."""
    three.link.unlink()
    three.link.symlink_to("1")

    (problem,) = problems(three)
    assert "version 3 is newer than the champion, version 1" in problem
    (done,) = list(repair(three, three.root, "me", smoke_test=lambda _: None))
    assert done.startswith("published version 1 again as version 4: version 3 was newer")


def test_a_damaged_old_version_does_not_stop_the_next_run(three: ModelDirectory) -> None:
    (three.root / "1" / "metadata.json").write_text("{")

    assert publish(three, "run-4", 3).number == 4


@pytest.mark.parametrize("name", ["model_card.md", "decision.json", "metadata.json"])
def test_documents_come_back_from_the_run(name: str, three: ModelDirectory) -> None:
    """The task promote leaves copies in the folder of the run; this test makes the copy itself."""
    shutil.copy(three.root / "3" / name, three.root.parent / "runs" / "run-3" / name)
    (three.root / "3" / name).write_text("changed")

    assert name in problems(three)[0]
    assert [step.split()[0] for step in mended(three)] == ["restored"]


def test_a_lost_document_costs_no_model(three: ModelDirectory) -> None:
    (three.root / "3" / "model_card.md").unlink()

    (step,) = repair(three, three.root, "me", smoke_test=lambda _: None)
    assert "model_card.md cannot be read" in step
    assert "cannot be restored, the model works without it" in step
    assert champion_number(three) == 3
    assert list(problems(three)) == []  # nothing can restore it, so no problem sends people to `repair` again and again
    assert list(repair(three, three.root, "me")) == []
    assert three.history()[-1].to_json_value() | {"time": ""} == {
        "time": "",
        "event": "lost",
        "version": 3,
        "files": ["model_card.md"],
        "reason": "no copy was found",
    }
    three.verify(three.version("3"))  # the next candidate can be compared with it
    assert rollback(three, 2).number == 4
    assert rollback(three, 3).number == 5


def test_a_changed_document_is_moved_aside(three: ModelDirectory) -> None:
    (three.root / "3" / "model_card.md").write_text("the best model ever")

    steps = list(repair(three, three.root, "me", smoke_test=lambda _: None))

    assert "is not what was published; moved to" in steps[1]
    assert list(problems(three)) == []
    (three.root / "3" / "model_card.md").write_text("the best model ever")
    assert "model_card.md has SHA-256" in problems(three)[0]


def test_the_champion_stays_until_another_one_works(three: ModelDirectory) -> None:
    shutil.rmtree(three.root.parent / "runs")
    (three.root / "3" / "saved_model.pb").write_text("tampered")
    tried = []

    def works_not(folder: Path) -> None:
        assert champion_number(three) == 3
        assert (three.link / "model.keras").exists()
        tried.append(folder.name)
        if "1" not in tried:
            raise ModelError(f"{folder.name} does not load")

    with pytest.raises(ModelError, match="2 does not load"):
        list(repair(three, three.root, "me", smoke_test=lambda folder: works_not(folder.with_name("2"))))
    assert champion_number(three) == 3
    tried.clear()
    steps = list(repair(three, three.root, "me", smoke_test=works_not))
    assert (tried, champion_number(three)) == (["2", "1"], 4)
    assert steps[0] == "published version 1 again as version 4: version 3 cannot be used any more"


def test_a_folder_in_place_of_a_file_is_moved_aside(three: ModelDirectory) -> None:
    (three.root / "3" / "model.keras").unlink()
    (three.root / "3" / "model.keras").mkdir()

    moved, restored = mended(three)
    assert "model.keras cannot be restored; moved to" in moved
    assert restored.startswith("restored ")


def test_a_leftover_that_is_damaged_does_not_become_champion(
    three: ModelDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "set_champion", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            publish(three, "run-4", 3)
    (three.root / "4" / "model.keras").write_text("damaged")

    assert publish(three, "run-4", 3).number == 5


def test_a_run_that_was_rolled_back_can_be_promoted_again(three: ModelDirectory) -> None:
    rollback(three)

    assert publish(three, "run-3", 4).number == champion_number(three) == 5


def test_a_rollback_is_not_taken_for_a_promotion_of_the_same_run_id(three: ModelDirectory) -> None:
    assert rollback(three, published_by="run-3", once=True).metadata().restores == 2


def test_a_forced_version_that_is_restored_is_still_marked(models: ModelDirectory) -> None:
    forced = stand_in("run-1", models.root.parent / "runs")["metadata"] | {"forced": True}
    publish(models, "run-1", None, metadata=forced, decision={"forced": True, "reason": "x"})
    publish(models, "run-2", 1)
    rollback(models)

    assert [event.forced for event in models.history()] == [True, False, True]


def test_a_link_that_was_moved_by_hand_stays_where_it_is_if_the_history_is_lost(three: ModelDirectory) -> None:
    three.link.unlink()
    three.link.symlink_to("2")
    three.history_file.path.unlink()

    mended(three)

    assert three.version("4").metadata().restores == 2


def seen_by_tf_serving(models: ModelDirectory) -> list[int]:
    return sorted(int(path.name) for path in models.root.iterdir() if path.name.isdecimal())


def test_retiring_the_champion_is_the_last_way_out(three: ModelDirectory) -> None:
    assert retire(three, "nothing loads after the upgrade", "me") == 3

    assert three.champion() is None
    assert three.history()[-1].event == "retired"
    assert seen_by_tf_serving(three) == []
    assert [(version.number, version.retired) for version in three.versions()] == [(1, True), (2, True), (3, True)]
    assert three.version("3").model.exists()
    assert list(problems(three)) == []
    assert list(repair(three, three.root, "me")) == []
    with pytest.raises(InputError, match="has no champion"):
        retire(three, "again", "me")
    assert publish(three, "run-4", None).number == 4
    assert seen_by_tf_serving(three) == [4]
    assert list(problems(three)) == []


def test_a_rollback_undoes_a_retirement(three: ModelDirectory) -> None:
    retire(three, "a mistake", "me")

    version = rollback(three)

    assert (version.number, champion_number(three)) == (4, 4)
    assert (version.metadata().restores, version.metadata().replaces) == (3, None)
    assert "published again: it was bad (there was no champion)." in version.card()
    assert seen_by_tf_serving(three) == [1, 2, 3, 4]
    assert list(problems(three)) == []
    assert rollback(three).metadata().restores == 2  # the next rollback goes back from there as usual


def test_a_rollback_after_a_retirement_goes_where_it_is_told(three: ModelDirectory) -> None:
    retire(three, "version 3 is bad", "me")

    assert rollback(three, 2).metadata().restores == 2
    assert rollback(three).metadata().restores == 1


def test_a_candidate_after_a_retirement_leaves_the_others_retired(three: ModelDirectory) -> None:
    retire(three, "all are bad", "me")
    publish(three, "run-4", None)
    (three.root / "4" / "model.keras").write_text("damaged")
    shutil.rmtree(three.root.parent / "runs")

    with pytest.raises(InputError, match="no version before the champion, version 4"):
        rollback(three)
    steps = list(repair(three, three.root.parent / "runs", "me", smoke_test=lambda _: None))

    assert steps[0] == f"{NO_CHAMPION_LEFT}; to use one of those that were retired, 1, 2, 3: {ROLLBACK} --to 3"
    assert has_lost_champion(three)
    assert list(problems(three)) == []
    assert seen_by_tf_serving(three) == []
    with pytest.raises(InputError, match="has no champion to go back from; name one of 1, 2, 3 with --to"):
        rollback(three)
    rollback(three, 3)
    assert seen_by_tf_serving(three) == [1, 2, 3, 5]


def test_a_late_retry_says_that_its_version_was_retired(models: ModelDirectory) -> None:
    publish(models, "run-1", None)
    retire(models, "it is bad", "me")

    with pytest.raises(
        ModelError,
        match=rf"version 1, which run-1 published, was retired .*: {ROLLBACK} --to 1",
    ):
        publish(models, "run-1", None)
    assert models.champion() is None


def test_a_retired_version_is_pruned_but_not_the_one_that_was_champion(three: ModelDirectory) -> None:
    publish(three, "run-4", 3)
    retire(three, "a test", "me")

    assert prune(three, 1) == [1, 2]
    assert rollback(three).metadata().restores == 4
    assert seen_by_tf_serving(three) == [3, 4, 5]
    assert list(problems(three)) == []


def test_a_damaged_retired_version_is_restored(three: ModelDirectory) -> None:
    retire(three, "a test", "me")
    (three.version("2").folder / "model.keras").write_text("tampered")

    assert "retired/2/model.keras has SHA-256" in problems(three)[0]
    (step,) = repair(three, three.root.parent / "runs", "me")
    assert step.startswith("restored ")
    assert list(problems(three)) == []


def test_a_version_that_was_brought_back_by_hand_is_set_aside_again(three: ModelDirectory) -> None:
    retire(three, "a test", "me")
    shutil.copytree(three.root / "retired" / "3", three.root / "3")

    assert f"version 3 is newer than the champion, none: TF Serving serves it; run {REPAIR}" in problems(three)[0]
    (step,) = repair(three, three.root, "me")
    assert "where TF Serving does not look: the champion was retired" in step
    assert list(problems(three)) == []
    assert seen_by_tf_serving(three) == []


def test_a_champion_is_never_given_up_while_a_former_one_is_whole(three: ModelDirectory) -> None:
    """The repair also falls back to a version outside the chain of predecessors, which ends at version 1."""
    rollback(three, 1)
    assert prune(three, 1) == [1, 2]
    (three.root / "4" / "model.keras").unlink()
    shutil.rmtree(three.root.parent / "runs")

    steps = list(repair(three, three.root, "me", smoke_test=lambda _: None))

    assert steps[0] == "published version 3 again as version 5: version 4 cannot be used any more"
    assert champion_number(three) == 5
    assert list(problems(three)) == []


def test_repair_tries_the_chain_of_predecessors_first_then_the_newest(three: ModelDirectory) -> None:
    rollback(three, 1)
    publish(three, "run-5", 4)
    publish(three, "run-6", 5)
    rollback(three, 5)  # 7 has the files of 5; the champion before 5 was 4, with the files of 1

    assert ChampionHistory(three.history()).fallbacks(7) == [7, 5, 4, 1, 6, 3, 2]


def test_pruning_keeps_a_whole_version_to_fall_back_to(models: ModelDirectory) -> None:
    for number in range(1, 6):
        publish(models, f"run-{number}", number - 1 or None)
    (models.root / "4" / "model.keras").write_text("damaged")

    assert prune(models, 1) == [1, 2]  # 4 was champion before 5 but is damaged, so 3 is kept
    shutil.rmtree(models.root / "5")
    shutil.rmtree(models.root.parent / "runs")
    steps = list(repair(models, models.root, "me", smoke_test=lambda _: None))
    assert steps[0].startswith("published version 3 again")


# Kills, full disks, races


@pytest.mark.slow
def test_no_kill_and_no_full_disk_at_any_step_breaks_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash_points", str(tmp_path)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr
    points = {
        (what, how): int(count) for what, how, count in re.findall(r"(\w+): (\w+) .* (\d+) points", result.stdout)
    }
    assert set(points) == {(what, how) for what in OPERATIONS for how in ("killed", "no")}
    assert min(points.values()) > 5
    assert result.stdout.count("100 rounds") == 2
    COUNTS.extend(result.stdout.splitlines())


def test_a_full_disk_leaves_the_champion(tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "models")
    with small_disk(models.root, "1M"):
        publish(models, "small", None)
        large = tmp_path / "large.keras"
        large.write_bytes(os.urandom(2_000_000))

        with pytest.raises(OSError, match="No space left on device"):
            publish(models, "large", 1, files={"model.keras": large}, digests={"model.keras": "not needed"})

        champion = models.champion()
        assert champion
        assert models.damage(champion) == []
        assert [version.number for version in models.versions()] == [1]
        assert not list(models.root.glob(".staging-*"))


@pytest.mark.parametrize(
    "operation",
    [
        lambda models: publish(models, "run-4", 3),
        rollback,
        lambda models: prune(models, 1),
        lambda models: list(repair(models, models.root, "me")),
        lambda models: retire(models, "a test", "me"),
    ],
    ids=["publish", "rollback", "prune", "repair", "retire"],
)
def test_a_directory_that_is_not_writable_leaves_the_champion(
    operation: Callable[[ModelDirectory], Any], three: ModelDirectory, tmp_path: Path
) -> None:
    (tmp_path / "runs").chmod(0o777)
    three.root.chmod(0o555)
    (three.root / ".lock").chmod(0o444)

    with pytest.raises(PermissionError):
        without_root(lambda: operation(three), tmp_path)
    three.root.chmod(0o755)
    assert champion_number(three) == 3
    assert list(problems(three)) == []


@pytest.mark.parametrize("write", ["retire", "rollback"])
def test_a_reason_that_is_not_utf_8_is_written_with_escapes(write: str, three: ModelDirectory) -> None:
    reason = b"bad \xff byte".decode("utf-8", "surrogateescape")  # as Python decodes it from a command line

    if write == "retire":
        retire(three, reason, "me")
    else:
        rollback(three, reason=reason)

    assert three.history()[-1].reason == r"bad \udcff byte"
    assert problems(three) == []


def test_a_reason_that_an_older_release_wrote_still_reads(three: ModelDirectory) -> None:
    retire(three, "a test", "me")
    text = three.history_file.path.read_text().replace("a test", r"bad \udcff byte")
    three.history_file.path.write_text(text)

    assert three.champion_history().retired == 3
    assert three.history()[-1].reason == r"bad \udcff byte"
    assert problems(three) == []


def test_a_rollback_changes_nothing_if_there_is_a_folder_in_the_place_of_the_link(three: ModelDirectory) -> None:
    three.link.unlink()
    three.link.mkdir()

    with pytest.raises(ModelError, match=f"champion is not a link to a version; run {REPAIR}"):
        rollback(three, 1)
    assert [version.number for version in three.versions()] == [1, 2, 3]


def test_without_a_history_repair_falls_back_to_any_whole_version(three: ModelDirectory) -> None:
    shutil.rmtree(three.root.parent / "runs")
    three.history_file.path.unlink()
    (three.root / "3" / "metadata.json").write_text("{}")

    steps = mended(three)

    assert "published version 2 again as version 4: version 3 cannot be used any more" in steps
