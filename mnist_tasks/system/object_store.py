"""Object stores by URL: `s3://conn_id@bucket/prefix`, with credentials from the Airflow connection before the `@`.

Without a connection the store is opened with the credentials that its packages find in the environment. A URL never
holds a secret, so messages may show it.

The packages behind the stores let all kinds of errors through. `explained` makes two of them: what somebody has to
change, and what the next try may get over.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec  # type: ignore[import-untyped]

from mnist_tasks.system import connections
from mnist_tasks.system.disk_space import DiskError
from mnist_tasks.system.errors import InputError, TaskError, is_transient
from mnist_tasks.system.files import atomic_file
from mnist_tasks.system.store_url import StoreUrl

T = TypeVar("T")

# What to install for a store, beside requirements.txt.
PACKAGES = {"s3": "requirements-s3.txt", "gs": "apache-airflow-providers-google and gcsfs, with -c requirements.txt"}
PIECE = 1 << 20

# S3's error codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
WAYS_OUT = {
    "NoSuchBucket": "there is no such bucket; make it, or correct the name",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it, as with NTP",
    "InvalidAccessKeyId": "its key is not known there; correct the connection",
    "SignatureDoesNotMatch": "its secret key is wrong; correct the connection",
    "ExpiredToken": "its token has expired; renew the connection",
    "AccessDenied": "the rights to list, read or write there are missing",
    "403": "its key or secret is not known there, or has not the rights to list, read and write",  # without a reason
}
MAY_PASS = re.compile(
    r"5\d\d|408|429|SlowDown|InternalError|ServiceUnavailable|RequestTimeout\w*|Throttling\w*|BadDigest"
)

MAY_PASS_NAMES = ("Connection", "Timeout", "Transport", "IncompleteRead", "Checksum")  # parts of exceptions' names


def file_system(scheme: str, connection: str | None) -> Any:
    """fsspec's file system for a scheme, with the credentials of an Airflow connection or of the environment.

    Raises:
        InputError: if there is no such connection.
        ImportError: if a package is missing.
    """
    return connections.file_system(scheme, connection) if connection else fsspec.filesystem(scheme)


@contextmanager
def explained(url: str, done: str = "read", connection: str | None = None) -> Iterator[None]:
    """Name the URL in what the block raises, which reads from a store or writes to it.

    Args:
        url: for messages.
        done: what cannot be done: `read` or `written`.
        connection: the connection in use.

    Raises:
        InputError: if somebody has to change something: the address, the rights, the clock, the installation.
        ConnectionError: if the next try may succeed.
    """
    scheme = url.partition("://")[0]
    try:
        yield
    except (TaskError, DiskError):
        raise
    except ImportError as error:
        raise InputError(
            f"{url} needs a package that is not installed: {error}; install {PACKAGES.get(scheme, 'it')} where tasks "
            "run"
        ) from error
    except Exception as error:
        code = _code(error)
        whose = f" with the connection {connection}" if connection else ""
        if code in WAYS_OUT:
            raise InputError(f"{url} cannot be {done}{whose}: {code}: {WAYS_OUT[code]}") from error
        if code and MAY_PASS.fullmatch(code):
            raise ConnectionError(f"{url} cannot be {done} now: the store answers {code}; try again later") from error
        names = {kind.__name__ for kind in type(error).__mro__}
        if is_transient(error) or any(word in name for name in names for word in MAY_PASS_NAMES):
            name = type(error).__name__
            raise ConnectionError(f"{url} cannot be {done} now: {name}; check the connection") from error
        # Not its text: some packages put what they have sent into it.
        raise InputError(
            f"{url} cannot be {done}{whose}: {code or type(error).__name__}; check the address, the rights and the "
            "credentials"
        ) from error


def _code(error: BaseException | None) -> str | None:
    """The error code in a store's answer, as botocore and gcsfs hand it on, also in a cause."""
    for _ in range(5):
        response = getattr(error, "response", None)
        if isinstance(response, dict) and (code := response.get("Error", {}).get("Code")):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return str(status) if isinstance(status, int) and status >= 500 else str(code)
        if error is None:
            break
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True)
class StoredObject:
    """An object as a store lists it: its size in bytes, when it was written in seconds since 1970, and its tag."""

    size: int
    modified: float
    tag: str


def _modified(entry: Mapping[str, Any]) -> float:
    """When an object was written, by the file systems' own names for it; 0 if the store does not say."""
    found = next((entry[name] for name in ("LastModified", "updated", "created", "mtime") if entry.get(name)), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found.replace("Z", "+00:00"))
    return found.timestamp() if isinstance(found, datetime) else float(found)


class Store:
    """The objects below a URL, by their names relative to it."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        with self._explained():
            self._system = file_system(url.scheme, url.connection)

    def sizes(self, below: str = "") -> dict[str, int]:
        """The size in bytes of each object below a name, as the store lists them now."""
        return {name: found.size for name, found in self.objects(below).items()}

    def objects(self, below: str = "") -> dict[str, StoredObject]:
        """The objects below a name, by their names relative to the URL, as the store lists them now."""
        self._system.invalidate_cache()
        found = self._if_there(lambda: self._system.find(self._path(below), detail=True)) or {}
        prefix = len(self._path("").strip("/")) + 1
        return {
            name.strip("/")[prefix:]: StoredObject(entry["size"] or 0, _modified(entry), str(entry.get("ETag", "")))
            for name, entry in found.items()
            if entry.get("type") != "directory" and not name.endswith("/")  # an object that stands for a folder
        }

    def read(self, name: str) -> bytes | None:
        """A whole object; None if there is none."""
        return self._if_there(lambda: bytes(self._system.cat_file(self._path(name))))

    def sha256(self, name: str) -> str | None:
        """SHA-256 of the bytes that the store gives back, in hexadecimal; None if it has no such object."""

        def digest() -> str:
            found = hashlib.sha256()
            with self._system.open(self._path(name), "rb") as file:
                while piece := file.read(PIECE):
                    found.update(piece)
            return found.hexdigest()

        return self._if_there(digest)

    def download(self, name: str, target: Path) -> None:
        """Copy an object to a file of this machine, in one step."""
        with (
            self._explained(),
            atomic_file(target, durable=False) as temporary,
            self._system.open(self._path(name), "rb") as file,
            temporary.open("wb") as copy,
        ):
            shutil.copyfileobj(file, copy, PIECE)

    def upload(self, source: Path, name: str) -> None:
        """Copy a file of this machine; a reader finds the old object or the new one."""
        with self._explained("written"):
            if self.url.scheme == "file":
                self._replace_file(name, source.read_bytes())
            else:
                self._system.put_file(str(source), self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small object; a reader finds the old one or the new one."""
        with self._explained("written"):
            if self.url.scheme == "file":
                self._replace_file(name, content)
            else:
                self._system.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Remove one object."""
        with self._explained("written"):
            self._system.rm_file(self._path(name))

    def _if_there(self, ask: Callable[[], T]) -> T | None:
        """What the store answers; None if it has no such object. A bucket that is not there is an error."""
        with self._explained():
            try:
                return ask()
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def _replace_file(self, name: str, content: bytes) -> None:
        target = Path(self._path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            temporary.write_bytes(content)

    def _path(self, name: str) -> str:
        return f"{self.url.path}/{name}".rstrip("/") if name else self.url.path

    def _explained(self, done: str = "read") -> Any:
        return explained(str(self.url), done, self.url.connection)
