"""Airflow on this machine alone: SQLite, LocalExecutor, loopback. Started and stopped as one whole.

Only one such Airflow runs at a time on a workspace. Every process it starts, and what those start, has ended when the
`with` block has.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import httpx
import psutil
from filelock import FileLock, Timeout
from keeper import STOP_SECONDS
from surroundings import HOST, USER, surroundings, unusable_proxies

from mnist_tasks import installation
from mnist_tasks.workspace import PROJECT, Workspace

START_SECONDS = 120  # a cold disk and a busy machine included
DAG = "mnist_training"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


class LaunchError(Exception):
    """Airflow cannot be started or has stopped by itself; the message says why and what to do."""


class Stopped(BaseException):
    """A signal to end came. It is not an `Exception`, like KeyboardInterrupt."""


class LocalAirflow:
    """A running Airflow: its address, and a client that is logged in as admin.

    `new_password` is the admin's password if it was made for this start, and None if there was one already.
    """

    def __init__(self, home: Path, port: int, passwords: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        self.url = f"http://{HOST}:{port}"
        self.passwords = passwords
        self.new_password = _new_password(passwords)
        self.environment = {**surroundings(os.environ, home, port, passwords), **settings}
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.keeper = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("keeper.py"))],
            env=self.environment,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]

    def by_hand(self, *arguments: str) -> str:
        """A line for a shell that runs an Airflow command on this workspace, whether it is up or not."""
        if "?" in str(self.home):  # see `database_url`
            return "(no command reaches the database in a folder with a ? in its path)"
        names = ("AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__DAGS_FOLDER")
        settings = (f"{name}={self.environment[name]}" for name in names)
        return shlex.join(["env", *settings, *self.command(*arguments)])

    def log_path(self, name: str) -> Path:
        return self.home / "logs" / "services" / f"{name}.log"

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start an Airflow command whose output goes to a log file of its own."""
        path = self.log_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            # A session of its own: Ctrl-C reaches only this launcher, which then stops its services in order.
            process = subprocess.Popen(
                self.command(*arguments),
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        print(process.pid, file=self.keeper.stdin, flush=True)
        return process

    def complete(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for a command that `spawn` started to end well."""
        if process.wait():
            raise LaunchError(f"airflow {name} failed:\n{self._tail(name)}")

    def check_services(self) -> None:
        """Raise a `LaunchError` if a service has ended by itself."""
        for name, process in self.services.items():
            if process.poll() is not None:
                raise LaunchError(f"{name} ended by itself with status {process.returncode}:\n{self._tail(name)}")

    def _tail(self, name: str) -> str:
        path = self.log_path(name)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([*lines[-15:], f"(the whole log: {path})"])

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A client of the REST API, logged in; ready once the API server is."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            self._wait_for_api(client)
            password = json.loads(self.passwords.read_text())[USER]
            answer = client.post("/auth/token", json={"username": USER, "password": password}).raise_for_status()
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield client

    def _wait_for_api(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check_services()
            try:
                # The tasks' own API, which the server builds at its first request: seconds that no task should wait.
                client.get("/execution/health").raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise LaunchError(
                        f"the API server did not answer at {self.url} within {START_SECONDS} s:\n"
                        + self._tail("api-server")
                    ) from None
                time.sleep(0.1)
            else:
                return


@contextmanager
def local_airflow(
    workspace: Workspace,
    port: int,
    passwords: Path,
    services: Mapping[str, Sequence[str]],
    settings: Mapping[str, str],
) -> Iterator[LocalAirflow]:
    """Start Airflow with the given services beside the API server; stop all of it at the end, however it comes.

    Args:
        workspace: where datasets, runs and models go; Airflow's own files go to `airflow` below it.
        port: for the API server, on loopback.
        passwords: the file with the admin's password, made if missing.
        services: arguments of `airflow` by the name of the service.
        settings: further environment variables for all of them.

    Raises:
        LaunchError: if the port is taken, another Airflow runs on this workspace, or a service does not start.
    """
    home = workspace.root / "airflow"
    if os.path.expandvars(home) != str(home):
        raise LaunchError(
            f"MNIST_HOME: Airflow would read {workspace.root} as {os.path.expandvars(workspace.root)}; "
            "name a folder without $ in its path"
        )
    for name in unusable_proxies(os.environ):
        print(f"{name} is ignored: httpx, which data sources are read with, knows no such proxy", file=sys.stderr)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(_only_one(home))
        _check_port(port)
        _become_subreaper()
        stack.callback(_stop_everything)
        airflow = LocalAirflow(home, port, passwords, {**_own_settings(workspace), **settings})
        _migrate(airflow)
        # The DAG is in the database before anybody asks for it, without waiting for a DAG processor's first round.
        reserialize = airflow.spawn("dags-reserialize", "dags", "reserialize")
        airflow.services["api-server"] = airflow.spawn("api-server", "api-server")
        for name, arguments in services.items():
            airflow.services[name] = airflow.spawn(name, *arguments)
        airflow.complete("dags-reserialize", reserialize)
        yield airflow


def _new_password(path: Path) -> str | None:
    """Write a new password for the admin to `path`, readable by the owner only; None if the file exists already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    password = secrets.token_urlsafe(16)
    with os.fdopen(descriptor, "w") as file:
        json.dump({USER: password}, file)
    return password


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def stop_on_signals() -> None:
    """Have each signal that asks a program to end unwind this one, Ctrl-C even where a shell has it ignored.

    A hang-up that is ignored stays so: it was started by nohup, and goes on when the terminal is closed.
    """

    def stop(signum: int, _: FrameType | None) -> None:
        raise Stopped(signal.Signals(signum).name)

    for signum in STOP_SIGNALS:
        if not (signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN):
            signal.signal(signum, stop)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the lock of this workspace's Airflow."""
    holder = home / "launcher.pid"
    try:
        with FileLock(home / "launcher.lock", timeout=0):
            holder.write_text(str(os.getpid()))
            yield
    except Timeout:
        raise LaunchError(
            f"an Airflow started by make run or make up is running on {home.parent} (process {holder.read_text()}); "
            "trigger mnist_training in its UI, or stop it first"
        ) from None


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise LaunchError(
                f"port {port} on {HOST} cannot be used: {error.strerror}; choose another one with PORT=8081"
            ) from None


def _own_settings(workspace: Workspace) -> dict[str, str]:
    """The settings that may name a path from where the user is; Airflow's processes are elsewhere."""
    settings = {"MNIST_HOME": str(workspace.root)}
    if parameters := installation.value("MNIST_PARAMS"):
        settings["MNIST_PARAMS"] = json.dumps(parameters)
    return settings


def _migrate(airflow: LocalAirflow) -> None:
    """Make or migrate the database, unless this version of Airflow has done so already."""
    stamp, database, current = airflow.home / "migrated", airflow.home / "airflow.db", version("apache-airflow-core")
    if not (stamp.exists() and stamp.read_text() == current and database.exists()):
        database.touch(mode=0o600)
        airflow.complete("db-migrate", airflow.spawn("db-migrate", "db", "migrate"))
        stamp.write_text(current)
    with closing(sqlite3.connect(database)) as connection, connection:
        # Earlier releases named the assets by their paths. Airflow has one active asset of a name, and takes a minute
        # to see that nothing refers to it any more, in which it starts no task that refers to the new one.
        connection.execute(
            "DELETE FROM asset_active WHERE name IN ('mnist_champion', 'mnist_inbox') AND uri LIKE 'file:%'"
        )


def _become_subreaper() -> None:
    """Adopt what a service leaves behind, so that it can be found and stopped."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER, 1)")


def _stop_everything() -> None:
    """End every descendant: by SIGTERM, and by SIGKILL what is left after a while."""
    # A second Ctrl-C must not leave half of them behind.
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    me = psutil.Process()
    deadline = time.monotonic() + STOP_SECONDS
    for child in me.children():
        child.terminate()
    while children := me.children(recursive=True):
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        psutil.wait_procs(children, timeout=0.2)


def require_dag(client: httpx.Client, by_hand: Callable[..., str]) -> str | None:
    """Refuse to go on if the training cannot run; returns what to say if it is there and only paused.

    Args:
        client: of the API, logged in.
        by_hand: makes a line for a shell of the arguments of `airflow`.

    Raises:
        LaunchError: if Airflow has no such DAG, its file cannot be imported, or its tasks ask for a pool that is not
            there.
    """
    answer = client.get(f"/api/v2/dags/{DAG}")
    if answer.status_code != httpx.codes.NOT_FOUND:
        answer.raise_for_status()
    dag: dict[str, Any] = answer.json()
    if not answer.is_success or dag["has_import_errors"]:
        errors = client.get("/api/v2/importErrors").raise_for_status().json()["import_errors"]
        reasons = [f"\n{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]
        raise LaunchError(f"Airflow cannot import the DAG {DAG}{':' if reasons else ''}{''.join(reasons)}")
    pool = installation.value("MNIST_GPU_POOL")
    if pool and client.get(f"/api/v2/pools/{quote(pool, safe='')}").status_code == httpx.codes.NOT_FOUND:
        raise LaunchError(
            f"MNIST_GPU_POOL: Airflow has no pool {pool!r}, so train and evaluate would wait for ever; leave the "
            "setting empty, or make the pool, here with one slot:\n"
            + by_hand("pools", "set", pool, "1", "train and evaluate")
        )
    if not dag["is_paused"]:
        return None
    return f"{DAG} is paused: no run of it is started until you switch it on, in Airflow's UI or with\n" + by_hand(
        "dags", "unpause", "--yes", DAG
    )


def describe(error: httpx.HTTPStatusError) -> str:
    """What the API says is wrong, in its own words."""
    try:
        detail: Any = error.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return str(error)
    return detail if isinstance(detail, str) else json.dumps(detail)
