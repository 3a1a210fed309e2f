"""A night: the time in which a run of the training must end, and what there is to say if none has.

The night of a deadline begins with the first run that the schedule had due in the 24 hours before it; without a
schedule it is those 24 hours. Any run of this time counts, whoever has started it. Nothing here looks at a clock, a
file or Airflow: callers hand in what they have seen. All times have a time zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone

DAY = timedelta(days=1)
SHOWN_RUNS = 5

QUEUED, RUNNING, SUCCESS, FAILED = "queued", "running", "success", "failed"  # Airflow's words for the state of a run
WAITS_FOR_PERSON = "awaiting_input"  # and of a task
AT_WORK = ("running", "queued", "scheduled", "restarting")


@dataclass(frozen=True)
class SeenRun:
    """A run of the training as it was seen.

    Args:
        run_id: its id.
        state: queued, running, success or failed.
        due: when it was to begin.
        tasks: the state of each of its tasks, by name.
        rejected: whether it failed because its candidate was rejected, as `on_rejection=fail` asks for.
    """

    run_id: str
    state: str
    due: datetime
    tasks: Mapping[str, str | None] = field(default_factory=dict)
    rejected: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it has come to a decision, and not merely stopped."""
        return self.state == SUCCESS or (self.state == FAILED and self.rejected)

    @property
    def is_open(self) -> bool:
        """Whether it may still come to a decision."""
        return self.state in (QUEUED, RUNNING)


def last_deadline(at: datetime, deadline: time) -> datetime:
    """The latest time, at or before `at`, that is a deadline's time of day in UTC."""
    at = at.astimezone(timezone.utc)
    latest = datetime.combine(at.date(), deadline, timezone.utc)
    return latest if latest <= at else latest - DAY


def beginning(deadline: datetime, schedule: str | None) -> datetime | None:
    """When the night before a deadline began; None if the schedule had no run due in it.

    Args:
        deadline: the end of the night. A run that is due just then belongs to the next night.
        schedule: when the training runs by itself: cron, UTC; or None.
    """
    from croniter import croniter

    from mnist_tasks.installation import as_cron

    if schedule is None:
        return deadline - DAY
    first: datetime = croniter(as_cron(schedule), deadline - DAY - timedelta(seconds=1)).get_next(datetime)
    return first if first < deadline else None


def silence(runs: Sequence[SeenRun], began: datetime, *, paused: bool, earlier: SeenRun | None = None) -> str | None:
    """What to tell people about a night in which no run has ended; None if one has.

    Args:
        runs: the night's runs, the newest first.
        began: when the night began.
        paused: whether the training is paused now.
        earlier: a run from before the night that is still open. Airflow starts no other run before it has ended.
    """
    if any(run.has_ended for run in runs):
        return None
    lines = [f"Run {run.run_id} {what_it_does(run)}." for run in runs[:SHOWN_RUNS]]
    if len(runs) > SHOWN_RUNS:
        lines.append(f"{len(runs) - SHOWN_RUNS} more runs have not ended well either.")
    if not runs:
        lines.append(f"No run has been started since {began:%H:%M} UTC.")
    if earlier:
        lines.append(
            f"Run {earlier.run_id} of {earlier.due:%Y-%m-%d %H:%M} UTC {what_it_does(earlier)}: others wait for it."
        )
    elif not runs and not paused:
        lines.append("Look whether Airflow's scheduler and DAG processor work, and whether the DAG can be imported.")
    if paused:
        lines.append("The DAG is paused: switch it on in Airflow's UI.")
    return "\n".join(lines)


def what_it_does(run: SeenRun) -> str:
    """What a run that has not ended well does or did, as the rest of a sentence."""
    failed, waiting, retried, working = (
        [task for task, state in run.tasks.items() if state in states]
        for states in (("failed",), (WAITS_FOR_PERSON,), ("up_for_retry",), AT_WORK)
    )
    if run.state == FAILED:
        return f"has failed in {', '.join(failed)}" if failed else "has failed"
    if waiting:
        return "waits for a person's approval"
    if run.state == QUEUED:
        return "is queued and has not begun"
    if retried:
        return f"is still running: {', '.join(retried)} will be tried again"
    return f"is still running: {', '.join(working)}" if working else "is still running"
