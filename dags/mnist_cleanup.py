"""The daily clean-up: old runs' working files, old versions, datasets without a model."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task
from mnist_common import Context, airflow_params, no_retry_for_bad_input
from mnist_notify import tell_failure

from mnist_tasks import installation
from mnist_tasks.config import CleanConfig
from mnist_tasks.run_parameters import clean_form
from mnist_tasks.workspace import Workspace


@dag(
    schedule="0 12 * * *",
    catchup=False,
    max_active_runs=1,
    params=airflow_params(clean_form()),
    tags=["mnist", "models"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(hours=1),
        "on_failure_callback": tell_failure,
    },
)
def mnist_cleanup() -> None:
    """
    ### Remove what nobody needs any more

    Every day at 12:00 UTC, long after the nightly training:

    - the working files of runs that are older than `MNIST_KEEP_RUNS` (90 days); their documents stay,
    - all but the newest `MNIST_KEEP_VERSIONS` versions (100), but never the champion, nor what a rollback would go to,
      nor the reference that candidates are measured against,
    - datasets that no kept version or run has, and batches that neither a dataset nor the inbox has.

    The task's log and its return value say what was removed. With *dry run* nothing is.
    """

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def clean(params: Context = None) -> dict[str, Any]:
        from mnist_tasks.clean import clean

        return asdict(
            clean(
                Workspace.from_environment(),
                keep_runs=installation.value("MNIST_KEEP_RUNS"),
                keep_versions=installation.value("MNIST_KEEP_VERSIONS"),
                reference=installation.value("MNIST_PARAMS").get("reference"),
                dry_run=CleanConfig(**params).dry_run,
            )
        )

    clean()


mnist_cleanup()
