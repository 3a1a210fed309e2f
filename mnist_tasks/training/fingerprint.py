"""What a training depends on, as digests, and whether tonight's could only make the champion again.

Training is deterministic: the same data, recipe, code and library versions give the same weights, bit for bit, on the
same kind of machine in the same environment. So a night on which none of them has changed since the champion was
trained, and the gate asks for what it asked for then, can only end with the model that is champion already; and one
like the night whose candidate was rejected last, with the same champion, only with the same rejection. In doubt, the
answer is to train.

Imports neither NumPy nor TensorFlow: it decides whether they are needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_tasks.config import TrainConfig
from mnist_tasks.gate import GateConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import UNCHANGED
from mnist_tasks.registry.version import DECISION, Version
from mnist_tasks.system import processor
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import write_json
from mnist_tasks.training.provenance import gpus, kernel_variables, library_versions

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent.parent  # mnist_tasks, with all its sub-packages

# Settings that change nothing about the weights.
NOT_IN_THE_RECIPE = {"device", "image_memory", "tensorboard"}

# What of a policy changes nothing about the verdict.
NOT_IN_THE_VERDICT = {"on_rejection", "force_reason"}

# In the model directory: what the newest candidate that was rejected was made from, and what it was judged by.
LAST_REJECTED = "rejected.json"


def fingerprint(dataset: str, config: TrainConfig) -> dict[str, str]:
    """What the weights depend on: the dataset's digest, and one each of recipe, code, libraries and kind of machine."""
    machine = {
        "processor": processor.name(),
        "flags": sorted(processor.flags()),
        "gpus": gpus() if config.device != "cpu" else [],
        "environment": kernel_variables(config.architecture),
    }
    return {
        "dataset": dataset,
        "recipe": _digest(config.model_dump(exclude=NOT_IN_THE_RECIPE)),
        "code": _digest(
            {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
        ),
        "libraries": _digest(library_versions()),
        "machine": _digest(machine),
    }


def unchanged(dataset: str, config: TrainConfig, policy: GateConfig, run: Path, models: Path) -> str | None:
    """Why there is nothing to train, which becomes the run's decision; None, and a line in the log, if there is.

    Args:
        dataset: the digest of tonight's data.
        config: tonight's recipe.
        policy: what the gate asks for tonight.
        run: the run's folder, for `decision.json`.
        models: the model directory.
    """
    log.info("reading the champion's fingerprint in %s", models)
    directory = ModelDirectory(models)
    tonight = fingerprint(dataset, config)
    metadata: dict[str, Any] = {}
    try:
        champion = directory.champion()
        if champion:
            directory.verify(champion)
            metadata = champion.metadata()
            difference = _difference(metadata, champion.decision(), tonight, policy)
    except (ModelError, OSError) as error:
        # It is the task evaluate that judges it; this one only must not rely on it.
        log.warning("training, as the champion cannot be relied on: %s", error)
        return None
    rejected = _rejected(directory, champion, tonight, policy)
    if champion and not difference:
        since = f"since version {champion.number}, the champion, was trained"
        what = "not the data, the recipe, the code, the libraries or the gate"
        rejected = None
    elif rejected:
        since = f"since the candidate of {rejected['run_id']} was rejected ({rejected['reason']})"
        what = "not the data, the recipe, the code, the libraries, the gate or the champion"
    else:
        known = f"version {champion.number} {difference}" if champion else "there is no champion yet"
        log.info("%s: training", known)
        return None
    reason = (
        f"nothing has changed {since}: {what}, so that training would give the same weights"
        f"{' and the gate the same answer' if rejected else ''}; to train all the same, trigger a run with "
        "when_unchanged=retrain"
    )
    record: dict[str, Any] = {
        "outcome": UNCHANGED,
        "promoted": False,
        "forced": False,
        "reason": reason,
        "checks": [],
        "policy": policy.model_dump(),
        "approval": None,
        "run_id": run.name,
        "rejected_in": rejected["run_id"] if rejected else None,
        "candidate_accuracy": None,
        "champion_version": champion.number if champion else None,
        "champion_accuracy": metadata.get("test_accuracy"),
        "version": None,
    }
    write_json(run / DECISION, record)
    return reason


def remember_rejection(models: ModelDirectory, decision: Mapping[str, Any], traits: Any) -> None:
    """Keep what a rejected candidate was made from and judged by, so that `unchanged` knows the like of it.

    Args:
        models: the model directory.
        decision: the run's decision.
        traits: the fingerprint of its training; nothing is kept without one, as of an older release.
    """
    if isinstance(traits, Mapping):
        models.root.mkdir(parents=True, exist_ok=True)
        kept = {name: decision[name] for name in ("run_id", "reason", "champion_version")}
        policy = _verdict(decision["policy"])
        write_json(models.root / LAST_REJECTED, {**kept, "policy": policy, "fingerprint": dict(traits)})


def _rejected(
    models: ModelDirectory, champion: Version | None, tonight: Mapping[str, str], policy: GateConfig
) -> dict[str, Any] | None:
    """What is kept of the newest rejection, if tonight's candidate would be that one, before the same champion."""
    try:
        kept = json.loads((models.root / LAST_REJECTED).read_text(encoding="utf-8"))
        like = {
            "champion_version": champion.number if champion else None,
            "policy": _verdict(policy.model_dump()),
            "fingerprint": dict(tonight),
        }
        same = all(kept[name] == value for name, value in like.items())
        return {"run_id": str(kept["run_id"]), "reason": str(kept["reason"])} if same else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the last rejection is not known: %s: %s", type(error).__name__, error)
        return None


def _difference(
    metadata: Mapping[str, Any], decision: Mapping[str, Any], tonight: Mapping[str, str], policy: GateConfig
) -> str | None:
    """What sets the champion apart from what would be made tonight; None if nothing does."""
    then, asked = metadata.get("fingerprint"), decision.get("policy")
    if not isinstance(then, Mapping) or not isinstance(asked, Mapping):
        return "was trained before fingerprints were kept"
    if metadata.get("forced"):
        return "was published by force, and what the gate says of it should be seen every night"
    changed = [name for name in tonight if then.get(name) != tonight[name]]
    if _verdict(asked) != _verdict(policy.model_dump()):
        changed.append("gate")
    return f"was trained with another {', '.join(changed)}" if changed else None


def _verdict(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in policy.items() if name not in NOT_IN_THE_VERDICT}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
