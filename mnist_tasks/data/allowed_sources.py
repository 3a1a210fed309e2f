"""What may be read: which folders, hosts and buckets a data source or an inbox may lie in.

Whoever may trigger the DAG names a source, and the worker reads it with its own rights: its files, its network, its
cloud account. So there is a short list of schemes, no chained ones (`zip::`, `simplecache::`), and the setting
MNIST_SOURCES, a list of what may be read, separated by commas:

    /data                       a folder and all below it; / for any file of the worker
    https://data.example.com    a host, whatever its address; with a port or a path if given
    https://*                   any host with a public address
    s3://bucket/digits          a bucket, or what begins so in it; s3://* for any
    s3://conn_id@bucket         a bucket, read with the credentials of that Airflow connection; s3://conn_id@* for any

MNIST_HOME may always be read. Without the setting, anything of the worker's files, public hosts and any bucket may be;
a loopback, link-local or private address only if its host is listed.

Needs neither NumPy nor the network.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable
from mnist_tasks.system.store_url import connection_and_path
from mnist_tasks.workspace import Workspace

SETTING = "MNIST_SOURCES"
DEFAULT = "/, https://*, http://*, s3://*, gs://*"

PORTS = {"https": 443, "http": 80}
SCHEMES = ("https", "http", "s3", "gs", "file")
# Addresses in IPv6 that stand for one in IPv4: https://www.rfc-editor.org/rfc/rfc6052, section 2.1.
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that is handed out in IPv6: https://www.iana.org/assignments/ipv6-address-space. What lies outside of it leads
# nowhere, or stands for an address in IPv4 in some other way, which not every Python knows.
IPV6_GLOBAL = ipaddress.ip_network("2000::/3")
# A public address to look at, but each virtual machine on Azure finds its host there, with what it is set up with.
AZURE_HOST = ipaddress.ip_address("168.63.129.16")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Place:
    """One entry of the list behind a scheme: a host or bucket, `*` for any; a port, 0 for any; how paths begin.

    Who may name a source may not use every connection that Airflow has. So a connection is allowed by its id only.
    """

    scheme: str
    host: str
    port: int = 0
    path: str = ""
    connection: str | None = None

    def holds(self, other: Place) -> bool:
        """Whether what is asked for lies in it."""
        inside = other.path == self.path or other.path.startswith(f"{self.path.rstrip('/')}/")
        return (
            (self.scheme, self.connection) == (other.scheme, other.connection)
            and self.host in ("*", other.host)
            and self.port in (0, other.port)
            and (not self.path.strip("/") or inside)
        )


@dataclass(frozen=True)
class AllowedSources:
    """What may be read; `text` is the setting that says so, for messages."""

    text: str
    folders: tuple[Path, ...]
    places: tuple[Place, ...]

    @classmethod
    def from_environment(cls) -> AllowedSources:
        """What MNIST_SOURCES allows, and MNIST_HOME in any case."""
        try:
            allowed = parse(os.environ.get(SETTING, ""))
        except InputError as error:
            raise InputError(f"{SETTING}: {error}") from error
        try:
            home = Workspace.from_environment().root
        except InputError:  # as a library, without a workspace
            return allowed
        return cls(allowed.text, (*allowed.folders, home.resolve()), allowed.places)

    def source(self, source: str) -> Path | str:
        """A data source's path with all links followed, or its URL.

        Raises:
            InputError: if it may not be read, has another scheme, or is neither a file nor a folder.
        """
        if "://" not in source:
            return self.path(source)
        if scheme_of(source) != "file":
            self._check(source)
            return source
        return self.path(_file_path(source, "source: "))

    def inbox(self, inbox: str | Path) -> Path | str:
        """An inbox's path with all links followed, or its URL in an object store; raises as `source`."""
        if isinstance(inbox, Path):
            return self.path(inbox)
        place = self.source(inbox)
        if isinstance(place, str) and scheme_of(place) in PORTS:
            raise InputError(f"inbox: {printable(inbox)} cannot be listed; use a folder, s3 or gs")
        return place

    def path(self, text: str | Path) -> Path:
        """A path of this machine with all links followed; raises as `source`."""
        try:
            path = Path(text).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no such user, a zero byte
            if is_transient(error):
                raise
            raise InputError(f"{printable(text)} is not a path: {error}") from error
        if not any(path.is_relative_to(folder) for folder in self.folders):
            raise InputError(f"{printable(text)} may not be read: {self._allowed()}")
        return path

    def host(self, url: str) -> tuple[str, int, bool]:
        """Host and port of an `http` or `https` URL that may be read, and whether its address must be a public one.

        Raises:
            InputError: if it may not be read, or is not a URL.
        """
        asked, held = self._check(url)
        return asked.host, asked.port, all(place.host == "*" for place in held)

    def _check(self, url: str) -> tuple[Place, list[Place]]:
        asked = _place(url)
        if asked.scheme in PORTS and re.search("%2f|%5c", urlsplit(url).path, re.IGNORECASE):
            # Whether that is a separator is the server's to say: the path is known to lie nowhere.
            asked = replace(asked, path="")
        held = [place for place in self.places if place.holds(asked)]
        if not held:
            raise InputError(f"{url} may not be read: {self._allowed()}")
        return asked, held

    def _allowed(self) -> str:
        allowed = f"{SETTING} allows {self.text} and MNIST_HOME" if self.text else f"{SETTING} allows MNIST_HOME alone"
        return f"{allowed}; whoever runs the workers can add to it"


def parse(text: str) -> AllowedSources:
    """What a value of MNIST_SOURCES allows; an empty one is the default.

    Raises:
        InputError: with the entry that cannot be understood.
    """
    entries = [entry.strip() for entry in (text if text.strip() else DEFAULT).split(",")]
    folders, places = [], []
    for entry in filter(None, entries):
        if "://" in entry and scheme_of(entry, "") != "file":
            place = _place(entry, "")
            places.append(place if re.search(r":\d+$", urlsplit(entry).netloc) else _any_port(place))
            continue
        folder = Path(_file_path(entry, "") if "://" in entry else entry).expanduser()
        if not folder.is_absolute():
            raise InputError(
                f"{entry!r} is neither an absolute path nor a URL; write it as /data, https://example.com, "
                "https://* or s3://bucket"
            )
        folders.append(folder.resolve())
    return AllowedSources(", ".join(filter(None, entries)), tuple(folders), tuple(places))


def scheme_of(url: str, whose: str = "source: ") -> str:
    """The scheme of a URL, in lower case, once it is one that can be read; `whose` URL it is begins the message."""
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        chained = "chained protocols are not read; " if "::" in scheme else ""
        raise InputError(f"{whose}{printable(url)} cannot be read: {chained}use {', '.join(SCHEMES)}")
    if scheme in ("s3", "gs") and "::" in url:
        raise InputError(f"{whose}{printable(url)} cannot be read: chained protocols are not read")
    return scheme


def check_public(host: str, addresses: Iterable[str]) -> None:
    """Raise an `InputError` if one of a host's addresses is not public."""
    for text in addresses:
        if kind := _not_public(ipaddress.ip_address(text.partition("%")[0])):
            what = f"{host} is {kind}" if text == host else f"{host} has the address {text}, which is {kind}"
            raise InputError(f"{what}: it is only read if {SETTING} lists {host} by name")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or as an address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a host.

    Raises:
        OSError: if it cannot be looked up now.
        InputError: if it is not a name that a host can have.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise InputError(f"source: {printable(host)} is not the name of a host: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _not_public(address: Address) -> str | None:
    """What kind of address it is, if none that everybody can reach."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside:
            return _not_public(inside)
    if address == AZURE_HOST:
        return "the address of the cloud's own services"
    for kind in ("loopback", "link_local", "multicast", "unspecified", "private"):
        if getattr(address, f"is_{kind}"):
            return f"{'an' if kind[0] == 'u' else 'a'} {kind.replace('_', '-')} address"
    handed_out = address.version == 4 or address in IPV6_GLOBAL
    return None if address.is_global and handed_out else "a reserved address"


def _place(url: str, whose: str = "source: ") -> Place:
    scheme = scheme_of(url, whose)
    if printable(url) != url:
        raise InputError(f"{whose}{printable(url)} is not a URL: it has bytes that are not UTF-8; write them as %FF")
    if scheme not in PORTS:
        connection_and_path(url)  # says nothing of what may be a password
    try:
        split = urlsplit(url)
        # Brackets belong to an address in IPv6, a dot at the end to a name from the root.
        host, port = (split.hostname or "").removesuffix("."), split.port
        host = host.encode("idna").decode()  # also checks how long each part of the name is
    except ValueError as error:  # UnicodeError is one
        raise InputError(f"{whose}{printable(url)} is not a URL: {error}") from error
    if not host or re.search(r"[\s\0\\]", split.netloc):
        raise InputError(f"{whose}{printable(url)} is not a URL: it names no host or bucket")
    if scheme in PORTS:
        return Place(scheme, host, port or PORTS[scheme], _plain(split.path))
    # A bucket's name is a case of its own, and whatever follows it is the key.
    connection, path = connection_and_path(url)
    bucket, _, key = path.partition("/")
    return Place(scheme, bucket, 0, f"/{key}" if key else "", connection)


def _any_port(place: Place) -> Place:
    return replace(place, port=0 if place.host == "*" else place.port)


def _plain(path: str) -> str:
    """A URL's path without `..`, which would lead out of a prefix."""
    return "" if path in ("", "/") else posixpath.normpath(unquote(path)) + ("/" if path.endswith("/") else "")


def _file_path(url: str, whose: str) -> str:
    """The path that a `file` URL names; raises an `InputError` if the URL names another machine."""
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{whose}{printable(url)} is not a URL: {error}; write file:///path") from error
    if split.netloc not in ("", "localhost"):
        raise InputError(f"{whose}{printable(url)} names the host {printable(split.netloc)}; write file:///path")
    return unquote(split.path)
