"""The base of everything a user can set: validated by the JSON schema that the trigger form is made from.

Airflow checks the trigger form with ``jsonschema``; `Parameters` checks with the same schema by the same library, so
the form, the command line and a call from Python refuse a bad value with the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mnist_tasks.system.errors import InputError


class Parameters(BaseModel):
    """Base of the parameter groups: immutable, complete with defaults, and refused with an `InputError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_as_the_form_does(cls, values: dict[str, Any]) -> dict[str, Any]:
        # An InputError is not a ValueError, so pydantic raises it unchanged.
        check(cls.model_json_schema()["properties"], values)
        return values

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # What the JSON schema of a single field cannot say: it is required, a number must be finite.
            problems = []
            for problem in error.errors():
                found = "" if problem["type"] == "missing" else f"{problem['input']!r}: "
                problems.append(f"{'.'.join(map(str, problem['loc']))}: {found}{problem['msg']}")
            raise InputError("; ".join(problems)) from None


def check(properties: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise an `InputError` that names each value that its JSON schema, by name in `properties`, does not allow."""
    problems = []
    for name, value in values.items():
        if name not in properties:
            close = difflib.get_close_matches(name, properties, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(properties))}"
            problems.append(f"{name}: unknown parameter; {hint}")
            continue
        try:
            jsonschema.validate(value, properties[name])
        except jsonschema.ValidationError as error:
            problems.append(f"{name}: {error.message}")
    if problems:
        raise InputError("; ".join(problems))


def one_of(*options: str) -> Any:
    """A string field with a fixed set of values, shown as a drop-down list in the trigger form."""
    return Field(json_schema_extra={"enum": list(options)})
