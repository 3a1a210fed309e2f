"""Looks for damaged versions behind the pages: hashing all files would take seconds, so a thread does it.

A version is hashed again if the size, time or inode of one of its files has changed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import WAY_OUT, Version
from mnist_ui.reading import file_signature
from mnist_ui.report import find_damage

log = logging.getLogger(__name__)

PAUSE_SECONDS = 10.0  # after a sweep

Signature = frozenset[tuple[str, tuple[int, int, int] | None]]


@dataclass
class Verifier:
    """What is known about the files of each version; `problems` starts a sweep if the last one is a while ago."""

    _known: dict[Version, tuple[Signature, str | None]] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _ended: float = -PAUSE_SECONDS
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def problems(self, models: ModelDirectory) -> dict[int, str]:
        """What the last sweep has found wrong with versions, by number. It does not wait for a new one."""
        with self._lock:
            running = self._thread and self._thread.is_alive()
            if not running and time.monotonic() - self._ended >= PAUSE_SECONDS:
                self._thread = threading.Thread(target=self._sweep, args=(models,), name="verify-models", daemon=True)
                self._thread.start()
        return {
            version.number: problem
            for version, (_, problem) in list(self._known.items())
            if problem and version.folder.is_relative_to(models.root)
        }

    def wait(self) -> None:
        """Wait for the sweep that is under way."""
        if self._thread:
            self._thread.join()

    def _sweep(self, models: ModelDirectory) -> None:
        try:
            versions, history = models.versions(), models.champion_history()
            for version in reversed(versions):
                signature = frozenset(_signatures(str(version.folder)))
                known = self._known.get(version)
                if known is None or known[0] != signature:
                    found = find_damage(models, version, history)
                    if found and frozenset(_signatures(str(version.folder))) != signature:
                        continue  # it was moved, pruned or repaired meanwhile
                    self._known[version] = signature, f"{found[0].removesuffix(WAY_OUT)}{WAY_OUT}" if found else None
            for gone in self._known.keys() - set(versions):
                del self._known[gone]
        except OSError as error:  # which says nothing about a version; the next sweep goes on
            log.warning("the files of the versions cannot be checked now: %s", error)
        finally:
            self._ended = time.monotonic()


def _signatures(folder: str) -> Iterator[tuple[str, tuple[int, int, int] | None]]:
    for path, _, names in os.walk(folder):
        for name in names:
            yield f"{path}/{name}", file_signature(f"{path}/{name}")
