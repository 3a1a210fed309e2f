"""Servers that tests start on loopback: one with S3's protocol and MLflow's, in an environment of their own.

`Faulty` stands before one of them and does what networks and stores do: it answers with errors, is slow, damages what
passes through, or has somebody die in the middle of a request.
"""

from __future__ import annotations

import http.client
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import httpx
import pytest
from filelock import FileLock

from mnist_tasks.workspace import PROJECT
from tests.helpers import HANG_SECONDS, free_port

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PLACE = PROJECT / ".venv" / "servers"


def command(name: str) -> str:
    """The path of a command in the servers' environment, which is made if it is not there."""
    stamp, wanted = PLACE / "made-from", REQUIREMENTS.read_text()
    with FileLock(PROJECT / ".venv" / "servers.lock"):
        if not stamp.exists() or stamp.read_text() != wanted:
            uv = [sys.executable, "-m", "uv", "--quiet"]
            packages = ["--python", str(PLACE / "bin" / "python"), "--requirements", str(REQUIREMENTS)]
            steps = [
                [*uv, "venv", "--clear", "--python", sys.executable, str(PLACE)],
                [*uv, "pip", "install", "--require-hashes", *packages],
            ]
            for step in steps:
                result = subprocess.run(step, capture_output=True, text=True, check=False)
                if result.returncode:
                    pytest.skip(f"the servers of {REQUIREMENTS.name} cannot be installed: {result.stderr[-500:]}")
            stamp.write_text(wanted)
    return str(PLACE / "bin" / name)


@contextmanager
def serving(*arguments: str, url: str, log: Path, **environment: str) -> Iterator[str]:
    """A server in the block, from when it answers at `url` on."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command(arguments[0]), *arguments[1:]],
            env={**settings, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + HANG_SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@contextmanager
def s3(log: Path) -> Iterator[str]:
    """The URL of a server with S3's protocol, which keeps objects in memory and knows every key."""
    port = free_port()
    with serving("moto_server", "-H", "127.0.0.1", "-p", str(port), url=f"http://127.0.0.1:{port}", log=log) as url:
        yield url


@contextmanager
def mlflow(folder: Path) -> Iterator[str]:
    """The URL of an MLflow server with SQLite, which keeps artifacts in the folder."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with serving("mlflow", "server", *store, *address, url=url, log=folder / "server.log"):
        yield url


@dataclass(frozen=True)
class Request:
    """One request that passes through `Faulty`; `number` counts those of its method from 1."""

    method: str
    path: str
    number: int


@dataclass
class Faulty:
    """A proxy before a server.

    Attributes:
        url: its own address.
        before: called with each request; a status and a body that it returns are the answer.
        after: called when the server has answered, before the answer is passed on.
        damage: changes the bytes that are sent to the server, by request.
        requests: all that came.
    """

    url: str
    before: Callable[[Request], tuple[int, bytes] | None] = lambda _: None
    after: Callable[[Request], object] = lambda _: None
    damage: Callable[[Request, bytes], bytes] = lambda _, content: content
    requests: list[Request] = field(default_factory=list)

    def made(self, method: str) -> list[str]:
        """The paths of the requests with a method."""
        return [request.path for request in self.requests if request.method == method]


@dataclass
class Killing:
    """Kills a process when it makes its nth request of those that count: for `Faulty.before` and `after`."""

    point: int
    counts: Callable[[Request], bool]
    process: SimpleQueue[subprocess.Popen[str]] = field(default_factory=SimpleQueue)
    seen: int = 0

    def __call__(self, request: Request) -> tuple[int, bytes] | None:
        self.seen += self.counts(request)
        if self.seen != self.point or not self.counts(request):
            return None
        process = self.process.get(timeout=HANG_SECONDS)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return 503, b""  # if the server has not got it yet, it never does


@contextmanager
def faulty(server: str) -> Iterator[Faulty]:
    """A proxy before the server at a URL, in the block; at first it passes on everything."""
    target = httpx.URL(server)
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            content = self._content()
            with lock:
                request = Request(self.command, self.path, 1 + len(proxy.made(self.command)))
                proxy.requests.append(request)
            if answer := proxy.before(request):
                return self._send(answer[0], {"Content-Type": "application/xml"}, answer[1])
            dropped = ("transfer-encoding", "content-length", "expect")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            content = proxy.damage(request, content)
            headers["Content-Length"] = str(len(content))
            connection = http.client.HTTPConnection(target.host, target.port or 80, timeout=HANG_SECONDS)
            connection.request(self.command, self.path, content, headers)
            there = connection.getresponse()
            body = there.read()
            proxy.after(request)
            names = ("transfer-encoding", "connection", "date", "server")
            self._send(
                there.status, {name: value for name, value in there.getheaders() if name.lower() not in names}, body
            )
            connection.close()
            return None

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_PATCH = do  # noqa: N815 - as http.server calls them

        def _content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # who asked is dead
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        proxy = Faulty(f"http://127.0.0.1:{httpd.server_address[1]}")
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            httpd.shutdown()
            thread.join()
