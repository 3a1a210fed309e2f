"""What the DAGs share: the model as an asset, the way to its page, a trigger form's fields, failures past mending."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import Asset, BaseOperatorLink, Param
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mnist_tasks.disk import DiskError, disk_named
from mnist_tasks.errors import TaskError, may_pass
from mnist_tasks.workspace import Workspace

# What Airflow fills in when a task runs: another task's return value, and a value from its context by name.
XCom = Any
Context = Any

CHAMPION = Asset(
    "mnist_champion",
    uri=(Workspace.from_environment().models / "champion").as_uri(),
    group="model",
)


class ModelLink(BaseOperatorLink):
    """A button at a task that leads to its run's page about the model, which the plugin serves.

    Airflow keeps it with the task, so that no other DAG gets it and no process loads the plugin for it.
    """

    name = "Model"

    def get_link(self, operator: object, *, ti_key: Any) -> str:  # noqa: ARG002
        """The page's address; Airflow asks once the task has ended, however it did."""
        return model_page(ti_key.dag_id, ti_key.run_id)


def model_page(dag_id: str, run_id: str) -> str:
    """The address of a run's page about the model, on the server that shows the link."""
    root = urlsplit(conf.get("api", "base_url", fallback=None) or "").path.rstrip("/")
    return f"{root}/dags/{quote(dag_id)}/runs/{quote(run_id)}/plugin/mnist-run"


class Rejected(AirflowFailException):
    """The candidate was rejected, where that fails the run."""


def time_to_wait(setting: str, text: str) -> timedelta | None:
    """The time that a setting names, such as 90m or 24h; None if it is empty.

    Raises:
        ValueError: if it is no time, zero or longer than a year.
    """
    if not text.strip():
        return None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"([0-9]{1,8})([smhd])", text.strip())
    wait = timedelta(**{units[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < wait <= timedelta(days=365):
        raise ValueError(
            f"{setting}: {text!r} is no time to wait from 1s to 365d; write a number and s, m, h or d, such as 24h, or "
            "leave it empty"
        )
    return wait


def form(sections: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, Param]:
    """A trigger form: a field for each JSON schema, by section and name, with its default, bounds and words.

    A field without a default must be filled in.
    """
    return {
        name: Param(description_md=field.pop("description"), section=section, **field)
        for section, fields in sections.items()
        for name, field in fields.items()
    }


def skip_as_before(handed_on: XCom, run_id: str) -> None:
    """End a task as skipped where `train` was, as nothing has changed, with the reason that it has written down."""
    from mnist_tasks.files import read_json
    from mnist_tasks.fingerprint import UNCHANGED

    path = Workspace.from_environment().run(run_id) / "decision.json"
    # A task that somebody has marked as done hands on nothing either.
    if handed_on is None and path.exists() and (decision := read_json(path, "train"))["outcome"] == UNCHANGED:
        raise AirflowSkipException(decision["reason"])


@contextmanager
def no_retry_for_bad_input() -> Iterator[None]:
    """Fail at once where a retry would fail the same way; name a full disk, wherever it was met."""
    try:
        with disk_named(Workspace.from_environment().root, below=True):
            yield
    except (TaskError, DiskError) as error:
        if may_pass(error):
            raise
        raise AirflowFailException(str(error)) from error
