"""What the DAGs share: the model as an asset, the way to its page, a trigger form's fields, failures past mending."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import Asset, BaseOperatorLink, Param
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mnist_tasks.config import RunConfig
from mnist_tasks.system.disk_space import DiskError, explained_disk_errors
from mnist_tasks.system.errors import TaskError, is_transient
from mnist_tasks.workspace import Workspace

# What Airflow fills in when a task runs: another task's return value, and a value from its context by name.
XCom = Any
Context = Any

# By its name alone: Airflow would take a workspace that has been moved for another asset.
CHAMPION = Asset("mnist_champion", group="model")


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


def form(
    sections: Mapping[str, Mapping[str, dict[str, Any]]], defaults: Mapping[str, Any] | None = None
) -> dict[str, Param]:
    """A trigger form: a field for each JSON schema, by section and name, with its default, bounds and words.

    Args:
        sections: a field without a default must be filled in.
        defaults: by name, instead of those of the schemas.
    """
    given = {name: {"default": value} for name, value in (defaults or {}).items()}
    return {
        name: Param(**{"description_md": field.pop("description"), "section": section, **field, **given.get(name, {})})
        for section, fields in sections.items()
        for name, field in fields.items()
    }


PARAMETERS = "parameters.json"  # in the run's folder


def keep_parameters(params: Mapping[str, Any], run_id: str) -> None:
    """Write down what a run begins with, for the tasks after the first one.

    What a run is not told by who triggers it, it is told by MNIST_PARAMS, and that may be changed while it goes on, or
    be another one on another worker.
    """
    from mnist_tasks.system.files import write_json

    write_json(Workspace.from_environment().run(run_id) / PARAMETERS, dict(params))


def kept_parameters(params: Mapping[str, Any], run_id: str) -> RunConfig:
    """The configuration that the run has begun with; `params` if that is not known, as in a run of an older release."""
    from mnist_tasks.system.files import read_json

    path = Workspace.from_environment().run(run_id) / PARAMETERS
    return RunConfig.from_parameters(read_json(path, "load") if path.exists() else params)


def skip_as_before(handed_on: XCom, run_id: str) -> None:
    """End a task as skipped where `train` was, as nothing has changed, with the reason that it has written down."""
    from mnist_tasks.registry.outcome import UNCHANGED
    from mnist_tasks.system.files import read_json

    path = Workspace.from_environment().run(run_id) / "decision.json"
    # A task that somebody has marked as done hands on nothing either.
    if handed_on is None and path.exists() and (decision := read_json(path, "train"))["outcome"] == UNCHANGED:
        raise AirflowSkipException(decision["reason"])


@contextmanager
def no_retry_for_bad_input() -> Iterator[None]:
    """Fail at once where a retry would fail the same way; name a full disk, wherever it was met."""
    try:
        with explained_disk_errors(Workspace.from_environment().root, below=True):
            yield
    except (TaskError, DiskError) as error:
        if is_transient(error):
            raise
        raise AirflowFailException(str(error)) from error
