"""The second task: pixels to float32 in [0, 1], written once beside the raw images and reused by every run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from mnist_tasks.data.arrays import written
from mnist_tasks.data.dataset import SPLITS, Dataset, RawImages, Split, UInt8, scaled
from mnist_tasks.system.files import atomic_file
from mnist_tasks.system.task_log import log_resources

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Normalized:
    """What `normalize` hands on: the dataset, and whether the normalized images existed already."""

    digest: str
    reused: bool


@log_resources
def normalize(dataset_folder: Path) -> Normalized:
    """Write the normalized images of both splits into the dataset's folder, unless they exist already, unchanged.

    As they are four times as large as the raw images, those of other datasets are removed, but for the last one.

    Args:
        dataset_folder: `datasets/<digest>` as `load` wrote it.

    Raises:
        InputError: if the folder holds no dataset, or not the one that it is named after.
    """
    log.info("reading the raw images in %s", dataset_folder)
    dataset = Dataset(dataset_folder)
    dataset.description()
    missing = [split for split in SPLITS if not dataset.normalized_path(split).exists()]
    if missing or (missing := dataset.not_normalized(*SPLITS)):
        with FileLock(dataset_folder.parent / ".lock"):
            _write(dataset, missing)
            _remove_others(dataset)
    log.info("%s float32 images in [0, 1] in %s", "wrote" if missing else "content verified, reusing", dataset_folder)
    return Normalized(dataset.digest, reused=not missing)


def _remove_others(dataset: Dataset) -> None:
    """Remove the normalized images of all datasets but this one and the one before: they can be written again.

    Which one that is the order of the files' dates tells: the times themselves do not matter.
    """
    ours = {dataset.normalized_path(split) for split in SPLITS}
    others = [path for path in dataset.folder.parent.glob("*/x_*_normalized.npy") if path not in ours]
    others.sort(key=lambda path: path.stat().st_mtime_ns)
    kept = {path.parent for path in others[-1:]}
    for path in others:
        if path.parent not in kept:
            path.unlink()
            log.info("removed %s, which is written again when it is needed", path)


def _write(dataset: Dataset, splits: Sequence[Split]) -> None:
    """Write the normalized images of some splits while the raw ones are verified; so they are read only once.

    The others are verified as well, and written if they are damaged.
    """
    with ExitStack() as stack:
        readers = {}
        for split in splits:
            path = dataset.normalized_path(split)
            if path.exists():
                log.warning("%s no longer holds the dataset's images; writing it again", path)
            temporary = stack.enter_context(atomic_file(path, durable=False))
            readers[split] = partial(_written, temporary)
        damaged = dataset.not_normalized(*(split for split in SPLITS if split not in splits), readers=readers)
    if damaged:
        _write(dataset, damaged)


def _written(path: Path, raw: RawImages) -> Iterator[UInt8]:
    return written(path, raw.shape, raw.chunks(), scaled)
