"""Promotion: the gate's word decides, and every outcome is written down."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from mnist_tasks.errors import ModelError
from mnist_tasks.gate import Policy
from mnist_tasks.promote import promote
from mnist_tasks.registry import ModelDirectory
from mnist_tasks.workspace import Workspace

GENEROUS = Policy(min_accuracy=0.5)
STRICT = Policy(min_accuracy=0.999)


def test_an_approved_candidate_becomes_champion(run: Path, workspace: Workspace) -> None:
    promoted = promote(run, workspace.models, GENEROUS)

    assert (promoted.promoted, promoted.version, promoted.path) == (True, 1, str(workspace.models / "1"))
    champion = workspace.models / "champion"
    assert keras.saving.load_model(champion / "model.keras").input_shape == (None, 28, 28)
    assert (champion / "model.keras").read_bytes() == (run / "model.keras").read_bytes()
    metadata = json.loads((champion / "metadata.json").read_text())
    assert metadata["run_id"] == "first"
    assert metadata["config"]["epochs"] == 3
    assert metadata["test_accuracy"] == promoted.accuracy
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["promoted"], decision["version"], decision["champion_version"]) == (True, 1, None)
    assert [check["verdict"] for check in decision["checks"]] == ["passed", "skipped"]


def test_a_rejected_candidate_changes_no_model(
    run: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    rejected = promote(run, workspace.models, STRICT)

    assert (rejected.promoted, rejected.version, rejected.path) == (False, None, None)
    assert f"accuracy {rejected.accuracy:.4f} is below the minimum of 0.9990" in rejected.reason
    assert rejected.reason in caplog.text
    assert ModelDirectory(workspace.models).champion() is None
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["promoted"], decision["reason"], decision["version"]) == (False, rejected.reason, None)
    assert decision["policy"] == {"min_accuracy": 0.999, "max_regression": 0.002}


def test_a_champion_stays_when_the_next_candidate_is_rejected(run: Path, workspace: Workspace) -> None:
    promote(run, workspace.models, GENEROUS)
    history = (workspace.models / "history.jsonl").read_text()
    next_run = run.rename(workspace.run("second").parent / "third")
    evaluation = json.loads((next_run / "evaluation.json").read_text())
    evaluation["champion"] = {"version": 1, "accuracy": evaluation["candidate"]["accuracy"] + 0.01}
    (next_run / "evaluation.json").write_text(json.dumps(evaluation))

    rejected = promote(next_run, workspace.models, GENEROUS)

    assert "a change of -0.0100, is worse than the allowed -0.0020" in rejected.reason
    champion = ModelDirectory(workspace.models).champion()
    assert champion
    assert champion.number == 1
    assert (workspace.models / "history.jsonl").read_text() == history


def test_a_retry_promotes_once(run: Path, workspace: Workspace) -> None:
    first = promote(run, workspace.models, GENEROUS)
    (run / "decision.json").unlink()

    assert promote(run, workspace.models, GENEROUS) == first
    assert [version.number for version in ModelDirectory(workspace.models).versions()] == [1]
    assert json.loads((run / "decision.json").read_text())["version"] == 1


def test_a_candidate_that_changed_since_its_evaluation_is_not_promoted(run: Path, workspace: Workspace) -> None:
    with (run / "model.keras").open("ab") as file:
        file.write(b"\0")

    with pytest.raises(ModelError, match=r"model\.keras is not the file that was evaluated; clear the evaluate task"):
        promote(run, workspace.models, GENEROUS)
    assert ModelDirectory(workspace.models).versions() == []


def test_a_missing_evaluation_is_named(run: Path, workspace: Workspace) -> None:
    (run / "evaluation.json").unlink()

    with pytest.raises(ModelError, match=r"evaluation\.json cannot be read: .*; clear the evaluate task"):
        promote(run, workspace.models, GENEROUS)


def test_it_needs_neither_tensorflow_nor_numpy(run: Path, workspace: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.gate import Policy; from mnist_tasks.promote import promote\n"
        "promote(Path(sys.argv[1]), Path(sys.argv[2]), Policy(min_accuracy=0))\n"
        "print({'tensorflow', 'keras', 'numpy'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script, str(run), str(workspace.models)]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"
