"""What became of a run: its `decision.json`, held against what the model directory's history says.

The record says `approved` before the candidate is published and `promoted` once the link has moved. A kill in between
leaves it behind; an older release wrote `promoted` before it published. So whoever tells people looks here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_tasks.registry.model_directory import ModelDirectory

APPROVED, PROMOTED, REJECTED, UNCHANGED = "approved", "promoted", "rejected", "unchanged"

NOT_PUBLISHED = "approved by the gate, but not published"


def published_as(run: Path, models: ModelDirectory) -> int | None:
    """The number of the version that this run's candidate became champion as, by the history; None if it did not.

    Args:
        run: the run's folder, whose name is the run id.
        models: the model directory.
    """
    weights = _weights(run)
    for event in reversed(models.history()):
        by = event.get("published_by", event.get("run_id"))  # an older release wrote no more than the run
        same = weights is None or event.get("weights_sha256") in (None, weights)
        number = event.get("to")
        if isinstance(number, int) and "restores" not in event and by == run.name and same:
            return number
    return None


def version_of(decision: Mapping[str, Any], run: Path, models: ModelDirectory) -> int | None:
    """The version that a run has published, by its decision or, if that cannot know, by the history; None if none."""
    if decision.get("outcome") not in (APPROVED, PROMOTED):
        return None
    return decision.get("version") or published_as(run, models)


def not_published(decision: Mapping[str, Any]) -> str:
    """That an approved candidate is no version, and why if that is known."""
    why = decision.get("not_published")
    return f"{NOT_PUBLISHED}: {why}" if why else NOT_PUBLISHED


def _weights(run: Path) -> str | None:
    """The digest of the candidate's weights; None if it is not known."""
    try:
        weights = json.loads((run / "training.json").read_text(encoding="utf-8")).get("weights_sha256")
    except (OSError, ValueError, AttributeError):
        return None
    return weights if isinstance(weights, str) else None
