"""`make run` with a real store and a real MLflow: what arrives, and that no credential is written anywhere."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import httpx
import pytest

from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import ANYTHING, HANG_SECONDS
from tests.servers.start import faulty, mlflow, s3

pytestmark = pytest.mark.slow

STORE_SECRET, MLFLOW_SECRET = "PLANTED/store+s3cret", "PLANTED-mlflow-s3cret"


def run(home: Path, npz: Path, settings: dict[str, str], **parameters: object) -> subprocess.CompletedProcess[str]:
    """Run the job once through the real scheduler."""
    arguments = [f"{name}={value}" for name, value in {"epochs": 1, "source": npz, **ANYTHING, **parameters}.items()]
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "run.py"), *arguments],
        env={**os.environ, **settings, "MNIST_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )


def with_secrets(folder: Path) -> list[Path]:
    """The files below a folder that hold a credential: logs, documents, and Airflow's database with its XComs."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    secrets = (STORE_SECRET.encode(), MLFLOW_SECRET.encode())
    return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_the_champion_arrives_in_both_and_no_credential_is_written(npz: Path, tmp_path: Path) -> None:
    home, servers = tmp_path / "home", tmp_path / "servers"
    home.mkdir()
    servers.mkdir()
    store = {"conn_type": "aws", "login": "key", "password": STORE_SECRET}
    tracker = {"conn_type": "http", "login": "me", "password": MLFLOW_SECRET}
    with s3(servers / "s3.log") as server, mlflow(servers) as tracking, faulty(server) as proxy:
        plain = fsspec.filesystem("s3", key="key", secret=STORE_SECRET, endpoint_url=server, use_listings_cache=False)
        plain.mkdir("champions")
        settings = {
            "MNIST_MIRROR": "s3://store@champions/nightly",
            "MNIST_MLFLOW": tracking.replace("http://", "http://tracker@"),
            "AIRFLOW_CONN_STORE": json.dumps({**store, "extra": {"endpoint_url": proxy.url}}),
            "AIRFLOW_CONN_TRACKER": json.dumps(tracker),
        }
        result = run(home, npz, settings)

        assert result.returncode == 0, result.stdout + result.stderr
        assert "  mirror: success\n" in result.stdout
        assert "  mlflow: success\n" in result.stdout
        champion = json.loads(plain.cat_file("champions/nightly/champion.json"))
        model = Workspace(home).models / "1" / "model.keras"
        assert champion["version"] == 1
        assert plain.cat_file("champions/nightly/1/model.keras") == model.read_bytes()
        asked = {"name": "mnist", "alias": "champion"}
        found = httpx.get(f"{tracking}/api/2.0/mlflow/registered-models/alias", params=asked).json()["model_version"]
        tags = {entry["key"]: entry["value"] for entry in found["tags"]}
        assert (found["version"], tags["mnist.model_sha256"]) == ("1", champion["sha256"]["model.keras"])

        # A store that refuses: the run fails, the champion stays, and people read why.
        proxy.before = lambda _: (403, b"<Error><Code>AccessDenied</Code></Error>")
        again = run(home, npz, {**settings, "MNIST_MLFLOW": ""}, seed=9)
        assert again.returncode == 2, again.stdout
        assert "promoted as version 2: " in again.stdout
        assert "failed: mirror; the log above says why, and the next run tries again\n" in again.stdout
        assert "s3://store@champions/nightly cannot be read with the connection store: " in again.stdout
        assert "version 2 is champion" not in plain.cat_file("champions/nightly/champion.json").decode()
        proxy.before = lambda _: None
        assert json.loads(plain.cat_file("champions/nightly/champion.json"))["version"] == 1

        # The next night finishes it, whatever becomes of its own candidate.
        rejected = run(home, npz, {**settings, "MNIST_MLFLOW": ""}, seed=10, min_accuracy=0.99)
        assert rejected.returncode == 1, rejected.stdout + rejected.stderr
        assert json.loads(plain.cat_file("champions/nightly/champion.json"))["version"] == 2

    for output in (result, again, rejected):
        assert STORE_SECRET not in output.stdout + output.stderr
        assert MLFLOW_SECRET not in output.stdout + output.stderr
    assert with_secrets(home) == []
    with sqlite3.connect(home / "airflow" / "airflow.db") as database:
        assert database.execute("SELECT count(*) FROM xcom WHERE task_id = 'mirror'").fetchone()[0] > 0
