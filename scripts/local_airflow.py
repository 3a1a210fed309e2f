"""An Airflow on this machine alone, with SQLite, LocalExecutor and loopback, which is started and stopped as a whole.

Only one runs at a time on a workspace. When the `with` block ends, every process that it has started has ended, and
what those have started, too.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
from airflow_api import LaunchError
from filelock import FileLock, Timeout
from process_tree import become_subreaper, stop_descendants
from progress import say, waiting
from surroundings import HOST, USER, surroundings, unusable_proxies

from mnist_tasks import installation
from mnist_tasks.workspace import PROJECT, Workspace

START_SECONDS = 120  # a cold disk and a busy machine included


class LocalAirflow:
    """A running Airflow: its processes, their environment, and a client of its API.

    `new_password` is the admin's password if this start has made it, and None if there was one already.
    """

    def __init__(self, home: Path, port: int, passwords: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        self.url = f"http://{HOST}:{port}"
        self.passwords = passwords
        self.new_password = _new_password(passwords)
        self.environment = {**surroundings(os.environ, home, port, passwords), **settings}
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.watchdog = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("watchdog.py"))],
            env=self.environment,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *arguments]

    def by_hand(self, *arguments: str) -> str:
        """The shell command that runs an Airflow command on this workspace, whether Airflow is up or not."""
        if "?" in str(self.home):  # see `database_url`
            return "(no command reaches the database in a folder with a ? in its path)"
        names = ("AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__CORE__DAGS_FOLDER")
        settings = (f"{name}={self.environment[name]}" for name in names)
        return shlex.join(["env", *settings, *self.command(*arguments)])

    def log_path(self, name: str) -> Path:
        return self.home / "logs" / "services" / f"{name}.log"

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start an Airflow command. Its output goes to a log file of its own."""
        return self._spawn(name, self.command(*arguments))

    def spawn_script(self, name: str) -> subprocess.Popen[bytes]:
        """Start one of the project's scripts in the same way."""
        return self._spawn(name, [sys.executable, str(Path(__file__).with_name(f"{name}.py"))])

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        path = self.log_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches only this launcher, which then stops the services.
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        print(process.pid, file=self.watchdog.stdin, flush=True)
        return process

    def complete(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for a command that `spawn` has started; raise a `LaunchError` if it fails."""
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
        """A client of the REST API that is logged in as admin, once the API server and the scheduler work."""
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            with waiting(lambda seconds: f"  starting its services: {seconds:.0f} s"):
                self._wait_until_ready(client)
            password = json.loads(self.passwords.read_text())[USER]
            answer = client.post("/auth/token", json={"username": USER, "password": password}).raise_for_status()
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield client

    def _wait_until_ready(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (late := self._not_ready(client)) and time.monotonic() < deadline:
            self.check_services()
            time.sleep(0.1)
        if late:
            raise LaunchError(f"{late} is not ready after {START_SECONDS} s:\n{self._tail(late)}")

    @staticmethod
    def _not_ready(client: httpx.Client) -> str | None:
        """The name of a service that does not work yet; None if all do."""
        try:
            # The server builds the tasks' API at the first request for it, which takes seconds.
            client.get("/execution/health").raise_for_status()
            health = client.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.TransportError:
            return "api-server"
        return None if health["scheduler"]["status"] == "healthy" else "scheduler"


@contextmanager
def local_airflow(
    workspace: Workspace,
    port: int,
    passwords: Path,
    services: Mapping[str, Sequence[str]],
    settings: Mapping[str, str],
) -> Iterator[LocalAirflow]:
    """Start the API server and the given services of Airflow; stop all of it when the block ends, also by an error.

    Args:
        workspace: where datasets, runs and models are written; Airflow's own files are in its folder `airflow`.
        port: the port of the API server on loopback.
        passwords: the file with the admin's password; made if it is missing.
        services: the name of each service, and the arguments of `airflow` that start it.
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
    if "?" in str(home) and sys.platform != "linux":
        raise LaunchError(f"MNIST_HOME: SQLite would end the path {workspace.root} at its ?; name a folder without one")
    for name in unusable_proxies(os.environ):
        print(f"{name} is ignored: httpx, which reads the data sources, does not support such a proxy", file=sys.stderr)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(_only_one(home))
        _check_port(port)
        become_subreaper()
        stack.callback(_stop)
        airflow = LocalAirflow(home, port, passwords, {**_own_settings(workspace), **settings})
        say("starting Airflow")
        with waiting(lambda seconds: f"  making Airflow's database: {seconds:.0f} s"):
            _migrate(airflow)
        # Writes the DAG to the database at once; the DAG processor's first round comes later.
        reserialize = airflow.spawn("dags-reserialize", "dags", "reserialize")
        airflow.services["api-server"] = airflow.spawn("api-server", "api-server")
        # The DAG processor adds the same rows, and ends with an error if somebody else does so at the same time.
        for name in (name for name in services if name != "dag-processor"):
            airflow.services[name] = airflow.spawn(name, *services[name])
        with waiting(lambda seconds: f"  reading the DAGs: {seconds:.0f} s"):
            airflow.complete("dags-reserialize", reserialize)
        if "dag-processor" in services:
            airflow.services["dag-processor"] = airflow.spawn("dag-processor", *services["dag-processor"])
        yield airflow


def _stop() -> None:
    with waiting(lambda seconds: f"stopping Airflow: {seconds:.0f} s"):
        stop_descendants()


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
    """Return a port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


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
    """The settings that may hold a relative path, made absolute: Airflow's processes run in another folder."""
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
        # Earlier releases used the path as the URI of an asset. Airflow allows one active asset of a name. It takes a
        # minute to retire the old one, and until then it starts no task that refers to the new one.
        connection.execute(
            "DELETE FROM asset_active WHERE name IN ('mnist_champion', 'mnist_inbox') AND uri LIKE 'file:%'"
        )
