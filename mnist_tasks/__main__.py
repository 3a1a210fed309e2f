"""The command line: `python -m mnist_tasks reproduce VERSION`."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from mnist_tasks.errors import TaskError
from mnist_tasks.registry import ModelDirectory
from mnist_tasks.workspace import Workspace

SAME, DIFFERENT, FAILED = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status: 0 identical, 1 different, 2 failed."""
    parser = argparse.ArgumentParser(prog="python -m mnist_tasks", description="The model directory in MNIST_HOME.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "reproduce",
        help="train a version again from its metadata and compare the weights",
        description="Train a version again from its metadata. Status 0: identical; 1: different; 2: failed.",
    )
    command.add_argument("version", help="a version's number, or champion")
    options = parser.parse_args(arguments)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        workspace = Workspace.from_environment()
        version = ModelDirectory(workspace.models).version(options.version)
        from mnist_tasks.reproduce import reproduce

        differences = reproduce(version, workspace)
    except TaskError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    print(*(differences or ["identical"]), sep="\n")
    return DIFFERENT if differences else SAME


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
