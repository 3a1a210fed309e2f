"""What Airflow's triggerer runs to watch the inbox: it says once of each complete batch that it is there.

No plugin, in spite of the folder (see `.airflowignore`): it is one of the places that a triggerer imports from, and the
DAG folder is not. What has been said is kept in Airflow's database with the asset, so that neither a restart of the
triggerer nor a batch that goes away and comes back makes a second run.

One value there holds 64 KiB, so it is kept in `PAGES` of them: which one a batch's mark is in follows from the mark, so
that each is written whole and none depends on another. Together they hold some 700,000 batches.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from mnist_tasks.data.inbox import complete_batches

SAID = "said"  # where releases before pages kept it: up to 2,000 marks
PAGES = 256
MOST = 3000  # marks to a page: 60 kB
NAMED = 100  # batches that an event names


class InboxTrigger(BaseEventTrigger):
    """Fires when there are complete batches that it has not fired for.

    Args:
        folder: the inbox.
        every: seconds between two looks at it.
    """

    def __init__(self, *, folder: str, every: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder, self.every = folder, every
        self.known: set[str] = set()  # marks of which it is certain that they have been said

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again."""
        return "mnist_inbox.InboxTrigger", {"folder": self.folder, "every": self.every}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and fire for what is new; whatever fails is tried again at the next look."""
        while True:
            try:
                new = await self.look()
            except Exception as error:
                # Were it raised, the triggerer would start this trigger again at once, and so on.
                self.log.warning("the inbox %s cannot be watched now: %s", self.folder, error)
                new = []
            if new:
                event = {"batches": new[:NAMED], "number": len(new)}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.every)

    async def look(self) -> list[str]:
        """The names of the new batches, which are remembered before anybody hears of them.

        So a crash between the two costs a run, which the next night makes up for, and never makes two.
        """
        store = self.asset_state_store
        assert store  # noqa: S101 - the triggerer provides it
        # In a thread: the triggerer's other triggers must not wait for a slow file system.
        found = await asyncio.to_thread(complete_batches, Path(self.folder))
        marks = {hashlib.sha256(f"{name}\n{stamp}".encode()).hexdigest()[:16]: name for name, stamp in found.items()}
        self.known &= marks.keys()
        unknown = marks.keys() - self.known
        if not unknown:
            return []
        earlier: Any = await store.aget(SAID, [])
        self.known |= unknown.intersection(earlier)
        pages: dict[str, list[str]] = defaultdict(list)
        for mark in sorted(unknown - self.known):
            pages[_page(mark)].append(mark)
        new: list[str] = []
        for page, here in sorted(pages.items()):
            try:
                new += await self._remember(page, here, marks)
            except Exception as error:
                if not new:
                    raise
                # What is remembered must be said now; the rest is found again at the next look.
                self.log.warning("not all new batches of %s can be remembered now: %s", self.folder, error)
                break
        return sorted(marks[mark] for mark in new)

    async def _remember(self, page: str, here: list[str], marks: dict[str, str]) -> list[str]:
        """Put marks of batches that are there into their page, and return those that were not in it."""
        store: Any = self.asset_state_store
        said: list[str] = await store.aget(page, [])
        present = [mark for mark in said if mark in marks]
        new = [mark for mark in here if mark not in said]
        room = MOST - len(present)
        if len(new) > room:
            # Nothing that is there is forgotten for them: it would be said again.
            self.log.warning(
                "%s has more batches than can be told apart: %s are left to the next run; join or remove old ones",
                self.folder,
                f"{len(new) - room:,}",
            )
            new = new[:room]
        if new:
            gone = [mark for mark in said if mark not in marks]
            await store.aset(page, [*gone, *present, *new][-MOST:])
        self.known.update(present, new)
        return new


def _page(mark: str) -> str:
    """Where a mark is kept."""
    return f"{SAID}-{int(mark[:8], 16) % PAGES:02x}"
