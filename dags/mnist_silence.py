"""What the tasks of mnist_watchdog do: look at the runs and at the champion, tell, and remember what they have told."""

from __future__ import annotations

import heapq
import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from typing import Any

from airflow.sdk.execution_time.comms import GetDag, GetDagRun, GetDRCount, GetPreviousDagRun, GetTaskStates
from mnist_common import Context
from mnist_notify import SETTING, Notification, champion_now, run_page, tell

from mnist_tasks import night
from mnist_tasks.night import SeenRun
from mnist_tasks.system.errors import ModelError, TaskError
from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

TRAINING = "mnist_training"
TOLD = "watchdog.json"  # in MNIST_HOME: which night and which age were told last
MOST_RUNS = 100  # of a night, to look at: the newest


class NobodyToldError(Exception):
    """No notifier could tell what must be told; the next try may."""


def tell_deadline(context: Context, deadline: time, schedule: str | None) -> str:
    """Tell once that no run of the night has ended; return what was found, for the UI.

    Args:
        context: Airflow's.
        deadline: the time of day, in UTC.
        schedule: when the training runs by itself.

    Raises:
        NobodyToldError: if each notifier has failed.
    """
    # By the time that this run was due, which is the same in each try and whatever the clock does meanwhile.
    ends = night.last_deadline(context["dag_run"].run_after, deadline)
    began = night.beginning(ends, schedule)
    if began is None:
        return _found(f"by MNIST_SCHEDULE no run was due in the 24 hours before {ends:%Y-%m-%d %H:%M} UTC")
    runs = list(_runs_since(began, ends))
    paused = _ask(GetDag(dag_id=TRAINING)).is_paused
    text = night.silence(runs, began, paused=paused, earlier=_open_run_before(began))
    if text is None:
        return _found(f"a run has ended since {began:%Y-%m-%d %H:%M} UTC")
    title = f"{TRAINING}: no run has ended by {ends:%H:%M} UTC"
    run_id = runs[0].run_id if runs else context["run_id"]
    link = run_page(TRAINING if runs else context["ti"].dag_id, run_id)
    notification = Notification("late", title, f"{text}\n{champion_now()}", run_id, link)
    return _tell_once(context, notification, "deadline", ends.isoformat())


def tell_age(context: Context, stale: timedelta, now: datetime) -> str:
    """Tell that the champion is stale, once for each time that it has been so for `stale`; return what was found.

    Raises:
        NobodyToldError: if each notifier has failed.
    """
    from mnist_tasks.registry.freshness import freshness, in_days
    from mnist_tasks.registry.model_directory import ModelDirectory

    workspace = Workspace.from_environment()
    fresh = freshness(ModelDirectory(workspace.models), workspace.runs)
    if fresh is None:
        return _found("there is no champion")
    stale_for, text = fresh.stale_for(now), fresh.describe(now)
    if stale_for is None or stale_for < stale:
        return _found(text or f"the age of version {fresh.version} is unknown")
    title = f"{TRAINING}: the champion has been neither replaced nor confirmed for {in_days(stale_for)}"
    link = run_page(context["ti"].dag_id, context["run_id"])
    notification = Notification("stale", title, text, context["run_id"], link)
    return _tell_once(context, notification, "stale", f"version {fresh.version}, {stale_for // stale} times {stale}")


def _tell_once(context: Context, notification: Notification, kind: str, occasion: str) -> str:
    path = Workspace.from_environment().root / TOLD
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        told = {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read, so that this may be told again: %s", path, error)
        told = {}
    log.warning("%s\n%s", notification.title, notification.text)
    if told.get(kind) == occasion:
        return _found("people were told of this before")
    if not os.environ.get(SETTING, "").strip():
        return _found(f"nobody is told, because {SETTING} is empty")
    if not tell(context, lambda _: notification):
        raise NobodyToldError(
            f"{notification.title}; no notifier of {SETTING} could tell it; look at this log and fix it"
        )
    _remember(path, {**told, kind: occasion})
    return _found(notification.title)


def _remember(path: Any, told: dict[str, str]) -> None:
    from mnist_tasks.system.files import write_json

    try:
        write_json(path, told)
    except (OSError, TaskError) as error:  # people have been told all the same
        log.warning("%s cannot be written, so that this may be told again: %s", path, error)


def _found(text: str) -> str:
    log.info("%s", text)
    return text


def _runs_since(began: datetime, ends: datetime) -> Iterator[SeenRun]:
    """The runs that were due since a time, the newest first; no more after one that has ended."""
    found: dict[str, Any] = {}
    at = ends
    while len(found) < MOST_RUNS and (run := _before(at)) and run.logical_date >= began:
        found[run.run_id], at = run, run.logical_date
    for run_id in _begun_since(began):
        if run_id not in found and (run := _run(run_id)) and run.run_after >= began:
            found[run_id] = run
    for run in sorted(found.values(), key=lambda each: each.run_after, reverse=True):
        yield _seen(run)


def _begun_since(began: datetime) -> list[str]:
    """The ids of the newest runs whose folder has changed since; runs that an asset or the API starts have no date."""
    folder = Workspace.from_environment().runs
    try:
        with os.scandir(folder) as entries:
            changed = [(entry.stat().st_mtime, entry.name) for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s cannot be read; only runs with a logical date are looked at: %s", folder, error)
        return []
    return [name for time, name in heapq.nlargest(MOST_RUNS, changed) if time >= began.timestamp()]


def _open_run_before(began: datetime) -> SeenRun | None:
    """A run from before the night that is still open, if it has a logical date."""
    run = _before(began, state=night.RUNNING)
    return _seen(run) if run else None


def _seen(run: Any) -> SeenRun:
    states = _ask(GetTaskStates(dag_id=TRAINING, run_ids=[run.run_id])).task_states.get(run.run_id, {})
    state = str(run.state.value)
    return SeenRun(run.run_id, state, run.run_after, states, state == night.FAILED and _was_rejected(run.run_id))


def _was_rejected(run_id: str) -> bool:
    from mnist_tasks.documents import DecisionRecord
    from mnist_tasks.registry.outcome import REJECTED

    try:
        path = Workspace.from_environment().run_folder(run_id) / "decision.json"
        return path.exists() and DecisionRecord.read(path, "clear the promote task").outcome == REJECTED
    except (ModelError, TaskError, OSError) as error:
        log.warning("whether the candidate of %s was rejected is unknown: %s", run_id, error)
        return False


def _before(at: datetime, state: str | None = None) -> Any:
    """The last run with a logical date before a time; None if there is none."""
    return _ask(GetPreviousDagRun(dag_id=TRAINING, logical_date=at, state=state)).dag_run


def _run(run_id: str) -> Any:
    """A run of the training; None if Airflow has none of this id, such as after it has removed old ones."""
    if not _ask(GetDRCount(dag_id=TRAINING, run_ids=[run_id])).count:
        return None
    return _ask(GetDagRun(dag_id=TRAINING, run_id=run_id))


def _ask(question: Any) -> Any:
    """Airflow's answer through the task's supervisor: a task has no other access to the runs of another DAG."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    return SUPERVISOR_COMMS.send(question)
