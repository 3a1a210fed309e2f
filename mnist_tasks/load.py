"""The first task: read digits from a source and the inbox, check them, and snapshot them under their content's digest.

What belongs to the content is written once, to `datasets/<digest>/`. What belongs to this run, such as which batch was
refused and why, goes to `data/` in the run's folder. Everything is copied first and passes through memory in pieces.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from mnist_tasks.config import DataRules
from mnist_tasks.data.allowed_sources import AllowedSources
from mnist_tasks.data.arrays import ArrayFile
from mnist_tasks.data.batches import CheckedBatch, check_batches
from mnist_tasks.data.dataset import DESCRIPTION, SPLITS, Dataset, folder_digest
from mnist_tasks.data.drift import Baseline
from mnist_tasks.data.inbox import find_batches
from mnist_tasks.data.known import Known
from mnist_tasks.data.neighbours import Reference
from mnist_tasks.data.pieces import Piece
from mnist_tasks.data.profile import Profile, TestSet
from mnist_tasks.data.snapshot import MEANS, is_intact, merged, refers_to_the_same, write_base, write_merged
from mnist_tasks.data.sources import KNOWN_DIGESTS, MNIST_DIGEST, MNIST_IMAGES, MNIST_TEST_DIGEST, fetch
from mnist_tasks.data.store import BatchStore
from mnist_tasks.data.validation import (
    LabelReference,
    compare_test_sets,
    failed_schema,
    log_checks,
    passed_schema,
    validate,
)
from mnist_tasks.documents import OVERALL, BatchReport, Check, DatasetDescription, ValidationReport
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.disk_space import RAW, RUN, VERSION, require_space, space_for_dataset
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import atomic_folder, remove_staging_folders
from mnist_tasks.system.task_log import log_resources

log = logging.getLogger(__name__)

REPORT = "validation.json"


@dataclass(frozen=True)
class Loaded:
    """What `load` hands on: the dataset, its size, whether it existed already, and how many batches it has."""

    digest: str
    train_images: int
    test_images: int
    reused: bool
    batches: int = 0
    quarantined: int = 0


@dataclass(frozen=True)
class _Call:
    """What one call of `load` was given, and an empty folder for its work."""

    source: str
    datasets: Path
    rules: DataRules
    run: Path | None
    models: Path | None
    work: Path

    @property
    def known_digest(self) -> str | None:
        """The digest that the source must have, if it is MNIST."""
        return KNOWN_DIGESTS.get(self.source)


@log_resources
def load(
    source: str,
    datasets: Path,
    *,
    inbox: Path | str | None = None,
    rules: DataRules | None = None,
    run: Path | None = None,
    models: Path | None = None,
) -> Loaded:
    """Snapshot the digits of `source` and `inbox` as `datasets/<digest>/`, unless exactly this content exists already.

    Args:
        source: `builtin`, `keras`, a URL, or the path of a file or folder in one of the forms of `data/readers`.
            A source without a test set gets MNIST's.
        datasets: the folder of all datasets; made if needed.
        inbox: the folder with batches to add, or the URL of one in an object store; None for none.
        rules: the rules for the data; default: the trigger form's defaults.
        run: the run's folder, for `data/validation.json` and the contact sheets; None to write none.
        models: the model directory, to compare the data with the champion's; None to compare batches with the source.

    Raises:
        InputError: if the source is missing, unreadable, corrupt, holds anything but labelled 28x28 digits or breaks a
            rule; or, if the rules say so, if a batch does.
    """
    log.info("reading the data source %s", source)
    place = AllowedSources.from_environment().inbox(inbox) if inbox else None
    datasets.mkdir(parents=True, exist_ok=True)
    # A lock of its own, not the digest's: two first runs must not both clear each other's staging folder.
    with FileLock(datasets / ".lock"):
        remove_staging_folders(datasets)
        work = datasets / ".staging-load"
        work.mkdir()
        try:
            if isinstance(place, str):
                # Imported here: the file systems behind URLs take a while, and most nights need none.
                from mnist_tasks.data.remote_inbox import copy_inbox

                place = copy_inbox(place, datasets)
            return _load(_Call(source, datasets, rules or DataRules(), run, models, work), place)
        finally:
            shutil.rmtree(work)


def _load(call: _Call, inbox: Path | None) -> Loaded:
    found = find_batches(inbox) if inbox else []
    complete = [batch for batch in found if batch.complete]
    waiting = [
        BatchReport(name=batch.name, verdict="waiting", reason="it is not complete yet")
        for batch in found
        if not batch.complete
    ]
    try:
        source = _source(call, has_batches=bool(complete))
    except InputError as error:
        _write_report(call, None, [failed_schema(str(error))], waiting)
        raise
    champion = _champion_data(call)
    test_set = TestSet.of(source.folder)
    note = compare_test_sets(test_set, champion)
    if champion and champion.test_set_sha256 not in (None, test_set.test_set_sha256):
        log.warning("%s", note.message)
    baseline = Baseline.of_champion(champion) if champion else None

    checks = [*_check_source(call, source, test_set, baseline), note]
    if failed := [check.message for check in checks if check.verdict == "failed"]:
        _write_report(call, None, checks, waiting)
        raise InputError(f"{call.source}: {'; '.join(failed)}")
    store = BatchStore(call.datasets)
    batches = check_batches(
        complete,
        source,
        call.rules,
        store=store,
        baseline=baseline,
        fixed_test_images=test_set.fixed_test_images,
        work=call.work,
    )

    reports = [*waiting, *(batch.report for batch in batches)]
    for report in reports:
        if report.verdict != "merged":
            log.warning("batch %s is %s: %s", report.name, report.verdict, report.reason)
    quarantined = [batch.report for batch in batches if not batch.accepted]
    if quarantined and call.rules.on_bad_batch == "fail":
        _write_report(call, None, checks, reports, batches)
        more = f"; and {len(quarantined) - 1} more" if len(quarantined) > 1 else ""
        raise InputError(
            f"batch {quarantined[0].name}: {quarantined[0].reason}{more}; fix or remove it, or let it be left out with "
            "on_bad_batch=quarantine"
        )
    accepted = [batch for batch in batches if batch.accepted]
    dataset, reused = _snapshot(call, source, test_set, accepted)
    _write_report(call, dataset.digest, checks, reports, batches)
    return Loaded(dataset.digest, dataset.train_images, dataset.test_images, reused, len(accepted), len(quarantined))


def _source(call: _Call, *, has_batches: bool) -> Piece:
    """The source's four arrays: in the dataset that they are already, or as a copy in the folder for work.

    What is known about its images comes with it, unless it is MNIST and there are no batches to compare with it.
    """
    known = call.known_digest
    exists = bool(known) and is_intact(call.datasets / str(known))
    if known and not (exists and has_batches):  # with batches the merged dataset may exist already
        _require_space(call, space_for_dataset(MNIST_IMAGES, call.datasets / known, whole=exists))
    if exists and known:
        folder = call.datasets / known
        piece = Piece.known(folder, known) if has_batches else None
        return piece or Piece(folder, known, {})
    arrays = call.work / "source"
    arrays.mkdir()
    splits = fetch(call.source, arrays)
    if "train" not in splits:
        raise InputError(f"{call.source} has no training set; images to train on are needed")
    if "test" not in splits:
        log.info("%s has no test set of its own; MNIST's is used", call.source)
        for name in ("x_test.npy", "y_test.npy"):
            shutil.copyfile(_mnist_arrays(call) / name, arrays / name)
    digest = folder_digest(arrays)
    if known and digest != known:
        raise InputError(f"{call.source} has content digest {digest}, but MNIST has {known}; fetch or install it again")
    if known and not has_batches:
        return Piece(arrays, digest, {})
    folder = call.datasets / digest
    known_piece = Piece.known(folder, digest) if (folder / DESCRIPTION).is_file() else None
    return known_piece or Piece.read(arrays)


def _mnist_arrays(call: _Call) -> Path:
    """MNIST's four arrays, in the folder for work."""
    mnist = call.work / "mnist"
    if not mnist.exists():
        _require_space(call, MNIST_IMAGES * RAW)
        mnist.mkdir()
        fetch("builtin", mnist)
    return mnist


def _champion_data(call: _Call) -> DatasetDescription | None:
    """What `dataset.json` says about the data that the champion was trained on; None if there is none to read."""
    try:
        champion = ModelDirectory(call.models).champion() if call.models else None
        digest = str(champion.metadata().dataset) if champion else ""
        if re.fullmatch("[0-9a-f]{64}", digest):
            data = Dataset(call.datasets / digest).description()
            if data.test_set_sha256 is None and data.source.split(" ")[0] in KNOWN_DIGESTS:  # an older release
                data = data.model_copy(update={"test_set": "mnist", "test_set_sha256": MNIST_TEST_DIGEST})
            return data
    except (ModelError, InputError) as error:
        if is_transient(error):
            raise
        # The task evaluate judges the champion.
        log.warning("the data cannot be compared with the champion's: %s", error)
    return None


def _check_source(call: _Call, source: Piece, test_set: TestSet, baseline: Baseline | None) -> list[Check]:
    """Check the source's digits by the rules; MNIST's digest says that it keeps them."""
    if call.known_digest:
        message = f"the content digest is MNIST's, {call.known_digest}: it is known to keep all rules"
        return [Check("schema", "digest", OVERALL, None, None, None, "passed", message)]
    mnist = Profile.of(_mnist_arrays(call), "train")
    verdicts = validate(
        source,
        Known(),
        call.rules,
        reference=LabelReference(MNIST_DIGEST, lambda: Reference.of(mnist.files[0], mnist.labels)),
        baseline=baseline,
        unknown=[split for split in SPLITS if split == "train" or test_set.test_set == "own"],
    )
    sizes = {split: len(profile) for split, profile in source.profiles.items()}
    checks = [passed_schema(sizes), *verdicts.checks]
    log_checks(f"the checks of {call.source}", checks)
    return checks


def _snapshot(
    call: _Call, source: Piece, test_set: TestSet, batches: Sequence[CheckedBatch]
) -> tuple[DatasetDescription, bool]:
    """Write the dataset, unless it exists already; return what it holds, and whether it existed."""
    base = call.datasets / source.content
    reused = source.folder == base
    if reused:
        source.write_measurements()
    else:
        images = sum(len(ArrayFile.open(source.folder / f"y_{split}.npy")) for split in SPLITS)
        _require_space(call, space_for_dataset(images, base, call.work))
        with _replaced(base) as staging:
            write_base(staging, source, call.source, test_set)
    folder = base
    if batches:
        description = merged("", source.content, call.source, batches)
        digest = Dataset(call.work, described=description).content_digest()
        folder = call.datasets / digest
        # The digest was just made from the very files that such a description leads to.
        reused = refers_to_the_same(folder, description) or is_intact(folder)
        if not reused:
            images = sum(batch.report.train_images + batch.report.test_images for batch in batches)
            _require_space(call, space_for_dataset(images, folder))
            with _replaced(folder) as staging:
                write_merged(staging, digest, source.content, call.source, test_set, batches)
    dataset = Dataset(folder).description()
    updated = dataset.model_copy(update=asdict(test_set))
    if updated != dataset:  # an older release wrote it, or the same images came as another source's
        dataset = updated
        dataset.write(folder / DESCRIPTION)
    log.info(
        "%s%s: %s training and %s test images; %s %s",
        call.source,
        f" and {len(batches):,} batches" if batches else "",
        f"{dataset.train_images:,}",
        f"{dataset.test_images:,}",
        "content verified, reusing" if reused else "wrote",
        folder,
    )
    return dataset, reused


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """A staging folder that becomes the dataset's, instead of one that no longer has the content of its digest."""
    if folder.exists():
        log.warning("%s no longer has the content of its digest; writing it again", folder)
        shutil.rmtree(folder)
    with atomic_folder(folder) as staging:
        yield staging


def _require_space(call: _Call, for_dataset: int) -> None:
    """Stop a run that does not fit on the disk, before it has cost anything; raises an `InputError`."""
    rest = {place: size for place, size in ((call.run, RUN), (call.models, VERSION)) if place}
    require_space({call.datasets: for_dataset, **rest})


def _write_report(
    call: _Call,
    digest: str | None,
    checks: Sequence[Check],
    reports: Sequence[BatchReport],
    batches: Sequence[CheckedBatch] = (),
) -> None:
    """Write to the run's folder what was checked and with what result, with the contact sheets."""
    if call.run is None:
        return
    # A retry begins anew.
    folder = call.run / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for batch in batches:
        if batch.sheet:
            shutil.copyfile(batch.sheet, folder / batch.sheet.name)
    means = call.datasets / (digest or "") / "figures" / MEANS
    if means.is_file():
        shutil.copyfile(means, folder / MEANS)
    ValidationReport(
        dataset=digest,
        source=call.source,
        rules=call.rules.model_dump(),
        checks=list(checks),
        batches=list(reports),
    ).write(folder / REPORT)
