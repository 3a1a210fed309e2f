"""The fingerprint of a training tells when a new training could only give the champion again, and when not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.config import TrainConfig
from mnist_tasks.documents import Approval
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import sha256
from mnist_tasks.training import fingerprint
from mnist_tasks.training.fingerprint import unchanged
from mnist_tasks.training.provenance import kernel_variables
from mnist_tasks.workspace import Workspace
from tests.helpers import ANYTHING, LENIENT

CONFIG = TrainConfig(epochs=3)  # the configuration of the fixture `run`


class Night:
    """A workspace with a champion, and the nights after its training."""

    def __init__(self, workspace: Workspace, digest: str, run: Path) -> None:
        self.workspace, self.digest, self.first = workspace, digest, run
        self.models = ModelDirectory(workspace.models)
        self.promote(run)

    @property
    def champion(self) -> Version:
        return self.models.version("champion")

    def promote(self, run: Path, policy: GateConfig = LENIENT) -> None:
        """Publish a run's candidate, measured against today's champion."""
        evaluation = json.loads((run / "evaluation.json").read_text())
        champion = self.models.champion()
        if champion:
            evaluation["champion"] = {**evaluation["candidate"], "version": champion.number}
            (run / "evaluation.json").write_text(json.dumps(evaluation))
        promote(run, self.workspace.models, policy)

    def other(self, name: str, **changed: str) -> Path:
        """Make a run like the first one with another fingerprint."""
        run = Path(shutil.copytree(self.first, self.first.with_name(name)))
        training = json.loads((run / "training.json").read_text())
        training["fingerprint"] |= changed
        (run / "training.json").write_text(json.dumps(training))
        evaluation = json.loads((run / "evaluation.json").read_text())
        evaluation["training_sha256"] = sha256(run / "training.json")
        (run / "evaluation.json").write_text(json.dumps(evaluation))
        return run

    def ends(self, config: TrainConfig = CONFIG, policy: GateConfig = LENIENT, digest: str | None = None) -> str | None:
        """Return the reason why tonight's run does not train, or None if it trains."""
        return unchanged(digest or self.digest, config, policy, self.workspace.run("tonight"), self.workspace.models)

    def change(self, name: str, **changed: Any) -> None:
        """Change a document of the champion as if it had been published like this."""
        path = self.champion.folder / name
        document = {key: value for key, value in {**json.loads(path.read_text()), **changed}.items() if value != "gone"}
        path.write_text(json.dumps(document))
        if name == "decision.json":
            digests = self.champion.metadata().sha256
            self.change("metadata.json", sha256={**digests, name: sha256(path)})
        self.models.history_file.path.unlink(missing_ok=True)  # it holds the digest of the old metadata


@pytest.fixture
def night(workspace: Workspace, digest: str, run: Path) -> Night:
    return Night(workspace, digest, run)


def test_a_night_like_the_champions_ends_with_a_decision_that_says_why(night: Night) -> None:
    reason = night.ends()

    assert reason
    assert reason.startswith("nothing has changed since version 1, the champion, was trained: not the data,")
    assert reason.endswith("trigger a run with when_unchanged=retrain")
    decision = json.loads((night.workspace.run("tonight") / "decision.json").read_text())
    assert (decision["outcome"], decision["promoted"], decision["reason"]) == ("unchanged", False, reason)
    assert (decision["champion_version"], decision["version"]) == (1, None)
    assert decision["champion_accuracy"] == night.champion.metadata().test_accuracy
    assert night.models.link.readlink() == Path("1")


def test_what_changes_no_weight_and_no_verdict_changes_nothing(night: Night) -> None:
    assert night.ends(CONFIG.model_copy(update={"device": "cpu", "tensorboard": True}))
    assert night.ends(policy=GateConfig(**ANYTHING, on_rejection="fail"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"digest": "0" * 64}, "was trained with another dataset: training"),
        ({"config": TrainConfig(epochs=4)}, "was trained with another recipe: training"),
        ({"config": TrainConfig(epochs=3, seed=7), "digest": "0" * 64}, "with another dataset, recipe: training"),
        ({"policy": GateConfig(**{**ANYTHING, "min_accuracy": 0.1})}, "was trained with another gate: training"),
        ({"policy": GateConfig(**ANYTHING, force=True, force_reason="x")}, "was trained with another gate: training"),
    ],
)
def test_another_dataset_recipe_or_gate_is_a_reason_to_train(
    changed: dict[str, Any], words: str, night: Night, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mnist_tasks")

    assert night.ends(**changed) is None
    assert words in caplog.text
    assert not (night.workspace.run("tonight") / "decision.json").exists()


@pytest.mark.parametrize("module", ["train.py", "training/loop.py", "data/dataset.py", "system/new_module.py"])
def test_changed_code_anywhere_in_the_package_is_a_reason_to_train(
    module: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored = shutil.ignore_patterns("*.npz", "__pycache__")
    package = Path(shutil.copytree(fingerprint.PACKAGE, tmp_path / "package", ignore=ignored))
    monkeypatch.setattr(fingerprint, "PACKAGE", package)
    assert night.ends()

    with (package / module).open("a") as file:
        file.write("# another order of the images\n")

    assert night.ends() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TF_NUM_INTRAOP_THREADS", "2"),
        ("TF_XLA_FLAGS", "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"),
        ("TF_ENABLE_ONEDNN_OPTS", "1"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ],
)
def test_a_variable_that_chooses_kernels_is_a_reason_to_train(
    name: str, value: str, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert night.ends() is None


def test_variables_that_change_no_weight_are_no_reason_to_train(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"TF_CPP_MIN_LOG_LEVEL": "0", "OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo"}
    # Terraform's variables begin with TF_, too.
    terraform = {"TF_VAR_password": "secret", "TF_TOKEN_app_terraform_io": "secret", "TF_WORKSPACE": "staging"}
    for name, value in {**others, **terraform}.items():
        monkeypatch.setenv(name, value)

    assert night.ends()
    assert "secret" not in str(kernel_variables("mlp"))


def test_another_kind_of_processor_is_a_reason_to_train(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnist_tasks.system.processor.name", lambda: "another one")

    assert night.ends() is None


@pytest.mark.parametrize("library", ["tensorflow", "keras", "numpy", "mnist-tasks"])
def test_a_changed_library_is_a_reason_to_train(night: Night, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    installed = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99" if name == library else installed(name))

    assert night.ends() is None


def test_no_champion_is_a_reason_to_train(workspace: Workspace, digest: str) -> None:
    assert unchanged(digest, CONFIG, LENIENT, workspace.run("tonight"), workspace.models) is None


@pytest.mark.parametrize("name", ["model.keras", "metadata.json", "decision.json", "evaluation.json"])
def test_a_champion_that_cannot_be_relied_on_is_a_reason_to_train(night: Night, name: str) -> None:
    with (night.champion.folder / name).open("ab") as file:
        file.write(b" ")

    assert night.ends() is None


def test_a_lost_link_is_a_reason_to_train(night: Night) -> None:
    night.models.link.unlink()

    assert night.ends() is None


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("metadata.json", {"fingerprint": "gone"}),
        ("metadata.json", {"fingerprint": None}),
        ("decision.json", {"policy": "gone"}),
        ("metadata.json", {"forced": True}),
    ],
)
def test_a_champion_of_before_the_fingerprint_or_by_force_is_a_reason_to_train(
    name: str, changed: dict[str, Any], night: Night
) -> None:
    night.change(name)
    assert night.ends()

    night.change(name, **changed)

    assert night.ends() is None


def test_after_a_rollback_it_is_the_restored_models_fingerprint_that_counts(night: Night) -> None:
    bad = night.other("bad", dataset="b" * 64)
    night.promote(bad)
    assert night.ends() is None  # the data of the first version, which is no longer champion
    assert night.ends(digest="b" * 64)

    roll_back(night.models, reason="it was bad", published_by="Ada", smoke_test=lambda _: None)

    assert night.champion.metadata().restores == 1
    assert night.ends()
    assert night.ends(digest="b" * 64) is None  # the data of the bad night: the gate must judge the result


def test_a_run_that_has_published_nothing_leaves_no_fingerprint(night: Night) -> None:
    """This holds for a run that failed, was rejected, or was approved by a person but could not be published."""
    failed = night.other("failed", dataset="f" * 64)
    (failed / "evaluation.json").unlink()

    assert night.ends(digest="f" * 64) is None
    assert night.ends()


def test_a_version_that_a_kill_has_left_without_the_link_does_not_count(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, "set_champion", killed)
        with pytest.raises(KeyboardInterrupt):
            night.promote(night.other("killed", dataset="c" * 64))

    assert [version.number for version in night.models.versions()] == [1, 2]
    assert night.ends(digest="c" * 64) is None


def test_deciding_so_needs_neither_tensorflow_nor_numpy(night: Night) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from mnist_tasks.config import TrainConfig; from mnist_tasks.gate_config import GateConfig\n"
        "from mnist_tasks.training.fingerprint import unchanged\n"
        f"policy = GateConfig(**{ANYTHING!r})\n"
        "reason = unchanged(sys.argv[1], TrainConfig(epochs=3), policy, Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "print(bool(reason), {'tensorflow', 'keras', 'numpy'} & sys.modules.keys())"
    )
    folders = [str(night.workspace.run("tonight")), str(night.workspace.models)]
    command = [sys.executable, "-c", script, night.digest, *folders]

    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True set()\n"


STRICT = GateConfig(**{**ANYTHING, "min_accuracy": 0.99})
OTHER = "d" * 64  # another night's data


class After:
    """A workspace with a rejected candidate from other data, and the nights after the rejection."""

    def __init__(self, night: Night, approval: Approval | None = None, policy: GateConfig = STRICT) -> None:
        self.night, self.policy = night, policy
        self.run = night.other("rejected", dataset=OTHER)
        if approval:
            document = json.loads((self.run / "evaluation.json").read_text())
            champion = {**document["candidate"], "version": night.champion.number}
            (self.run / "evaluation.json").write_text(json.dumps({**document, "champion": champion}))
            approval = replace(approval, evaluation=sha256(self.run / "evaluation.json"))
            promote(self.run, night.workspace.models, policy, approval)
        else:
            night.promote(self.run, policy)

    def ends(self, **changed: Any) -> str | None:
        return self.night.ends(**{"digest": OTHER, "policy": self.policy, **changed})


def test_a_night_like_the_one_that_was_rejected_ends_and_says_so(night: Night) -> None:
    reason = After(night).ends()

    assert reason
    assert reason.startswith("nothing has changed since the candidate of rejected was rejected (accuracy 0.8")
    assert "the gate or the champion, so that training would give the same weights and the gate the same" in reason
    assert reason.endswith("trigger a run with when_unchanged=retrain")
    decision = json.loads((night.workspace.run("tonight") / "decision.json").read_text())
    assert (decision["outcome"], decision["rejected_in"], decision["champion_version"]) == ("unchanged", "rejected", 1)


def test_a_rejection_that_a_night_went_without_training_for_is_still_the_last(night: Night) -> None:
    after = After(night)
    shutil.rmtree(after.run)  # a later run may tidy up

    assert after.ends()
    assert after.ends()


@pytest.mark.parametrize(
    "changed",
    [
        {"digest": "e" * 64},
        {"config": TrainConfig(epochs=4)},
        {"policy": GateConfig(**{**ANYTHING, "min_accuracy": 0.98})},
        {"policy": GateConfig(**{**ANYTHING, "min_accuracy": 0.99}, force=True, force_reason="Ada")},
    ],
)
def test_after_a_rejection_any_change_is_a_reason_to_train(night: Night, changed: dict[str, Any]) -> None:
    after = After(night)
    assert after.ends(policy=GateConfig(**{**ANYTHING, "min_accuracy": 0.99}, on_rejection="fail"))

    assert after.ends(**changed) is None


def test_after_a_rejection_another_champion_is_a_reason_to_train(night: Night) -> None:
    after = After(night)
    night.promote(night.other("better", dataset="b" * 64))

    assert after.ends() is None


def test_a_rejection_before_there_was_a_champion_counts_as_well(workspace: Workspace, digest: str, run: Path) -> None:
    promote(run, workspace.models, STRICT)

    tonight = (CONFIG, STRICT, workspace.run("tonight"), workspace.models)
    assert unchanged(digest, *tonight)
    assert unchanged("f" * 64, *tonight) is None


def test_a_persons_no_counts_and_no_answer_does_not(night: Night) -> None:
    no = Approval("", False, "Ada", "2026-11-24T02:00:00+00:00", "odd on 7")
    reason = After(night, no, LENIENT).ends()
    assert reason
    assert "(rejected by Ada: odd on 7)" in reason
    shutil.rmtree(night.workspace.run("rejected"))
    (night.models.root / "rejected.json").unlink()

    assert After(night, replace(no, by=None), LENIENT).ends() is None


def test_what_was_refused_is_trained_again(night: Night) -> None:
    run = night.other("refused", dataset=OTHER)
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["candidate"]["integrity"] = []
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(ModelError, match="refused"):
        night.promote(run)

    assert night.ends(digest=OTHER) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"champion_version": 1}', '{"run_id": "x", "fingerprint": 3'])
def test_a_damaged_record_of_the_rejection_is_a_reason_to_train(
    night: Night, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    after = After(night)
    (night.models.root / "rejected.json").write_text(text)

    assert after.ends() is None
    assert "the last rejection is unknown" in caplog.text


def test_a_candidate_of_before_the_fingerprint_leaves_no_record(night: Night) -> None:
    run = night.other("old")
    training = json.loads((run / "training.json").read_text())
    del training["fingerprint"]
    (run / "training.json").write_text(json.dumps(training))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["training_sha256"] = sha256(run / "training.json")
    (run / "evaluation.json").write_text(json.dumps(evaluation))

    night.promote(run, STRICT)

    assert not (night.models.root / "rejected.json").exists()
