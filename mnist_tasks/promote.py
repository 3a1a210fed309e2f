"""The fifth task: let the gate decide, and publish an approved candidate. Needs no TensorFlow."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mnist_tasks.errors import ModelError
from mnist_tasks.files import read_json, sha256, write_json
from mnist_tasks.gate import Check, Policy, decide
from mnist_tasks.registry import METADATA, SAVED_MODEL, ModelDirectory
from mnist_tasks.runtime import reported

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """What `promote` hands on: the outcome and why; the version and its folder are None if it was rejected."""

    promoted: bool
    forced: bool
    reason: str
    accuracy: float | None
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
        ModelError: if the gate refuses the candidate, a file is not the one that was evaluated, or the champion has
            changed since.
        OSError: if the model directory is not writable or full; the champion stays.
    """
    evaluation, training = read_json(run / "evaluation.json", "evaluate"), read_json(run / "training.json", "train")
    candidate, champion = evaluation["candidate"], evaluation["champion"]
    for name, expected in evaluation["files"].items():
        if not (run / name).exists() or sha256(run / name) != expected:
            raise ModelError(f"{run / name} is not the file that was evaluated; clear the evaluate task to measure it")

    decision = decide(candidate, champion, policy)
    for line in report(decision.checks):
        log.info("%s", line)
    record = {
        **asdict(decision),
        "promoted": decision.promoted,
        "policy": policy.model_dump(),
        "run_id": run.name,
        "candidate_accuracy": candidate.get("accuracy"),
        "champion_version": champion["version"] if champion else None,
        "champion_accuracy": champion.get("accuracy") if champion else None,
    }
    version = None
    if decision.promoted:
        # In a version the SavedModel lies at the top, where TF Serving looks for it.
        names = {name: name.removeprefix(f"{SAVED_MODEL}/") for name in evaluation["files"]}
        version = ModelDirectory(models).publish(
            {names[name]: run / name for name in names},
            {names[name]: digest for name, digest in evaluation["files"].items()},
            published_by=run.name,
            replaces=record["champion_version"],
            reason=decision.reason,
            metadata={
                "run_id": run.name,
                **training,
                "signatures": evaluation["signatures"],
                "test_accuracy": candidate["accuracy"],
                "forced": decision.forced,
            },
            evaluation=evaluation,
            decision=record,
        )
        # For `models repair`, should the version's own be damaged.
        shutil.copyfile(version.folder / METADATA, run / METADATA)
    write_json(run / "decision.json", {**record, "version": version.number if version else None})
    if decision.outcome == "refused":
        raise ModelError(f"refused: {decision.reason}; the champion stays")
    if version:
        log.info("promoted as version %d: %s: %s", version.number, version.folder, decision.reason)
    else:
        log.info("rejected: %s; the champion stays", decision.reason)
    return Promoted(
        decision.promoted,
        decision.forced,
        decision.reason,
        candidate.get("accuracy"),
        version.number if version else None,
        str(version.folder) if version else None,
    )


def report(checks: Sequence[Check]) -> Iterator[str]:
    """A line for each rule and each failure; a rule's passed checks share one that names the closest of them."""
    rules = list(dict.fromkeys(check.rule for check in checks))
    for rule in rules:
        of_rule = [check for check in checks if check.rule == rule]
        for verdict in ("failed", "skipped", "passed"):
            found = [check for check in of_rule if check.verdict == verdict]
            if verdict == "failed" or len(of_rule) == 1:
                yield from (f"{verdict} {rule}: {check.message}" for check in found)
            elif found:
                closest = min(found, key=_distance)
                text = f"the closest: {closest.message}" if _distance(closest) < math.inf else found[0].message
                yield f"{verdict} {rule}: {len(found)} checks; {text}"


def _distance(check: Check) -> float:
    """How far a value is from its bound, if there is a value."""
    if check.value is None or check.bound is None:
        return math.inf
    return abs(check.value - check.bound)
