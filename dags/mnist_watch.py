"""The schedule of the training when the inbox is watched; only imported if that is asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable
from mnist_inbox import InboxTrigger

from mnist_tasks.workspace import Workspace


def watched(cron: str | None, every: timedelta) -> Any:
    """A run for the batches that have come since the last look, and at the times of `cron`, if there is one.

    Args:
        cron: when, in UTC, or None.
        every: how often to look.
    """
    folder = Workspace.from_environment().root / "inbox"
    trigger = InboxTrigger(folder=str(folder), every=every.total_seconds())
    # By its name alone, as CHAMPION in mnist_common.
    inbox = Asset("mnist_inbox", group="data", watchers=[AssetWatcher(name="mnist_inbox", trigger=trigger)])
    if cron is None:
        return [inbox]
    return AssetOrTimeSchedule(timetable=CronTriggerTimetable(cron, timezone="UTC"), assets=[inbox])
