"""Airflow's API server with the plugin, as the tests of the pages ask it: clients, runs in the database, answers."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any
from urllib.parse import unquote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from fastapi import FastAPI
from starlette.testclient import TestClient

from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.workspace import Workspace
from tests.plugins.documents import evaluated_run
from tests.plugins.markup import Markup

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
BUNDLE = "dags-folder"
NOW = datetime(2026, 11, 24, 2, tzinfo=timezone.utc)
UNIQUE = count()


@dataclass
class Answer:
    """An answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def html(self) -> str:
        return self.body.decode()

    @property
    def text(self) -> str:
        """The visible text."""
        return Markup(self.html).text


def checked(answer: Answer) -> Answer:
    """Check the security headers and the HTML of an answer, and return the answer."""
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert Markup(answer.html).faults == []
        assert "Traceback" not in answer.html
    return answer


def token(role: str | None, seconds: int = 600) -> str:
    """Return a token as Airflow makes it after a login."""
    user = SimpleAuthManagerUser(username="somebody", role=role)
    return str(get_auth_manager().generate_jwt(user, expiration_time_in_seconds=seconds))


@dataclass
class Browser:
    """A client that requests pages, by default in the role of a viewer."""

    server: FastAPI
    role: str | None = "VIEWER"
    failing: bool = False  # return an answer after a server error instead of failing the test
    headers: dict[str, str] | None = None

    def ask(self, path: str, method: str = "GET", body: str = "") -> Answer:
        """Send a request and return the answer with any status. The path is relative to the plugin's path."""
        headers = {"Authorization": f"Bearer {token(self.role)}"} if self.headers is None else self.headers
        with TestClient(self.server, raise_server_exceptions=not self.failing, follow_redirects=False) as client:
            answer = client.request(method, f"/mnist{path}", headers=headers, content=body)
        return checked(Answer(answer.status_code, dict(answer.headers), answer.content))

    def get(self, path: str, status: int = 200) -> Answer:
        answer = self.ask(path)
        assert answer.status == status
        return answer

    def ask_raw(self, path: str, root: str = "") -> Answer:
        """Request a path that a client would normalize, such as one with `..`, and decode it as a server does."""
        return checked(self.ask_unchecked(path, root))

    def ask_unchecked(self, path: str, root: str = "") -> Answer:
        """Request a path like `ask_raw`, without checks, because the answer may be one of Airflow."""
        messages: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "root_path": root,
            "path": f"{root}/mnist{unquote(path)}",
            "raw_path": f"{root}/mnist{path}".encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {token(self.role)}".encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        asyncio.run(self.server(scope, receive, send))
        start, *rest = messages
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], headers, b"".join(part.get("body", b"") for part in rest))


@dataclass
class Airflow:
    """Create runs in the database and remember them."""

    made: list[DagRun] = field(default_factory=list)

    def run(
        self,
        dag_id: str = "mnist_training",
        run_id: str | None = None,
        state: DagRunState = DagRunState.SUCCESS,
        conf: dict[str, Any] | None = None,
        **tasks: str,
    ) -> str:
        """Create a run with the states of its tasks and return its id."""
        run_id = run_id or f"manual__{next(UNIQUE)}"
        with create_session() as session:
            dag = SerializedDagModel.get_dag(dag_id, session=session)
            if dag is None:
                run = DagRun(dag_id=dag_id, run_id=run_id, run_type=DagRunType.MANUAL, state=state, run_after=NOW)
                session.add(run)
            else:
                run = dag.create_dagrun(
                    run_id=run_id,
                    run_after=NOW,
                    run_type=DagRunType.MANUAL,
                    triggered_by=DagRunTriggeredByType.TEST,
                    state=state,
                    conf=conf,
                    session=session,
                )
            for task in run.get_task_instances(session=session):
                if task.task_id in tasks:
                    task.state, task.start_date, task.duration = tasks[task.task_id], NOW, 1.25
                    task.end_date = NOW + timedelta(seconds=1.25)
            self.made.append(run)
        return run_id

    def hand_on(self, run_id: str, task_id: str, message: str, dag_id: str = "mnist_training") -> None:
        """Hand on why a task has failed, as the DAG does."""
        with create_session() as session:
            XComModel.set("failure", message, dag_id=dag_id, task_id=task_id, run_id=run_id, session=session)


def promoted_run(
    home: Workspace, airflow: Airflow, accuracy: float = 0.98, champion: tuple[int, float] | None = None, **policy: Any
) -> str:
    run_id = airflow.run(promote="success", evaluate="success")
    promote(evaluated_run(home, run_id, accuracy, champion), home.models, GateConfig(**policy))
    return run_id


def plots(answer: Answer) -> list[dict[str, Any]]:
    """What the charts of a page show."""
    return [json.loads(plot) for plot in Markup(answer.html).plots]
