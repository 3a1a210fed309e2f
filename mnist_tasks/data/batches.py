"""Check the batches of the inbox, one after another, each against everything that was accepted before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_tasks.config import DataRules
from mnist_tasks.data import contact_sheets
from mnist_tasks.data.dataset import SPLITS, Split
from mnist_tasks.data.drift import Baseline
from mnist_tasks.data.inbox import Batch
from mnist_tasks.data.neighbours import Indices, Reference
from mnist_tasks.data.profile import Profile
from mnist_tasks.data.readers.common import check_link
from mnist_tasks.data.sources import fetch
from mnist_tasks.data.validation import failed_schema, log_checks, passed_schema, validate
from mnist_tasks.documents import BatchReport
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import printable
from mnist_tasks.system.task_log import best_effort

log = logging.getLogger(__name__)

Profiles = Mapping[Split, Profile]


@dataclass(frozen=True)
class CheckedBatch:
    """A batch with its report and, if it was read, its images and their contact sheet."""

    report: BatchReport
    profiles: Profiles = field(default_factory=dict)
    sheet: Path | None = None

    @property
    def accepted(self) -> bool:
        return self.report.verdict == "merged"


def check_batches(
    batches: Sequence[Batch],
    source: Profiles,
    rules: DataRules,
    *,
    baseline: Baseline | None,
    fixed_test_images: int,
    work: Path,
) -> list[CheckedBatch]:
    """Read and check batches in their order.

    Args:
        batches: complete ones.
        source: the source's splits.
        rules: the bounds.
        baseline: the champion's data; None to compare with the source.
        fixed_test_images: how many of the test images are the source's.
        work: an empty folder for the batches' arrays and contact sheets.
    """
    if not batches:
        return []
    reference = Reference.of(source["train"].files[0], source["train"].labels)
    baseline = baseline or Baseline.of_source(source)
    known, checked = dict(source), []
    for number, batch in enumerate(batches, 1):
        folder = work / f"batch-{number:02}"
        folder.mkdir()
        result = _check(batch, folder, known, rules, reference, baseline, fixed_test_images)
        log_checks(f"the checks of batch {batch.name}", result.report.checks)
        checked.append(result)
        if result.accepted:
            known |= {split: known[split] + result.profiles[split] for split in SPLITS if split in result.profiles}
    return checked


def _check(
    batch: Batch,
    folder: Path,
    known: Profiles,
    rules: DataRules,
    reference: Reference,
    baseline: Baseline,
    fixed_test_images: int,
) -> CheckedBatch:
    """Read and check one batch. Whatever it holds, it stops only itself.

    An error that may pass, such as a full disk or a share that is away, is raised: the task is tried again.
    """
    path, sheet = folder.with_suffix(".png"), None
    try:
        if printable(batch.path) != str(batch.path):
            raise InputError(f"{printable(batch.path)} has a name that is not UTF-8; rename it")
        check_link(batch.path, batch.path.parent)
        splits = fetch(batch.path, folder)
        profiles = {split: Profile.of(folder, split) for split in splits}
        verdicts = validate(
            profiles,
            known,
            rules,
            reference=reference,
            baseline=baseline,
            fixed_test_images=fixed_test_images,
        )
        sizes = {split: len(profile) for split, profile in profiles.items()}
        checks = [passed_schema(sizes), *verdicts.checks]
        with best_effort(path.name):
            _draw(profiles, verdicts.doubted, path)
            sheet = path  # not if drawing fails half-way
    except InputError as error:
        message = str(error)
    except Exception as error:
        if is_transient(error):
            raise
        log.exception("batch %s caused an unexpected error", batch.name)
        message = (
            f"{printable(batch.path)} cannot be read: {type(error).__name__}: {error}; fix or remove it, and report "
            "this error, whose trace is in the log of the task load"
        )
    else:
        report = BatchReport(
            name=batch.name,
            verdict="quarantined" if verdicts.problems else "merged",
            reason="; ".join(verdicts.problems),
            train_images=sizes.get("train", 0),
            test_images=sizes.get("test", 0),
            picture=sheet.name if sheet else None,
            checks=checks,
        )
        return CheckedBatch(report, profiles, sheet)
    report = BatchReport(name=batch.name, verdict="quarantined", reason=message, checks=[failed_schema(message)])
    return CheckedBatch(report)


def _draw(profiles: Profiles, doubted: Mapping[Split, Indices], path: Path) -> None:
    """Draw a contact sheet of the training images, unless the batch has none, or only its test images are doubted."""
    split = max(profiles, key=lambda split: (len(doubted[split]) > 0, split == "train"))
    profile, marked = profiles[split], doubted[split]
    chosen = contact_sheets.choose(profile.labels, marked)
    images = profile.files[0].rows(chosen)
    contact_sheets.contact_sheet(images, profile.labels[chosen], np.isin(chosen, marked), path)
