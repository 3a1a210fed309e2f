"""The messages and records about an approved candidate whose publishing fails at any step, and after a retry."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run import FAILED, PROMOTED, REJECTED, outcome

from mnist_tasks.documents import DecisionRecord
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry import publishing
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import published_as, version_of
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT
from tests.plugins.documents import evaluated_run


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def candidate(home: Workspace) -> Path:
    """An evaluated run that passes the gate; there is no champion."""
    return evaluated_run(home, "candidate")


def decision(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "decision.json").read_text())
    return found


def word(run: Path) -> tuple[str, bool, int | None]:
    """Return the outcome, whether it was promoted, and the version from the decision record."""
    found = decision(run)
    return found["outcome"], found["promoted"], found["version"]


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_before_it_is_published_it_is_approved_and_afterwards_promoted(
    candidate: Path, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    publish = publishing.publish

    def look(*arguments: Any, **named: Any) -> Any:
        seen.append(word(candidate))
        return publish(*arguments, **named)

    monkeypatch.setattr("mnist_tasks.promote.publish", look)
    promote(candidate, home.models, LENIENT)

    assert seen == [("approved", False, None)]
    assert word(candidate) == word(home.models / "1") == ("promoted", True, 1)
    assert (candidate / "decision.json").read_bytes() == (home.models / "1" / "decision.json").read_bytes()


def test_a_champion_that_changed_meanwhile_leaves_it_approved_with_the_reason(
    candidate: Path, home: Workspace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    promote(evaluated_run(home, "other"), home.models, LENIENT)

    with pytest.raises(ModelError, match="clear the evaluate task to compare them again"):
        promote(candidate, home.models, LENIENT)

    assert word(candidate) == ("approved", False, None)
    assert decision(candidate)["not_published"].startswith("the champion is version 1, but the candidate was compared")
    assert "approved by the gate, but not published; version 1 is champion" in caplog.messages
    assert outcome("failed", home, candidate) == FAILED
    said = capsys.readouterr().out
    assert said.startswith("failed: approved by the gate, but not published: the champion is version 1, but the cand")
    assert said.endswith("; version 1 is champion\n")


def test_a_full_disk_leaves_it_approved_and_a_retry_promotes(
    candidate: Path, home: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "write_version", full)
        with pytest.raises(OSError, match="No space left"):
            promote(candidate, home.models, LENIENT)
    assert word(candidate) == ("approved", False, None)
    assert outcome("failed", home, candidate) == FAILED
    assert capsys.readouterr().out == (
        "failed: approved by the gate, but not published: [Errno 28] No space left on device; the task's log above "
        "says why; there is no champion\n"
    )

    promote(candidate, home.models, LENIENT)

    assert word(candidate) == ("promoted", True, 1)
    assert "not_published" not in decision(candidate)
    assert outcome("success", home, candidate) == PROMOTED


@pytest.mark.parametrize("fails", [full, killed])
def test_after_the_link_has_moved_the_champion_is_not_said_to_stay(
    fails: Callable[..., None],
    candidate: Path,
    home: Workspace,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_tasks.promote.write_atomically", fails)
        with pytest.raises((OSError, KeyboardInterrupt)):
            promote(candidate, home.models, LENIENT)

    assert (home.models / "champion").readlink() == Path("1")
    assert word(candidate) == ("approved", False, None)  # what a reader finds at this moment
    models = ModelDirectory(home.models)
    assert (
        published_as(candidate, models)
        == version_of(DecisionRecord.read(candidate / "decision.json", ""), candidate, models)
        == 1
    )
    if fails is full:
        words = "published as version 1, but not everything is written down; version 1 is champion"
        assert words in [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert outcome("failed", home, candidate) == FAILED
    said = capsys.readouterr().out
    assert said.startswith("failed: version 1 is published, but the task promote has not ended well;")
    assert said.endswith("version 1 is champion\n")

    promoted = promote(candidate, home.models, LENIENT)

    assert (promoted.promoted, promoted.version) == (True, 1)
    assert word(candidate) == ("promoted", True, 1)
    assert [version.number for version in models.versions()] == [1]


def test_an_older_releases_promoted_is_believed_only_if_the_history_agrees(
    candidate: Path, home: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older releases wrote `promoted` before they published."""
    models = ModelDirectory(home.models)
    record = {"outcome": "promoted", "promoted": True, "version": None, "reason": "good", "candidate_accuracy": 0.98}
    write_json(candidate / "decision.json", record)
    assert version_of(DecisionRecord.model_validate(record), candidate, models) is None
    assert outcome("failed", home, candidate) == FAILED
    assert "failed: approved by the gate, but not published;" in capsys.readouterr().out

    promote(candidate, home.models, LENIENT)
    write_json(candidate / "decision.json", record)

    assert version_of(DecisionRecord.model_validate(record), candidate, models) == 1
    assert outcome("success", home, candidate) == PROMOTED
    assert "promoted as version 1: good" in capsys.readouterr().out


def test_a_run_that_was_trained_again_has_not_published_its_new_candidate(candidate: Path, home: Workspace) -> None:
    promote(candidate, home.models, LENIENT)
    training = json.loads((candidate / "training.json").read_text())
    write_json(candidate / "training.json", {**training, "weights_sha256": "others"})

    assert published_as(candidate, ModelDirectory(home.models)) is None


def test_going_back_to_a_model_is_not_its_runs_doing(candidate: Path, home: Workspace) -> None:
    promote(candidate, home.models, LENIENT)
    promote(evaluated_run(home, "second", champion=(1, 0.98)), home.models, LENIENT)
    models = ModelDirectory(home.models)
    roll_back(models, reason="bad", published_by="Ada", smoke_test=lambda _: None)

    assert published_as(candidate, models) == 1


def test_a_rejection_and_an_unchanged_night_say_who_is_champion_after_a_look(
    home: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(evaluated_run(home, "first"), home.models, LENIENT)
    rejected = evaluated_run(home, "second", accuracy=0.9, champion=(1, 0.98))
    promote(rejected, home.models, GateConfig(max_champion_drop=1))
    assert outcome("skipped", home, rejected) == REJECTED
    assert "  champion  version 1 is champion\n" in capsys.readouterr().out

    for rejected_in, status in ((None, PROMOTED), ("second", REJECTED)):
        record = {"outcome": "unchanged", "promoted": False, "reason": "so it is", "rejected_in": rejected_in}
        write_json(rejected / "decision.json", record)
        assert outcome("skipped", home, rejected) == status
        assert capsys.readouterr().out.endswith("  champion  version 1 is champion\n")


def test_no_decision_at_all_is_a_failure(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for state in ("success", "upstream_failed", None):
        assert outcome(state, home, home.run("nothing")) == FAILED
        assert capsys.readouterr().out == "failed: the task's log above says why; there is no champion\n"


def test_a_file_that_is_gone_is_no_file_that_cannot_be_read_now(
    candidate: Path, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hiccup(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    shutil.copytree(candidate, candidate.with_name("copy"))
    (candidate.with_name("copy") / "golden.npz").unlink()
    with pytest.raises(ModelError, match=r"golden\.npz is not the file that was evaluated"):
        promote(candidate.with_name("copy"), home.models, LENIENT)

    monkeypatch.setattr("mnist_tasks.promote.sha256", hiccup)
    with pytest.raises(OSError, match="Input/output error"):
        promote(candidate, home.models, LENIENT)
    assert not (candidate / "decision.json").exists()
