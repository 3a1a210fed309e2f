"""Starts a command with what was typed behind `make`, byte for byte: `make run source='https://host/a?b&c'`.

`with_parameters.py COMMAND...` becomes that command with each `name=value` behind it. A name in capitals, such as
MNIST_HOME, becomes an environment variable instead, which is what make makes of it.

Make itself would hand values on through a shell, and expand them first: `$(shell ...)` in one would run. So the
Makefile keeps them to itself, and they are read from MAKEFLAGS, where make writes them for another make: a dollar
doubled, a blank or a backslash behind a backslash (`quote_for_env` in the main.c of GNU make 3.81 to 4.4.1). Only
blanks at the start of a value are lost: make drops them.

Needs nothing but Python's standard library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

FAILED = 2

# Read by the Makefile itself.
ITS_OWN = {"PYTHON", "COMPOSE"}


def given(flags: str) -> Iterator[tuple[str, str]]:
    """The names and values that were typed behind make, from its MAKEFLAGS."""
    _, _, words = f" {flags}".partition(" -- ")
    for word in re.findall(r"(?:\\.|[^\\ \t])+", words, re.DOTALL):
        name, _, value = re.sub(r"\\(.)|\$\$", lambda match: match[1] or "$", word, flags=re.DOTALL).partition("=")
        name = name.removesuffix(":")
        if name not in ITS_OWN:
            yield name, value


def main(command: list[str]) -> int:
    """Become the command; returns only if it cannot be started."""
    values = dict(given(os.environ.get("MAKEFLAGS", "")))
    parameters = [f"{name}={value}" for name, value in values.items() if name != name.upper()]
    settings = {name: value for name, value in values.items() if name == name.upper()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    try:
        os.execvpe(command[0], [*command, *parameters], {**inherited, **settings})  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        print(f"failed: {command[0]} cannot be started: {error}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
