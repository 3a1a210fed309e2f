"""How old the champion is, and whether the newest runs could replace it: what a page and a notification say."""

from __future__ import annotations

import heapq
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path

from mnist_tasks.documents import DecisionSummary
from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import REJECTED, UNCHANGED
from mnist_tasks.registry.version import DECISION
from mnist_tasks.system.errors import ModelError

log = logging.getLogger(__name__)

READ_DECISIONS = 100  # the newest ones; a longer series of rejections says nothing more


@dataclass(frozen=True)
class Freshness:
    """The champion's age, and what became of the newest runs.

    Args:
        version: the champion's number.
        since: when its model first became champion, however often it was rolled back to; None if that is unknown.
        confirmed: when a run last found that training would only give the champion again; None if none has.
        rejected: how many of the newest runs in a row had a candidate that was rejected, or would have been again.
    """

    version: int
    since: datetime | None
    confirmed: datetime | None
    rejected: int

    def stale_for(self, now: datetime) -> timedelta | None:
        """How long no run has made or confirmed the champion; None if that is unknown."""
        known = [time for time in (self.since, self.confirmed) if time]
        return max(timedelta(), now - max(known)) if self.since else None

    def describe(self, now: datetime) -> str:
        """The champion's age and the series of rejections, as sentences."""
        sentences = [f"The champion, version {self.version}, is {in_days(now - self.since)} old." if self.since else ""]
        if self.rejected == 1:
            sentences.append("The last run was rejected.")
        elif self.rejected:
            the = "At least the" if self.rejected == READ_DECISIONS else "The"
            sentences.append(f"{the} last {self.rejected} runs were rejected.")
        elif self.confirmed:
            sentences.append("The last run found that nothing has changed since it was trained.")
        return " ".join(filter(None, sentences))


def freshness(models: ModelDirectory, runs: Path) -> Freshness | None:
    """Look the champion's age and the newest decisions up; None if there is no champion.

    Args:
        models: the model directory.
        runs: the folder of all runs.

    Raises:
        ModelError: if it is unknown who is champion.
        OSError: if a folder cannot be read now.
    """
    champion = models.champion()
    if champion is None:
        return None
    history = ChampionHistory(models.history())
    move = history.moves.get(history.original(champion.number))
    rejected, confirmed = 0, None
    for time, decision in _newest_decisions(runs):
        if decision.outcome == REJECTED or (decision.outcome == UNCHANGED and decision.rejected_in):
            rejected += 1
        elif decision.outcome == UNCHANGED and decision.champion_version == champion.number:
            confirmed = datetime.fromtimestamp(time, timezone.utc)
            break
        elif decision.verdict == "approved":
            break
        # A refused one has failed: it says nothing about the candidates.
    since = datetime.fromisoformat(move.time) if move else None
    return Freshness(champion.number, since, confirmed, rejected)


def _newest_decisions(runs: Path) -> list[tuple[float, DecisionSummary]]:
    """The newest decisions that can be read, the newest first, each with the time in seconds when it was written."""
    if not runs.is_dir():
        return []
    times: list[tuple[int, int, str]] = []
    with os.scandir(runs) as folders:
        for folder in folders:
            path = f"{folder.path}/{DECISION}"
            try:
                status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, and there are thousands
            except (FileNotFoundError, NotADirectoryError):
                continue
            times.append((status.st_mtime_ns, status.st_size, path))
    newest = heapq.nlargest(READ_DECISIONS, times)
    found = []
    for time, size, path in newest:
        try:
            record = _read(path, time, size)
        except OSError as error:
            log.warning("left out of the newest decisions: %s", error)
            continue
        if record:
            found.append((time / 1e9, record))
    return found


@lru_cache(maxsize=2 * READ_DECISIONS)
def _read(path: str, _time: int, _size: int) -> DecisionSummary | None:
    """A decision; read again only if its file looks different. None if it is damaged."""
    try:
        record = DecisionSummary.read(Path(path), "clear the promote task to write it again")
    except ModelError as error:
        log.warning("left out of the newest decisions: %s", error)
        return None
    return record


def in_days(age: timedelta) -> str:
    """A time in whole days, in words; a time that is negative, as after a clock was set back, counts as none."""
    days = max(0, age.days)
    return "less than a day" if days == 0 else "1 day" if days == 1 else f"{days} days"
