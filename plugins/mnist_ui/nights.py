"""The last runs of the training, whatever became of them: so a week of rejections is seen beside the versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import select
from sqlalchemy.orm import Session

from mnist_tasks.documents import DecisionSummary, HistoryEvent
from mnist_tasks.registry.version import DECISION
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace
from mnist_ui.failures import NO_MESSAGE, WAITING, messages_of
from mnist_ui.reading import file_signature, needed

SHOWN = 30
OPEN = ("queued", "running")


@dataclass(frozen=True)
class Night:
    """A run: when it began, what became of it in a word, its accuracy minus the champion's, and the reason.

    `version` is what it has published, `is_open` whether it may still publish something.
    """

    run_id: str
    began: datetime | None
    verdict: str
    is_open: bool
    accuracy: float | None = None
    change: float | None = None
    reason: str = ""
    version: int | None = None


def nights(session: Session, dag_id: str, workspace: Workspace, moves: Iterable[HistoryEvent]) -> list[Night]:
    """The last runs, the newest first.

    Args:
        session: Airflow's database.
        dag_id: the training's.
        workspace: with the runs' folders.
        moves: of the champion link, the oldest first.
    """
    query = (
        select(DagRun.run_id, DagRun.state, DagRun.run_after)
        .where(DagRun.dag_id == dag_id)
        .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        .limit(SHOWN)
    )
    rows = session.execute(query).all()
    if not rows:
        return []
    ids = [row.run_id for row in rows]
    states = select(TaskInstance.run_id).where(
        TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(ids), TaskInstance.state == WAITING
    )
    waiting = set(session.scalars(states))
    failed = [row.run_id for row in rows if row.state == "failed"]
    messages = messages_of(session, dag_id, failed) if failed else {}
    published = {event.publisher: event.to for event in moves if event.to and event.restores is None}
    return [
        _night(
            row.run_id,
            row.run_after,
            "waits for an answer" if row.run_id in waiting else str(row.state),
            _decision(row.run_id, workspace) if row.state not in OPEN else None,
            published.get(row.run_id),
            messages.get(row.run_id, {}),
        )
        for row in rows
    ]


def _night(
    run_id: str,
    began: datetime | None,
    state: str,
    decision: DecisionSummary | None,
    version: int | None,
    messages: dict[str, str],
) -> Night:
    failure = "; ".join(f"{task}: {message}" for task, message in messages.items())
    if decision is None or (state == "failed" and failure and not version):
        reason = (failure or NO_MESSAGE) if state == "failed" else ""
        return Night(run_id, began, state, state not in ("failed", "success"), reason=reason)
    if decision.verdict == "approved":
        verdict = ("forced" if decision.forced else "promoted") if version else "not published"
    else:
        verdict = decision.verdict
    return Night(
        run_id,
        began,
        verdict,
        is_open=False,
        accuracy=decision.candidate_accuracy,
        change=decision.change,
        reason=decision.not_published or decision.reason,
        version=version,
    )


def _decision(run_id: str, workspace: Workspace) -> DecisionSummary | None:
    try:
        path = workspace.run_folder(run_id) / DECISION
    except InputError:  # its id names no folder
        return None
    signature = file_signature(str(path))
    return _read_decision(path, signature) if signature else None


@lru_cache(maxsize=1000)
def _read_decision(path: Path, _: object) -> DecisionSummary | None:
    return needed(path, DecisionSummary, [])
