"""The way back: an older model becomes champion again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task
from mnist_common import CHAMPION, Context, airflow_params, no_retry_for_bad_input
from mnist_elsewhere import copy_champion_after
from mnist_metrics import send_figures
from mnist_notify import tell_failure, tell_rollback

from mnist_tasks.config import RollbackConfig
from mnist_tasks.run_parameters import rollback_form
from mnist_tasks.workspace import Workspace


@dag(
    schedule=None,
    max_active_runs=1,
    params=airflow_params(rollback_form()),
    tags=["mnist", "models"],
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": timedelta(minutes=10),
        "on_failure_callback": tell_failure,
    },
)
def mnist_rollback() -> None:
    """
    ### Make an older model champion again

    Its files are loaded in a fresh process and must give the same probabilities as when they were approved. Then they
    are published as a **new version**, so that TF Serving follows, and the champion link moves to it in one step. The
    history in `<MNIST_HOME>/models/history.jsonl` says who did so, when and why.

    The nightly training goes on: its next candidate is compared with the restored champion. Pause `mnist_training` if
    the cause is not fixed.
    """

    @task(multiple_outputs=False, outlets=[CHAMPION], on_success_callback=[tell_rollback, send_figures])
    @no_retry_for_bad_input()
    def rollback(params: Context = None, run_id: Context = None, outlet_events: Context = None) -> dict[str, Any]:
        from mnist_tasks.rollback import rollback

        outcome = asdict(rollback(Workspace.from_environment().models, RollbackConfig(**params), run_id))
        outlet_events[CHAMPION].extra = {"run_id": run_id, **outcome}
        return outcome

    copy_champion_after(rollback())


mnist_rollback()
