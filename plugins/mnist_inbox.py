"""What Airflow's triggerer runs to watch the inbox: it reports each complete batch once.

This is not a plugin, in spite of the folder (see `.airflowignore`): a triggerer can import from here, but not from the
DAG folder. Which batches were reported is stored in Airflow's database with the asset, so neither a restart of the
triggerer nor a batch that disappears and comes back starts a second run.

One value there holds 64 KiB, so the marks of the batches are spread over `PAGES` values. A mark itself determines its
page, so pages are written independently. Together they hold about 700,000 batches.
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

REPORTED_KEY = "said"  # the prefix of the pages' keys; releases before pages kept up to 2,000 marks under it
PAGES = 256
MAX_MARKS_PER_PAGE = 3000  # 60 kB
MAX_NAMED_BATCHES = 10  # in an event, which Airflow keeps and shows; the run's report names all of them
MAX_NAME_CHARACTERS = 100


class InboxTrigger(BaseEventTrigger):
    """Fires when there are complete batches that it has not reported yet.

    Args:
        folder: the inbox.
        every: seconds between two looks at the inbox.
    """

    def __init__(self, *, folder: str, every: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder, self.every = folder, every
        self.reported: set[str] = set()  # marks that have certainly been reported

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer creates it again."""
        return "mnist_inbox.InboxTrigger", {"folder": self.folder, "every": self.every}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the inbox and report new batches. After an error, the next look tries again."""
        while True:
            try:
                new = await self.look()
            except Exception as error:
                # If it were raised, the triggerer would restart this trigger at once, again and again.
                self.log.warning("the inbox %s cannot be watched now: %s", self.folder, error)
                new = []
            if new:
                names = [name[:MAX_NAME_CHARACTERS] for name in new[:MAX_NAMED_BATCHES]]
                event = {"batches": names, "number": len(new)}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.every)

    async def look(self) -> list[str]:
        """The names of the new batches, which are stored as reported before they are reported.

        So a crash between the two costs a run, which the next night makes up for, but never starts two.
        """
        store = self.asset_state_store
        assert store  # noqa: S101 - the triggerer provides it
        # In a thread: the triggerer's other triggers must not wait for a slow file system.
        batches = await asyncio.to_thread(complete_batches, Path(self.folder))
        marks = {hashlib.sha256(f"{name}\n{stamp}".encode()).hexdigest()[:16]: name for name, stamp in batches.items()}
        self.reported &= marks.keys()
        unknown = marks.keys() - self.reported
        if not unknown:
            return []
        earlier: Any = await store.aget(REPORTED_KEY, [])
        self.reported |= unknown.intersection(earlier)
        pages: dict[str, list[str]] = defaultdict(list)
        for mark in sorted(unknown - self.reported):
            pages[_page(mark)].append(mark)
        new: list[str] = []
        for page, here in sorted(pages.items()):
            try:
                new += await self._remember(page, here, marks)
            except Exception as error:
                if not new:
                    raise
                # What is stored must be reported now; the next look finds the rest.
                self.log.warning("not all new batches of %s can be stored as reported now: %s", self.folder, error)
                break
        return sorted(marks[mark] for mark in new)

    async def _remember(self, page: str, here: list[str], marks: dict[str, str]) -> list[str]:
        """Add marks of present batches to their page; return those that were not in it."""
        store: Any = self.asset_state_store
        reported: list[str] = await store.aget(page, [])
        present = [mark for mark in reported if mark in marks]
        new = [mark for mark in here if mark not in reported]
        room = MAX_MARKS_PER_PAGE - len(present)
        if len(new) > room:
            # No present batch is forgotten for new ones: it would be reported again.
            self.log.warning(
                "%s has more batches than can be told apart: %s are left to the next run; join or remove old ones",
                self.folder,
                f"{len(new) - room:,}",
            )
            new = new[:room]
        if new:
            gone = [mark for mark in reported if mark not in marks]
            await store.aset(page, [*gone, *present, *new][-MAX_MARKS_PER_PAGE:])
        self.reported.update(present, new)
        return new


def _page(mark: str) -> str:
    """The key of the page that holds a mark."""
    return f"{REPORTED_KEY}-{int(mark[:8], 16) % PAGES:02x}"
