"""The nightly training job, wired together: load, normalize, train, evaluate, promote. The work is in `mnist_tasks`."""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import chain, dag, task
from airflow.sdk.exceptions import AirflowSkipException
from mnist_common import (
    CHAMPION,
    Context,
    ModelLink,
    Rejected,
    XCom,
    airflow_params,
    keep_parameters,
    kept_parameters,
    no_retry_for_bad_input,
    skip_as_before,
)
from mnist_elsewhere import copy_champion_after
from mnist_metrics import send_figures
from mnist_notify import tell_failure, tell_promotion, tell_rejection
from mnist_placement import TRIES, on_gpu

from mnist_tasks import installation
from mnist_tasks.installation import value
from mnist_tasks.run_parameters import RunConfig, run_form
from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# A setting that is used below and is wrong stops the import, so that everybody sees it; the others stop no training.
for problem in installation.problems():
    log.error(problem)

SCHEDULE = value("MNIST_SCHEDULE")
WATCH = value("MNIST_WATCH_INBOX")
if WATCH:
    from mnist_watch import watched

ON_GPU = on_gpu()
APPROVAL = value("MNIST_APPROVAL")
PARAMETERS = value("MNIST_PARAMS")


@dag(
    schedule=watched(SCHEDULE, WATCH) if WATCH else SCHEDULE,
    catchup=False,
    max_active_runs=1,
    params=airflow_params(run_form(), PARAMETERS),
    tags=["mnist", "training"],
    default_args={
        **TRIES,
        "on_success_callback": send_figures,
        "on_failure_callback": tell_failure,
    },
)
def mnist_training() -> None:
    # Longer than other functions, because Airflow wants the tasks of a DAG inside it.
    """
    ### Retrain the digit classifier and promote it if it is good enough

    | task | reads | writes, below `MNIST_HOME` |
    |---|---|---|
    | **load** | the data source, the inbox | `datasets/<digest>/`, once for each content; `runs/<run id>/data/` |
    | **normalize** | the raw images | the same as float32 in [0, 1], once |
    | **train** | the normalized training images | `runs/<run id>/`: `model.keras`, `saved_model`, `training.json` |
    | **evaluate** | the test images, the candidate, the champion | `runs/<run id>/`: `evaluation.json`, `figures` |
    | **promote** | the evaluation | `runs/<run id>/decision.json`; if approved `models/<version>/`, `models/champion` |

    With `MNIST_APPROVAL`, a task **approve** before *promote* waits for a person to say yes or no to a candidate that
    passes the gate. With `MNIST_MIRROR`, a task **mirror** copies the champion to an object store; with `MNIST_MLFLOW`,
    a task **mlflow** records the run and the champion there. Neither changes who is champion.

    When nothing has changed since the champion was trained, or since a candidate was rejected, a scheduled run ends in
    seconds: *train* and all after it are **skipped**, the reason is in their logs (`when_unchanged=retrain` goes on).

    *promote* is **skipped** (or fails, with `on_rejection=fail`) when the gate rejects the candidate: the reason is the
    last line of its log and in `decision.json`, and the champion stays. It **fails** when the candidate or the champion
    cannot be trusted, or the champion measures far below its published accuracy: then the test images have changed.
    Load the champion with `keras.models.load_model("<MNIST_HOME>/models/champion/model.keras")`; go
    back to an older model with the DAG `mnist_rollback`.
    """

    @task(multiple_outputs=False, on_failure_callback=[tell_failure, send_figures])
    @no_retry_for_bad_input()
    def load(params: Context = None, run_id: Context = None) -> dict[str, Any]:
        from mnist_tasks.load import load
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

        config, workspace = RunConfig.from_parameters(params), Workspace.from_environment()
        workspace.prepare()
        keep_parameters(params, run_id)
        with tensorflow_in_airflow():  # for the source `keras`; the others need no TensorFlow
            loaded = load(
                config.data.source,
                workspace.datasets,
                inbox=workspace.inbox(config.data.inbox),
                rules=config.rules,
                run=workspace.run(run_id),
                models=workspace.models,
            )
            return asdict(loaded)

    @task(multiple_outputs=False)
    @no_retry_for_bad_input()
    def normalize(loaded: XCom) -> dict[str, Any]:
        from mnist_tasks.normalize import normalize

        return asdict(normalize(Workspace.from_environment().dataset(loaded["digest"])))

    @task(multiple_outputs=False, execution_timeout=timedelta(hours=6), **ON_GPU)
    @no_retry_for_bad_input()
    def train(
        normalized: XCom, params: Context = None, run_id: Context = None, dag_run: Context = None
    ) -> dict[str, Any]:
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow
        from mnist_tasks.training.fingerprint import unchanged

        config, workspace = kept_parameters(params, run_id), Workspace.from_environment()
        digest, run = normalized["digest"], workspace.run(run_id)
        if config.unchanged.skips(dag_run.run_type):
            reason = unchanged(digest, config.training, config.gate, run, workspace.models)
            if reason:
                raise AirflowSkipException(reason)
        from mnist_tasks.train import train

        with tensorflow_in_airflow():
            return asdict(train(workspace.dataset(digest), config.training, run))

    @task(multiple_outputs=False, **ON_GPU, trigger_rule="none_failed")
    @no_retry_for_bad_input()
    def evaluate(trained: XCom, params: Context = None, run_id: Context = None) -> dict[str, Any]:
        skip_as_before(trained, run_id)
        from mnist_tasks.evaluate import evaluate
        from mnist_tasks.system.tensorflow_setup import tensorflow_in_airflow

        config, workspace = kept_parameters(params, run_id), Workspace.from_environment()
        with tensorflow_in_airflow():
            evaluated = evaluate(
                workspace.dataset(trained["digest"]),
                workspace.run(run_id),
                workspace.models,
                reference=config.gate.reference,
                reference_versions=config.gate.reference_versions,
            )
            return asdict(evaluated)

    @task(
        multiple_outputs=False,
        trigger_rule="none_failed",
        outlets=[CHAMPION],
        on_success_callback=[tell_promotion, send_figures],
        on_skipped_callback=[tell_rejection, send_figures],
        on_failure_callback=[tell_failure, send_figures],  # on_rejection=fail is a failure, too
    )
    @no_retry_for_bad_input()
    def promote(
        approval: XCom = None,
        params: Context = None,
        run_id: Context = None,
        ti: Context = None,
        outlet_events: Context = None,
    ) -> dict[str, Any]:
        skip_as_before(ti.xcom_pull(task_ids="evaluate"), run_id)
        from mnist_tasks.documents import Approval
        from mnist_tasks.promote import promote
        from mnist_tasks.system.errors import ModelError

        if APPROVAL and not approval:
            raise ModelError("the task approve has given no answer; clear it, so that somebody is asked")
        config, workspace = kept_parameters(params, run_id), Workspace.from_environment()
        answer = Approval(**approval) if approval else None
        outcome = asdict(promote(workspace.run(run_id), workspace.models, config.gate, answer))
        if not outcome["promoted"]:
            rejection = Rejected if config.gate.on_rejection == "fail" else AirflowSkipException
            raise rejection(outcome["reason"])
        outlet_events[CHAMPION].extra = {"run_id": run_id, **outcome}
        return outcome

    evaluated = evaluate(train(normalize(load())))
    if APPROVAL:
        from mnist_approve import Approve

        approve = Approve(task_id="approve", wait=APPROVAL)
        promoted: Any = promote(approve.output)
        chain(evaluated, approve, promoted)
    else:
        promoted = promote()
        chain(evaluated, promoted)
    promoted.operator.operator_extra_links = (ModelLink(),)
    copy_champion_after(promoted)


training = mnist_training()
if PARAMETERS:
    training.doc_md = (
        inspect.cleandoc(training.doc_md or "")
        + "\n\nUnless a run is told otherwise, `MNIST_PARAMS` has it use\n\n```json\n"
        + json.dumps(PARAMETERS, indent=2)
        + "\n```\n"
    )
