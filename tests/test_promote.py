"""Promotion: the gate decides, and every outcome is recorded."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tasks.data.dataset import Digits
from mnist_tasks.documents import Approval
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import sha256
from mnist_tasks.workspace import Workspace
from tests.helpers import ANYTHING, COUNTS, LENIENT

STRICT = GateConfig(min_accuracy=0.99)


def test_an_approved_candidate_becomes_champion(run: Path, workspace: Workspace) -> None:
    promoted = promote(run, workspace.models, LENIENT)

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
    assert {check["verdict"] for check in decision["checks"]} == {"passed", "skipped"}


def test_a_version_is_all_that_its_users_need(run: Path, workspace: Workspace, digits: Digits) -> None:
    promote(run, workspace.models, LENIENT)
    version = workspace.models / "1"

    served = tf.saved_model.load(version).signatures["serving_default"]
    raw = digits.x_test[:50]
    by_keras = keras.saving.load_model(version / "model.keras").predict(raw / np.float32(255), verbose=0)
    by_serving = served(images=tf.constant(raw))["probabilities"]  # raw uint8, because the graph normalizes
    assert np.abs(by_keras - by_serving).max() < 1e-6
    found = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert found >= {
        *("saved_model.pb", "variables/variables.index", "golden.npz", "history.json", "model_card.md"),
        *(f"figures/{name}.png" for name in ("training", "confusion", "mistakes", "recall")),
    }
    metadata = json.loads((version / "metadata.json").read_text())
    assert set(metadata["sha256"]) == found - {"metadata.json"}
    assert metadata["signatures"] == {
        "model.keras": {"inputs": [None, 28, 28], "dtype": "float32", "outputs": [None, 10]},
        "serving_default": {"inputs": [None, 28, 28], "dtype": "uint8", "outputs": [None, 10]},
    }
    assert metadata["dataset"] == json.loads((version / "evaluation.json").read_text())["dataset"]
    assert metadata["hardware"]["cores"] >= 1
    assert metadata["library_versions"]["keras"] == keras.__version__
    assert metadata["seconds"] > 0
    smoke_test(version)


def test_a_rejected_candidate_changes_no_model(
    run: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    rejected = promote(run, workspace.models, STRICT)

    assert (rejected.promoted, rejected.version, rejected.path) == (False, None, None)
    assert f"accuracy {rejected.accuracy:.4f} is below the minimum of 0.9900" in rejected.reason
    assert rejected.reason in caplog.text
    assert ModelDirectory(workspace.models).champion() is None
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["promoted"], decision["reason"], decision["version"]) == (False, rejected.reason, None)
    assert decision["policy"] == STRICT.model_dump()
    failed = [check for check in decision["checks"] if check["verdict"] == "failed"]
    assert {check["rule"] for check in failed} == {"min_accuracy", "max_loss", "max_label_issues"}
    for check in failed:
        assert f"failed {check['rule']}: {check['message']}" in caplog.messages


def test_a_champion_stays_when_the_next_candidate_is_rejected(run: Path, workspace: Workspace) -> None:
    promote(run, workspace.models, LENIENT)
    history = (workspace.models / "history.jsonl").read_text()
    next_run = run.rename(workspace.run("second").parent / "third")
    evaluation = json.loads((next_run / "evaluation.json").read_text())
    better = {**evaluation["candidate"], "accuracy": evaluation["candidate"]["accuracy"] + 0.01}
    evaluation["champion"] = {"version": 1, **better}
    (next_run / "evaluation.json").write_text(json.dumps(evaluation))

    rejected = promote(next_run, workspace.models, GateConfig(**{**ANYTHING, "max_regression": 0.002}))

    assert "a change of -0.0100, is worse than the allowed -0.0020" in rejected.reason
    champion = ModelDirectory(workspace.models).champion()
    assert champion
    assert champion.number == 1
    assert (workspace.models / "history.jsonl").read_text() == history


def test_a_retry_promotes_once(run: Path, workspace: Workspace) -> None:
    first = promote(run, workspace.models, LENIENT)
    (run / "decision.json").unlink()

    assert promote(run, workspace.models, LENIENT) == first
    assert [version.number for version in ModelDirectory(workspace.models).versions()] == [1]
    assert json.loads((run / "decision.json").read_text())["version"] == 1


@pytest.mark.parametrize("name", ["model.keras", "saved_model/saved_model.pb", "golden.npz", "figures/recall.png"])
@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_candidate_that_changed_since_its_evaluation_is_not_promoted(
    name: str, damage: str, run: Path, workspace: Workspace
) -> None:
    if damage == "changed":
        with (run / name).open("ab") as file:
            file.write(b"\0")
    else:
        (run / name).unlink()

    with pytest.raises(ModelError, match=rf"{name} is not the file that was evaluated; clear the evaluate task"):
        promote(run, workspace.models, LENIENT)
    assert ModelDirectory(workspace.models).versions() == []


def test_a_record_of_the_training_that_changed_since_the_evaluation_is_not_published(
    run: Path, workspace: Workspace
) -> None:
    training = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps({**training, "seconds": 1}))

    with pytest.raises(ModelError, match=r"training\.json is not the file that was evaluated"):
        promote(run, workspace.models, LENIENT)


def test_a_decision_is_written_even_if_publishing_fails(run: Path, workspace: Workspace) -> None:
    (workspace.models / "1").parent.mkdir(exist_ok=True)
    (workspace.models / "history.jsonl").mkdir()

    with pytest.raises(OSError, match="directory"):
        promote(run, workspace.models, LENIENT)
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["outcome"], decision["promoted"], decision["version"]) == ("approved", False, None)


def test_force_publishes_what_the_gate_rejects_and_says_so_everywhere(run: Path, workspace: Workspace) -> None:
    forced = promote(run, workspace.models, GateConfig(min_accuracy=0.99, force=True, force_reason="Ada: for the demo"))

    assert (forced.promoted, forced.forced, forced.version) == (True, True, 1)
    assert forced.reason.startswith("forced (Ada: for the demo) although accuracy 0.8")
    version = ModelDirectory(workspace.models).version("1")
    assert version.metadata().forced
    assert version.decision().forced
    assert "> **Forced.**" in version.card()
    assert ModelDirectory(workspace.models).history()[0].event == "forced"


@pytest.mark.parametrize(("whose", "way_out"), [("candidate", "; clear the train task .* again$"), ("champion", "$")])
def test_a_model_that_cannot_be_trusted_is_refused_even_by_force(
    whose: str, way_out: str, run: Path, workspace: Workspace
) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["champion"] = {"version": None, **evaluation["candidate"]}
    finding = {"metric": "files", "passed": False, "message": "a file is damaged; run the repair", "value": None}
    evaluation[whose] = {**evaluation[whose], "integrity": [finding]}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    policy = GateConfig(**ANYTHING, force=True, force_reason="I want it")

    words = f"refused: the {whose}: a file is damaged; run the repair; there is no champion{way_out}"
    with pytest.raises(ModelError, match=words):
        promote(run, workspace.models, policy)
    decision = json.loads((run / "decision.json").read_text())
    assert (decision["outcome"], decision["promoted"], decision["forced"]) == ("refused", False, False)
    assert ModelDirectory(workspace.models).versions() == []


@pytest.mark.slow
def test_a_reader_always_loads_a_whole_model_while_others_are_published(run: Path, workspace: Workspace) -> None:
    """A separate process loads `champion/model.keras` with Keras in a loop during 50 publishes."""
    promote(run, workspace.models, LENIENT)
    reader = (
        "import sys, keras; from pathlib import Path\n"
        "loads, failures, home = 0, 0, Path(sys.argv[1])\n"
        "while True:\n"
        "    stop = (home / 'stop').exists()\n"
        "    try:\n"
        "        keras.saving.load_model(home / 'models' / 'champion' / 'model.keras'); loads += 1\n"
        "    except Exception as error:\n"
        "        failures += 1; print(error, file=sys.stderr)\n"
        "    (home / 'reading').touch()\n"
        "    if stop: break\n"
        "print(loads, failures)"
    )
    command = [sys.executable, "-c", reader, str(workspace.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (workspace.root / "reading").exists():
            assert process.poll() is None
            time.sleep(0.05)
        for number in range(50):
            another = run.rename(run.with_name(f"run-{number}"))
            evaluation = json.loads((another / "evaluation.json").read_text())
            evaluation["champion"] = {**evaluation["candidate"], "version": number + 1}
            (another / "evaluation.json").write_text(json.dumps(evaluation))
            assert promote(another, workspace.models, LENIENT).version == number + 2
            time.sleep(0.05)  # long enough for some loads between two publishes
            run = another
        (workspace.root / "stop").touch()
        output, errors = process.communicate(timeout=600)
    loads, failures = map(int, output.split())
    assert failures == 0, errors
    assert loads > 20
    COUNTS.append(f"a reader during 50 publishes: {loads} loads of the champion, 0 failed")


def test_a_missing_evaluation_is_named(run: Path, workspace: Workspace) -> None:
    (run / "evaluation.json").unlink()

    with pytest.raises(ModelError, match=r"evaluation\.json cannot be read: .*; clear the evaluate task"):
        promote(run, workspace.models, LENIENT)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"candidate": None}, r"evaluation\.json cannot be read: candidate: .*; clear the evaluate task"),
        ({"candidate": {"accuracy": 1.5}}, r"cannot be read: candidate\.accuracy: .*; clear the evaluate task"),
        ({"champion": {"loss": "low"}}, r"cannot be read: champion\.loss: .*; clear the evaluate task"),
        ({"files": {}}, r"evaluation\.json has no digest of model\.keras; clear the evaluate task"),
        ({"training_sha256": None}, r"training\.json is not the file that was evaluated; clear the evaluate task"),
    ],
)
def test_a_damaged_evaluation_never_promotes(
    damage: dict[str, object], words: str, run: Path, workspace: Workspace
) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | damage))

    with pytest.raises(ModelError, match=words):
        promote(run, workspace.models, LENIENT)
    assert ModelDirectory(workspace.models).versions() == []


def test_it_needs_neither_tensorflow_nor_numpy(run: Path, workspace: Workspace) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.gate_config import GateConfig; from mnist_tasks.promote import promote\n"
        "promote(Path(sys.argv[1]), Path(sys.argv[2]), GateConfig(min_accuracy=0, max_loss=9))\n"
        "print({'tensorflow', 'keras', 'numpy'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", script, str(run), str(workspace.models)]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def answer(run: Path, approved: bool | None, by: str | None = "Ada (admin)", comment: str = "") -> Approval:
    return Approval(sha256(run / "evaluation.json"), approved, by, "2026-11-24T02:00:00+00:00", comment)


def test_who_approved_is_in_everything_that_is_written(run: Path, workspace: Workspace) -> None:
    promoted = promote(run, workspace.models, LENIENT, answer(run, True, comment="fine"))

    assert promoted.reason.endswith("; approved by Ada (admin): fine")
    models = ModelDirectory(workspace.models)
    version = models.version("1")
    for decision in (json.loads((folder / "decision.json").read_text()) for folder in (run, version.folder)):
        assert decision["approval"] == {
            "evaluation": sha256(run / "evaluation.json"),
            "approved": True,
            "by": "Ada (admin)",
            "at": "2026-11-24T02:00:00+00:00",
            "comment": "fine",
        }
        assert decision["checks"][-1]["rule"] == "approval"
    assert version.metadata().approved_by == "Ada (admin)"
    assert models.history()[-1].approved_by == "Ada (admin)"
    assert "| approved by | Ada (admin) |" in version.card()


def test_a_persons_no_leaves_the_champion_and_is_the_reason(run: Path, workspace: Workspace) -> None:
    rejected = promote(run, workspace.models, LENIENT, answer(run, False, comment="looks odd on 7"))

    assert (rejected.promoted, rejected.reason) == (False, "rejected by Ada (admin): looks odd on 7")
    assert ModelDirectory(workspace.models).versions() == []
    assert json.loads((run / "decision.json").read_text())["outcome"] == "rejected"


def test_a_yes_does_not_promote_what_the_gate_rejects(run: Path, workspace: Workspace) -> None:
    rejected = promote(run, workspace.models, STRICT, answer(run, True))

    assert not rejected.promoted
    assert "is below the minimum of 0.9900" in rejected.reason


def test_an_answer_is_of_the_evaluation_that_was_shown(run: Path, workspace: Workspace) -> None:
    given = answer(run, True)
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"train_images": 1}))

    with pytest.raises(
        ModelError, match=r"is not the evaluation that was approved or rejected; clear the approve task"
    ):
        promote(run, workspace.models, LENIENT, given)
    assert ModelDirectory(workspace.models).versions() == []


def test_going_back_to_an_approved_model_is_not_said_to_be_approved(run: Path, workspace: Workspace) -> None:
    promote(run, workspace.models, LENIENT, answer(run, True))
    second = Path(shutil.copytree(run, run.with_name("second")))
    evaluation = json.loads((second / "evaluation.json").read_text())
    (second / "evaluation.json").write_text(
        json.dumps(evaluation | {"champion": {**evaluation["candidate"], "version": 1}})
    )
    promote(second, workspace.models, LENIENT)
    models = ModelDirectory(workspace.models)

    roll_back(models, reason="it was bad", published_by="Bob", smoke_test=lambda _: None)

    assert [event.approved_by for event in models.history()] == ["Ada (admin)", None, None]
    assert models.version("3").metadata().approved_by == "Ada (admin)"
