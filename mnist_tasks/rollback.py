"""The task of the rollback DAG: an older model becomes champion again. Imports no TensorFlow; its smoke test does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from mnist_tasks.config import RollbackConfig
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.version import version_name
from mnist_tasks.system.task_log import log_resources

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """What `rollback` hands on: the new version, whose files it has, which champion it replaces (None after one was
    retired), and its accuracy.
    """

    version: int
    restores: int
    replaces: int | None
    accuracy: float | None
    path: str


@log_resources
def rollback(models: Path, config: RollbackConfig, run_id: str) -> RolledBack:
    """Publish an older version again and make it champion; the same run does so once.

    Args:
        models: the model directory.
        config: which version, and why.
        run_id: the run that does so.

    Raises:
        InputError: if there is no version to go back to, or it is champion already.
        ModelError: if the version is damaged or does not pass its smoke test, before anything has changed.
        OSError: if something could not be read or written now; the log says who is champion then.
    """
    log.info("reading the versions in %s", models)
    directory = ModelDirectory(models)
    try:
        version = roll_back(directory, config.version, reason=config.reason, published_by=run_id, once=True)
    except OSError:
        log.warning("the rollback was not completed: %s", directory.describe_champion())
        raise
    metadata = version.metadata()
    restores = metadata.restores or version.number
    log.info(
        "version %d is champion: version %d again, instead of %s: %s",
        version.number,
        restores,
        version_name(metadata.replaces),
        config.reason,
    )
    return RolledBack(version.number, restores, metadata.replaces, metadata.test_accuracy, str(version.folder))
