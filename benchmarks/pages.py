"""How fast the pages of the plugin are with 500 versions and runs, and what it costs processes that show no page.

Usage, in the checkout: python -m benchmarks.pages [ROUNDS [JSON FILE]]. Each round asks a fresh API server, in a
process of its own, for each page; the first request apart, as it reads what the later ones find in a cache. Then it
parses the DAG files, and does what a task's process does before its task, with and without the plugin in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from mnist_tasks.documents import Evaluation
from mnist_tasks.gate import decide
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.publishing import publish
from mnist_tasks.system.files import sha256, write_json
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import stand_in, with_documents
from tests.plugins.documents import evaluated_run, evaluation, training

VERSIONS = 500
LATER_REQUESTS = 50  # of each page in a round
TARGET = 0.1  # seconds, at the median
RUN = "manual__2026-11-24T02:00:00+00:00"
MODEL_BYTES = 1_200_000  # of the classic recipe

PARSE = """
import sys, time
from airflow import plugins_manager
from airflow.dag_processing.dagbag import BundleDagBag
start = time.perf_counter()
plugins_manager.ensure_plugins_loaded()
bag = BundleDagBag(sys.argv[1], bundle_path=sys.argv[1], bundle_name="dags-folder")
seconds = time.perf_counter() - start
assert bag.dags and not bag.import_errors, bag.import_errors
print(len(plugins_manager.get_fastapi_plugins()[0]), seconds)
"""
# A task's process imports this, loads the plugins for their listeners and macros, and parses the file of its DAG.
TASK_START = """
import sys, time
start = time.perf_counter()
import airflow.sdk.execution_time.task_runner
from airflow.sdk import plugins_manager
from airflow.sdk.listener import get_listener_manager
get_listener_manager()
plugins_manager.integrate_macros_plugins()
from airflow.dag_processing.dagbag import BundleDagBag
bag = BundleDagBag(sys.argv[1] + "/mnist_training.py", bundle_path=sys.argv[1], bundle_name="dags-folder")
seconds = time.perf_counter() - start
assert len(bag.dags) == 1, bag.import_errors
print(len(plugins_manager._get_plugins()[0]), seconds)
"""


def fill(home: Path) -> None:
    """A model directory whose documents are as large as real ones; the newest version and a run have all files."""
    workspace = Workspace(home)
    models = ModelDirectory(workspace.models)
    for number in range(1, VERSIONS + 1):
        name = RUN if number == VERSIONS else f"scheduled__{number}"
        accuracy = 0.975 + number % 7 / 1000
        champion = (number - 1, 0.975 + (number - 1) % 7 / 1000) if number > 1 else None
        document = evaluation(accuracy, champion)
        measured = Evaluation.model_validate_json(json.dumps(document))
        bounds = GateConfig(max_regression=1, max_digit_regression=1)
        decision = decide(measured.candidate, measured.champion, bounds)
        assert decision.approved
        record = {
            **asdict(decision),
            "run_id": name,
            "policy": GateConfig().model_dump(),
            "champion_version": number - 1 or None,
        }
        metadata = {**training(name), "run_id": name, "forced": False, "test_accuracy": accuracy}
        files = {}
        workspace.run(name).mkdir(parents=True, exist_ok=True)
        write_json(workspace.run(name) / "decision.json", {**record, "outcome": "promoted", "version": number})
        if number == VERSIONS:
            run = evaluated_run(workspace, name, accuracy, champion)
            (run / "model.keras").write_bytes(os.urandom(MODEL_BYTES))
            (run / "figures" / "recall.png").write_bytes(os.urandom(40_000))
            names = ["model.keras", "history.json", *(f"figures/{figure.name}" for figure in run.glob("figures/*"))]
            files = {path: run / path for path in names}
        base = stand_in(name, home / "stand-ins")
        changed = {
            "replaces": number - 1 or None,
            "files": {**base["files"], **files},
            "digests": {**base["digests"], **{path: sha256(file) for path, file in files.items()}},
            "reason": decision.reason,
            "metadata": metadata,
            "evaluation": document,
            "decision": record,
        }
        publish(models, **with_documents({**base, **changed}))


def serve() -> dict[str, dict[str, list[float]]]:
    """Seconds of the requests for each page, in this process; the environment says where all is."""
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from starlette.testclient import TestClient

    initdb()
    dags, bundle = PROJECT / "dags", "dags-folder"
    with create_session() as session:
        session.add(DagBundleModel(name=bundle))
    sync_bag_to_db(BundleDagBag(str(dags), bundle_path=dags, bundle_name=bundle), bundle, None)
    with create_session() as session:
        dag = SerializedDagModel.get_dag("mnist_training", session=session)
        assert dag
        earlier = datetime.now(timezone.utc) - timedelta(days=VERSIONS)
        session.add_all(
            DagRun(
                dag_id="mnist_training",
                run_id=f"scheduled__{number}",
                run_type=DagRunType.SCHEDULED,
                state=DagRunState.SUCCESS,
                run_after=earlier + timedelta(days=number),
            )
            for number in range(1, VERSIONS)
        )
        dag.create_dagrun(
            run_id=RUN,
            run_after=datetime.now(timezone.utc),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.SUCCESS,
            session=session,
        )

    pages = {
        "the models": ("models", f"version {VERSIONS}"),
        "the newest version": (f"models/{VERSIONS}", "Promoted"),
        "an old version": ("models/1", "Promoted"),
        "two versions compared": (f"compare?of=1&of={VERSIONS}", "Difference"),
        "a run": (f"runs/mnist_training/{RUN}", f"version {VERSIONS}"),
        "a figure": (f"runs/mnist_training/{RUN}/figures/recall.png", ""),
        "the style": ("static/style.css", "body"),
    }
    found: dict[str, dict[str, list[float]]] = {name: {"first": [], "later": []} for name in pages}
    with TestClient(create_app(apps="core")) as client:
        jwt = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="viewer", role="VIEWER"))
        # What Airflow itself needs for its first request is not the pages'.
        client.get("/api/v2/dags", headers={"Authorization": f"Bearer {jwt}"}).raise_for_status()
        for kind, requests in (("first", 1), ("later", LATER_REQUESTS)):
            for _ in range(requests):
                for name, (path, word) in pages.items():
                    start = time.perf_counter()
                    answer = client.get(f"/mnist/{path}", headers={"Authorization": f"Bearer {jwt}"})
                    found[name][kind].append(time.perf_counter() - start)
                    assert answer.status_code == 200
                    assert not word or word in answer.text
    return found


def start_of(code: str, plugins: Path, environment: dict[str, str], expected: int) -> float:
    """The seconds that a fresh process says, with so many of the plugins of the project loaded."""
    variables = {**environment, "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins)}
    command = [sys.executable, "-c", code, str(PROJECT / "dags")]
    output = subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout
    loaded, seconds = output.splitlines()[-1].split()
    assert int(loaded) == expected
    return float(seconds)


def main(rounds: int, path: Path | None) -> None:
    host = machine()
    with tempfile.TemporaryDirectory() as folder:
        home, nothing = Path(folder, "home"), Path(folder, "no plugins")
        nothing.mkdir()
        shutil.copy(PROJECT / "plugins" / "mnist_inbox.py", nothing)  # a DAG imports it; it is no plugin
        fill(home)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MNIST"))}
        environment |= {
            "AIRFLOW_HOME": str(Path(folder, "airflow")),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "MNIST_HOME": str(home),
        }
        served = []
        for number in range(rounds):
            database = f"sqlite:///{folder}/{number}.db"
            variables = {
                "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            }
            command = [sys.executable, "-m", "benchmarks.pages", "serve"]
            output = subprocess.run(
                command, env={**environment, **variables}, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT
            ).stdout
            served.append(json.loads(output.splitlines()[-1]))
        pages: dict[str, dict[str, list[float]]] = {
            name: {kind: [seconds for one in served for seconds in one[name][kind]] for kind in ("first", "later")}
            for name in served[0]
        }

        starts: dict[str, list[tuple[float, float]]] = {"parsing the DAG files": [], "before a task": []}
        for _ in range(5 * rounds):
            for pairs, code in zip(starts.values(), (PARSE, TASK_START), strict=True):
                with_plugin = start_of(code, PROJECT / "plugins", environment, 1)
                pairs.append((with_plugin, start_of(code, nothing, environment, 0)))
    report(pages, starts)
    if path:
        results: dict[str, Any] = {"versions": VERSIONS, "pages": pages, "with and without the plugin": starts}
        path.write_text(json.dumps({"machine": host, **results}, indent=2))


def report(pages: dict[str, dict[str, list[float]]], starts: dict[str, list[tuple[float, float]]]) -> None:
    """Print all in milliseconds."""
    print(f"{VERSIONS} versions; milliseconds, {len(pages['the models']['later'])} later requests of each page")
    print(f"{'':<24}{'first request':>16}{'median':>10}{'95 %':>10}")
    for name, found in pages.items():
        times = [
            statistics.median(found["first"]),
            statistics.median(found["later"]),
            statistics.quantiles(found["later"], n=20)[-1],
        ]
        print(f"{name:<24}{times[0] * 1e3:>16.1f}{times[1] * 1e3:>10.1f}{times[2] * 1e3:>10.1f}")
    slowest = max(statistics.median(found["later"]) for found in pages.values())
    print(f"slowest median {slowest * 1e3:.1f}: {'within' if slowest < TARGET else 'ABOVE'} {TARGET * 1e3:.0f}")
    print(f"{'':<24}{'with plugin':>16}{'without':>10}{'median of the differences (quartiles)':>42}")
    for name, pairs in starts.items():
        with_plugin, without = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        low, middle, high = statistics.quantiles([first - second for first, second in pairs], n=4)
        spread = f"{middle * 1e3:+.1f} ({low * 1e3:+.1f} to {high * 1e3:+.1f})"
        print(f"{name:<24}{with_plugin * 1e3:>16.1f}{without * 1e3:>10.1f}{spread:>42}")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        print(json.dumps(serve()))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
