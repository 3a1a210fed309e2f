"""Sources behind URLs: the same digits, within bounds, and errors that say whether it is worth trying again."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from mnist_tasks.dataset import Digits
from mnist_tasks.errors import InputError
from mnist_tasks.load import load
from mnist_tasks.sources import read_source
from tests.forms import FORMS
from tests.helpers import free_port


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; some paths answer with a status of their own, one breaks off."""

    def do_GET(self) -> None:
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.rsplit("/", 1)[1]))
        elif self.path == "/breaks-off":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"PK")
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/digits.npz")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server(npz: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(npz.parent))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize("path", ["digits.npz", "moved"])
def test_http_gives_the_same_digits(path: str, server: str, digits: Digits) -> None:
    assert read_source(f"{server}/{path}").digest() == digits.digest()


def test_a_file_url_is_a_path(npz: Path, digits: Digits) -> None:
    assert read_source(npz.as_uri()).digest() == digits.digest()


@pytest.mark.parametrize("form", FORMS)
def test_fsspec_gives_the_same_digits_in_every_form(form: str, digits: Digits, tmp_path: Path) -> None:
    local = FORMS[form](tmp_path / "digits", digits.x_train[:100], digits.y_train[:100])
    memory = fsspec.filesystem("memory")
    memory.put(str(local), f"/{form}/{local.name}", recursive=True)

    from_url = load(f"memory://{form}/{local.name}", tmp_path / "datasets")

    assert from_url.digest == load(str(local), tmp_path / "datasets").digest
    assert [path.name for path in (tmp_path / "datasets").iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_no_matter_of_time(status: int, server: str) -> None:
    with pytest.raises(InputError, match=rf"/status/{status} answers with status {status}; check the address"):
        read_source(f"{server}/status/{status}")


@pytest.mark.parametrize("path", ["status/503", "status/429", "breaks-off"])
def test_what_may_pass_is_tried_again(path: str, server: str) -> None:
    with pytest.raises(ConnectionError, match=f"{server}/{path}"):
        read_source(f"{server}/{path}")
    with pytest.raises(ConnectionError, match=r"cannot be fetched: .*; check the connection"):
        read_source(f"http://127.0.0.1:{free_port()}/digits.npz")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://nowhere/digits.npz", "cannot be read: .*check the address and the rights"),
        ("carrier-pigeon://digits.npz", "cannot be read: .*use file, https, s3, gs"),
        ("s3://bucket/digits.npz", "needs a package that is not installed: .*s3fs"),
        ("gs://bucket/digits.npz", "needs a package that is not installed: .*gcsfs"),
        ("http://a\0b/digits.npz", "is no URL"),
        ("file:///no/such/file.npz", "does not exist"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_name(url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_source(url)


def test_what_is_wrong_with_the_content_is_said_of_the_url() -> None:
    fsspec.filesystem("memory").pipe("/bad/digits.npz", b"no archive")

    with pytest.raises(InputError, match=r"^memory://bad/digits\.npz is no \.npz file"):
        read_source("memory://bad/digits.npz")


@pytest.mark.parametrize("scheme", ["http", "memory"])
def test_more_than_the_bound_is_not_fetched(
    scheme: str, server: str, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.remote.MOST_BYTES", 100_000)
    fsspec.filesystem("memory").put(str(npz), "/large/digits.npz")

    with pytest.raises(InputError, match=r"has more than 100,000 bytes, which no source may have; split it"):
        read_source(f"{server}/digits.npz" if scheme == "http" else "memory://large/digits.npz")


def test_nothing_of_this_is_imported_without_a_url() -> None:
    script = "import sys, mnist_tasks.load; print({'fsspec', 'httpx', 'tensorflow', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert result.stdout.strip() == "set()"
