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
from mnist_tasks.data.profile import Profile
from mnist_tasks.data.readers.common import check_link
from mnist_tasks.data.sources import fetch, last_change, state
from mnist_tasks.data.store import TICK, BatchStore
from mnist_tasks.data.validation import LabelReference, failed_schema, log_checks, passed_schema, validate
from mnist_tasks.documents import BatchReport, KnownBatch
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
    checked = []
    for number, batch in enumerate(batches, 1):
        result = _check(batch, work / f"batch-{number:02}", night)
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


def _check(batch: Batch, folder: Path, night: _Night) -> CheckedBatch:
    """Read and check one batch. Whatever it holds, it stops only itself.

    An error that may pass, such as a full disk or a share that is away, is raised: the task is tried again.
    """
    before, content, stamp, started, has_settled = None, None, None, time.time(), False
    try:
        if printable(batch.path) != str(batch.path):
            raise InputError(f"{printable(batch.path)} has a name that is not UTF-8; rename it")
        check_link(batch.path, batch.path.parent)
        stamp = state(batch.path)
        has_settled = last_change(batch.path) < started - TICK
        before = night.store.look_up(batch, stamp)
        if before and before.problem:
            raise InputError(before.problem)
        piece = night.store.piece(before.content) if before and before.content else None
        if piece is None:
            before = None
            piece = _read(batch, folder, night.store)
        content = piece.content
        checked = _judge(batch, piece, folder.with_suffix(".png"), night, is_new=before is None)
        problem = None
    except InputError as error:
        checked, problem = _unreadable(batch, str(error)), str(error)
        if isinstance(error.__cause__, (ImportError, OSError)):
            # A missing package or right says nothing about the batch: it is tried again.
            has_settled = False
    except Exception as error:
        if is_transient(error):
            raise
        log.exception("batch %s caused an unexpected error", batch.name)
        message = (
            f"{printable(batch.path)} cannot be read: {type(error).__name__}: {error}; fix or remove it, and report "
            "this error, whose trace is in the log of the task load"
        )
        return _unreadable(batch, message)
    if before is None:
        log_checks(f"the checks of batch {batch.name}", checked.report.checks)
    if stamp and has_settled:
        found = KnownBatch(stamp=stamp, content=content, problem=problem, verdict=checked.report.verdict)
        night.store.remember(batch, found)
    return checked


def _read(batch: Batch, folder: Path, store: BatchStore) -> Piece:
    """Read a batch into the store, unless the same images are there already."""
    folder.mkdir()
    fetch(batch.path, folder)
    piece = Piece.read(folder)
    if there := store.piece(piece.content):
        shutil.rmtree(folder)
        return there
    return store.keep(piece)


def _judge(batch: Batch, piece: Piece, picture: Path, night: _Night, *, is_new: bool) -> CheckedBatch:
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
    sizes = {split: len(profile) for split, profile in piece.profiles.items()}
    verdict = "quarantined" if verdicts.problems else "merged"
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
        reason="; ".join(verdicts.problems),
        train_images=sizes.get("train", 0),
        test_images=sizes.get("test", 0),
        picture=sheet.name if sheet else None,
        checks=[passed_schema(sizes), *verdicts.checks] if shown else [],
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
