"""The command about the mirror in an object store."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from mnist_tasks import installation
from mnist_tasks.cli.output import NO, YES, AsJson, answer
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace


def mirror(
    check: Annotated[bool, typer.Option("--check", help="Only compare: every file is read back.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove versions that were pruned here.")] = False,
    as_json: AsJson = False,
) -> int:
    """Copy the champion to MNIST_MIRROR, or check the copy. Exit status 1: they differ."""
    url = installation.value("MNIST_MIRROR")
    if url is None:
        raise InputError("MNIST_MIRROR is not set; set it to a folder in a store, such as s3://conn_id@bucket/models")
    if check and prune:
        raise InputError("--prune changes the mirror and --check does not; give one of them")
    workspace = Workspace.from_environment()
    _read_connections_of(workspace)
    from mnist_tasks.mirror import mirror, mirror_problems

    if check:
        found = mirror_problems(workspace.models, url)
        answer(found, found or [f"{url} is whole"], as_json)
        return NO if found else YES
    done = mirror(workspace.models, url, prune=prune or installation.value("MNIST_MIRROR_PRUNE"))
    now = f"version {done.version} is champion in {url}" if done.version else f"{url} has no champion, as here"
    lines = [f"{now}; files: {done.files}, sent: {done.uploaded} ({done.uploaded_bytes:,} bytes)"]
    if done.pruned:
        lines.append(f"removed: {', '.join(map(str, done.pruned))}")
    answer(asdict(done), lines, as_json)
    return YES


def _read_connections_of(workspace: Workspace) -> None:
    """Have Airflow read connections from its database, that of the workspace unless the environment names another.

    Outside of its own processes it reads the environment alone. Only this variable tells it otherwise.
    """
    home = workspace.root / "airflow"
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    os.environ.setdefault("AIRFLOW_HOME", str(home))
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")  # it logs to standard output
    os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{home / 'airflow.db'}")
