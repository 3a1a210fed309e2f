"""The fifth task: let the gate decide, and publish an approved candidate. Needs no TensorFlow.

The run's `decision.json` says at every moment what is so: `approved` before anything is published, `promoted`, with the
version's number, once the champion link has moved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mnist_tasks.gate import INTEGRITY, MNIST, Approval, Check, Decision, GateConfig, decide, with_approval
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import NOT_PUBLISHED, PROMOTED, published_as
from mnist_tasks.registry.version import CARD, DECISION, METADATA, SAVED_MODEL, Version
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import copy, read_json, sha256, write_atomically, write_json
from mnist_tasks.system.task_log import log_resources
from mnist_tasks.training.fingerprint import remember_rejection

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


@log_resources
def promote(run: Path, models: Path, policy: GateConfig, approval: Approval | None = None) -> Promoted:
    """Publish the run's candidate as champion if the gate lets it pass; write `decision.json` either way.

    Args:
        run: the run's folder, as `train` and `evaluate` left it; its name is the run id.
        models: the model directory.
        policy: what the gate asks for.
        approval: a person's answer, or None if none is needed.

    Raises:
        ModelError: if the gate refuses the candidate, a file is not the one that was evaluated, the approval is of
            another evaluation, or the champion has changed since.
        OSError: if a file cannot be read or written now; `ModelDirectory.standing` says who is champion then.
    """
    log.info("reading the evaluation in %s", run)
    evaluation, training = read_json(run / "evaluation.json", "evaluate"), read_json(run / "training.json", "train")
    candidate, champion = evaluation["candidate"], evaluation["champion"]
    for name, expected in {**evaluation["files"], "training.json": evaluation["training_sha256"]}.items():
        if _sha256(run / name) != expected:
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
        "promoted": False,
        "policy": policy.model_dump(),
        "approval": asdict(approval) if approval else None,
        "run_id": run.name,
        "candidate_accuracy": _finite(candidate.get("accuracy")),
        "champion_version": champion["version"] if champion else None,
        "champion_accuracy": _finite(champion.get("accuracy")) if champion else None,
    }
    write_json(run / DECISION, {**record, "version": None})
    directory = ModelDirectory(models)
    version = None
    if decision.approved:
        version = _publish(run, directory, evaluation, training, record)
        log.info("promoted as version %d: %s: %s", version.number, version.folder, decision.reason)
    elif decision.outcome == "refused":
        raise ModelError(f"refused: {decision.reason}; {directory.standing()}{_way_out(decision)}")
    else:
        # Nobody has judged a candidate about which no one has answered.
        if approval is None or approval.approved is not False or approval.by is not None:
            remember_rejection(directory, record, training.get("fingerprint"))
        log.info("rejected: %s; %s", decision.reason, directory.standing())
    return Promoted(
        version is not None,
        decision.forced,
        decision.reason,
        record["candidate_accuracy"],
        version.number if version else None,
        str(version.folder) if version else None,
    )


def _publish(
    run: Path,
    models: ModelDirectory,
    evaluation: Mapping[str, Any],
    training: Mapping[str, Any],
    record: Mapping[str, Any],
) -> Version:
    """Publish an approved candidate; then the run's decision says that it is promoted, and as which version."""
    # In a version the SavedModel lies at the top, where TF Serving looks for it.
    names = {name: name.removeprefix(f"{SAVED_MODEL}/") for name in evaluation["files"]}
    approval = record["approval"]
    try:
        version = models.publish(
            {names[name]: run / name for name in names},
            {names[name]: digest for name, digest in evaluation["files"].items()},
            published_by=run.name,
            replaces=record["champion_version"],
            reason=record["reason"],
            metadata={
                **training,
                "run_id": run.name,
                "signatures": evaluation["signatures"],
                "test_accuracy": record["candidate_accuracy"],
                "forced": record["forced"],
                **({"approved_by": approval["by"]} if approval else {}),
            },
            evaluation=evaluation,
            # The version's own, which nobody sees before it is one.
            decision={**record, "outcome": PROMOTED, "promoted": True},
        )
        # For `models repair`, should the version's own be damaged; the decision is then the run's last word.
        for name in (METADATA, CARD, DECISION):
            write_atomically(run / name, partial(copy, version.folder / name))
    except (ModelError, OSError) as error:
        _say_what_is_so(run, models, record, error)
        raise
    return version


def _say_what_is_so(run: Path, models: ModelDirectory, record: Mapping[str, Any], error: Exception) -> None:
    """Look what publishing has come to before it failed, and write it down if nothing has."""
    try:
        number = published_as(run, models)
        became = f"published as version {number}, but not all is written down" if number else NOT_PUBLISHED
        if number is None:
            write_json(run / DECISION, {**record, "version": None, "not_published": str(error)})
    except OSError as another:
        became = f"what has become of the candidate cannot be looked up or written down: {another}"
    log.error("%s; %s", became, models.standing())


def _way_out(decision: Decision) -> str:
    """What to do about a candidate that is refused; what is wrong with a champion names its own way out."""
    broken = [check for check in decision.checks if check.verdict == "failed"]
    again = any(check.rule == INTEGRITY and check.metric.startswith("candidate") for check in broken)
    return "; clear the train task to make the candidate again" if again else ""


def _sha256(path: Path) -> str | None:
    """A file's SHA-256; None if there is no such file."""
    try:
        return sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def report(checks: Sequence[Check]) -> Iterator[str]:
    """A line for each rule and each failure; a rule's passed checks share one that names the closest of them."""
    # The same rule on MNIST's own test set is one of its own.
    rules = list(dict.fromkeys((check.rule, check.slice == MNIST) for check in checks))
    for rule, on_mnist in rules:
        of_rule = [check for check in checks if (check.rule, check.slice == MNIST) == (rule, on_mnist)]
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
