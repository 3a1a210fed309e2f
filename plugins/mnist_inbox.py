"""What Airflow's triggerer runs to watch the inbox: it says once of each complete batch that it is there.

No plugin, in spite of the folder (see `.airflowignore`): it is one of the places that a triggerer imports from, and the
DAG folder is not. What has been said is kept in Airflow's database with the asset, so that neither a restart of the
triggerer nor a batch that goes away and comes back makes a second run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from mnist_tasks.errors import InputError
from mnist_tasks.inbox import complete_batches

SAID = "said"  # where it is kept
MOST = 2000  # batches to remember: 40 kB, of the 64 KiB that Airflow keeps in one value


class InboxTrigger(BaseEventTrigger):
    """Fires when there are complete batches that it has not fired for.

    Args:
        folder: the inbox.
        every: seconds between two looks at it.
    """

    def __init__(self, *, folder: str, every: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder, self.every = folder, every

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
                yield TriggerEvent({"batches": new})  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.every)

    async def look(self) -> list[str]:
        """The names of the new batches, which are remembered before anybody hears of them.

        So a crash between the two costs a run, which the next night makes up for, and never makes two.
        """
        store = self.asset_state_store
        assert store  # noqa: S101 - the triggerer provides it
        # In a thread: the triggerer's other triggers must not wait for a slow file system.
        found = await asyncio.to_thread(complete_batches, Path(self.folder))
        if len(found) > MOST:
            raise InputError(
                f"it has {len(found):,} batches, more than the {MOST:,} that can be told apart; join or remove old ones"
            )
        marks = {hashlib.sha256(f"{name}\n{stamp}".encode()).hexdigest()[:16]: name for name, stamp in found.items()}
        said: Any = await store.aget(SAID, [])
        new = sorted(marks.keys() - set(said), key=marks.__getitem__)
        if new:
            gone = [mark for mark in said if mark not in marks]
            await store.aset(SAID, [*gone, *marks][-MOST:])
        return [marks[mark] for mark in new]
