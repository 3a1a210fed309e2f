"""The fifth task: let the gate decide, and publish an approved candidate. Needs no TensorFlow."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_tasks.errors import ModelError
from mnist_tasks.files import sha256, write_json
from mnist_tasks.gate import Policy, decide
from mnist_tasks.registry import MODEL, ModelDirectory
from mnist_tasks.runtime import reported

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """What `promote` hands on: the outcome and why; the version and its folder are None if it was rejected."""

    promoted: bool
    reason: str
    accuracy: float
    version: int | None
    path: str | None


@reported
def promote(run: Path, models: Path, policy: Policy) -> Promoted:
    """Publish the run's candidate as champion if the gate lets it pass; write `decision.json` either way.

    Args:
        run: the run's folder, as `train` and `evaluate` left it; its name is the run id.
        models: the model directory.
        policy: what the gate asks for.

    Raises:
        ModelError: if the candidate is not the file that was evaluated, or the champion has changed since.
        OSError: if the model directory is not writable or full; the champion stays.
    """
    evaluation, training = _read(run / "evaluation.json", "evaluate"), _read(run / "training.json", "train")
    candidate, champion = evaluation["candidate"], evaluation["champion"]
    model = run / MODEL
    if sha256(model) != candidate["model_sha256"]:
        raise ModelError(f"{model} is not the file that was evaluated; clear the evaluate task to measure this one")

    decision = decide(candidate, champion, policy)
    for check in decision.checks:
        log.info("%s %s: %s", check.verdict, check.name, check.message)
    record = {
        **asdict(decision),
        "policy": policy.model_dump(),
        "run_id": run.name,
        "candidate_accuracy": candidate["accuracy"],
        "champion_version": champion["version"] if champion else None,
        "champion_accuracy": champion["accuracy"] if champion else None,
    }
    version = None
    if decision.promoted:
        version = ModelDirectory(models).publish(
            model,
            model_sha256=candidate["model_sha256"],
            run_id=run.name,
            replaces=record["champion_version"],
            reason=decision.reason,
            metadata={**training, "test_accuracy": candidate["accuracy"]},
            documents={"evaluation.json": evaluation, "decision.json": record},
        )
        log.info("promoted as version %d: %s", version.number, version.folder)
    else:
        log.info("rejected: %s; the champion stays", decision.reason)
    write_json(run / "decision.json", {**record, "version": version.number if version else None})
    return Promoted(
        decision.promoted,
        decision.reason,
        candidate["accuracy"],
        version.number if version else None,
        str(version.folder) if version else None,
    )


def _read(path: Path, task: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; clear the {task} task to write it again") from error
    return content
