"""A sweep, wired together: load, normalize, plan, trials side by side, choose. The work is in `mnist_tasks.sweep`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import chain, dag, task
from airflow.sdk.exceptions import AirflowSkipException
from mnist_common import Context, ModelLink, XCom, airflow_params, no_retry_for_bad_input
from mnist_notify import tell_failure, tell_sweep
from mnist_placement import TRIES, on_gpu

from mnist_tasks.installation import value
from mnist_tasks.run_parameters import RunConfig, split_sweep, sweep_form
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace

# A task takes no more trials at a time than this, nor than the pool has slots.
AT_ONCE: dict[str, Any] = {**on_gpu(), "max_active_tis_per_dagrun": value("MNIST_SWEEP_PARALLEL")}


@dag(
    schedule=None,
    max_active_runs=1,
    params=airflow_params(sweep_form()),
    tags=["mnist", "training"],
    default_args={**TRIES, "on_failure_callback": tell_failure},
)
def mnist_sweep() -> None:
    """
    ### Search for better training parameters

    Each **trial** is a training that is measured on some of the training images; test images are never read. Optuna
    says what to try next, and ends a trial that is worse than the others. The best are trained again with other seeds.
    What wins is trained on all images by a run of `mnist_training`, whose gate decides as always.

    `quick` and `cnn` are ready to be searched. A space of your own is JSON, such as

    ```json
    {"recipe": ["classic", "cnn"], "learning_rate": {"min": 0.0005, "max": 0.01, "log": true}}
    ```

    Everything is written to `<MNIST_HOME>/sweeps/<run id>/`; the tab *Model* shows it.
    """

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def load(params: Context = None, run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.load import load
        from mnist_tasks.sweep.plan import check_sweep
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

        data, sweep = split_sweep(dict(params))
        check_sweep(sweep)
        workspace = Workspace.from_environment()
        workspace.prepare()
        rules = RunConfig.from_parameters(value("MNIST_PARAMS")).rules
        with tensorflow_in_airflow():
            loaded = load(
                data.source,
                workspace.datasets,
                inbox=workspace.inbox(data.inbox),
                rules=rules,
                run=workspace.run(run_id),
                models=workspace.models,
            )
            return asdict(loaded)

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def normalize(loaded: XCom) -> str:
        from mnist_tasks.normalize import normalize

        return normalize(Workspace.from_environment().dataset(loaded["digest"])).digest

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def plan(digest: XCom, params: Context = None, run_id: Context = None) -> list[int]:
        from mnist_tasks.sweep.plan import plan

        (data, sweep), workspace = split_sweep(dict(params)), Workspace.from_environment()
        return plan(workspace.dataset(digest), workspace.sweep_folder(run_id), sweep, data.model_dump())

    @task(multiple_outputs=False, execution_timeout=timedelta(hours=6), **AT_ONCE)
    @no_retry_for_bad_input()
    def trial(digest: XCom, number: XCom, run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.sweep.trial import trial
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

        workspace = Workspace.from_environment()
        with tensorflow_in_airflow():
            return _ended(trial(workspace.sweep_folder(run_id), workspace.dataset(digest), number))

    # A trial that has failed for good stops nothing: the others decide.
    @task(multiple_outputs=False, trigger_rule="all_done")
    @no_retry_for_bad_input()
    def finalists(run_id: Context = None) -> list[dict[str, Any]]:
        from mnist_tasks.sweep.choose import finalists

        folder = _begun(run_id)
        return [asdict(each) for each in finalists(folder)]

    @task(multiple_outputs=False, execution_timeout=timedelta(hours=6), **AT_ONCE)
    @no_retry_for_bad_input()
    def repeat(digest: XCom, training: XCom, run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.sweep.trial import repeat
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

        workspace = Workspace.from_environment()
        with tensorflow_in_airflow():
            return _ended(repeat(workspace.sweep_folder(run_id), workspace.dataset(digest), **training))

    @task(multiple_outputs=False, trigger_rule="all_done", on_success_callback=tell_sweep)
    @no_retry_for_bad_input()
    def choose(run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.sweep.choose import choose, parameters_of_the_winner

        folder = _begun(run_id)
        return parameters_of_the_winner(folder, choose(folder))

    digest = normalize(load())
    trials = trial.partial(digest=digest).expand(number=plan(digest))
    best = finalists()
    repeated = repeat.partial(digest=digest).expand(training=best)
    chosen: Any = choose()
    trained = TriggerDagRunOperator(
        task_id="train_the_winner", trigger_dag_id="mnist_training", conf=chosen, reset_dag_run=False
    )
    chain(trials, best)
    chain(repeated, chosen, trained)
    chosen.operator.operator_extra_links = (ModelLink(),)


def _begun(run_id: str) -> Path:
    """The folder of the sweep. Without one the task fails; if it were skipped, Airflow would call the run a success."""
    folder = Workspace.from_environment().sweep_folder(run_id)
    if not folder.is_dir():
        raise InputError("the sweep has not begun: load, normalize or plan has failed")
    return folder


def _ended(trial: Any) -> dict[str, Any]:
    """What a trial's task hands on; skipped if the sweep's time was over."""
    if trial is None:
        raise AirflowSkipException("the sweep's time is over")
    return {name: getattr(trial, name) for name in ("number", "state", "reason", "accuracy", "loss", "seconds")}


mnist_sweep()
