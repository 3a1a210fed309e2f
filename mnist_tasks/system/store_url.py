"""URLs that name an Airflow connection instead of credentials: of object stores, and of servers.

`s3://conn_id@bucket/prefix`, `https://conn_id@mlflow.example.com`. Light, as DAG files check their settings with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable

CONNECTION = re.compile(r"[A-Za-z0-9_.-]{1,200}")  # of what Airflow allows in a connection's id, what a URL can hold
SCHEMES = ("s3", "gs", "file", "memory")
WITHOUT_CONNECTION = ("file", "memory")


@dataclass(frozen=True)
class StoreUrl:
    """A place in an object store. `path` is `bucket/prefix`, or an absolute path for `file`."""

    scheme: str
    connection: str | None
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{f'{self.connection}@' if self.connection else ''}{self.path}"

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Read a URL.

        Raises:
            InputError: if it is none of a store. The message does not repeat what may be a password.
        """
        scheme, separator, _ = text.strip().partition("://")
        example = "write it as s3://conn_id@bucket/prefix"
        if not separator or scheme not in SCHEMES:
            shown = printable(scheme if separator else text.strip())
            raise InputError(f"{shown!r} is not the URL of a store: use {', '.join(SCHEMES)}; {example}")
        connection, after = connection_and_path(text.strip())
        if connection and scheme in WITHOUT_CONNECTION:
            raise InputError(f"{scheme} has no connections; write {scheme}://{printable(after)}")
        if printable(after) != after or re.search(r"[\0-\x1f?#\\]", after):
            raise InputError(f"{printable(text.strip())!r} has characters that a store's URL cannot have; {example}")
        if ".." in after.split("/"):
            raise InputError(f"{text.strip()} has a .. in its path; write where it leads to")
        bucket = after.partition("/")[0]
        if scheme == "file" and (bucket or not after.strip("/")):
            raise InputError(f"{text.strip()} is not the path of a folder; write file:///path")
        if scheme != "file" and (not bucket or re.search(r"\s", bucket)):
            raise InputError(f"{text.strip()} names no bucket; {example}")
        return cls(scheme, connection, after.rstrip("/"))


def connection_and_path(url: str) -> tuple[str | None, str]:
    """The id of the connection in a store's URL, if there is one, and what follows: `bucket/prefix`.

    Raises:
        InputError: if there is something else in its place. The message does not repeat what may be a password.
    """
    scheme, _, rest = url.partition("://")
    example = f"write it as {scheme}://conn_id@bucket/prefix"
    first = rest.partition("/")[0]
    if ":" in first:  # and perhaps a password with a slash behind it
        raise InputError(
            f"{scheme}://... holds credentials or a port; put them into an Airflow connection, and {example}"
        )
    if "@" not in first:
        return None, rest
    connection, _, path = rest.partition("@")
    if not CONNECTION.fullmatch(connection):
        raise InputError(f"{printable(connection)!r} is not the id of an Airflow connection; {example}")
    return connection, path


@dataclass(frozen=True)
class ServerUrl:
    """The address of a server, without the connection that has the credentials for it."""

    url: str
    connection: str | None

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """Read a URL; raises an `InputError` if it is none of a server, without what may be a password."""
        example = "write it as http://host:5000, or http://conn_id@host:5000 with an Airflow connection"
        try:
            split = urlsplit(text.strip())
            port = split.port
        except ValueError as error:
            raise InputError(f"it is not the URL of a server: {error}; {example}") from None
        if split.password is not None:
            raise InputError(f"{split.scheme}://... holds a password; put it into an Airflow connection, and {example}")
        if split.username is not None and not CONNECTION.fullmatch(split.username):
            raise InputError(f"{printable(split.username)!r} is not the id of an Airflow connection; {example}")
        if split.scheme not in ("http", "https") or not split.hostname or re.search(r"[\s\\]", text.strip()):
            raise InputError(f"{printable(text.strip())!r} is not the URL of a server; {example}")
        if split.query or split.fragment:
            raise InputError(f"{split.scheme}://{split.hostname}... has a query or a fragment; {example}")
        host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
        return cls(f"{split.scheme}://{host}{f':{port}' if port else ''}{split.path.rstrip('/')}", split.username)
