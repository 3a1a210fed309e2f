"""A client of an MLflow server, with the credentials of an Airflow connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from mnist_tasks.system.connections import connection
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.library_settings import environment
from mnist_tasks.system.store_url import ServerUrl

if TYPE_CHECKING:
    from mlflow import MlflowClient

TIMEOUT_SECONDS = 60.0
# MLflow's own settings, as far as the environment has none. It would try for many minutes, while the task has tries of
# its own; and it would report to its makers how it is used.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{TIMEOUT_SECONDS:.0f}",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@contextmanager
def tracking_server(server: ServerUrl) -> Iterator[MlflowClient]:
    """A client for the block, which names the server in its errors.

    The connection's login and password are sent as such; a password without a login as a token.

    Raises:
        InputError: if the package is missing, there is no such connection, the server is none of MLflow's, or it
            refuses something.
        ConnectionError: if it cannot be reached, or has a problem that may pass.
    """
    login = connection(server.connection) if server.connection else None
    user, password = (login.login, login.password) if login else (None, None)
    _try_out(server.url, user, password)
    secrets = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password if user else None}
    secrets["MLFLOW_TRACKING_TOKEN"] = None if user else password
    # MLflow reads its credentials nowhere else.
    with environment({**{name: os.environ.get(name, text) for name, text in SETTINGS.items()}, **secrets}):
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise InputError(
                f"MNIST_MLFLOW needs a package that is not installed: {error}; install requirements-mlflow.txt where "
                "tasks run"
            ) from error
        try:
            yield MlflowClient(server.url, server.url)
        except MlflowException as error:
            raise _explained(server.url, error) from error


def _try_out(url: str, user: str | None, password: str | None) -> None:
    """Ask for something small: MLflow's own errors do not tell a server that is away from one that is none."""
    headers = {"Authorization": f"Bearer {password}"} if password and not user else {}
    auth = httpx.BasicAuth(user, password or "") if user else None
    try:
        answer = httpx.post(
            f"{url}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            headers=headers,
            auth=auth,
            timeout=TIMEOUT_SECONDS,
        )
    except httpx.InvalidURL as error:
        raise InputError(f"MNIST_MLFLOW: {url} is not the URL of a server: {error}") from error
    except httpx.HTTPError as error:
        raise ConnectionError(f"the MLflow server at {url} cannot be reached now: {type(error).__name__}") from error
    if answer.status_code in (401, 403):
        raise InputError(
            f"{url} answers with status {answer.status_code}; name an Airflow connection with a login that may write "
            "there, as in http://conn_id@host:5000"
        )
    if _may_pass(answer.status_code):
        raise ConnectionError(f"the MLflow server at {url} answers with status {answer.status_code}; try again later")
    if not answer.is_success or not isinstance(_json(answer), dict):
        kind = answer.headers.get("Content-Type", "something").partition(";")[0]
        raise InputError(
            f"{url} answers with status {answer.status_code} and {kind}, not as an MLflow server does; correct "
            "MNIST_MLFLOW"
        )


def _may_pass(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _explained(url: str, error: Any) -> InputError | ConnectionError:
    """What an error of MLflow's client means. Its text is left out: it may repeat what was sent."""
    status = error.get_http_status_code()
    # Its client has no code of its own for a server that does not answer.
    if _may_pass(status):
        return ConnectionError(f"the MLflow server at {url} had a problem: {error.error_code}; try again later")
    return InputError(f"the MLflow server at {url} refuses something: {error.error_code}; look at its log")
