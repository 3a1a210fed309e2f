"""Digits behind a URL: fetched to a temporary folder, within bounds, and then read as any local file.

`https` and `http` go through httpx, which the project has anyway; `s3` and `gs` through fsspec, as in Airflow, with the
credentials of an Airflow connection or those that its packages find in the environment. What may be read at all is for
`reach` to say: of each redirect, and of the very address that is connected to, so that a name that changes its address
in between leads nowhere else.
Through a proxy (HTTPS_PROXY and the like) it is the proxy that looks names up and connects, by its own rules.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from mnist_tasks.data.allowed_sources import SCHEMES, AllowedSources, addresses_of, check_public, is_loopback, scheme_of
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.object_store import explained, file_system
from mnist_tasks.system.store_url import connection_and_path

MAX_BYTES = 4 << 30  # more than the largest source may hold
MAX_REDIRECTS = 5
PIECE = 1 << 20
PLAIN = {"Accept-Encoding": "identity"}
PATIENCE = 60.0  # seconds without a byte


def download(url: str, folder: Path, reach: AllowedSources) -> Path:
    """Fetch what a URL names, a file or a folder with all that is in it; returns its path on this machine.

    Args:
        url: `http`, `https`, `s3` or `gs`.
        folder: an empty folder to put it in.
        reach: what may be read.

    Raises:
        InputError: if it may not be read, there is no such file, it is too large, or a package for the scheme is
            missing.
        OSError: if the server cannot be reached or breaks off: it may be back when the task is tried again.
    """
    return _through_fsspec(url, folder) if scheme_of(url) in ("s3", "gs") else _over_http(url, folder, reach)


def _over_http(url: str, folder: Path, reach: AllowedSources) -> Path:
    path, asked, name = folder / _file_name(url), url, url
    for _ in range(1 + MAX_REDIRECTS):
        with _answer(url, name, reach) as answer:
            if answer.is_redirect and answer.headers.get("Location"):
                url = _following(asked, url, answer.headers["Location"])
                # No more of it: it may hold a signature that is good for whoever reads the log.
                name = f"{asked} leads to {httpx.URL(url).host}, which"
                continue
            if answer.status_code in (408, 429) or answer.status_code >= 500:
                raise ConnectionError(f"{asked} answers with status {answer.status_code}; try again later")
            if answer.status_code != httpx.codes.OK:
                raise InputError(f"{asked} answers with status {answer.status_code}; check the address and the rights")
            _write(answer.iter_raw(PIECE), path, MAX_BYTES, asked)
            return path
    raise InputError(f"{asked} leads on more than {MAX_REDIRECTS} times; ask for the last address itself")


def _following(asked: str, url: str, location: str) -> str:
    """Where a redirect from `url` leads to."""
    following = httpx.URL(url).join(location)
    if following.scheme != "https" and (following.scheme != "http" or scheme_of(url) == "https"):
        scheme = following.scheme if following.scheme in SCHEMES else "another scheme"
        raise InputError(f"{asked} leads from {scheme_of(url)} to {scheme}; ask for the last address itself")
    return str(following)


@contextmanager
def _answer(url: str, name: str, reach: AllowedSources) -> Iterator[httpx.Response]:
    """The answer to one request, from an address that may be read; `name` is the URL in messages."""
    try:
        host, port, must_be_public = reach.host(url)
    except InputError as error:
        raise InputError(str(error).replace(url, name)) from error
    proxy = _proxy(urlsplit(url).scheme, host)
    try:
        addresses = [host] if proxy else addresses_of(host, port)
        if must_be_public and proxy:
            with suppress(socket.gaierror):  # perhaps only the proxy can look it up
                check_public(host, addresses_of(host, port))
        elif must_be_public:
            check_public(host, addresses)
        with _client(proxy, name) as client:
            answer = _first_answer(client, httpx.URL(url), host, addresses)
            try:
                yield answer
            finally:
                answer.close()
    except httpx.InvalidURL as error:
        raise InputError(f"{name} is not a URL: {error}") from error
    except httpx.RemoteProtocolError as error:
        if "location header" in str(error):  # httpx looks at it by itself
            raise InputError(f"{name} redirects to something that is not a URL; use the final address") from error
        raise ConnectionError(f"{name} cannot be fetched: {error}; check the connection") from error
    except socket.gaierror as error:
        raise ConnectionError(f"{name} cannot be fetched: {host}: {error.strerror}; check the address") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"{name} cannot be fetched: {error}; check the connection") from error


def _client(proxy: str | None, name: str) -> httpx.Client:
    """A client that takes nothing from the environment but the certificates that SSL_CERT_FILE names."""
    context = httpx.create_ssl_context()
    try:
        return httpx.Client(proxy=proxy, verify=context, trust_env=False, timeout=PATIENCE)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{name} cannot be fetched: the proxy that the environment names cannot be used: {error}; name one that "
            "speaks http, or list the host in NO_PROXY"
        ) from error


def _first_answer(client: httpx.Client, url: httpx.URL, host: str, addresses: list[str]) -> httpx.Response:
    """The answer of the first address that can be reached, asked under the name that the certificate is for."""
    headers = {**PLAIN, "Host": url.netloc.decode()}
    for last, address in zip(reversed(range(len(addresses))), addresses, strict=True):
        request = client.build_request(
            "GET", url.copy_with(host=address), headers=headers, extensions={"sni_hostname": host}
        )
        try:
            return client.send(request, stream=True)
        except httpx.ConnectError:
            if not last:
                raise
    raise AssertionError(f"{host} has no address")


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for a host; this machine is reached without one, whatever NO_PROXY says."""
    if is_loopback(host):
        return None
    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    return None if not found or proxy_bypass(host) else found


def _through_fsspec(url: str, folder: Path) -> Path:
    connection, root = connection_and_path(url)
    root = root.rstrip("/")
    with explained(url, connection=connection):
        system = file_system(scheme_of(url), connection)
        files = system.find(root, detail=True) if system.isdir(root) else {root: system.info(root)}
        total = sum(entry["size"] or 0 for entry in files.values())
        if total > MAX_BYTES:
            raise _too_large(url)
        left = MAX_BYTES
        for name in sorted(files):
            # Some file systems begin a name with a slash, and some do not.
            inside = PurePosixPath(name.lstrip("/").removeprefix(root).lstrip("/"))
            if ".." in inside.parts:
                raise InputError(f"{url} has a file that would lie outside of its folder; rename it")
            path = folder / _file_name(url) / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            with system.open(name, "rb") as file:
                left -= _write(iter(lambda file=file: file.read(PIECE), b""), path, left, url)  # type: ignore[misc]
    return folder / _file_name(url)


def _file_name(url: str) -> str:
    """The last part of a URL's path, as the name tells a table of test images from one of training images."""
    name = PurePosixPath(urlsplit(url).path).name
    return name if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) else "source"


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
    return InputError(f"{url} has more than {MAX_BYTES:,} bytes, which no source may have; split it")
