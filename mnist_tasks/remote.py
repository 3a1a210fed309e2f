"""Digits behind a URL: fetched to a temporary folder, within bounds, and then read as any local file.

`https` and `http` go through httpx, which the project has anyway; `s3`, `gs` and every other scheme through fsspec, as
in Airflow, with the credentials that its packages find in the environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import fsspec  # type: ignore[import-untyped]
import httpx

from mnist_tasks.errors import InputError

MOST_BYTES = 4 << 30  # more than the largest source may hold
PIECE = 1 << 20
PLAIN = {"Accept-Encoding": "identity"}
PATIENCE = 60.0  # seconds without a byte


def download(url: str, folder: Path) -> Path:
    """Fetch what a URL names, a file or a folder with all that is in it; returns its path on this machine.

    Args:
        url: `http`, `https`, or any scheme that fsspec knows, such as `s3` and `gs`.
        folder: an empty folder to put it in.

    Raises:
        InputError: if there is no such file, it is too large or may not be read, or a package for the scheme is
            missing.
        OSError: if the server cannot be reached or breaks off: it may be back when the task is tried again.
    """
    is_http = url.lower().startswith(("http://", "https://"))
    return _over_http(url, folder) if is_http else _through_fsspec(url, folder)


def _over_http(url: str, folder: Path) -> Path:
    path = folder / "source"
    try:
        with httpx.stream("GET", url, headers=PLAIN, follow_redirects=True, timeout=PATIENCE) as answer:
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise ConnectionError(f"{url} answers with status {answer.status_code}; try again later")
            if answer.status_code != httpx.codes.OK:
                raise InputError(f"{url} answers with status {answer.status_code}; check the address and the rights")
            _write(answer.iter_raw(PIECE), path, MOST_BYTES, url)
    except httpx.InvalidURL as error:
        raise InputError(f"{url} is no URL: {error}") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"{url} cannot be fetched: {error}; check the connection") from error
    return path


def _through_fsspec(url: str, folder: Path) -> Path:
    try:
        system, root = fsspec.core.url_to_fs(url)
        files = system.find(root, detail=True) if system.isdir(root) else {root: system.info(root)}
        total = sum(entry["size"] or 0 for entry in files.values())
        if total > MOST_BYTES:
            raise _too_large(url)
        left = MOST_BYTES
        for name in sorted(files):
            inside = PurePosixPath(name.removeprefix(root).lstrip("/") or "source")
            if ".." in inside.parts:
                raise InputError(f"{url} has a file {name!r} that would lie outside of its folder; rename it")
            path = folder / "source" / inside if name != root else folder / "source"
            path.parent.mkdir(parents=True, exist_ok=True)
            with system.open(name, "rb") as file:
                left -= _write(iter(lambda file=file: file.read(PIECE), b""), path, left, url)  # type: ignore[misc]
    except ImportError as error:
        raise InputError(f"{url} needs a package that is not installed: {error}; install it where tasks run") from error
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(
            f"{url} cannot be read: {error or type(error).__name__}; check the address and the rights"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{url} cannot be read: {error}; use file, https, s3, gs or another that fsspec knows"
        ) from error
    return folder / "source"


def _write(pieces: Iterable[bytes], path: Path, most: int, url: str) -> int:
    """Write the pieces and return how many bytes that were."""
    written = 0
    with path.open("wb") as target:
        for piece in pieces:
            written += len(piece)
            if written > most:
                raise _too_large(url)
            target.write(piece)
    return written


def _too_large(url: str) -> InputError:
    return InputError(f"{url} has more than {MOST_BYTES:,} bytes, which no source may have; split it")
