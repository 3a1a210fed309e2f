"""The task after promote, if MNIST_MLFLOW is set: record the run and the champion in MLflow.

Each run of Airflow is a run of MLflow, found again by its tag `mnist.run_id`: a retry completes it. Each model that was
ever champion is a version of the registered model `mnist`, found again by the digest of its weights; the alias
`champion` is moved to the one whose files the champion has. So a rollback moves it back, and nothing is registered
twice. The model directory stays the source of truth: nothing is read back into it.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mnist_tasks.documents import DecisionRecord, Evaluation, TrainingHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.outcome import PROMOTED, REJECTED, UNCHANGED, version_of
from mnist_tasks.registry.version import DECISION, EVALUATION, METADATA, MODEL, Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.files import read_json, sha256
from mnist_tasks.system.store_url import ServerUrl
from mnist_tasks.system.task_log import log_resources
from mnist_tasks.system.tracking_server import tracking_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

REGISTERED, ALIAS = "mnist", "champion"
ALIAS_TAG, NONE = "mnist.alias", "none"  # of the registered model: the version that the alias was set to
HISTORY = "history.json"
DOCUMENTS = ("parameters.json", "training.json", HISTORY, EVALUATION, DECISION, METADATA, "model_card.md")
AT_ONCE = 1000  # metrics in one request, MLflow's limit
LONGEST_PARAM, LONGEST_TAG = 6000, 5000  # characters, MLflow's limits


@dataclass(frozen=True)
class Tracked:
    """MLflow's id of the run, if it was worth recording, and the version of the registered model that has the alias."""

    mlflow_run: str | None
    champion: str | None


@dataclass(frozen=True)
class _Record:
    """What MLflow is to have of a run: from the run's own folder, or from that of the version that it has published."""

    run_id: str
    folder: Path
    status: str
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """The documents and the figures."""
        documents = [path for name in DOCUMENTS if (path := self.folder / name).exists()]
        return documents + sorted(path for path in (self.folder / "figures").glob("*") if path.is_file())

    def digest(self) -> str:
        """A digest of all that is recorded."""
        content = [f"{path.name} {sha256(path)}" for path in self.files()]
        return hashlib.sha256(repr([self.status, self.parameters, self.tags, content]).encode()).hexdigest()


@log_resources
def track(run: Path, models: Path, server: ServerUrl, experiment: str) -> Tracked:
    """Record a run and who is champion. A second call, or one after a kill, does what is left to do.

    Args:
        run: the run's folder; that of a rollback does not exist. A run that has changed nothing is not recorded.
        models: the model directory.
        server: the address of the MLflow server.
        experiment: the experiment that the runs belong to; made if needed.

    Raises:
        InputError: if the address is not that of an MLflow server, or it refuses what is asked of it.
        ModelError: if the champion, or a document, is damaged.
        OSError: if the server cannot be reached now.
    """
    directory = ModelDirectory(models)
    models.mkdir(parents=True, exist_ok=True)
    # One at a time: of two, the one with the older champion could move the alias last.
    with FileLock(models / ".mlflow.lock"), tracking_server(server) as client:
        found = client.get_experiment_by_name(experiment)
        if found and found.lifecycle_stage != "active":
            raise InputError(f"the experiment {experiment} was deleted in {server.url}; restore it there")
        place = found.experiment_id if found else client.create_experiment(experiment)
        record = _of_run(run, directory)
        return Tracked(
            _write_run(client, place, record) if record else None,
            _move_alias(client, place, directory),
        )


def _of_run(run: Path, models: ModelDirectory) -> _Record | None:
    """What to record of a run of the training, whatever became of it; None if it has changed nothing."""
    if not (run / "parameters.json").exists():
        return None
    parameters = read_json(run / "parameters.json", "load")
    if not (run / DECISION).exists():  # it has failed before
        return _Record(run.name, run, "FAILED", parameters)
    decision = DecisionRecord.read(run / DECISION, "clear the promote task")
    if decision.outcome == UNCHANGED:
        return None
    version = version_of(decision, run, models)
    outcome = PROMOTED if version else decision.verdict
    tags = {"mnist.outcome": outcome, "mnist.reason": decision.reason, "mnist.version": str(version or "none")}
    return _Record(run.name, run, "FINISHED" if outcome in (PROMOTED, REJECTED) else "FAILED", parameters, tags)


def _of_version(version: Version) -> _Record:
    """What to record of the run that has published a version, if that run itself was not recorded."""
    metadata = version.metadata()
    number = str(metadata.restores or version.number)
    tags = {"mnist.outcome": PROMOTED, "mnist.reason": metadata.reason, "mnist.version": number}
    run_id = metadata.run_id or metadata.published_by or f"version-{version.number}"
    return _Record(run_id, version.folder, "FINISHED", metadata.config, tags)


def _write_run(client: MlflowClient, experiment: str, record: _Record) -> str:
    """Write an MLflow run, unless it is there as it should be; return its id."""
    from mlflow.entities import Metric, Param, RunTag

    digest, run = record.digest(), _find_run(client, experiment, record.run_id)
    if run and run.data.tags.get("mnist.recorded") == digest:
        return str(run.info.run_id)
    parameters = {name: str(value)[:LONGEST_PARAM] for name, value in record.parameters.items()}
    if run and any(parameters.get(name, value) != value for name, value in run.data.params.items()):
        run = None  # the run began anew with other parameters, which MLflow does not change
    times = [int(path.stat().st_mtime * 1000) for path in record.files()]
    if run is None:
        run = client.create_run(experiment, min(times, default=None), {"mnist.run_id": record.run_id}, record.run_id)
    mlflow_run = str(run.info.run_id)
    # Always at the time of the document: MLflow keeps a metric once that it has already.
    metrics = [Metric(*metric) for metric in _metrics(record.folder)]
    for start in range(0, len(metrics), AT_ONCE):
        client.log_batch(mlflow_run, metrics[start : start + AT_ONCE])
    tags = [RunTag(name, value[:LONGEST_TAG]) for name, value in record.tags.items()]
    client.log_batch(mlflow_run, [], [Param(name, value) for name, value in parameters.items()], tags)
    for path in record.files():
        client.log_artifact(mlflow_run, str(path), "figures" if path.parent != record.folder else None)
    client.set_terminated(mlflow_run, record.status, max(times, default=None))
    client.set_tag(mlflow_run, "mnist.recorded", digest)
    log.info("run %s is recorded as %s: %s", record.run_id, mlflow_run, record.tags.get("mnist.outcome", "failed"))
    return mlflow_run


def _find_run(client: MlflowClient, experiment: str, run_id: str) -> Any:
    """The newest MLflow run of a run; None if there is none."""
    found = client.search_runs([experiment], f"tags.`mnist.run_id` = '{run_id}'", max_results=1)
    return found[0] if found else None


def _metrics(folder: Path) -> Iterator[tuple[str, float, int, int]]:
    """Name, value, time in ms and step of each metric: of each epoch as Keras has them, and of the evaluated models."""
    if (folder / HISTORY).exists():
        time = int((folder / HISTORY).stat().st_mtime * 1000)
        for epoch in TrainingHistory.read(folder / HISTORY, "clear the train task").root:
            numbers = {**epoch.metrics, "epoch_seconds": epoch.seconds, "images_per_second": epoch.images_per_second}
            yield from ((name, value, time, epoch.number) for name, value in numbers.items())
    if (folder / EVALUATION).exists():
        time = int((folder / EVALUATION).stat().st_mtime * 1000)
        evaluation = Evaluation.read(folder / EVALUATION, "clear the evaluate task")
        for prefix, model in (("test", evaluation.candidate), ("champion", evaluation.champion)):
            for name in ("accuracy", "loss", "calibration_error"):
                value = getattr(model, name, None)
                if value is not None:
                    yield f"{prefix}_{name}", value, time, 0
            for digit in model.digits if model else ():
                for name, value in (("recall", digit.recall), ("precision", digit.precision)):
                    if value is not None:
                        yield f"{prefix}_{name}_{digit.digit}", value, time, 0


def _move_alias(client: MlflowClient, experiment: str, models: ModelDirectory) -> str | None:
    """Have the alias name the champion's model, which is registered if it is not yet; return its registered version."""
    champion = models.champion()
    model = next(iter(client.search_registered_models(f"name = '{REGISTERED}'")), None)
    if model is None and champion is None:
        return None
    model = model or client.create_registered_model(REGISTERED, description="Champions of mnist_training")
    wanted = str(_registered(client, experiment, models, champion).version) if champion else NONE
    has = str(model.aliases.get(ALIAS, NONE))
    ours = model.tags.get(ALIAS_TAG, "").split()  # where it was set to; two places if the last call did not end
    if has not in (*(ours or [NONE]), wanted):
        log.warning(
            "somebody has moved the alias %s of the registered model %s: it is at version %s, and was set to %s from "
            "here; it is set to %s",
            *(ALIAS, REGISTERED, has, " or ".join(ours) or NONE, wanted),
        )
    if has != wanted:
        client.set_registered_model_tag(REGISTERED, ALIAS_TAG, f"{has} {wanted}")
        if champion:
            client.set_registered_model_alias(REGISTERED, ALIAS, wanted)
        else:
            client.delete_registered_model_alias(REGISTERED, ALIAS)
    if ours != [wanted]:
        client.set_registered_model_tag(REGISTERED, ALIAS_TAG, wanted)
    if champion:
        client.set_model_version_tag(REGISTERED, wanted, "mnist.version_now", str(champion.number))
        log.info("version %d is champion: registered as %s version %s", champion.number, REGISTERED, wanted)
    return wanted if champion else None


def _registered(client: MlflowClient, experiment: str, models: ModelDirectory, champion: Version) -> ModelVersion:
    """The version of the registered model that has the champion's files; registered if there is none."""
    models.verify(champion)
    metadata, digest = champion.metadata(), champion.metadata().sha256[MODEL]
    for version in client.search_model_versions(f"name = '{REGISTERED}'"):
        if version.tags.get("mnist.model_sha256") == digest:
            return version
    record = _of_version(champion)
    run = _find_run(client, experiment, record.run_id)
    mlflow_run = str(run.info.run_id) if run else _write_run(client, experiment, record)
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder), champion, digest)
        client.log_artifacts(mlflow_run, folder, "model")
    tags = {
        "mnist.model_sha256": digest,
        "mnist.weights_sha256": str(metadata.weights_sha256),
        "mnist.dataset": str(metadata.dataset),
        "mnist.run_id": record.run_id,
        "mnist.version": str(metadata.restores or champion.number),
        "mnist.gate": "forced" if metadata.forced else "passed",
    }
    source = f"{client.get_run(mlflow_run).info.artifact_uri}/model"
    return client.create_model_version(REGISTERED, source, mlflow_run, tags, description=metadata.reason[:LONGEST_TAG])


def _write_model(folder: Path, champion: Version, digest: str) -> None:
    """Write a model as MLflow's flavor for TensorFlow does, so that `mlflow.tensorflow.load_model` reads it.

    MLflow's function needs TensorFlow and the model in memory, and would save other bytes than were approved.
    """
    from mlflow.models import Model

    (folder / "data").mkdir()
    content = champion.model.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"{champion.model} has changed while it was read; restore it from a backup")
    (folder / "data" / "model.keras").write_bytes(content)
    (folder / "data" / "keras_module.txt").write_text("keras")
    (folder / "data" / "save_format.txt").write_text("keras")
    versions = champion.metadata().library_versions
    (folder / "requirements.txt").write_text(
        f"tensorflow=={versions.get('tensorflow')}\nkeras=={versions.get('keras')}\n"
    )
    model = Model()
    flavor = {"data": "data", "model_type": "keras", "keras_version": versions.get("keras"), "save_format": "keras"}
    model.add_flavor("tensorflow", code=None, **flavor)
    model.add_flavor(
        "python_function", loader_module="mlflow.tensorflow", data="data", python_version=platform.python_version()
    )
    model.save(str(folder / "MLmodel"))
