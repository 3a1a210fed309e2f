"""Remove what nobody needs any more: working files of old runs, old versions, datasets without a model, leftovers.

What was decided stays: the small documents of every run, and those of every version. What is in use stays too: the
champion and what a rollback would go to, each dataset of a kept version or run, and those of the last two nights.
Killed at any step, it leaves everything valid, and the next call goes on.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from filelock import FileLock

from mnist_tasks.data.dataset import BATCHES, Dataset
from mnist_tasks.data.store import INDEX
from mnist_tasks.documents import DatasetDescription, Evaluation, InboxIndex, Training
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retention import prune
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import remove_staging_folders
from mnist_tasks.system.task_log import log_resources
from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

KEPT_WHOLE = 10  # of the newest runs, however old they are: a clock may have jumped
RECORDS = {
    *("parameters.json", "training.json", "history.json", "evaluation.json", "decision.json", "metadata.json"),
    *("model_card.md", "answer.json"),
}
WAY_OUT = "repair or remove it; until then every dataset stays"


@dataclass(frozen=True)
class Cleaned:
    """What `clean` has removed, or would remove: how many of each, and the bytes of their files."""

    runs: int
    versions: int
    datasets: int
    batches: int
    freed_bytes: int
    dry_run: bool

    def __str__(self) -> str:
        return (
            f"{'would remove' if self.dry_run else 'removed'} the working files of {self.runs:,} runs (their documents "
            f"stay), {self.versions:,} versions, {self.datasets:,} datasets and {self.batches:,} batches of the inbox "
            f"that no dataset has: {self.freed_bytes / 1e6:,.1f} MB"
        )


@log_resources
def clean(
    workspace: Workspace,
    *,
    keep_runs: timedelta | None = timedelta(days=90),
    keep_versions: int | None = 100,
    reference: int | None = None,
    dry_run: bool = False,
) -> Cleaned:
    """Remove what is older than it has to be kept.

    Args:
        workspace: datasets, runs and models.
        keep_runs: how long the working files of a run are kept; None for ever. The last runs keep theirs.
        keep_versions: how many of the newest versions are kept, beside those that are needed; None for all.
        reference: the version that a person has chosen to measure candidates against, which stays.
        dry_run: only say what would be removed.

    Raises:
        OSError: if something cannot be read now, or a removal fails; what was removed before stays so.
    """
    runs, run_bytes = _clean_runs(workspace.root / "runs", keep_runs, dry_run=dry_run)
    models = ModelDirectory(workspace.models)
    pruned: list[int] = []
    version_bytes = 0
    if keep_versions is not None and workspace.models.is_dir():
        sizes = {version.number: _size(version.folder) for version in models.versions()}
        pruned = prune(models, keep_versions, reference=reference, dry_run=dry_run)
        version_bytes = sum(sizes.get(number, 0) for number in pruned)
    datasets, batches, dataset_bytes = _clean_datasets(workspace, models, set(pruned), dry_run=dry_run)
    cleaned = Cleaned(len(runs), len(pruned), datasets, batches, run_bytes + version_bytes + dataset_bytes, dry_run)
    log.info("%s", cleaned)
    return cleaned


def _clean_runs(folder: Path, keep: timedelta | None, *, dry_run: bool) -> tuple[list[Path], int]:
    """Remove the working files of old runs; return the runs and the bytes of what they lose."""
    if keep is None or not folder.is_dir():
        return [], 0
    changed = {run: _last_change(run) for run in folder.iterdir() if run.is_dir() and not run.is_symlink()}
    old, freed = [], 0
    for run in sorted(changed, key=lambda run: changed[run])[:-KEPT_WHOLE]:
        if time.time() - changed[run] <= keep.total_seconds():
            continue
        files = [path for path in run.rglob("*") if not path.is_dir() or path.is_symlink()]
        working = [path for path in files if path.relative_to(run).as_posix() not in RECORDS]
        if not working:
            continue
        old.append(run)
        freed += sum(path.lstat().st_size for path in working)
        if not dry_run:
            for path in working:
                path.unlink(missing_ok=True)
            for path in sorted(run.rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
    return old, freed


def _clean_datasets(
    workspace: Workspace, models: ModelDirectory, pruned: set[int], *, dry_run: bool
) -> tuple[int, int, int]:
    """Remove datasets and batches that nothing refers to; return how many of each, and their bytes."""
    datasets = workspace.datasets
    if not datasets.is_dir():
        return 0, 0, 0
    with FileLock(datasets / ".lock"):
        if not dry_run:
            remove_staging_folders(datasets)
        try:
            needed = _needed_datasets(workspace, models, pruned)
            unneeded = [path for path in _datasets(datasets) if path.name not in needed]
            contents = _needed_batches(datasets, needed)
        except (ModelError, InputError) as error:
            if is_transient(error):
                raise
            log.warning("no dataset is removed: %s", error)
            return 0, 0, 0
        batches = [path for path in (datasets / BATCHES).glob("*") if path.is_dir() and path.name not in contents]
        freed = sum(map(_size, [*unneeded, *batches]))
        if not dry_run:
            # Out of sight in one step, so that a kill leaves no half of a dataset.
            for path in [*unneeded, *batches]:
                hidden = datasets / f".staging-removed-{path.name}"
                path.rename(hidden)
                shutil.rmtree(hidden)
        return len(unneeded), len(batches), freed


def _needed_datasets(workspace: Workspace, models: ModelDirectory, pruned: set[int]) -> set[str]:
    """The digests of the datasets that a version, a run with its model, or one of the last two nights has."""
    needed = {str(version.metadata().dataset) for version in models.versions() if version.number not in pruned}
    for run in (workspace.root / "runs").glob("*"):
        if (run / "model.keras").exists():
            for document, name in ((Training, "training.json"), (Evaluation, "evaluation.json")):
                if (run / name).exists():
                    needed.add(str(document.read(run / name, WAY_OUT).dataset))
    datasets = _datasets(workspace.datasets)
    # `normalize` keeps the normalized images of the datasets that were used last.
    needed |= {path.name for path in datasets if any(path.glob("x_*_normalized.npy"))}
    bases = {Dataset(path).description().base for path in datasets if path.name in needed}
    return needed | {base for base in bases if base}


def _needed_batches(datasets: Path, needed: set[str]) -> set[str]:
    """The contents of the batches that a needed dataset has, or the inbox."""
    descriptions: Iterable[DatasetDescription] = (
        Dataset(path).description() for path in _datasets(datasets) if path.name in needed
    )
    contents = {str(batch.content) for description in descriptions for batch in description.batches}
    index = datasets / BATCHES / INDEX
    if index.exists():
        contents |= {str(batch.content) for batch in InboxIndex.read(index, WAY_OUT).batches.values()}
    return contents


def _datasets(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _last_change(folder: Path) -> float:
    """When a file in a folder was written last; folders change when something is removed from them."""
    return max((path.lstat().st_mtime for path in folder.rglob("*") if not path.is_dir()), default=0.0)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
