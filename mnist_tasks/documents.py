"""What one task writes and another, a page or the command line reads: one pydantic model for each file.

This file is longer than others because it holds all of them. The writer and every reader share the model. A file of an
older release still reads: a field that it lacks has a default. Fields that a newer release has added are kept, so that
a version that is published again loses nothing. A file that is damaged ends in one error, which names the file, the
problem and the way out.

Fractions are in [0, 1], losses in nats, digests SHA-256 in hexadecimal, times ISO 8601 with a time zone.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, RootModel, ValidationError
from typing_extensions import Self

from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import explained_read_errors, is_conclusive, write_json

Share = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[FiniteFloat, Field(ge=0)]
Interval = tuple[Share, Share]
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
Verdict = Literal["passed", "failed", "skipped"]


class JsonFile(BaseModel):
    """How every document is read and written."""

    @classmethod
    def read(cls, path: Path, way_out: str) -> Self:
        """Read a document.

        Args:
            path: the JSON file.
            way_out: what to do if it is missing or damaged, for the message, such as `clear the train task`.

        Raises:
            ModelError: if the file is missing, is not JSON, or a field has another type than it should.
            OSError: if the file cannot be read now or by this user; the next try may succeed.
        """
        try:
            with explained_read_errors(path):
                return cls.parse(path.read_bytes())
        except (OSError, ValidationError) as error:
            if not is_conclusive(error):
                raise
            problem = problems(error) if isinstance(error, ValidationError) else str(error)
            raise ModelError(f"{path} cannot be read: {problem}; {way_out}") from error

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The document that JSON text holds; raises a `ValidationError` if it holds anything else."""
        if rb"\ud" in content:
            # JSON may hold half a surrogate pair, from a name or a reason that is not UTF-8; pydantic refuses it.
            with suppress(ValueError, RecursionError):  # what is not JSON is refused below
                text = json.dumps(json.loads(content), ensure_ascii=False)
                content = HALF_A_PAIR.sub(lambda half: rf"\\u{ord(half[0]):x}", text).encode()
        return cls.model_validate_json(content)

    def write(self, path: Path) -> None:
        """Write the document in one step, so that no reader finds half of it."""
        write_json(path, self.to_json_value())

    def to_json_value(self) -> Any:
        """The document as plain lists, dictionaries, texts and numbers; without the fields that were never set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Document(JsonFile):
    """Base of all documents that are JSON objects: immutable; fields that this release does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


def problems(error: ValidationError) -> str:
    """What a validation error says, on one line, each problem with its field."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in error.errors()
    )


# The gate's and the data's rules.

# Slices: tonight's test images, MNIST's own test set, the images that a model was trained on.
OVERALL, MNIST, TRAINING = "overall", "MNIST", "training"


@dataclass(frozen=True)
class Check:
    """One rule and what was found.

    `rule` is the name of the setting that has the bound, or `integrity`, `approval`, `schema` and the like; `slice` is
    `overall`, `MNIST` or a digit. `value` is what was compared with `bound` (for a change check candidate minus
    champion), `baseline` the champion's metric; each is None where there is no finite number.
    """

    rule: Annotated[str, Field(validation_alias=AliasChoices("rule", "name"))]  # `name` in the first releases
    metric: str = ""
    slice: str = "overall"
    value: float | None = None
    bound: float | None = None
    baseline: float | None = None
    verdict: Verdict = "skipped"
    message: str = ""


# datasets/<digest>/dataset.json and runs/<run>/data/validation.json


class MergedBatch(Document):
    """A batch of the inbox that is part of a dataset.

    `content` is the digest that its arrays are stored under, None if the dataset has them in its own folder. `picture`
    is its contact sheet below the run's `data/`, if this dataset is the first with it.
    """

    name: str
    train_images: int = 0
    test_images: int = 0
    picture: str | None = None
    content: str | None = None


class DatasetDescription(Document):
    """`dataset.json`: what a dataset holds and where it comes from.

    `base` is the dataset whose images come first, before those of the batches; None if all arrays are in the folder.
    `fixed_test_images` of the test images come from MNIST or the source, the rest from batches. `test_set` is `own` or
    `mnist`. The histogram counts the training images' pixels in 16 equal bins of their 256 values.
    """

    digest: str
    source: str = ""
    base: str | None = None
    batches: list[MergedBatch] = []
    fixed_test_images: int | None = None
    test_set: str | None = None
    test_set_sha256: str | None = None
    train_images: int
    test_images: int
    train_images_per_digit: list[int] = []
    test_images_per_digit: list[int] = []
    train_pixel_mean: FiniteFloat | None = None
    train_pixel_std: FiniteFloat | None = None
    train_pixel_histogram: list[int] = []


class BatchReport(Document):
    """What became of one batch of the inbox: `merged`, `quarantined` or the like, and each check.

    A batch that was merged before and has not changed has neither checks nor a picture: that run's report has them.
    """

    name: str
    verdict: str = ""
    reason: str = ""
    train_images: int = 0
    test_images: int = 0
    picture: str | None = None
    checks: list[Check] = []


class ValidationReport(Document):
    """`data/validation.json` of a run: what `load` has checked, by which rules."""

    dataset: str | None = None
    source: str = ""
    rules: dict[str, Any] = {}
    checks: list[Check] = []
    batches: list[BatchReport] = []


class KnownBatch(Document):
    """What was found at one path: the digest of its images, or why there are none; and its last verdict.

    `stamp` is a digest of the names, sizes and times of all files there, `verdict` that of the last run.
    """

    stamp: str
    content: str | None = None
    problem: str | None = None
    verdict: str = ""


class InboxIndex(Document):
    """`datasets/.batches/index.json`: what has been read already, by path. `code` is the digest of what has read it."""

    code: str
    batches: dict[str, KnownBatch] = {}


class Nearest(Document):
    """How close the images of one side come to those of the other.

    `others` is a digest of the other side's content, `closest` the smallest distance, `near` the positions of the
    images that are as good as the same.
    """

    others: str
    closest: FiniteFloat
    near: list[int]


class Contradicted(Document):
    """The positions of the images whose label all neighbours in the reference contradict.

    `reference` is the content digest of the source whose images the reference has. `way_up` has the fields of
    `neighbours.WayUp`, if there was a reason to look.
    """

    reference: str
    positions: list[int]
    way_up: dict[str, float | int | str] | None = None


class Measurements(Document):
    """`measurements.json` beside labelled images: what comparing them with other images gave, by split.

    `source` compares with the other split of the source, `accepted` with that of the batches accepted before. `turned`
    compares some of the images, turned and scaled, with the source's test images.
    """

    code: str
    source: dict[str, Nearest] = {}
    accepted: dict[str, Nearest] = {}
    turned: dict[str, Nearest] = {}
    contradicted: dict[str, Contradicted] = {}


# runs/<run>/training.json and history.json; both are part of a version as well


class Epoch(Document):
    """One pass over the training images: its number from 1, its metrics, its wall time and the speed of the training.

    Metrics are the means over the epoch while it trained, as Keras has them, and with the prefix `val_` those of the
    validation images after it. The time includes the validation; the speed does not.
    """

    number: int
    metrics: dict[str, float]
    seconds: float
    images_per_second: float


class TrainingHistory(JsonFile, RootModel[list[Epoch]]):
    """`history.json`: the epochs of a training, in order."""


@dataclass(frozen=True)
class ProgressPoint:
    """The loss of the training at one moment: the mean over the epoch so far, in nats. `epochs` counts parts of one."""

    epochs: float
    loss: float


class TrainingProgress(Document):
    """`progress.json`, only while a training runs: `images` of the `of` images of this epoch are done."""

    epoch: int
    epochs: int
    images: int
    of: int
    points: list[ProgressPoint] = []


class Trial(Document):
    """`trials/<number>/trial.json`: one training of a sweep. All metrics are of the validation images.

    `state` is `running`, `complete`, `pruned` (worse than the others so far), `infeasible` (too large or too slow to
    win), `diverged`, `failed` or `stopped` (the sweep's time was over). `repeats` is the trial that a finalist's
    training repeats with another `seed`. `study_number` is the number that Optuna knows it by.
    """

    number: int
    parameters: dict[str, Any]
    seed: int
    repeats: int | None = None
    study_number: int | None = None
    state: str = "running"
    reason: str = ""
    accuracy: Share | None = None
    loss: Loss | None = None
    epochs: list[Epoch] = []
    seconds: float | None = None
    weights: int | None = None
    weights_sha256: str | None = None
    worker: str = ""
    began: str | None = None
    ended: str | None = None


class Sweep(Document):
    """`sweep.json`: what a sweep searches, and on what. `train_sha256` names the images and labels that it trains on.

    `until` is when its time is over, in ISO 8601.
    """

    run_id: str
    dataset: str
    train_sha256: str
    train_images: int
    data: dict[str, Any]
    config: dict[str, Any]
    space: dict[str, Any]
    trials: int
    began: str
    until: str | None = None


class SweepResult(Document):
    """`result.json`: how a sweep has ended.

    `parameters` are what wins, for a run of mnist_training. `mean` is the objective's mean over the winner's seeds.
    `importance` says by name which part of the objective's variance a parameter explains, from Optuna's PED-ANOVA.
    """

    winner: int
    parameters: dict[str, Any]
    objective: str
    mean: float
    seeds: int
    importance: dict[str, float] = {}
    reason: str
    ended: str


class Training(Document):
    """`training.json`: what was trained from what, where, and the digest of the weights.

    `config` is the recipe as it was resolved; `fingerprint` has the digests of all that the weights depend on.
    """

    config: dict[str, Any] = {}
    dataset: str | None = None
    library_versions: dict[str, str] = {}
    fingerprint: dict[str, str] | None = None
    device: str | None = None
    hardware: dict[str, Any] = {}
    environment: dict[str, str] = {}
    git_commit: str | None = None
    seconds: float | None = None
    weights_sha256: str | None = None


class ImportedFrom(Document):
    """What a version was in the installation that it came from: its number there, and the last move to it."""

    version: int | None = None
    event: str = ""
    time: str = ""
    published_by: str | None = None


class Metadata(Training):
    """`metadata.json` of a version: its training, who published it when and why, and the digest of each file.

    `replaces` is the champion before it, `restores` the version whose files a rollback has published again,
    `imported_from` where it came from.
    """

    run_id: str | None = None
    signatures: dict[str, Any] = {}
    test_accuracy: Share | None = None
    forced: bool = False
    approved_by: str | None = None
    event: str | None = None
    published_by: str | None = None
    replaces: int | None = None
    restores: int | None = None
    imported_from: ImportedFrom | None = None
    reason: str = ""
    version: int | None = None
    published: str | None = None
    sha256: dict[str, str] = {}


# runs/<run>/evaluation.json


@dataclass(frozen=True)
class Finding:
    """One integrity check of a model's files."""

    metric: str
    passed: bool
    message: str
    value: float | None = None
    bound: float | None = None


@dataclass(frozen=True)
class DigitMetrics:
    """How well one digit is recognized; None where the ratio is 0/0."""

    digit: int
    support: int
    precision: Share | None = None
    recall: Share | None = None
    f1: Share | None = None


@dataclass(frozen=True)
class SliceMetrics:
    """How well a part of the test images is recognized, or images after a change; `name` says which."""

    name: str
    support: int
    accuracy: Share | None = None


@dataclass(frozen=True)
class CalibrationBin:
    """Test images of similar confidence: the mean probability of the predicted digit, and how often it is right."""

    images: int
    confidence: Share
    accuracy: Share


@dataclass(frozen=True)
class Cost:
    """Size of `model.keras`, and the median seconds of a prediction for one image and for `many` at once."""

    megabytes: float | None = None
    parameters: int | None = None
    seconds_for_one: float | None = None
    seconds_for_many: float | None = None
    many: int | None = None


class TrainingFit(Document):
    """A model on the images that it was trained on, or on some of them, as it is published: without dropout.

    `label_issues` is the share of images that are confidently another digit than their label says. `not_measured` says
    why a number is missing.
    """

    dataset: str | None = None
    not_measured: str | None = None
    images: int = 0
    loss: Loss | None = None
    accuracy: Share | None = None
    label_issues: Share | None = None


class MnistMetrics(Document):
    """A model on MNIST's own test set; `is_test_set` says whether this is tonight's test set anyway.

    The metrics are missing if the model could not be measured. All of it is if an older release wrote the document.
    """

    accuracy: Share | None = None
    accuracy_95: Interval | None = None
    loss: Loss | None = None
    is_test_set: bool | None = None


class Part(Document):
    """A part of the test images, such as a batch's, and the accuracy on it."""

    name: str
    images: int
    accuracy: Share | None = None


class PublishedMetrics(Document):
    """What a champion was published with."""

    accuracy: Share | None = None
    accuracy_95: Interval | None = None


class ModelEvaluation(Document):
    """One model, measured tonight. Metrics are missing if the integrity checks did not allow to measure it.

    `dataset` is the digest of the data that it was measured on, `objective` what it was trained to minimize;
    `confusion[i][j]` counts the images of digit i that were taken for j. `version` and `published` are a champion's.
    `brier`, `calibration_error` and `calibration` say how far its probabilities can be believed; `changed` has the
    accuracy after changes that digits meet in life. `champions_since` counts the champions after a reference.
    """

    version: int | None = None
    champions_since: int | None = None
    published: PublishedMetrics = PublishedMetrics()
    dataset: str | None = None
    objective: dict[str, Any] | None = None
    integrity: list[Finding] = []
    loss: Loss | None = None
    accuracy: Share | None = None
    accuracy_95: Interval | None = None
    digits: list[DigitMetrics] = []
    confusion: list[list[int]] = []
    mnist: MnistMetrics = MnistMetrics()
    parts: list[Part] = []
    brier: Annotated[float, Field(ge=0, le=2)] | None = None
    calibration_error: Share | None = None
    calibration: list[CalibrationBin] = []
    slices: list[SliceMetrics] = []
    changed: list[SliceMetrics] = []
    training: TrainingFit = TrainingFit()
    cost: Cost | None = None


class Mistake(Document):
    """A test image that the candidate took for another digit, with the probability that it gave that digit."""

    index: int
    label: int
    predicted: int
    probability: Share


class Mistakes(Document):
    """`mistakes.json`: all test images that the candidate mistook, the surest first.

    `test_set_sha256` names the test set of `images` images. `figures/mistaken.png` has the first `pictured` of the
    mistaken ones side by side, `columns` in a row, each as it is.
    """

    test_set_sha256: str
    images: int
    pictured: int
    columns: int
    mistakes: list[Mistake]


class Disagreements(Document):
    """The test images that only one of two models gets right, and what chance says about it.

    `p_value` is that of McNemar's exact test. The lists have the first of the images, as the other model mistook them.
    """

    only_candidate: int
    only_champion: int
    p_value: Share
    gained: list[Mistake] = []
    lost: list[Mistake] = []


class Evaluation(Document):
    """`evaluation.json`: the candidate and the champion, measured in one task on the same images.

    `files` has the digests of the candidate's files when they were measured; `mistakes` is None if an older release
    wrote it. `reference` is the best of the last champions, unless that is the champion itself; `no_reference` says why
    there is none. `suspects` counts the training images in `suspects.csv`.
    """

    dataset: str | None = None
    source: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    files: dict[str, str] = {}
    training_sha256: str | None = None
    signatures: dict[str, Any] = {}
    mistakes: list[Mistake] | None = None
    suspects: int | None = None
    candidate: ModelEvaluation
    champion: ModelEvaluation | None = None
    reference: ModelEvaluation | None = None
    no_reference: str | None = None
    disagreements: Disagreements | None = None


class ModelFigures(JsonFile):
    """What a list of versions shows of `ModelEvaluation`, with the same meaning."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    loss: Loss | None = None
    accuracy: Share | None = None
    accuracy_95: Interval | None = None


class EvaluationFigures(JsonFile):
    """`evaluation.json` for lists of thousands of versions: a fifth of the time, as the rest of it is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    candidate: ModelFigures


# runs/<run>/decision.json


@dataclass(frozen=True)
class Approval:
    """What a person said about a candidate that the gate lets pass.

    `approved` is None if nobody was asked, as the gate does not let it pass; `by` is None if nobody answered in time.
    `evaluation` is the SHA-256 of the `evaluation.json` that the answer is about.
    """

    evaluation: str
    approved: bool | None = None
    by: str | None = None
    at: str | None = None
    comment: str = ""


class DecisionSummary(JsonFile):
    """`decision.json` for lists of thousands: everything but the checks of the gate and a person's answer.

    `outcome` is `approved` by the gate, `promoted` once it is published, `rejected`, `refused` or `unchanged`; None if
    one of the first releases wrote it. `policy` is the gate's configuration. `rejected_in` is the run whose rejection
    an unchanged night would repeat, `not_published` why publishing failed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    outcome: str | None = None
    promoted: bool = False
    forced: bool = False
    reason: str = ""
    policy: dict[str, Any] = {}
    run_id: str | None = None
    rejected_in: str | None = None
    not_published: str | None = None
    candidate_accuracy: Share | None = None
    champion_version: int | None = None
    champion_accuracy: Share | None = None
    version: int | None = None

    @property
    def verdict(self) -> str:
        """What the gate has said, which publishes nothing by itself: approved, unchanged, rejected or refused."""
        if self.promoted or self.outcome in ("promoted", "approved"):  # an older release called an approval so
            return "approved"
        return self.outcome or "rejected"

    @property
    def min_accuracy(self) -> float | None:
        """The lowest accuracy that the gate would have let pass."""
        value = self.policy.get("min_accuracy")
        return float(value) if isinstance(value, float | int) and math.isfinite(value) and 0 <= value <= 1 else None

    @property
    def change(self) -> float | None:
        """The candidate's accuracy minus the champion's, on the same images; None if one is missing."""
        if self.candidate_accuracy is None or self.champion_accuracy is None:
            return None
        return self.candidate_accuracy - self.champion_accuracy


class DecisionRecord(DecisionSummary, Document):
    """`decision.json`: what became of a run's candidate and why, with every check of the gate."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    checks: list[Check] = []
    approval: Approval | None = None


# models/notes/<version>.json, which people write


class Tag(Document):
    """A word that a person has put on a version, by whom and when (UTC, ISO 8601)."""

    name: str
    by: str
    time: str


class Note(Document):
    """A text that a person has written about a version, by whom and when (UTC, ISO 8601)."""

    text: str
    by: str
    time: str


class Notes(Document):
    """`notes/<version>.json`: what people have written about a version, the oldest first."""

    tags: list[Tag] = []
    notes: list[Note] = []


# champion.json in the mirror of an object store


class MirroredChampion(Document):
    """`champion.json` in a mirror: which version is champion, since when and why, and the SHA-256 of its files."""

    version: Annotated[int, Field(gt=0)]
    time: str
    event: str = ""
    reason: str = ""
    published_by: str | None = None
    sha256: dict[str, str]


# models/rejected.json


class LastRejection(Document):
    """`models/rejected.json`: what the newest rejected candidate was made from, and what it was judged by."""

    run_id: str
    reason: str
    champion_version: int | None
    policy: dict[str, Any]
    fingerprint: dict[str, str]


# models/history.jsonl, one a line


class HistoryEvent(Document):
    """One line of the model directory's history: a move of the champion link, a pruning, or documents that are lost.

    A move has `to`: the new champion, None after a retirement; `before` (in the file: `from`) is the one before it.
    `restores` is the version whose files a rollback has published again; `version` and `files` are those of a pruning
    or a loss.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, populate_by_name=True)

    time: str
    event: str = ""
    before: Annotated[int | None, Field(alias="from", gt=0)] = None
    to: Annotated[int | None, Field(gt=0)] = None
    version: Annotated[int | None, Field(gt=0)] = None
    files: list[str] = []
    reason: str = ""
    published_by: str | None = None
    run_id: str | None = None
    approved_by: str | None = None
    restores: Annotated[int | None, Field(gt=0)] = None
    forced: bool = False
    weights_sha256: str | None = None
    metadata_sha256: str | None = None

    @property
    def publisher(self) -> str | None:
        """The run, or the person, that caused it; an older release wrote only the run."""
        return self.published_by or self.run_id

    @property
    def is_move(self) -> bool:
        """Whether the champion link has moved, also if it has gone."""
        return "to" in self.model_fields_set
