"""What became of a run: its `decision.json`, and what the model directory's history says about it.

The record says `approved` before the candidate is published and `promoted` once the link has moved. If the task is
killed in between, the record stays `approved` although the version is published; an older release wrote `promoted`
before it published. So what people are told is looked up here.
"""

from __future__ import annotations

from pathlib import Path

from mnist_tasks.documents import Approval, Check, DecisionRecord, Training
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import ModelError

APPROVED, PROMOTED, REJECTED, UNCHANGED = "approved", "promoted", "rejected", "unchanged"

NOT_PUBLISHED = "approved by the gate, but not published"


def decision_record(
    run_id: str,
    outcome: str,
    reason: str,
    config: GateConfig,
    *,
    champion_version: int | None,
    champion_accuracy: float | None,
    candidate_accuracy: float | None = None,
    checks: list[Check] | None = None,
    forced: bool = False,
    approval: Approval | None = None,
) -> DecisionRecord:
    """The record of a run that has published nothing yet, with every field that `decision.json` always has."""
    return DecisionRecord(
        outcome=outcome,
        promoted=False,
        forced=forced,
        reason=reason,
        checks=checks or [],
        policy=config.model_dump(),
        approval=approval,
        run_id=run_id,
        candidate_accuracy=candidate_accuracy,
        champion_version=champion_version,
        champion_accuracy=champion_accuracy,
        version=None,
    )


def published_as(run: Path, models: ModelDirectory) -> int | None:
    """The version as which this run's candidate became champion, according to the history; None if it did not.

    Args:
        run: the run's folder, whose name is the run id.
        models: the model directory.
    """
    weights = _weights(run)
    for event in reversed(models.history()):
        same_weights = weights is None or event.weights_sha256 in (None, weights)
        if event.to is not None and event.restores is None and event.publisher == run.name and same_weights:
            return event.to
    return None


def version_of(decision: DecisionRecord, run: Path, models: ModelDirectory) -> int | None:
    """The version that a run has published: from its decision or else from the history. None if it published none."""
    if decision.outcome not in (APPROVED, PROMOTED):
        return None
    return decision.version or published_as(run, models)


def not_published(decision: DecisionRecord) -> str:
    """A sentence for an approved candidate that was not published, with the cause if it is known."""
    return f"{NOT_PUBLISHED}: {decision.not_published}" if decision.not_published else NOT_PUBLISHED


def _weights(run: Path) -> str | None:
    """The digest of the candidate's weights; None if it is unknown."""
    try:
        return Training.read(run / "training.json", "").weights_sha256
    except (OSError, ModelError):
        return None
