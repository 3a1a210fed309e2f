"""The environment of every process that the launcher starts.

It is the user's environment without the variables for other programs, and with those that bind Airflow to this
workspace. A run must not depend on who starts the launcher, or where.
"""

from __future__ import annotations

import getpass
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from mnist_tasks.workspace import PROJECT

HOST = "127.0.0.1"
USER = "admin"

# Meant for another Airflow (such as the address of a production database), for make, for another Python, or, in a git
# hook, for another repository.
FOREIGN = ("AIRFLOW", "_AIRFLOW", "MAKE", "PYTHON", "GIT_")
# But for these: where to send metrics, and connections, which a setting may name.
KEPT = ("AIRFLOW__METRICS__", "AIRFLOW_CONN_")
# Set for a notebook or another project. Here figures are written to files, and the backend of Keras is TensorFlow.
FOREIGN_NAMES = frozenset({"KERAS_BACKEND", "MPLBACKEND", "MATPLOTLIBRC"})

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("localhost", HOST, "::1")


def surroundings(given: Mapping[str, str], home: Path, port: int, passwords: Path) -> dict[str, str]:
    """Return the whole environment.

    Args:
        given: the environment of the launcher.
        home: Airflow's folder in the workspace.
        port: the port of the API server on loopback.
        passwords: the file with the admin's password.
    """
    kept = {
        name: value
        for name, value in given.items()
        if (name.startswith(KEPT) or not name.startswith(FOREIGN))
        and name not in FOREIGN_NAMES
        and name.lower() not in (*PROXIES, "no_proxy")
    }
    # macOS ends a process that has forked, as Airflow's do for each task, at its first call of Objective-C.
    fork = {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"} if sys.platform == "darwin" else {}
    return {**kept, **fork, **_text(), **_person(given, home), **proxies(given), **_airflow(home, port, passwords)}


def _text() -> dict[str, str]:
    """Use UTF-8 and a decimal point, whatever the user's locale is."""
    return {"PYTHONUTF8": "1", "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"}


def _person(given: Mapping[str, str], home: Path) -> dict[str, str]:
    """Give a name to a user who is not in passwd, as in a container, and a home folder that can be entered."""
    person: dict[str, str] = {}
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        person |= dict.fromkeys(("LOGNAME", "USER"), f"user-{os.getuid()}")
    folder = given.get("HOME", "")
    if not (Path(folder).is_absolute() and os.access(folder, os.R_OK | os.X_OK)):
        person["HOME"] = str(home)
    return person


def proxies(given: Mapping[str, str]) -> dict[str, str]:
    """The proxies for data sources, under lower-case and upper-case names. Loopback is reached without a proxy.

    Airflow's tasks talk to its API through httpx. It reads the lower-case names first, and cannot start with a proxy or
    an exception that it does not support, such as `socks://` or `fd00::/8`. Those are left out.
    """
    found = {name: given.get(name) or given.get(name.upper()) or "" for name in (*PROXIES, "no_proxy")}
    usable = {name: found[name] for name in PROXIES if found[name] and _httpx_takes({name: found[name]})}
    names = [entry.strip() for entry in found["no_proxy"].split(",")]
    direct = [*LOOPBACK, *(entry for entry in names if entry and _httpx_takes({"no_proxy": entry}))]
    usable["no_proxy"] = ",".join(dict.fromkeys(direct))
    return usable | {name.upper(): value for name, value in usable.items()}


def unusable_proxies(given: Mapping[str, str]) -> list[str]:
    """The names of the variables whose proxy `proxies` leaves out. Their values may hold a password."""
    names = [name for name in given if name.lower() in PROXIES and given[name]]
    return sorted(name for name in names if not _httpx_takes({name: given[name]}))


def _httpx_takes(variables: Mapping[str, str]) -> bool:
    """Whether httpx can start with these variables about proxies."""
    with _only(variables):
        try:
            httpx.Client(verify=False).close()  # noqa: S501 - it sends nothing
        except (ValueError, httpx.InvalidURL, ImportError):
            return False
    return True


@contextmanager
def _only(variables: Mapping[str, str]) -> Iterator[None]:
    """Set these variables about proxies, and no others, for the block: httpx reads them only from `os.environ`."""
    names = [name for name in os.environ if name.lower() in (*PROXIES, "no_proxy")]
    before = {name: os.environ.pop(name) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _airflow(home: Path, port: int, passwords: Path) -> dict[str, str]:
    url = f"http://{HOST}:{port}"
    return {
        # Airflow keeps some of these paths in its airflow.cfg. All are set here, so that the workspace may be moved.
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url(home / "airflow.db"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home / "logs" / "dag_processor"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Each is a process. A run needs one at a time; the others are for other DAGs of the folder.
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        # These sign the services' requests and the UI's sessions. They change with every start.
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(64),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # Seconds that a task's supervisor may sleep after the task has ended.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A run that is due at the start, on a busy machine, waits for the API server instead of losing a try.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def database_url(path: Path) -> str:
    """Return SQLAlchemy's URL of an SQLite file.

    A `?` would end the path in the URL, and Airflow accepts no escaped form of it. So if the path of the folder has a
    `?`, the URL names the folder by a file descriptor that this process keeps open. Only Linux can do that.
    """
    if "?" in str(path) and sys.platform == "linux":
        path = Path(f"/proc/{os.getpid()}/fd/{os.open(path.parent, os.O_PATH | os.O_DIRECTORY)}") / path.name
    return f"sqlite:///{path}"
