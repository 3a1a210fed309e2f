"""What the DAGs share: the model as an asset, a trigger form's fields, and failures that no retry can mend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
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


@contextmanager
def no_retry_for_bad_input() -> Iterator[None]:
    """Fail at once where a retry would fail the same way."""
    try:
        yield
    except TaskError as error:
        raise AirflowFailException(str(error)) from error
