"""Sources behind URLs give the same digits within bounds; errors tell whether a retry makes sense."""

from __future__ import annotations

import errno
import http.server
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from fsspec.registry import _registry  # type: ignore[import-untyped]

from mnist_tasks.data.allowed_sources import DEFAULT
from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.sources import read_source
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError
from tests.forms import FORMS
from tests.helpers import free_port


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve a folder. Special paths answer with a given status, redirect, or break off the answer."""

    def do_GET(self) -> None:
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.rsplit("/", 1)[1]))
        elif self.path.startswith("/breaks-off"):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"PK")
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", unquote(self.path.removeprefix("/to/")))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.fixture(scope="module")
def port(npz: Path) -> Iterator[int]:
    """The port of a server on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(npz.parent))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd.server_port
        httpd.shutdown()


@pytest.fixture
def server(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the server, which MNIST_SOURCES allows."""
    monkeypatch.setenv("MNIST_SOURCES", f"http://127.0.0.1:{port}, {DEFAULT}")
    return f"http://127.0.0.1:{port}"


class Bucket(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A stand-in for s3fs that keeps the keys of all buckets in memory."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The file system that serves URLs with `s3://`."""
    monkeypatch.setitem(_registry, "s3", Bucket)
    return Bucket()


@pytest.mark.parametrize("path", ["digits.npz", "to//digits.npz", "to//to//digits.npz"])
def test_http_gives_the_same_digits(path: str, server: str, digits: Digits) -> None:
    assert read_source(f"{server}/{path}").digest() == digits.digest()


def test_a_file_url_is_a_path(npz: Path, digits: Digits) -> None:
    assert read_source(npz.as_uri()).digest() == digits.digest()


@pytest.mark.parametrize("form", FORMS)
def test_a_bucket_gives_the_same_digits_in_every_form(form: str, digits: Digits, tmp_path: Path, s3: Bucket) -> None:
    local = FORMS[form](tmp_path / "digits", digits.x_train[:100], digits.y_train[:100])
    s3.put(str(local), f"/{form}/{local.name}", recursive=True)

    from_url = load(f"s3://{form}/{local.name}", tmp_path / "datasets")

    assert from_url.digest == load(str(local), tmp_path / "datasets").digest
    assert [path.name for path in (tmp_path / "datasets").iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_no_matter_of_time(status: int, server: str) -> None:
    with pytest.raises(InputError, match=rf"/status/{status} answers with status {status}; check the address"):
        read_source(f"{server}/status/{status}")


@pytest.mark.parametrize("path", ["status/503", "status/429", "breaks-off"])
def test_what_may_pass_is_tried_again(path: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=f"{server}/{path}"):
        read_source(f"{server}/{path}")

    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MNIST_SOURCES", nobody)
    with pytest.raises(ConnectionError, match=r"cannot be fetched: .*; check the connection"):
        read_source(f"{nobody}/digits.npz")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("carrier-pigeon://digits.npz", "cannot be read: use https, http, s3, gs, file"),
        (
            "gs://bucket/digits.npz",
            "needs a package that is not installed: .*gcsfs.*; install apache-airflow-prov",
        ),
        (
            "s3://key:secret/x@bucket/digits.npz",
            r"^s3://\.\.\. holds credentials or a port; put them into an Airflow",
        ),
        ("s3://my conn@bucket/digits.npz", "'my conn' is not the id of an Airflow connection"),
        ("s3://conn@bucket/digits.npz", "s3://conn@bucket/digits.npz may not be read: MNIST_SOURCES allows "),
        ("http://a\0b/digits.npz", "is not a URL"),
        ("file:///no/such/file.npz", "does not exist"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_source(url)


def test_what_is_wrong_with_the_content_is_said_of_the_url(s3: Bucket) -> None:
    s3.pipe("/bad/digits.npz", b"no archive")

    with pytest.raises(InputError, match=r"^s3://bad/digits\.npz is not an \.npz file"):
        read_source("s3://bad/digits.npz")


def test_an_object_that_is_not_there_is_refused_by_name(s3: Bucket) -> None:
    s3.pipe("/bucket/other.npz", b"")

    with pytest.raises(
        InputError, match=r"^s3://bucket/digits\.npz cannot be read: FileNotFoundError; check the address, the rights"
    ):
        read_source("s3://bucket/digits.npz")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TypeError("unexpected keyword argument"), InputError),
        (type("NoCredentialsError", (Exception,), {})(), InputError),
        (type("EndpointConnectionError", (Exception,), {})(), ConnectionError),
        (OSError(errno.EIO, "now"), OSError),
    ],
)
@pytest.mark.usefixtures("s3")
def test_whatever_a_package_raises_is_named_or_tried_again(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(Bucket, "isdir", fail)

    with pytest.raises(expected):
        read_source("s3://bucket/digits.npz")


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_more_than_the_bound_is_not_fetched(
    scheme: str, server: str, npz: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.data.download.MAX_BYTES", 100_000)
    s3.put(str(npz), "/large/digits.npz")

    with pytest.raises(InputError, match=r"has more than 100,000 bytes, which no source may have; split it"):
        read_source(f"{server}/digits.npz" if scheme == "http" else "s3://large/digits.npz")


# Which addresses may be read


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"]
)
def test_loopback_is_not_read_in_any_spelling(host: str, port: int) -> None:
    with pytest.raises(InputError, match=r"only read if MNIST_SOURCES lists"):
        read_source(f"http://{host}:{port}/digits.npz")


@pytest.mark.parametrize("where", ["http://localhost:{port}/digits.npz", "http://[::1]:{port}/digits.npz"])
def test_a_redirect_leads_only_to_what_may_be_read(where: str, server: str, port: int) -> None:
    with pytest.raises(InputError, match=r"only read if MNIST_SOURCES lists"):
        read_source(f"{server}/to/{quote(where.format(port=port), safe='')}")


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://example.com/x", "s3://bucket/x", "//"])
def test_a_redirect_leads_to_no_other_scheme(where: str, server: str) -> None:
    with pytest.raises(InputError):
        read_source(f"{server}/to/{quote(where, safe='')}")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("http://elsewhere.example/x?signature=secret", r"leads to elsewhere\.example, which may not be read"),
        ("http://user:secret@elsewhere.example/x", r"leads to elsewhere\.example, which may not be read"),
        ("http://127.0.0.1:{port}/status/secret/404", r"answers with status 404"),
        ("http://127.0.0.1:{port}/breaks-off?signature=secret", r"leads to 127\.0\.0\.1, which cannot be fetched"),
        ("secret://x", r"leads from http to another scheme; ask for the last address"),
        ("http://secret:x/", r"redirects to something that is not a URL"),
    ],
)
def test_where_a_redirect_leads_is_named_by_its_host_alone(
    where: str, words: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MNIST_SOURCES", server)

    with pytest.raises((InputError, ConnectionError), match=words) as error:
        read_source(f"{server}/to/{quote(where.format(port=port), safe='')}")

    assert str(error.value).replace(quote(where.format(port=port), safe=""), "").count("secret") == 0


def test_redirects_without_an_end_are_refused(server: str) -> None:
    with pytest.raises(InputError, match=r"leads on more than 5 times"):
        read_source(f"{server}{'/to/' * 8}/digits.npz")


def resolves(to: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make names resolve to the given addresses, one after the other; return the list of names that are looked up."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(str(host))
        answers = to.get(str(host))
        return real(answers.pop(0) if answers else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "fd00::1", "64:ff9b::a00:1"]
)
def test_a_name_of_a_private_address_is_not_read(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves({"intranet.example": [address]}, monkeypatch)

    with pytest.raises(InputError, match=rf"intranet\.example has the address {address}, which is an? [a-z-]+ address"):
        read_source("http://intranet.example/digits.npz")


def test_it_connects_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to loopback after the check still leads to the public address that was checked."""
    asked = resolves({"rebinding.example": ["192.0.2.1", "127.0.0.1"]}, monkeypatch)
    monkeypatch.setattr("mnist_tasks.data.download.check_public", lambda *_: None)  # 192.0.2.1 is for documentation
    connected: list[str] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> None:
        connected.append(address[0])
        raise OSError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr(socket, "create_connection", connect)

    with pytest.raises(ConnectionError):
        read_source("http://rebinding.example/digits.npz")

    assert asked == ["rebinding.example"]
    assert connected == ["192.0.2.1"]


def test_a_listed_host_may_have_any_address_and_is_asked_by_its_name(
    port: int, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves({"data.example": ["127.0.0.1"] * 3}, monkeypatch)
    monkeypatch.setenv("MNIST_SOURCES", f"http://data.example:{port}/digits.npz")

    assert read_source(f"http://data.example:{port}/digits.npz").digest() == digits.digest()
    for other in (f"http://data.example:{port}/other.npz", "http://data.example/digits.npz", "https://data.example/"):
        with pytest.raises(InputError, match=r"may not be read: MNIST_SOURCES allows"):
            read_source(other)


def certificate(name: str, folder: Path) -> Path:
    """Write a self-signed certificate for a server name, with its key; return the path."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / f"{name}.pem"
    path.write_bytes(key.private_bytes(*form) + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_the_certificate_and_the_server_see_the_name_though_an_address_is_connected_to(
    npz: Path, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str | None] = []
    hosts: list[str | None] = []

    class Recording(Handler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            super().do_GET()

    pem = certificate("data.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.sni_callback = lambda _, name, __: names.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    resolves({name: ["127.0.0.1"] for name in ("data.example", "other.example")}, monkeypatch)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Recording, directory=str(npz.parent))) as httpd:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        right, wrong = (f"{name}.example:{httpd.server_port}" for name in ("data", "other"))
        monkeypatch.setenv("MNIST_SOURCES", f"https://{right}, https://{wrong}")
        try:
            assert read_source(f"https://{right}/digits.npz").digest() == digits.digest()
            with pytest.raises(ConnectionError, match=r"certificate"):
                read_source(f"https://{wrong}/digits.npz")
        finally:
            httpd.shutdown()

    assert hosts == [right]
    assert names == ["data.example", "other.example"]


def test_a_proxy_for_the_internet_is_used_for_it_and_not_for_loopback(
    server: str, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert read_source(f"{server}/digits.npz").digest() == digits.digest()

    monkeypatch.setenv("http_proxy", "socks://127.0.0.1:9/")
    with pytest.raises(InputError, match=r"the proxy that the environment names cannot be used"):
        read_source("http://example.invalid/digits.npz")


def test_nothing_of_this_is_imported_without_a_url() -> None:
    script = "import sys, mnist_tasks.load; print({'fsspec', 'httpx', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert result.stdout.strip() == "set()"
