"""Sends the job's numbers to where Airflow sends its own metrics: the only place that does.

It is a callback of the tasks, which reads the documents that the task has written. Names begin with `mnist.`; Airflow
puts its prefix before them. With metrics off, as they are by default, it looks at three switches and imports nothing. A
number that cannot be read or sent is logged and has no other effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from statistics import median
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from mnist_common import Context

    from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

SWITCHES = ("otel_on", "statsd_on", "statsd_datadog_enabled")  # in Airflow's section `metrics`
OUTCOMES = ("promoted", "rejected", "unchanged", "refused", "not_published")

# A metric's name without `mnist.`, its value, and its tags.
Number = tuple[str, float | None, Mapping[str, str]]


def send_figures(context: Context) -> None:
    """Send what the task that has ended found out: a callback for success, skipping and failure."""
    try:
        if not any(conf.getboolean("metrics", switch, fallback=False) for switch in SWITCHES):
            return
        from airflow.sdk.observability import stats

        from mnist_tasks.workspace import Workspace

        for read in READERS.get(context["ti"].task_id, ()):
            for name, value, tags in read(Workspace.from_environment(), context["run_id"]):
                if value is not None:
                    stats.gauge(f"mnist.{name}", value, tags=dict(tags))
    except Exception:
        log.warning("the figures of the task could not be sent as metrics; nothing else depends on it", exc_info=True)


def _data(workspace: Workspace, run_id: str) -> Iterator[Number]:
    """The size of the dataset, and how many batches of the inbox are part of it or were left out."""
    from mnist_tasks.documents import DatasetDescription, ValidationReport

    path = workspace.run_folder(run_id) / "data" / "validation.json"
    if not path.exists():
        return
    report = ValidationReport.read(path, "clear the load task")
    if report.dataset or report.batches:  # else load has failed before it looked at them
        for verdict in ("merged", "quarantined"):
            yield f"batches_{verdict}", sum(batch.verdict == verdict for batch in report.batches), {}
    if report.dataset:
        description = DatasetDescription.read(workspace.dataset(report.dataset) / "dataset.json", "clear the load task")
        yield "train_images", description.train_images, {}
        yield "test_images", description.test_images, {}


def _training(workspace: Workspace, run_id: str) -> Iterator[Number]:
    """How long the training took, and the images that it trained on in a second: the median over the epochs."""
    from mnist_tasks.documents import Training, TrainingHistory

    run = workspace.run_folder(run_id)
    if not (run / "training.json").exists():  # nothing has changed, or it failed
        return
    yield "training_seconds", Training.read(run / "training.json", "clear the train task").seconds, {}
    epochs = TrainingHistory.read(run / "history.json", "clear the train task").root
    if epochs:
        yield "images_per_second", median(epoch.images_per_second for epoch in epochs), {}


def _quality(workspace: Workspace, run_id: str) -> Iterator[Number]:
    """Accuracy and loss of the candidate and of the champion that it is compared with."""
    from mnist_tasks.documents import Evaluation

    path = workspace.run_folder(run_id) / "evaluation.json"
    if not path.exists():
        return
    evaluation = Evaluation.read(path, "clear the evaluate task")
    for model, measured in (("candidate", evaluation.candidate), ("champion", evaluation.champion)):
        if measured:
            yield "accuracy", measured.accuracy, {"model": model}
            yield "loss", measured.loss, {"model": model}


def _outcome(workspace: Workspace, run_id: str) -> Iterator[Number]:
    """1 for what became of the run, and 0 for everything else that could have become of it."""
    from mnist_tasks.documents import DecisionRecord
    from mnist_tasks.registry.model_directory import ModelDirectory
    from mnist_tasks.registry.outcome import version_of

    run = workspace.run_folder(run_id)
    if not (run / "decision.json").exists():
        return
    decision = DecisionRecord.read(run / "decision.json", "clear the promote task")
    outcome = decision.verdict
    if outcome == "approved":
        published = version_of(decision, run, ModelDirectory(workspace.models))
        outcome = "promoted" if published else "not_published"
    for name in OUTCOMES:
        yield "outcome", float(name == outcome), {"outcome": name}


def _champion(workspace: Workspace, run_id: str) -> Iterator[Number]:  # noqa: ARG001 - as the others
    """The champion's version, when its model first became champion and its age then, and the rejections in a row."""
    from mnist_tasks.registry.freshness import freshness
    from mnist_tasks.registry.model_directory import ModelDirectory

    fresh = freshness(ModelDirectory(workspace.models), workspace.runs)
    if fresh is None:
        return
    yield "champion_version", fresh.version, {}
    yield "rejected_in_a_row", fresh.rejected, {}
    if fresh.since:
        now = datetime.now(timezone.utc)
        yield "champion_since_seconds", fresh.since.timestamp(), {}
        yield "champion_age_seconds", max(0.0, (now - fresh.since).total_seconds()), {}


READERS: Mapping[str, tuple[Callable[[Workspace, str], Iterator[Number]], ...]] = {
    "load": (_data,),
    "train": (_training,),
    "evaluate": (_quality,),
    "promote": (_outcome, _champion),
    "rollback": (_champion,),
}
