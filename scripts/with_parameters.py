"""Run a command with the parameters of `make`, byte for byte as they were typed: `make run source='https://host/a?b&c'`.

`with_parameters.py COMMAND...` replaces itself by that command and adds each `name=value`. A name in capitals, such as
MNIST_HOME, is set as an environment variable instead, as make does.

Make would expand the values and pass them through a shell, which would run a `$(shell ...)` in one. So the Makefile
does not use them. They are read from MAKEFLAGS, where make writes them for another make: a dollar is doubled, a blank
or a backslash follows a backslash (`quote_for_env` in main.c of GNU make 3.81 to 4.4.1). Make drops blanks at the start
of a value, so these are lost.

Needs only Python's standard library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

FAILED = 2

# The Makefile itself uses these.
MAKEFILE_VARIABLES = {"PYTHON", "COMPOSE"}


def given(flags: str) -> Iterator[tuple[str, str]]:
    """The names and values that were typed behind `make`, from MAKEFLAGS."""
    _, _, words = f" {flags}".partition(" -- ")
    for word in re.findall(r"(?:\\.|[^\\ \t])+", words, re.DOTALL):
        name, _, value = re.sub(r"\\(.)|\$\$", lambda match: match[1] or "$", word, flags=re.DOTALL).partition("=")
        name = name.removesuffix(":")
        if name not in MAKEFILE_VARIABLES:
            yield name, value


def main(command: list[str]) -> int:
    """Replace this process by the command. Return a status only if it cannot be started."""
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
