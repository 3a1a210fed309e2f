"""The fifth task: let the gate decide, and publish an approved candidate. It needs no TensorFlow.

The run's `decision.json` is true at every moment: its outcome is `approved` before anything is published, and
`promoted`, with the version's number, once the champion link has moved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mnist_tasks.documents import MNIST, Approval, Check, DecisionRecord, Evaluation, Training
from mnist_tasks.gate import INTEGRITY, Decision, decide, with_approval
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import NOT_PUBLISHED, PROMOTED, decision_record, published_as
from mnist_tasks.registry.publishing import publish
from mnist_tasks.registry.version import CARD, DECISION, EVALUATION, METADATA, MODEL, SAVED_MODEL, Version
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import copy, sha256, write_atomically
from mnist_tasks.system.task_log import log_group, log_resources
from mnist_tasks.training.fingerprint import remember_rejection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """What `promote` hands on: the outcome and why. The version and its folder are None if nothing was published."""

    promoted: bool
    forced: bool
    reason: str
    accuracy: float | None
    version: int | None
    path: str | None


@log_resources
def promote(run: Path, models: Path, config: GateConfig, approval: Approval | None = None) -> Promoted:
    """Publish the run's candidate as champion if it passes the gate; write `decision.json` in any case.

    Args:
        run: the run's folder, as `train` and `evaluate` left it; its name is the run id.
        models: the model directory.
        config: what the gate asks for.
        approval: a person's answer, or None if none is needed.

    Raises:
        ModelError: if the gate refuses the candidate, a file is not the one that was evaluated, the approval is for
            another evaluation, or the champion has changed since.
        OSError: if a file cannot be read or written now; `ModelDirectory.describe_champion` then says who is champion.
    """
    log.info("reading the evaluation in %s", run)
    evaluation = Evaluation.read(run / EVALUATION, "clear the evaluate task to write it again")
    training = Training.read(run / "training.json", "clear the train task to write it again")
    _check_files(run, evaluation)
    candidate, champion = evaluation.candidate, evaluation.champion
    decision = decide(candidate, champion, config, evaluation.reference, evaluation.no_reference)
    if approval:
        if approval.evaluation != sha256(run / EVALUATION):
            raise ModelError(
                f"{run / EVALUATION} is not the evaluation that was approved or rejected; clear the approve task"
            )
        decision = with_approval(decision, approval)
    lines = list(report(decision.checks))
    failed = [line for line in lines if line.startswith("failed")]
    for line in failed:
        log.info("%s", line)
    with log_group(log, "the other checks" if failed else "the checks"):
        for line in lines:
            if line not in failed:
                log.info("%s", line)
    record = decision_record(
        run.name,
        decision.outcome,
        decision.reason,
        config,
        checks=list(decision.checks),
        forced=decision.forced,
        approval=approval,
        candidate_accuracy=candidate.accuracy,
        champion_version=champion.version if champion else None,
        champion_accuracy=champion.accuracy if champion else None,
    )
    record.write(run / DECISION)
    directory, version = ModelDirectory(models), None
    if decision.approved:
        version = _publish(run, directory, evaluation, training, record)
        log.info("promoted as version %d: %s: %s", version.number, version.folder, decision.reason)
    elif decision.outcome == "refused":
        raise ModelError(f"refused: {decision.reason}; {directory.describe_champion()}{_way_out(decision)}")
    else:
        # Without an answer, nobody has judged the candidate.
        if approval is None or approval.approved is not False or approval.by is not None:
            remember_rejection(directory, record, training.fingerprint)
        log.warning("rejected: %s; %s", decision.reason, directory.describe_champion())
    return Promoted(
        version is not None,
        decision.forced,
        decision.reason,
        record.candidate_accuracy,
        version.number if version else None,
        str(version.folder) if version else None,
    )


def _check_files(run: Path, evaluation: Evaluation) -> None:
    """Check that the candidate's files are those that were evaluated.

    Raises:
        ModelError: if one is missing or has changed.
    """
    for name, digest in {**evaluation.files, "training.json": evaluation.training_sha256}.items():
        if digest is None or _sha256(run / name) != digest:
            raise ModelError(f"{run / name} is not the file that was evaluated; clear the evaluate task to measure it")


def _publish(
    run: Path, models: ModelDirectory, evaluation: Evaluation, training: Training, record: DecisionRecord
) -> Version:
    """Publish an approved candidate; then the run's decision says that it is promoted, and as which version."""
    # In a version the SavedModel lies at the top, where TF Serving looks for it.
    names = {name: name.removeprefix(f"{SAVED_MODEL}/") for name in evaluation.files}
    try:
        if missing := [name for name in (MODEL, f"{SAVED_MODEL}/saved_model.pb") if name not in evaluation.files]:
            raise ModelError(
                f"{run / EVALUATION} has no digest of {missing[0]}; clear the evaluate task to write it again"
            )
        version = publish(
            models,
            {names[name]: run / name for name in names},
            {names[name]: digest for name, digest in evaluation.files.items()},
            published_by=run.name,
            replaces=record.champion_version,
            training=training,
            evaluation=evaluation,
            # The version's own decision, which nobody sees before the version is published.
            decision=record.model_copy(update={"outcome": PROMOTED, "promoted": True}),
        )
        # `models repair` uses these if the version's own are damaged. The decision comes last: then all is done.
        for name in (METADATA, CARD, DECISION):
            write_atomically(run / name, partial(copy, version.folder / name))
    except (ModelError, OSError) as error:
        _record_failure(run, models, record, error)
        raise
    return version


def _record_failure(run: Path, models: ModelDirectory, record: DecisionRecord, error: Exception) -> None:
    """After publishing has failed, look up whether the version was published, and write it down if it was not."""
    try:
        number = published_as(run, models)
        result = f"published as version {number}, but not everything is written down" if number else NOT_PUBLISHED
        if number is None:
            record.model_copy(update={"not_published": str(error)}).write(run / DECISION)
    except OSError as another:
        result = f"what became of the candidate cannot be looked up or written down: {another}"
    log.error("%s; %s", result, models.describe_champion())


def _way_out(decision: Decision) -> str:
    """What to do about a refused candidate. The message of a check of the champion has its own way out."""
    failed = [check for check in decision.checks if check.verdict == "failed"]
    candidate_is_broken = any(check.rule == INTEGRITY and check.metric.startswith("candidate") for check in failed)
    return "; clear the train task to make the candidate again" if candidate_is_broken else ""


def _sha256(path: Path) -> str | None:
    """A file's SHA-256; None if there is no such file."""
    try:
        return sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def report(checks: Sequence[Check]) -> Iterator[str]:
    """One line for each failure, and one for the other checks of a rule, which names the closest to its bound."""
    # A rule on MNIST's own test set counts as another rule.
    rules = list(dict.fromkeys((check.rule, check.slice == MNIST) for check in checks))
    for rule, on_mnist in rules:
        of_rule = [check for check in checks if (check.rule, check.slice == MNIST) == (rule, on_mnist)]
        for verdict in ("failed", "skipped", "passed"):
            matching = [check for check in of_rule if check.verdict == verdict]
            if verdict == "failed" or len(of_rule) == 1:
                yield from (f"{verdict} {rule}: {check.message}" for check in matching)
            elif matching:
                closest = min(matching, key=_distance)
                text = f"the closest: {closest.message}" if _distance(closest) < math.inf else matching[0].message
                yield f"{verdict} {rule}: {len(matching)} checks; {text}"


def _distance(check: Check) -> float:
    """How far a value is from its bound, if there is a value."""
    if check.value is None or check.bound is None:
        return math.inf
    return abs(check.value - check.bound)
