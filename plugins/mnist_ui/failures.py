"""Why a run has failed, or is held up: each task that failed with its message, and one that waits for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from mnist_tasks.documents import DecisionRecord

KEY = "failure"  # of the XCom in which dags/mnist_common.py hands the message on
NO_MESSAGE = "it left no message, as when its process is killed because memory runs out"
FAILED, RETRIED, WAITING = "failed", "up_for_retry", "awaiting_input"  # Airflow's words for the state of a task


@dataclass(frozen=True)
class Failure:
    """A task that has failed: why, whether it is tried again, and the address of its log, below Airflow's own."""

    task: str
    message: str
    is_retried: bool
    log: str


def failures(session: Session, tasks: Sequence[TaskInstance], decision: DecisionRecord | None) -> list[Failure]:
    """The failed tasks of a run in their order, without one whose failure is the gate's rejection.

    Args:
        session: Airflow's database.
        tasks: of one run.
        decision: the run's, if there is one.
    """
    failed = [task for task in tasks if task.state in (FAILED, RETRIED)]
    if not failed:
        return []
    messages = messages_of(session, failed[0].dag_id, [failed[0].run_id]).get(failed[0].run_id, {})
    if decision and decision.verdict == "rejected":  # the reason is the decision's
        failed = [task for task in failed if task.task_id != "promote" or task.task_id in messages]
    return [
        Failure(task.task_id, messages.get(task.task_id, NO_MESSAGE), task.state == RETRIED, _log(task))
        for task in failed
    ]


def messages_of(session: Session, dag_id: str, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """The messages of the failed tasks of some runs, by run and by task."""
    query = select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id.in_(run_ids), XComModel.key == KEY)
    found: dict[str, dict[str, str]] = {}
    for row in session.scalars(query):
        found.setdefault(row.run_id, {})[row.task_id] = str(XComModel.deserialize_value(row))
    return found


def waits_for_answer(tasks: Sequence[TaskInstance]) -> str | None:
    """Where the candidate can be approved or rejected, below Airflow's own address; None if it does not wait."""
    waiting = next((task for task in tasks if task.state == WAITING), None)
    return f"{_page(waiting)}/required_actions" if waiting else None


def _page(task: TaskInstance) -> str:
    return f"/dags/{quote(task.dag_id)}/runs/{quote(task.run_id)}/tasks/{quote(task.task_id)}"


def _log(task: TaskInstance) -> str:
    return f"{_page(task)}?try_number={task.try_number}"
