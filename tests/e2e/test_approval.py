"""Approval with a real scheduler and API server. The tests answer through the API, as a person does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import Workspace
from tests.helpers import ANYTHING, HANG_SECONDS, logged_in, served

pytestmark = pytest.mark.slow

# More than ten times as long as an answer takes here. The last test waits for the whole time.
WAIT, IN_WORDS = "45s", "45 seconds"
DAG = "/api/v2/dags/mnist_training"


class Airflow:
    """Access to a `make up` with approval through its API."""

    def __init__(self, home: Workspace, client: httpx.Client, source: Path, told: list[str]) -> None:
        self.home, self.client, self.source, self.told = home, client, source, told

    def get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"{DAG}{path}").raise_for_status().json()
        return answer

    def trigger(self, **parameters: Any) -> str:
        conf = {"epochs": 1, **ANYTHING, "source": str(self.source), **parameters}
        body = {"logical_date": None, "conf": conf}
        run_id: str = self.client.post(f"{DAG}/dagRuns", json=body).raise_for_status().json()["dag_run_id"]
        return run_id

    def wait_for(self, run_id: str, task: str, *expected: str) -> dict[str, Any]:
        """Wait until the state of a task is one of those expected; return the task."""
        deadline = time.monotonic() + HANG_SECONDS
        while True:
            found = self.get(f"/dagRuns/{run_id}/taskInstances/{task}")
            if found["state"] in expected:
                return found
            assert found["state"] not in ("failed", "upstream_failed", "success", "skipped"), found
            assert time.monotonic() < deadline, f"{task} of {run_id} is still {found['state']}"
            time.sleep(0.2)

    def question(self, run_id: str) -> dict[str, Any]:
        self.wait_for(run_id, "approve", "awaiting_input")
        # A person reads the question first. If the answer comes within about a second, the scheduler has not yet seen
        # that the task waits. The task then loses a try and half a minute.
        time.sleep(3)
        return self.get(f"/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails")

    def answer(self, run_id: str, option: str, comment: str) -> None:
        body = {"chosen_options": [option], "params_input": {"comment": comment}}
        path = f"{DAG}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
        self.client.patch(path, json=body).raise_for_status()

    def clear(self, run_id: str, *tasks: str) -> None:
        """Wait until the run has ended, then clear tasks and those downstream of them.

        SQLite locks no rows. A scheduler that is about to end the run could otherwise do so after the tasks were
        cleared, and they would wait for ever in a run that counts as successful.
        """
        deadline = time.monotonic() + HANG_SECONDS
        while (state := self.get(f"/dagRuns/{run_id}")["state"]) not in ("success", "failed"):
            assert time.monotonic() < deadline, f"{run_id} is still {state}"
            time.sleep(0.2)
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": tasks, "include_downstream": True}
        self.client.post(f"{DAG}/clearTaskInstances", json=body | {"only_failed": False}).raise_for_status()

    def decision(self, run_id: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.home.run(run_id) / "decision.json").read_text())
        return loaded


@pytest.fixture(scope="module")
def chat() -> Iterator[tuple[str, list[str]]]:
    """A webhook of a chat: its URL, and the list of the texts that it receives."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/services/very-secret", texts
        server.shutdown()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, npz: Path, chat: tuple[str, list[str]]) -> Iterator[Airflow]:
    home = Workspace(tmp_path_factory.mktemp("home"))
    url, told = chat
    settings = {
        "MNIST_SCHEDULE": "",
        "MNIST_APPROVAL": WAIT,
        "MNIST_NOTIFY": json.dumps([{"notifier": "mnist_notify.WebhookNotifier", "url": url}]),
    }
    with served(home, **settings) as airflow_url, logged_in(airflow_url, home) as client:
        yield Airflow(home, client, npz, told)


def test_a_candidate_that_is_approved_is_promoted_with_the_name(airflow: Airflow) -> None:
    run_id = airflow.trigger()

    question = airflow.question(run_id)

    assert (question["options"], question["defaults"]) == (["Approve", "Reject"], ["Reject"])
    assert question["subject"].startswith("Approve the candidate with accuracy 0.")
    assert "- passed min_accuracy: " in question["body"]
    assert question["body"].endswith(f"Without an answer within {IN_WORDS} it is rejected.")
    assert ModelDirectory(airflow.home.models).champion() is None
    assert airflow.told[-1].startswith("mnist_training: a candidate waits for approval\n")
    assert airflow.told[-1].endswith("/tasks/approve/required_actions")

    airflow.answer(run_id, "Approve", "fine")

    airflow.wait_for(run_id, "promote", "success")
    approval = airflow.decision(run_id)["approval"]
    assert (approval["approved"], approval["by"], approval["comment"]) == (True, "admin", "fine")
    models = ModelDirectory(airflow.home.models)
    champion = models.champion()
    assert champion
    assert champion.metadata().approved_by == "admin"
    assert [(event.to, event.approved_by) for event in models.history()] == [(1, "admin")]
    assert "| approved by | admin |" in champion.card()
    wait_until_told(airflow, "mnist_training: version 1 promoted\n")


def test_a_cleared_promote_finds_the_answer_again(airflow: Airflow) -> None:
    run_id = airflow.get("/dagRuns")["dag_runs"][0]["dag_run_id"]
    (airflow.home.run(run_id) / "decision.json").unlink()

    airflow.clear(run_id, "promote")

    task = airflow.wait_for(run_id, "promote", "success")
    while task["try_number"] < 2:
        task = airflow.wait_for(run_id, "promote", "success")
    assert airflow.decision(run_id)["approval"]["comment"] == "fine"
    assert [version.number for version in ModelDirectory(airflow.home.models).versions()] == [1]


def test_a_candidate_that_is_rejected_leaves_the_champion(airflow: Airflow) -> None:
    run_id = airflow.trigger(seed=7)
    airflow.question(run_id)

    airflow.answer(run_id, "Reject", "looks odd on 7")

    airflow.wait_for(run_id, "promote", "skipped")
    assert airflow.decision(run_id)["reason"] == "rejected by admin: looks odd on 7"
    assert (airflow.home.models / "champion").readlink() == Path("1")
    wait_until_told(airflow, "mnist_training: candidate rejected\n")
    assert "\nReason: rejected by admin: looks odd on 7\n" in airflow.told[-1]


def test_a_cleared_question_is_asked_again_and_the_second_answer_counts(airflow: Airflow) -> None:
    run_id = airflow.get("/dagRuns?order_by=-run_after")["dag_runs"][0]["dag_run_id"]
    path = f"/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    first = airflow.get(path)

    airflow.clear(run_id, "approve")

    second = airflow.question(run_id)
    # Airflow keeps a task's question, so `approve` must ask exactly what it asked the first time.
    assert (second["created_at"], second["body"]) == (first["created_at"], first["body"])
    assert (first["chosen_options"], second["chosen_options"]) == (["Reject"], None)
    airflow.answer(run_id, "Approve", "looked again")
    airflow.wait_for(run_id, "promote", "success")
    assert airflow.decision(run_id)["reason"].endswith("approved by admin: looked again")
    assert (airflow.home.models / "champion").readlink() == Path("2")


def test_no_answer_in_time_rejects(airflow: Airflow) -> None:
    run_id = airflow.trigger(seed=8)
    airflow.question(run_id)

    airflow.wait_for(run_id, "promote", "skipped")

    assert airflow.decision(run_id)["reason"] == "rejected: nobody answered in time"
    assert (airflow.home.models / "champion").readlink() == Path("2")


def test_no_task_log_has_an_error_or_the_webhooks_url(airflow: Airflow) -> None:
    logs = [path for path in (airflow.home.root / "airflow" / "logs").rglob("*.log") if "task_id=" in str(path)]

    assert any("told by mnist_notify.WebhookNotifier" in log.read_text() for log in logs)
    for log in logs:
        assert "very-secret" not in log.read_text()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["event"] for line in lines if line["level"] in ("error", "critical")] == []


def wait_until_told(airflow: Airflow, words: str) -> None:
    """Wait for a text in the chat, which Airflow sends after the state of the task has changed."""
    deadline = time.monotonic() + HANG_SECONDS
    while not airflow.told[-1].startswith(words):
        assert time.monotonic() < deadline, airflow.told
        time.sleep(0.1)
