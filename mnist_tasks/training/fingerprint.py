"""What a training depends on, as digests, and whether training tonight could only repeat an earlier result.

Training is deterministic: the same data, recipe, code and library versions give the same weights, bit for bit, on the
same kind of machine in the same environment. If none of them has changed since the champion was trained, and the gate
asks for the same, a training can only give the champion again. If none has changed since the last rejection, and the
champion is the same, it can only end in the same rejection. In doubt, the answer is to train.

Imports neither NumPy nor TensorFlow: this module decides whether they are needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_tasks.config import TrainConfig
from mnist_tasks.documents import DecisionRecord, LastRejection, Metadata
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import UNCHANGED, decision_record
from mnist_tasks.registry.version import DECISION
from mnist_tasks.system import processor
from mnist_tasks.system.errors import ModelError
from mnist_tasks.training.provenance import gpus, kernel_variables, library_versions

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent.parent  # mnist_tasks, with all its sub-packages

SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS = {"device", "image_memory", "tensorboard"}
SETTINGS_WITHOUT_EFFECT_ON_VERDICT = {"on_rejection", "force_reason"}

# In the model directory: what the newest rejected candidate was made from, and what it was judged by.
LAST_REJECTION = "rejected.json"


def fingerprint(dataset: str, config: TrainConfig) -> dict[str, str]:
    """The digests of what the weights depend on: dataset, recipe, code, libraries and kind of machine."""
    machine = {
        "processor": processor.name(),
        "flags": sorted(processor.flags()),
        "gpus": gpus() if config.device != "cpu" else [],
        "environment": kernel_variables(config.architecture),
    }
    return {
        "dataset": dataset,
        "recipe": _digest(config.model_dump(exclude=SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS)),
        "code": _digest(
            {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
        ),
        "libraries": _digest(library_versions()),
        "machine": _digest(machine),
    }


def unchanged(dataset: str, config: TrainConfig, gate_config: GateConfig, run: Path, models: Path) -> str | None:
    """Say why there is nothing to train, and write it as the run's decision; None, and a line in the log, if there is.

    Args:
        dataset: the digest of tonight's data.
        config: tonight's recipe.
        gate_config: what the gate asks for tonight.
        run: the run's folder, for `decision.json`.
        models: the model directory.
    """
    log.info("reading the champion's fingerprint in %s", models)
    directory = ModelDirectory(models)
    tonight = fingerprint(dataset, config)
    metadata = Metadata()
    difference = None
    try:
        champion = directory.champion()
        if champion:
            directory.verify(champion)
            metadata = champion.metadata()
            difference = _difference(metadata, champion.decision(), tonight, gate_config)
    except (ModelError, OSError) as error:
        # The task evaluate judges the champion; this one must only not rely on it.
        log.warning("training, because the champion cannot be relied on: %s", error)
        return None
    champion_version = champion.number if champion else None
    rejection = None
    if champion and not difference:
        since = f"since version {champion.number}, the champion, was trained"
        what = "not the data, the recipe, the code, the libraries or the gate"
    elif rejection := _same_rejection(directory, champion_version, tonight, gate_config):
        since = f"since the candidate of {rejection.run_id} was rejected ({rejection.reason})"
        what = "not the data, the recipe, the code, the libraries, the gate or the champion"
    else:
        log.info("%s: training", f"version {champion_version} {difference}" if champion else "there is no champion yet")
        return None
    reason = (
        f"nothing has changed {since}: {what}, so that training would give the same weights"
        f"{' and the gate the same answer' if rejection else ''}; to train all the same, trigger a run with "
        "when_unchanged=retrain"
    )
    record = decision_record(
        run.name,
        UNCHANGED,
        reason,
        gate_config,
        champion_version=champion_version,
        champion_accuracy=metadata.test_accuracy,
    )
    record.model_copy(update={"rejected_in": rejection.run_id if rejection else None}).write(run / DECISION)
    return reason


def remember_rejection(models: ModelDirectory, decision: DecisionRecord, fingerprint: dict[str, str] | None) -> None:
    """Write down what a rejected candidate was made from and judged by, so that `unchanged` recognizes a repetition.

    Args:
        models: the model directory.
        decision: the run's decision.
        fingerprint: that of its training. Nothing is written without one, as after a training by an older release.
    """
    if fingerprint is None or decision.run_id is None:
        return
    models.root.mkdir(parents=True, exist_ok=True)
    LastRejection(
        run_id=decision.run_id,
        reason=decision.reason,
        champion_version=decision.champion_version,
        policy=_deciding_settings(decision.policy),
        fingerprint=fingerprint,
    ).write(models.root / LAST_REJECTION)


def _same_rejection(
    models: ModelDirectory, champion_version: int | None, tonight: dict[str, str], gate_config: GateConfig
) -> LastRejection | None:
    """The newest rejection, if tonight's candidate would be the same and would be compared with the same champion."""
    path = models.root / LAST_REJECTION
    if not path.exists():
        return None
    try:
        rejection = LastRejection.read(path, "the next rejection writes it again")
    except (ModelError, OSError) as error:
        log.warning("the last rejection is unknown: %s", error)
        return None
    same = (
        rejection.champion_version == champion_version
        and rejection.policy == _deciding_settings(gate_config.model_dump())
        and rejection.fingerprint == tonight
    )
    return rejection if same else None


def _difference(
    metadata: Metadata, decision: DecisionRecord, tonight: Mapping[str, str], gate_config: GateConfig
) -> str | None:
    """How the champion differs from what would be trained tonight; None if it does not."""
    if metadata.fingerprint is None or not decision.policy:
        return "was trained before fingerprints were kept"
    if metadata.forced:
        return "was published by force, so the gate's opinion of it should be seen every night"
    changed = [name for name in tonight if metadata.fingerprint.get(name) != tonight[name]]
    if _deciding_settings(decision.policy) != _deciding_settings(gate_config.model_dump()):
        changed.append("gate")
    return f"was trained with another {', '.join(changed)}" if changed else None


def _deciding_settings(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in policy.items() if name not in SETTINGS_WITHOUT_EFFECT_ON_VERDICT}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
