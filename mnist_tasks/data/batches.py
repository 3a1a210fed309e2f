"""Check the batches of the inbox, one after another, each against everything that was accepted before it.

Only what is new or has changed is read. All rules are applied each night, to what is known about the images.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_tasks.config import DataRules
from mnist_tasks.data import contact_sheets
from mnist_tasks.data.dataset import Split
from mnist_tasks.data.drift import Baseline
from mnist_tasks.data.inbox import Batch
from mnist_tasks.data.known import Known
from mnist_tasks.data.neighbours import Indices, Reference
from mnist_tasks.data.pieces import Piece
from mnist_tasks.data.pooled import Labels, doubted_together
from mnist_tasks.data.profile import Profile
from mnist_tasks.data.readers.common import check_link
from mnist_tasks.data.sources import fetch, last_change, state
from mnist_tasks.data.store import TICK, BatchStore
from mnist_tasks.data.validation import LabelReference, failed_schema, log_checks, passed_schema, validate
from mnist_tasks.documents import BatchReport, Check, KnownBatch
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable
from mnist_tasks.system.task_log import best_effort

log = logging.getLogger(__name__)

KEPT_IMAGES = 20_000  # of the source, whose features are kept in memory while batches are compared with them: 16 MB


@dataclass(frozen=True)
class CheckedBatch:
    """A batch with its report and, if it could be read, its images and their contact sheet."""

    report: BatchReport
    piece: Piece | None = None
    sheet: Path | None = None

    @property
    def accepted(self) -> bool:
        return self.report.verdict == "merged"


@dataclass(frozen=True)
class _Night:
    """What all batches of a night are checked with."""

    store: BatchStore
    known: Known
    rules: DataRules
    reference: LabelReference
    baseline: Baseline
    fixed_test_images: int
    work: Path


def check_batches(
    batches: Sequence[Batch],
    source: Piece,
    rules: DataRules,
    *,
    store: BatchStore,
    baseline: Baseline | None,
    fixed_test_images: int,
    work: Path,
) -> list[CheckedBatch]:
    """Check batches in their order; those that are new or have changed are read.

    Args:
        batches: complete ones.
        source: the source's images.
        rules: the bounds.
        store: what earlier nights have read.
        baseline: the champion's data; None to compare with the source.
        fixed_test_images: how many of the test images are the source's.
        work: an empty folder for arrays and contact sheets.
    """
    if not batches:
        store.write()
        return []
    for profile in source.profiles.values():
        profile.keep = len(profile) <= KEPT_IMAGES
    baseline = baseline or Baseline.of_source(source.profiles)
    known = Known(source)
    night = _Night(store, known, rules, _reference_of(source), baseline, fixed_test_images, work)
    opened = [_open(batch, work / f"batch-{number:02}", night) for number, batch in enumerate(batches, 1)]
    together = doubted_together((each.labels for each in opened if each.labels), rules.max_wrong_labels)
    checked = []
    for each in opened:
        result = _check(each, together.get(each.batch.name), night)
        checked.append(result)
        if result.accepted and result.piece:
            known.add(result.piece)
    store.write()
    return checked


def _reference_of(source: Piece) -> LabelReference:
    made: list[Reference] = []

    def reference() -> Reference:
        if not made:
            profile = source.profiles["train"]
            made.append(Reference.of(profile.files[0], profile.labels))
        return made[0]

    return LabelReference(source.content, reference)


@dataclass
class _Opened:
    """A batch that was looked up or read: its images, why it has none, or what an unexpected error was made of.

    `before` is what is known of it, if it has not changed. `stamp` and `has_settled` say by what, and whether, it is
    known again the next night. `labels` is None without images.
    """

    batch: Batch
    folder: Path
    found: Piece | InputError | CheckedBatch
    before: KnownBatch | None = None
    stamp: str | None = None
    has_settled: bool = False
    labels: Labels | None = None


def _open(batch: Batch, folder: Path, night: _Night) -> _Opened:
    """Look a batch up, or read it. Whatever it holds, it stops only itself.

    An error that may pass, such as a full disk or a share that is away, is raised: the task is tried again.
    """
    opened, started = _Opened(batch, folder, InputError("not read")), time.time()
    try:
        if printable(batch.path) != str(batch.path):
            raise InputError(f"{printable(batch.path)} has a name that is not UTF-8; rename it")
        check_link(batch.path, batch.path.parent)
        opened.stamp = state(batch.path)
        opened.has_settled = last_change(batch.path) < started - TICK
        opened.before = night.store.look_up(batch, opened.stamp)
        if opened.before and opened.before.problem:
            raise InputError(opened.before.problem)
        piece = night.store.piece(opened.before.content) if opened.before and opened.before.content else None
        if piece is None:
            opened.before = None
            piece = _read(batch, folder, night.store)
        opened.found = piece
        doubted = [
            len(piece.contradicted(split, night.reference.content, night.reference.images)) for split in piece.profiles
        ]
        opened.labels = Labels(batch.name, sum(map(len, piece.profiles.values())), sum(doubted))
    except InputError as error:
        opened.found = error
    except Exception as error:
        if is_transient(error):
            raise
        opened.found = _unexpected(batch, error)
    return opened


def _check(opened: _Opened, together: Check | None, night: _Night) -> CheckedBatch:
    """Judge a batch; `together` is the failed check of a series that it belongs to."""
    batch, found = opened.batch, opened.found
    if isinstance(found, CheckedBatch):
        return found
    is_new, problem = opened.before is None, None
    try:
        if isinstance(found, InputError):
            raise found
        checked = _judge(batch, found, opened.folder.with_suffix(".png"), night, together, is_new=is_new)
    except InputError as error:
        checked, problem = _unreadable(batch, str(error)), str(error)
        if isinstance(error.__cause__, (ImportError, OSError)):
            # A missing package or right says nothing about the batch: it is tried again.
            opened.has_settled = False
    except Exception as error:
        if is_transient(error):
            raise
        return _unexpected(batch, error)
    if is_new:
        log_checks(f"the checks of batch {batch.name}", checked.report.checks)
    if opened.stamp and opened.has_settled:
        content = found.content if isinstance(found, Piece) else None
        known = KnownBatch(stamp=opened.stamp, content=content, problem=problem, verdict=checked.report.verdict)
        night.store.remember(batch, known)
    return checked


def _unexpected(batch: Batch, error: Exception) -> CheckedBatch:
    log.error("batch %s caused an unexpected error", batch.name, exc_info=error)
    message = (
        f"{printable(batch.path)} cannot be read: {type(error).__name__}: {error}; fix or remove it, and report "
        "this error, whose trace is in the log of the task load"
    )
    return _unreadable(batch, message)


def _read(batch: Batch, folder: Path, store: BatchStore) -> Piece:
    """Read a batch into the store, unless the same images are there already."""
    folder.mkdir()
    fetch(batch.path, folder)
    piece = Piece.read(folder)
    if there := store.piece(piece.content):
        shutil.rmtree(folder)
        return there
    return store.keep(piece)


def _judge(
    batch: Batch, piece: Piece, picture: Path, night: _Night, together: Check | None, *, is_new: bool
) -> CheckedBatch:
    """Apply the rules to a batch that was read, tonight or before."""
    verdicts = validate(
        piece,
        night.known,
        night.rules,
        reference=night.reference,
        baseline=night.baseline,
        fixed_test_images=night.fixed_test_images,
    )
    piece.write_measurements()
    checks = [*verdicts.checks, *([together] if together else [])]
    problems = [check.message for check in checks if check.verdict == "failed"]
    sizes = {split: len(profile) for split, profile in piece.profiles.items()}
    verdict = "quarantined" if problems else "merged"
    # What was merged before is shown where it was new.
    shown = is_new or verdict != "merged" or night.store.last_verdict(batch) != verdict
    sheet = None
    if shown:
        with best_effort(picture.name):
            _draw(piece.profiles, verdicts.doubted, picture)
            sheet = picture  # not if drawing fails half-way
    report = BatchReport(
        name=batch.name,
        verdict=verdict,
        reason="; ".join(problems),
        train_images=sizes.get("train", 0),
        test_images=sizes.get("test", 0),
        picture=sheet.name if sheet else None,
        checks=[passed_schema(sizes), *checks] if shown else [],
    )
    return CheckedBatch(report, piece, sheet)


def _unreadable(batch: Batch, message: str) -> CheckedBatch:
    checks = [failed_schema(message)]
    return CheckedBatch(BatchReport(name=batch.name, verdict="quarantined", reason=message, checks=checks))


def _draw(profiles: Mapping[Split, Profile], doubted: Mapping[Split, Indices], path: Path) -> None:
    """Draw a contact sheet of the training images, unless the batch has none, or only its test images are doubted."""
    split = max(profiles, key=lambda split: (len(doubted[split]) > 0, split == "train"))
    profile, marked = profiles[split], doubted[split]
    chosen = contact_sheets.choose(profile.labels, marked)
    images = profile.files[0].rows(chosen)
    contact_sheets.contact_sheet(images, profile.labels[chosen], np.isin(chosen, marked), path)
