"""Airflow's old logs and rows are removed by its own command, in a real database; new ones stay."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import clean_airflow
import pytest

from mnist_tasks.workspace import PROJECT

DAY = 24 * 3600


def written(path: Path, days: float) -> Path:
    """Write a file that many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a line\n")
    then = time.time() - days * DAY
    for entry in (path, path.parent):
        os.utime(entry, (then, then))
    return path


def test_logs_go_by_their_date_and_folders_when_they_are_empty(tmp_path: Path) -> None:
    old = written(tmp_path / "dag_id=a" / "run_id=1" / "attempt=1.log", 91)
    new = written(tmp_path / "dag_id=a" / "run_id=2" / "attempt=1.log", 89)
    mixed = [written(tmp_path / "services" / f"{days}.log", days) for days in (100, 1)]

    assert clean_airflow.remove_logs(tmp_path, time.time() - 90 * DAY) == 2

    assert [path.exists() for path in (old, new, *mixed)] == [False, True, False, True]
    clean_airflow.remove_logs(tmp_path, time.time() + DAY)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def airflow_home(tmp_path: Path) -> Path:
    """An Airflow with a database, a log, and two entries about commands: of 100 days ago and of today."""
    home = tmp_path / "airflow"
    home.mkdir()
    run(home, sys.executable, "-m", "airflow", "db", "migrate")
    with closing(sqlite3.connect(home / "airflow.db")) as connection, connection:
        connection.execute("DELETE FROM log")
        for days in (100, 0):
            when = datetime.now(timezone.utc) - timedelta(days=days)
            connection.execute("INSERT INTO log (dttm, event, owner) VALUES (?, ?, ?)", (str(when), f"{days}", "me"))
        written(home / "logs" / "task" / "old.log", 100)
        written(home / "logs" / "task" / "new.log", 0)
    return home


def run(home: Path, *command: str, **environment: str) -> str:
    around = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MNIST_"))}
    around |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }
    result = subprocess.run(
        command, env={**around, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def events(home: Path) -> set[str]:
    with closing(sqlite3.connect(home / "airflow.db")) as connection:
        return {event for (event,) in connection.execute("SELECT event FROM log") if event.isdecimal()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "left"),
    [("forever", {"100", "0"}), ("365d", {"100", "0"}), ("90d", {"0"})],
    ids=["forever", "365d", "90d"],
)
def test_old_rows_and_logs_are_removed(keep: str, left: set[str], airflow_home: Path) -> None:
    script = str(PROJECT / "scripts" / "clean_airflow.py")

    output = run(airflow_home, sys.executable, script, MNIST_KEEP_LOGS=keep)

    assert events(airflow_home) == left
    assert (airflow_home / "logs" / "task" / "old.log").exists() == (len(left) == 2)
    assert (airflow_home / "logs" / "task" / "new.log").exists()
    assert ("removed 1 log files" in output) == (keep == "90d")
    # What is removed is not put into other tables of the database.
    with closing(sqlite3.connect(airflow_home / "airflow.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert not [name for name in tables if name.startswith("_airflow_deleted")]
