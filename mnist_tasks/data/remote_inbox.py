"""An inbox in an object store: copied to this machine before it is looked into, and each night only what is new.

What makes a batch complete is the same as for a folder (see `inbox`), but by what the store says: a marker, or that
nothing in the batch was written in the last `QUIET_SECONDS`, by the clocks of the store and of this machine. Only
complete batches are copied. Nothing is ever written to the store.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from mnist_tasks.data.inbox import DONE, QUIET_SECONDS
from mnist_tasks.system.disk_space import require_space
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import is_clutter, printable, walk
from mnist_tasks.system.object_store import Store, StoredObject
from mnist_tasks.system.store_url import StoreUrl

log = logging.getLogger(__name__)

COPIES = ".inbox"  # beside the datasets; what starts with a dot is none
MARKER = StoredObject(0, 0.0, "")  # whatever is in it


def copy_inbox(url: str, datasets: Path, now: float | None = None) -> Path:
    """Bring the copy of an inbox up to date; return its folder. The caller holds the lock on `datasets`.

    Args:
        url: the inbox, `s3://conn_id@bucket/prefix`.
        datasets: the folder of all datasets, which the copy lies in. There is one copy; that of another URL goes.
        now: seconds since 1970, to compare the objects' times with; default: the clock's.

    Raises:
        InputError: if it cannot be read as it is, or a name in it cannot be one of a file.
        OSError: if the store cannot be reached now.
    """
    store = Store(StoreUrl.parse(url))
    now = time.time() if now is None else now
    folder = datasets / COPIES / hashlib.sha256(str(store.url).encode()).hexdigest()[:16]
    for other in (datasets / COPIES).glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    batches: dict[str, dict[str, StoredObject]] = {}
    for name, found in store.objects().items():
        batch = _checked(name, store).partition("/")[0]
        if not is_clutter(batch):
            batches.setdefault(batch, {})[name] = MARKER if name.endswith(DONE) else found
    wanted: dict[str, StoredObject] = {}
    waiting = []
    for batch, objects in batches.items():
        if _is_complete(batch, objects, batches, now):
            wanted.update(objects)
            if not batch.endswith(DONE):
                wanted[f"{batch}{DONE}"] = MARKER
        else:
            waiting.append(batch)
    _remove_others(folder, wanted)
    new = {name: found for name, found in wanted.items() if not _is_here(folder / name, found)}
    require_space({folder: sum(found.size for found in new.values())})
    for name, found in new.items():
        _bring(store, name, found, folder / name)
    for batch in waiting:
        # An empty folder that has just changed is a batch that is not complete yet.
        (folder / batch).mkdir()
    log.info("%s: %d batches are new or have changed in %d files", url, len({n.split("/")[0] for n in new}), len(new))
    return folder


def _checked(name: str, store: Store) -> str:
    """A name that a file below the copy's folder can have."""
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\0-\x1f\\]", name):
        raise InputError(f"{store.url} has an object {printable(name)!r}, which no file can be named; rename it")
    return name


def _is_complete(batch: str, objects: Mapping[str, StoredObject], batches: Mapping[str, object], now: float) -> bool:
    marked = batch.endswith(DONE) or f"{batch}{DONE}" in batches or f"{batch}/{DONE}" in objects
    return marked or now - max(found.modified for found in objects.values()) >= QUIET_SECONDS


def _stamp(found: StoredObject) -> int:
    """The time that the copy of an object gets, in ns: that of the object, with its tag for what is below a second.

    An object that is written twice within a second has two tags; whatever has another time is read again.
    """
    return int(found.modified) * 10**9 + int(hashlib.sha256(found.tag.encode()).hexdigest()[:7], 16)


def _is_here(path: Path, found: StoredObject) -> bool:
    if not path.is_file():
        return False
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (found.size, _stamp(found))


def _bring(store: Store, name: str, found: StoredObject, path: Path) -> None:
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise InputError(f"{store.url} has {name} as an object and as a folder; rename one of them")
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(DONE):
        path.touch()
    else:
        store.download(name, path)
    os.utime(path, ns=(_stamp(found), _stamp(found)))


def _remove_others(folder: Path, wanted: Mapping[str, StoredObject]) -> None:
    """Remove what is no longer in the inbox, or not complete any more."""
    for path in sorted(walk(folder), reverse=True):
        if path.is_dir():
            if path != folder and not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
