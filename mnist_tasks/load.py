"""The first task: take digits in from a source and an inbox, check them, snapshot them under their content's digest.

A snapshot is the source's digits in their order, then those of all accepted batches, sorted by a hash of each image and
by its label: so the digest depends neither on the form in which a batch came nor on its name. What belongs to the
content is written once, to `datasets/<digest>/`; what belongs to this run, such as which batch was refused and why,
goes to `data/` in the run's folder. All that is read is copied first and passes through memory in pieces.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mnist_tasks.config import DataRules
from mnist_tasks.data import contact_sheets
from mnist_tasks.data.allowed_sources import AllowedSources
from mnist_tasks.data.dataset import (
    ARRAYS,
    CHUNK,
    DIGITS,
    IMAGE_SHAPE,
    SPLITS,
    ArrayFile,
    Dataset,
    Split,
    UInt8,
    digest_of_test_set,
    folder_digest,
    write_array,
)
from mnist_tasks.data.inbox import Batch, find_batches
from mnist_tasks.data.neighbours import Reference
from mnist_tasks.data.sources import (
    KNOWN_DIGESTS,
    MNIST_IMAGES,
    MNIST_TEST_DIGEST,
    MNIST_TEST_IMAGES,
    check_link,
    fetch,
)
from mnist_tasks.data.validation import (
    LEVELS,
    Profile,
    compared_test_sets,
    failed_schema,
    passed_schema,
    validate,
)
from mnist_tasks.documents import OVERALL, Check
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.disk_space import RAW, RUN, VERSION, require_space, space_for_dataset
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import atomic_folder, printable, remove_staging_folders, write_json
from mnist_tasks.system.task_log import best_effort, log_group, log_resources

log = logging.getLogger(__name__)

REPORT = "validation.json"
MEANS = "means.png"


@dataclass(frozen=True)
class Loaded:
    """What `load` hands on: which dataset, how many images, whether it lay there already, and what of the inbox."""

    digest: str
    train_images: int
    test_images: int
    reused: bool
    batches: int = 0
    quarantined: int = 0


@dataclass
class Entry:
    """A batch as the report has it: `merged`, `quarantined` (and why), or `waiting` until it is complete."""

    name: str
    verdict: str
    reason: str = ""
    train_images: int = 0
    test_images: int = 0
    picture: str | None = None
    checks: list[Check] = field(default_factory=list)


@log_resources
def load(
    source: str,
    datasets: Path,
    *,
    inbox: Path | None = None,
    rules: DataRules | None = None,
    run: Path | None = None,
    models: Path | None = None,
) -> Loaded:
    """Snapshot the digits of `source` and `inbox` as `datasets/<digest>/`, unless that very content lies there already.

    Args:
        source: `builtin`, `keras`, a URL, or the path of an `.npz` file, a folder of IDX files or one of pictures. One
            without a test set gets MNIST's.
        datasets: the folder of all datasets; made if needed.
        inbox: the folder with batches to add; None for none.
        rules: what is asked of the data; default: the form's defaults.
        run: the run's folder, for `data/validation.json` and the pictures; None to write none.
        models: the model directory, to compare the data with the champion's; None to compare batches with the source.

    Raises:
        InputError: if the source is missing, unreadable, corrupt, holds something else than labelled 28x28 digits or
            breaks a rule; or, if the rules say so, if a batch does.
    """
    log.info("reading the data source %s", source)
    rules = rules or DataRules()
    inbox = AllowedSources.from_environment().path(inbox) if inbox else None
    datasets.mkdir(parents=True, exist_ok=True)
    # A lock of its own, not the digest's: two first runs must not both clear each other's staging folder.
    with FileLock(datasets / ".lock"):
        remove_staging_folders(datasets)
        work = datasets / ".staging-load"
        work.mkdir()
        try:
            return _Loading(source, datasets, rules, run, models, work).load(inbox)
        finally:
            shutil.rmtree(work)


@dataclass
class _Loading:
    """One call of `load`: what it was given, and what it has found so far."""

    source: str
    datasets: Path
    rules: DataRules
    run: Path | None
    models: Path | None
    work: Path
    checks: list[Check] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    sheets: dict[str, Path] = field(default_factory=dict)
    accepted: list[dict[Split, Profile]] = field(default_factory=list)
    test_set: dict[str, Any] = field(default_factory=dict)

    def load(self, inbox: Path | None) -> Loaded:
        batches = find_batches(inbox) if inbox else []
        complete = [batch for batch in batches if batch.complete]
        self.entries = [
            Entry(batch.name, "waiting", "it is not complete yet") for batch in batches if not batch.complete
        ]
        known = KNOWN_DIGESTS.get(self.source)
        there = known and _is_intact(self.datasets / known)
        if known and complete:  # what comes of them may lie there already: the source's own copy is needed for certain
            self._require_space(0 if there else MNIST_IMAGES * RAW)
        elif known:
            self._require_space(space_for_dataset(MNIST_IMAGES, self.datasets / known, whole=bool(there)))
        base = self.datasets / str(known) if there else self._fetch_source(known)
        if known:
            message = f"the content digest is MNIST's, {known}: it is known to keep all rules"
            self.checks = [Check("schema", "digest", OVERALL, None, None, None, "passed", message)]
        champion = self._champion_data()
        self.test_set = _test_set(base)
        note = compared_test_sets(self.test_set, champion)
        self.checks.append(note)
        if champion and champion.get("test_set_sha256") not in (None, self.test_set["test_set_sha256"]):
            log.warning("%s", note.message)
        if complete or not known:
            self._validate(base, complete, champion)
        for entry in self.entries:
            if entry.verdict != "merged":
                log.warning("batch %s is %s: %s", entry.name, entry.verdict, entry.reason)
        bad = [entry for entry in self.entries if entry.verdict == "quarantined"]
        if bad and self.rules.on_bad_batch == "fail":
            self._report(None)
            more = f"; and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise InputError(
                f"batch {bad[0].name}: {bad[0].reason}{more}; mend or remove it, or let it be left out with "
                "on_bad_batch=quarantine"
            )
        loaded = self._snapshot(base)
        self._report(loaded.digest)
        return loaded

    def _fetch_source(self, known: str | None) -> Path:
        """The source's four arrays, in the folder for work."""
        base = self.work / "source"
        base.mkdir()
        try:
            splits = fetch(self.source, base)
            if "train" not in splits:
                raise InputError(f"{self.source} has no training set; images to train on are needed")
            self._add_test_set(splits, base)
            if known and (digest := folder_digest(base)) != known:
                raise InputError(
                    f"{self.source} has content digest {digest}, but MNIST has {known}; fetch or install it again"
                )
        except InputError as error:
            self._refuse([failed_schema(str(error))])
            raise
        return base

    def _add_test_set(self, splits: Sequence[Split], base: Path) -> None:
        """MNIST's test set, for a source without one."""
        if "test" not in splits:
            log.info("%s has no test set of its own; MNIST's is used", self.source)
            for name in ("x_test.npy", "y_test.npy"):
                shutil.copyfile(self._mnist() / name, base / name)

    def _mnist(self) -> Path:
        """MNIST's four arrays, in the folder for work."""
        mnist = self.work / "mnist"
        if not mnist.exists():
            self._require_space(MNIST_IMAGES * RAW)
            mnist.mkdir()
            fetch("builtin", mnist)
        return mnist

    def _validate(self, base: Path, batches: Sequence[Batch], champion: Mapping[str, Any] | None) -> None:
        """Check the source, if it is not known, then each batch against all that was accepted before it."""
        so_far = {split: _profile(base, split) for split in SPLITS}
        train = so_far["train"]
        if self.source not in KNOWN_DIGESTS:
            unknown = [split for split in SPLITS if split == "train" or self.test_set["test_set"] == "own"]
            mnist = _reference(self._mnist())
            found = validate(so_far, {}, self.rules, reference=mnist, champion=champion, unknown=unknown)
            sizes = {split: len(profile) for split, profile in so_far.items()}
            self.checks = [passed_schema(sizes), *self.checks, *found.checks]
            _log_checks(f"the checks of {self.source}", self.checks)
            if found.problems:
                self._refuse(self.checks)
                raise InputError(f"{self.source}: {'; '.join(found.problems)}")
        if not batches:
            return
        reference = Reference.of(train.files[0], train.labels)
        before = champion or {
            **{f"{split}_images_per_digit": profile.counts() for split, profile in so_far.items()},
            "train_pixel_histogram": train.histogram.tolist(),
        }
        for number, batch in enumerate(batches, 1):
            entry, new = self._look_at(batch, number, so_far, reference, before)
            self.entries.append(entry)
            _log_checks(f"the checks of batch {entry.name}", entry.checks)
            if entry.verdict == "merged":
                self.accepted.append(new)
                so_far = {split: so_far[split] + new[split] if split in new else so_far[split] for split in SPLITS}

    def _look_at(
        self,
        batch: Batch,
        number: int,
        known: Mapping[Split, Profile],
        reference: Reference,
        champion: Mapping[str, Any],
    ) -> tuple[Entry, dict[Split, Profile]]:
        """Read one batch and check it: whatever it holds, it stops nothing but itself.

        What may pass by itself, such as a full disk or a share that hiccups, goes through: the task is tried again.
        """
        folder = self.work / f"batch-{number}"
        folder.mkdir()
        try:
            if printable(batch.path) != str(batch.path):
                raise InputError(f"{printable(batch.path)} has a name that is not UTF-8; rename it")
            check_link(batch.path, batch.path.parent)
            return self._checked(batch, number, fetch(batch.path, folder), known, reference, champion)
        except InputError as error:
            message = str(error)
        except Exception as error:
            if is_transient(error):
                raise
            log.exception("batch %s made an error that nobody thought of", batch.name)
            message = (
                f"{printable(batch.path)} cannot be taken in: {type(error).__name__}: {error}; mend or remove it, and "
                "report this error, whose trace is in the log of the task load"
            )
        self.sheets.pop(_sheet(number), None)
        return Entry(batch.name, "quarantined", message, checks=[failed_schema(message)]), {}

    def _checked(
        self,
        batch: Batch,
        number: int,
        splits: Sequence[Split],
        known: Mapping[Split, Profile],
        reference: Reference,
        champion: Mapping[str, Any],
    ) -> tuple[Entry, dict[Split, Profile]]:
        """Check a batch that has been read."""
        new = {split: _profile(self.work / f"batch-{number}", split) for split in splits}
        sizes = {split: len(profile) for split, profile in new.items()}
        fixed = self.test_set["fixed_test_images"]
        found = validate(new, known, self.rules, reference=reference, champion=champion, fixed_test_images=fixed)
        sheet = self.work / _sheet(number)
        with best_effort(sheet.name):
            _draw(new, found.doubted, sheet)
            self.sheets[sheet.name] = sheet
        verdict, reason = ("quarantined", "; ".join(found.problems)) if found.problems else ("merged", "")
        checks = [passed_schema(sizes), *found.checks]
        images = (sizes.get("train", 0), sizes.get("test", 0))
        picture = sheet.name if sheet.name in self.sheets else None
        return Entry(batch.name, verdict, reason, *images, picture, checks), new

    def _champion_data(self) -> dict[str, Any] | None:
        """`dataset.json` of the data that the champion was trained on; None if there is none, or it cannot be read."""
        try:
            champion = ModelDirectory(self.models).champion() if self.models else None
            digest = str(champion.metadata().dataset) if champion else ""
            if re.fullmatch("[0-9a-f]{64}", digest):
                description = Dataset(self.datasets / digest).description()
                if str(description.get("source")).split(" ")[0] in KNOWN_DIGESTS:  # an older release wrote no test set
                    description = {"test_set": "mnist", "test_set_sha256": MNIST_TEST_DIGEST, **description}
                return description
        except (ModelError, InputError) as error:
            if is_transient(error):
                raise
            # It is the task evaluate that judges the champion.
            log.warning("the champion's data cannot be compared with: %s", error)
        return None

    def _snapshot(self, base: Path) -> Loaded:
        """Merge what was accepted, and write it down unless it lies there already."""
        merged = self._merge(base) if self.accepted else base
        digest = merged.name if merged.parent == self.datasets else folder_digest(merged)
        folder = self.datasets / digest
        reused = merged == folder or _is_intact(folder)
        images = sum(len(ArrayFile.open(merged / f"y_{split}.npy")) for split in SPLITS)
        self._require_space(space_for_dataset(images, folder, self.work))
        if not reused:
            if folder.exists():
                log.warning("%s no longer has the content of its digest; writing it again", folder)
                shutil.rmtree(folder)
            with atomic_folder(folder) as staging:
                self._write(merged, digest, staging)
        description = Dataset(folder).description()
        if {**description, **self.test_set} != description:
            # An older release wrote it, or the same images came as another source's.
            description |= self.test_set
            write_json(folder / "dataset.json", description)
        log.info(
            "%s: %s training and %s test images; %s %s",
            " and ".join([self.source, *(entry.name for entry in self._merged())]),
            f"{description['train_images']:,}",
            f"{description['test_images']:,}",
            "content verified, reusing" if reused else "wrote",
            folder,
        )
        sizes = (description["train_images"], description["test_images"])
        quarantined = sum(entry.verdict == "quarantined" for entry in self.entries)
        return Loaded(digest, *sizes, reused, len(self._merged()), quarantined)

    def _require_space(self, for_dataset: int) -> None:
        """Stop a run that does not fit on the disk, before it has cost anything; raises an `InputError`."""
        rest = {place: size for place, size in ((self.run, RUN), (self.models, VERSION)) if place}
        require_space({self.datasets: for_dataset, **rest})

    def _merged(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.verdict == "merged"]

    def _merge(self, base: Path) -> Path:
        """The source's arrays with those of the accepted batches behind them, in the folder for work."""
        merged = self.work / "merged"
        merged.mkdir()
        for split in SPLITS:
            images, labels = (ArrayFile.open(base / f"{axis}_{split}.npy") for axis in "xy")
            added = [batch[split] for batch in self.accepted if split in batch]
            total = len(images) + sum(map(len, added))
            new_labels = np.concatenate([np.empty(0, np.uint8), *(profile.labels for profile in added)])
            new_keys = np.concatenate([np.empty(0, np.uint64), *(profile.keys for profile in added)])
            order = np.lexsort((new_labels, new_keys))
            write_array(merged / f"y_{split}.npy", (total,), [labels.all(), new_labels[order]])
            files = [file for profile in added for file in profile.files]
            chunks = _chain(images.chunks(), _gather(files, order))
            write_array(merged / f"x_{split}.npy", (total, *IMAGE_SHAPE), chunks)
        return merged

    def _write(self, arrays: Path, digest: str, folder: Path) -> None:
        """Fill a dataset's folder: the arrays, what is in them, and what they look like."""
        for name in ARRAYS:
            (arrays / f"{name}.npy").rename(folder / f"{name}.npy")
        dataset = Dataset(folder)
        labels = {split: np.array(dataset.labels(split)) for split in SPLITS}
        counts, means = _statistics(ArrayFile.open(folder / "x_train.npy"), labels["train"])
        levels = np.arange(len(counts))
        mean = float(np.average(levels, weights=counts))
        figures = folder / "figures"
        figures.mkdir()
        with best_effort(MEANS):
            contact_sheets.mean_images(means, figures / MEANS)
        merged = self._merged()
        for entry in merged:
            if entry.picture:
                shutil.copyfile(self.sheets[entry.picture], figures / entry.picture)
        write_json(
            folder / "dataset.json",
            {
                "digest": digest,
                # No model card may say that this is MNIST and nothing else.
                "source": self.source + (f" with {len(merged)} of the inbox's batches" if merged else ""),
                "batches": [
                    {name: getattr(entry, name) for name in ("name", "train_images", "test_images", "picture")}
                    for entry in merged
                ],
                **self.test_set,
                **{f"{split}_images": len(labels[split]) for split in SPLITS},
                **{
                    f"{split}_images_per_digit": np.bincount(labels[split], minlength=DIGITS).tolist()
                    for split in SPLITS
                },
                "train_pixel_mean": mean,
                "train_pixel_std": float(np.sqrt(np.average((levels - mean) ** 2, weights=counts))),
                "train_pixel_histogram": counts.reshape(LEVELS, -1).sum(axis=1).tolist(),
            },
        )

    def _refuse(self, checks: list[Check]) -> None:
        """Write the report about a source that cannot be used."""
        self.checks = checks
        self._report(None)

    def _report(self, digest: str | None) -> None:
        """Write down, in the run's folder, what was checked and what came of it, with the pictures."""
        if self.run is None:
            return
        # A retry begins anew.
        folder = self.run / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, sheet in self.sheets.items():
            shutil.copyfile(sheet, folder / name)
        means = self.datasets / (digest or "") / "figures" / MEANS
        if means.is_file():
            shutil.copyfile(means, folder / MEANS)
        write_json(
            folder / REPORT,
            {
                "dataset": digest,
                "source": self.source,
                "rules": self.rules.model_dump(),
                "checks": [asdict(check) for check in self.checks],
                "batches": [asdict(entry) for entry in self.entries],
            },
        )


def _log_checks(title: str, checks: Sequence[Check]) -> None:
    with log_group(log, title):
        for check in checks:
            level = logging.WARNING if check.verdict == "failed" else logging.INFO
            log.log(level, "%s %s (%s): %s", check.verdict, check.rule, check.slice, check.message)


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds, byte for byte, the arrays that its name is the digest of."""
    try:
        return (folder / "dataset.json").is_file() and folder_digest(folder) == folder.name
    except InputError:
        return False


def _sheet(number: int) -> str:
    return f"batch-{number:02}.png"


def _test_set(base: Path) -> dict[str, Any]:
    """What `dataset.json` says of the test set that a source came with."""
    images = len(ArrayFile.open(base / "y_test.npy"))
    digest = digest_of_test_set(base, images)
    mnist = (images, digest) == (MNIST_TEST_IMAGES, MNIST_TEST_DIGEST)
    return {"fixed_test_images": images, "test_set": "mnist" if mnist else "own", "test_set_sha256": digest}


def _reference(folder: Path) -> Reference:
    images, labels = (ArrayFile.open(folder / f"{axis}_train.npy") for axis in "xy")
    return Reference.of(images, labels.all())


def _profile(folder: Path, split: Split) -> Profile:
    images, labels = (ArrayFile.open(folder / f"{axis}_{split}.npy") for axis in "xy")
    return Profile.of(images, labels.all())


def _chain(*parts: Iterator[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    for part in parts:
        yield from part


def _gather(files: Sequence[ArrayFile], order: npt.NDArray[np.intp]) -> Iterator[UInt8]:
    """The images of several files in the order of their positions, counted through all files."""
    starts = np.cumsum([0, *map(len, files)])
    for start in range(0, len(order), CHUNK):
        wanted = order[start : start + CHUNK]
        chunk = np.empty((len(wanted), *IMAGE_SHAPE), np.uint8)
        for file, first, end in zip(files, starts[:-1], starts[1:], strict=True):
            here = (wanted >= first) & (wanted < end)
            chunk[here] = file.rows(wanted[here] - first)
        yield chunk


def _draw(new: Mapping[Split, Profile], doubted: Mapping[Split, npt.NDArray[np.intp]], path: Path) -> None:
    """A contact sheet of a batch: of its training images, unless it has none, or only test images are doubted."""
    split = max(new, key=lambda split: (len(doubted[split]) > 0, split == "train"))
    profile, marked = new[split], doubted[split]
    chosen = contact_sheets.choose(profile.labels, marked)
    images = profile.files[0].rows(chosen)
    contact_sheets.contact_sheet(images, profile.labels[chosen], np.isin(chosen, marked), path)


def _statistics(images: ArrayFile, labels: UInt8) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How often each level of grey occurs, and the mean image of each digit, NaN for one that does not."""
    counts, sums, start = np.zeros(256, np.int64), np.zeros((DIGITS, *IMAGE_SHAPE), np.int64), 0
    for chunk in images.chunks():
        counts += np.bincount(chunk.reshape(-1), minlength=256)
        for digit in range(DIGITS):
            sums[digit] += chunk[labels[start : start + len(chunk)] == digit].sum(axis=0, dtype=np.int64)
        start += len(chunk)
    number = np.bincount(labels, minlength=DIGITS).reshape(-1, 1, 1)
    return counts, np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
