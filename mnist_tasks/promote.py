"""The fifth task: let the gate decide, and publish an approved candidate. Needs no TensorFlow."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mnist_tasks.errors import ModelError
from mnist_tasks.files import copy, read_json, sha256, write_atomically, write_json
from mnist_tasks.gate import INTEGRITY, Approval, Check, Policy, decide, with_approval
from mnist_tasks.registry import CARD, DECISION, METADATA, SAVED_MODEL, ModelDirectory
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
def promote(run: Path, models: Path, policy: Policy, approval: Approval | None = None) -> Promoted:
    """Publish the run's candidate as champion if the gate lets it pass; write `decision.json` either way.

    Args:
        run: the run's folder, as `train` and `evaluate` left it; its name is the run id.
        models: the model directory.
        policy: what the gate asks for.
        approval: a person's answer, or None if none is needed.

    Raises:
        ModelError: if the gate refuses the candidate, a file is not the one that was evaluated, the approval is of
            another evaluation, or the champion has changed since.
        OSError: if the model directory is not writable or full; the champion stays.
    """
    log.info("reading the evaluation in %s", run)
    evaluation, training = read_json(run / "evaluation.json", "evaluate"), read_json(run / "training.json", "train")
    candidate, champion = evaluation["candidate"], evaluation["champion"]
    for name, expected in {**evaluation["files"], "training.json": evaluation["training_sha256"]}.items():
        if not (run / name).exists() or sha256(run / name) != expected:
            raise ModelError(f"{run / name} is not the file that was evaluated; clear the evaluate task to measure it")

    decision = decide(candidate, champion, policy)
    if approval:
        if approval.evaluation != sha256(run / "evaluation.json"):
            raise ModelError(
                f"{run / 'evaluation.json'} is not the evaluation that was approved or rejected; clear the approve task"
            )
        decision = with_approval(decision, approval)
    for line in report(decision.checks):
        log.info("%s", line)
    record = {
        **asdict(decision),
        "promoted": decision.promoted,
        "policy": policy.model_dump(),
        "approval": asdict(approval) if approval else None,
        "run_id": run.name,
        "candidate_accuracy": _finite(candidate.get("accuracy")),
        "champion_version": champion["version"] if champion else None,
        "champion_accuracy": _finite(champion.get("accuracy")) if champion else None,
    }
    version = None
    # Before it is published, so that there is a decision even if that fails.
    write_json(run / DECISION, {**record, "version": None})
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
                **training,
                "run_id": run.name,
                "signatures": evaluation["signatures"],
                "test_accuracy": record["candidate_accuracy"],
                "forced": decision.forced,
                **({"approved_by": approval.by} if approval else {}),
            },
            evaluation=evaluation,
            decision=record,
        )
        for name in (DECISION, METADATA, CARD):  # for `models repair`, should the version's own be damaged
            write_atomically(run / name, partial(copy, version.folder / name))
    if decision.outcome == "refused":
        # What is wrong with a champion names its own way out.
        broken = [check for check in decision.checks if check.verdict == "failed"]
        again = any(check.rule == INTEGRITY and check.metric.startswith("candidate") for check in broken)
        way_out = "; clear the train task to make the candidate again" if again else ""
        raise ModelError(f"refused: {decision.reason}; the champion stays{way_out}")
    if version:
        log.info("promoted as version %d: %s: %s", version.number, version.folder, decision.reason)
    else:
        log.info("rejected: %s; the champion stays", decision.reason)
    return Promoted(
        decision.promoted,
        decision.forced,
        decision.reason,
        record["candidate_accuracy"],
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


def _finite(value: float | None) -> float | None:
    """The number, as JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None


def _distance(check: Check) -> float:
    """How far a value is from its bound, if there is a value."""
    if check.value is None or check.bound is None:
        return math.inf
    return abs(check.value - check.bound)
