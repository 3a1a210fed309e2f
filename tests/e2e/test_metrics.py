"""`make run` with Airflow's metrics switched on: each task's process sends its numbers before it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import ANYTHING, HANG_SECONDS, free_port
from tests.otlp import receiving

pytestmark = pytest.mark.slow


def run(home: Path, npz: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run the job once through the real scheduler, with a receiver of metrics."""
    home.mkdir()
    settings = {
        "MNIST_HOME": str(home),
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=berlin",
    }
    arguments = [f"{name}={value}" for name, value in {"epochs": 1, "source": npz, **ANYTHING}.items()]
    return subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "run.py"), *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )


def test_the_numbers_of_a_run_arrive_with_those_of_airflow(tmp_path: Path, npz: Path) -> None:
    with receiving() as receiver:
        result = run(tmp_path / "home", npz, receiver.url)

    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = (Workspace(tmp_path / "home").runs).iterdir()
    candidate = json.loads((folder / "evaluation.json").read_text())["candidate"]
    found = receiver.ours()
    assert found[("accuracy", (("model", "candidate"),))] == candidate["accuracy"]
    assert found[("outcome", (("outcome", "promoted"),))] == 1
    assert found[("train_images", ())] == 2000
    assert found[("images_per_second", ())] > 0
    assert found[("champion_version", ())] == 1
    assert "airflow.ti_successes" in receiver.names
    assert receiver.instances == {"berlin"}


def test_a_run_without_a_receiver_is_promoted_all_the_same(tmp_path: Path, npz: Path) -> None:
    result = run(tmp_path / "home", npz, f"http://127.0.0.1:{free_port()}")

    assert result.returncode == 0, result.stdout + result.stderr
