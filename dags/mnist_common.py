"""What the DAGs share: the model as an asset, the link to its page, the trigger form, what a failed task says."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import Asset, BaseOperatorLink, Param, get_current_context
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.system.disk_space import DiskError, explained_disk_errors
from mnist_tasks.system.errors import TaskError, is_transient
from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

# What Airflow fills in when a task runs: another task's return value, and a value from its context by name.
XCom = Any
Context = Any

# Without a URI: to Airflow, a workspace that has been moved would be another asset.
CHAMPION = Asset("mnist_champion", group="model")


class ModelLink(BaseOperatorLink):
    """A button at a task that opens its run's page about the model, which the plugin serves.

    Airflow stores it with the task, so no other DAG gets it and no process loads the plugin for it.
    """

    name = "Model"

    def get_link(self, operator: object, *, ti_key: Any) -> str:  # noqa: ARG002
        """The page's address. Airflow asks for it when the task has ended, whatever its state."""
        return model_page(ti_key.dag_id, ti_key.run_id)


def model_page(dag_id: str, run_id: str) -> str:
    """The address of a run's page about the model, on the server that shows the link."""
    root = urlsplit(conf.get("api", "base_url", fallback=None) or "").path.rstrip("/")
    return f"{root}/dags/{quote(dag_id)}/runs/{quote(run_id)}/plugin/mnist-run"


class ExplainedFailure(AirflowFailException):
    """A failure whose message says everything: no retry, and no traceback in the log."""


class Rejected(ExplainedFailure):
    """The candidate was rejected, and on_rejection=fail makes that a failure of the run."""


def airflow_params(
    sections: Mapping[str, Mapping[str, dict[str, Any]]], defaults: Mapping[str, Any] | None = None
) -> dict[str, Param]:
    """Build a trigger form: one field for each JSON schema, by section and name, with default, bounds and words.

    Args:
        sections: the schemas. A field without a default must be filled in.
        defaults: values by name that replace the defaults of the schemas.
    """
    given = {name: {"default": value} for name, value in (defaults or {}).items()}
    return {
        name: Param(**{"section": section, **_for_the_form(field), **given.get(name, {})})
        for section, fields in sections.items()
        for name, field in fields.items()
    }


def _for_the_form(field: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema as Airflow's form shows it best.

    The form covers the neighbouring lines with what is set as code. It replaces a number beyond a bound that it knows
    by the bound, without a word; one that it does not know is refused when the run is triggered.
    """
    bounds = {name: value for name, value in field.items() if name.lower().endswith("imum")}
    rest = {name: value for name, value in field.items() if name not in (*bounds, "description")}
    words = field["description"].replace("`", "")
    return {**rest, "description_md": words, **({"allOf": [bounds]} if bounds else {})}


PARAMETERS = "parameters.json"  # in the run's folder


def keep_parameters(params: Mapping[str, Any], run_id: str) -> None:
    """Write down the parameters that a run begins with, for the tasks after the first one.

    Parameters that the trigger does not give come from MNIST_PARAMS, which may change during the run or differ on
    another worker.
    """
    from mnist_tasks.system.files import write_json

    write_json(Workspace.from_environment().run(run_id) / PARAMETERS, dict(params))


def kept_parameters(params: Mapping[str, Any], run_id: str) -> RunConfig:
    """The configuration that the run began with; that of `params` if a run of an older release did not write it."""
    from mnist_tasks.system.files import read_json

    path = Workspace.from_environment().run(run_id) / PARAMETERS
    return RunConfig.from_parameters(read_json(path, "load") if path.exists() else params)


def skip_as_before(handed_on: XCom, run_id: str) -> None:
    """Skip a task if `train` was skipped because nothing had changed, with the reason that it wrote down."""
    from mnist_tasks.documents import DecisionRecord
    from mnist_tasks.registry.outcome import UNCHANGED

    path = Workspace.from_environment().run(run_id) / "decision.json"
    # A task that somebody has marked as successful hands on nothing either.
    if handed_on is not None or not path.exists():
        return
    decision = DecisionRecord.read(path, "clear the train task to write it again")
    if decision.outcome == UNCHANGED:
        raise AirflowSkipException(decision.reason)


@contextmanager
def no_retry_for_bad_input() -> Iterator[None]:
    """Fail the task in the block at once if a retry would fail in the same way; name a full disk.

    Whatever fails it is handed on as the XCom `failure` for the run's page, and comes first in the log.
    """
    try:
        with explained_disk_errors(Workspace.from_environment().root, below=True):
            yield
    except AirflowTaskTimeout:
        hand_on_failure("it took longer than its time limit, execution_timeout, and was stopped")
        raise
    except AirflowSkipException:
        raise
    except Rejected:
        leave_out_traceback()
        raise
    except Exception as error:
        explained = isinstance(error, TaskError | DiskError)
        message = str(error) if explained else f"{type(error).__name__}: {error}"
        hand_on_failure(message)
        if explained and not is_transient(error):
            leave_out_traceback()
            raise ExplainedFailure(message) from error
        log.error("%s", message)
        raise


FAILURE = "failure"  # the XCom; Airflow removes it when the task is tried again


def hand_on_failure(message: str) -> None:
    """Hand on why the task fails, where a full disk cannot swallow it."""
    try:
        context = get_current_context()
    except RuntimeError:  # called outside of Airflow
        return
    try:
        context["ti"].xcom_push(FAILURE, message)
    except Exception:
        log.warning("the run's page will not say why the task failed", exc_info=True)


def leave_out_traceback() -> None:
    """Have Airflow log the message of an `ExplainedFailure` and not its traceback.

    Airflow has no option for it; the list of structlog's processors is the documented place to change an entry.
    """
    import structlog

    processors = structlog.get_config()["processors"]
    if message_only not in processors:
        processors.insert(0, message_only)


def message_only(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace a log entry about an `ExplainedFailure` by its message."""
    error = sys.exc_info()[1]
    if event.get("exc_info") and isinstance(error, ExplainedFailure):
        del event["exc_info"]
        event["event"] = str(error)
    return event
