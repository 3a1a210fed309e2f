"""The tasks that tell other places of the champion, behind the task that may have made one; only if a setting asks.

A failure here is a failure of these tasks alone: the champion stays what it is, and the next run brings the other place
up to date.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from airflow.sdk import chain, task
from mnist_common import Context, no_retry_for_bad_input

from mnist_tasks.installation import value
from mnist_tasks.system.store_url import ServerUrl
from mnist_tasks.workspace import Workspace

EXPERIMENT = "mnist_training"  # in MLflow; a rollback moves the alias to a run of it


def copy_champion_after(upstream: Any) -> None:
    """Add `mirror` and `mlflow` to the DAG, as far as MNIST_MIRROR and MNIST_MLFLOW ask for them.

    Both run after a rejected candidate as well: perhaps an earlier run could not finish its copy.

    Args:
        upstream: what the task that publishes returns.

    Raises:
        InputError: if a setting cannot be used. Then the file that asks cannot be imported, and everybody sees why.
    """
    store: str | None = value("MNIST_MIRROR")
    server: ServerUrl | None = value("MNIST_MLFLOW")

    @task(multiple_outputs=False, trigger_rule="none_failed")
    @no_retry_for_bad_input()
    def mirror() -> dict[str, Any]:
        from mnist_tasks.mirror import mirror

        prune = value("MNIST_MIRROR_PRUNE")
        return asdict(mirror(Workspace.from_environment().models, str(store), prune=prune))

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def mlflow(run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.track import track

        workspace = Workspace.from_environment()
        assert server is not None  # noqa: S101 - else there is no such task
        return asdict(track(workspace.run_folder(run_id), workspace.models, server, EXPERIMENT))

    if store:
        chain(upstream, mirror())
    if server:
        # A teardown runs whatever became of the run, and does not decide whether the run has failed.
        chain(upstream, mlflow().as_teardown())
