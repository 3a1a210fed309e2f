"""What the DAGs share: the model as an asset, a trigger form's fields, and no retry that would fail the same way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow.sdk import Asset, Param
from airflow.sdk.exceptions import AirflowFailException

from mnist_tasks.errors import TaskError
from mnist_tasks.workspace import Workspace

# What Airflow fills in when a task runs: another task's return value, and a value from its context by name.
XCom = Any
Context = Any

CHAMPION = Asset(
    "mnist_champion",
    uri=(Workspace.from_environment().models / "champion").as_uri(),
    group="model",
)


def form(sections: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, Param]:
    """A trigger form: a field for each JSON schema, by section and name, with its default, bounds and words.

    A field without a default must be filled in.
    """
    return {
        name: Param(description_md=field.pop("description"), section=section, **field)
        for section, fields in sections.items()
        for name, field in fields.items()
    }


@contextmanager
def no_retry_for_bad_input() -> Iterator[None]:
    """Fail at once where a retry would fail the same way."""
    try:
        yield
    except TaskError as error:
        raise AirflowFailException(str(error)) from error
