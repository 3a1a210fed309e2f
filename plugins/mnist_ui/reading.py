"""How the pages read files: nothing through a link that leads elsewhere, and a sentence instead of an exception."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mnist_tasks.documents import JsonFile

T = TypeVar("T", bound=JsonFile)


def plain_file(path: Path, root: Path) -> bool:
    """Whether the path is a file, and not a link to one outside of `root`."""
    if not path.is_file():
        return False
    # Resolving takes ten times as long, and there are thousands of files, of which none is a link.
    steps = takewhile(lambda step: step != root, (path, *path.parents))
    if path.is_relative_to(root) and not any(step.is_symlink() for step in steps):
        return True
    return path.resolve().is_relative_to(root.resolve())


def needed(path: Path, kind: type[T], problems: list[str]) -> T | None:
    """Read a JSON file that must exist. If it cannot be used, return None and add the reason to the problems."""
    count = len(problems)
    content = read(path, kind, problems)
    if content is None and len(problems) == count:
        problems.append(f"{path.name} is missing")
    return content


def read(path: Path, kind: type[T], problems: list[str]) -> T | None:
    """Read a JSON file. Return None if it does not exist yet or cannot be used; add the reason to the problems."""
    try:
        if plain_file(path, path.parent.parent):
            return kind.parse(path.read_bytes())
        if path.exists():
            problems.append(f"{path.name} is not a file of this folder, so it is not read")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        problems.append(f"{path.name} cannot be read: {where}{first['msg']}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    return None


def file_signature(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, and there are thousands
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
