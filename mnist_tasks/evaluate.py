"""The fourth task: inspect the candidate's files, measure it and the champion on the same images, draw figures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.dataset import DIGITS, Dataset, Float32, UInt8
from mnist_tasks.errors import ModelError
from mnist_tasks.files import read_json, sha256, write_atomically, write_json
from mnist_tasks.integrity import Finding, finite, inspect, inspect_keras_file, unusable
from mnist_tasks.metrics import Metrics, measure
from mnist_tasks.models import weights_sha256
from mnist_tasks.registry import GOLDEN, MODEL, SAVED_MODEL, ModelDirectory
from mnist_tasks.runtime import log_group, reported, use_devices

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

CHUNK = 1000  # images at a time
GOLDEN_IMAGES = 100  # the first of the test set
MISTAKES = 24


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` hands on: test accuracies and the champion's version.

    None for a model that cannot be measured, or if there is no champion.
    """

    accuracy: float | None
    champion: int | None
    champion_accuracy: float | None


@dataclass
class Measured:
    """One model: the findings about its integrity and, if they allow it, its probabilities and metrics."""

    findings: list[Finding]
    probabilities: Float32 | None = None
    metrics: Metrics | None = None

    def record(self, dataset: Dataset, config: Mapping[str, Any]) -> dict[str, Any]:
        """Its part of `evaluation.json`, with the data it was measured on and what it was trained to minimize."""
        return {
            "dataset": dataset.digest,
            "objective": {name: config.get(name) for name in ("loss", "label_smoothing")},
            "integrity": [asdict(finding) for finding in self.findings],
            **(asdict(self.metrics) if self.metrics else {}),
        }


@reported
def evaluate(dataset_folder: Path, run: Path, models: Path) -> Evaluated:
    """Inspect and measure the run's candidate, measure the champion; write `evaluation.json` and the figures.

    A model that cannot be trusted is no error here: what is wrong is written down, and the gate refuses it.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        run: the run's folder, with the candidate.
        models: the model directory.

    Raises:
        InputError: if the dataset cannot be read.
        ModelError: if what `train` wrote about the training cannot be read.
    """
    log.info("reading the candidate in %s and the test images in %s", run, dataset_folder)
    dataset = Dataset(dataset_folder)
    description = dataset.description()
    dataset.verify("test")
    images, labels = dataset.normalized("test"), np.array(dataset.labels("test"))
    raw = dataset.array("x_test")
    history, training = (read_json(run / name, "train") for name in ("history.json", "training.json"))

    log.info("evaluating on the %s", use_devices())
    # Before they are loaded: what is measured must be what was hashed.
    files = _digests(run, MODEL, SAVED_MODEL)
    inspection = inspect(run / MODEL, run / SAVED_MODEL, raw[:GOLDEN_IMAGES])
    if inspection.model:
        inspection.findings.append(_same_weights(inspection.model, training["weights_sha256"]))
    candidate = _measure(inspection.model, inspection.findings, images, labels)
    champion, number, champion_config = _champion(ModelDirectory(models), raw, images, labels)
    for model in filter(None, (candidate, champion)):
        for finding in model.findings:
            log.log(logging.DEBUG if finding.passed else logging.ERROR, "%s", finding.message)
    measured = {"candidate": candidate.metrics, f"champion {number}": champion.metrics if champion else None}
    with log_group(log, "the metrics"):
        for line in table({name: metrics for name, metrics in measured.items() if metrics}):
            log.info("%s", line)

    mistakes = []
    if candidate.metrics and candidate.probabilities is not None and inspection.golden is not None:
        golden = inspection.golden
        write_atomically(run / GOLDEN, lambda path: np.savez(path, images=raw[:GOLDEN_IMAGES], probabilities=golden))
        mistakes = worst_mistakes(candidate.probabilities, labels)
        _draw(run, candidate.metrics, champion.metrics if champion else None, history, mistakes, raw)
    write_json(
        run / "evaluation.json",
        {
            "dataset": dataset.digest,
            **{name: description[name] for name in ("source", "train_images", "test_images")},
            "files": files | _digests(run, GOLDEN, "history.json", "figures"),
            "training_sha256": sha256(run / "training.json"),
            "signatures": inspection.signatures,
            "mistakes": mistakes,
            "candidate": candidate.record(dataset, training["config"]),
            "champion": {"version": number, **champion.record(dataset, champion_config)} if champion else None,
        },
    )
    log.info("wrote evaluation.json and figures/ to %s", run)
    return Evaluated(
        candidate.metrics.accuracy if candidate.metrics else None,
        number,
        champion.metrics.accuracy if champion and champion.metrics else None,
    )


def _champion(
    models: ModelDirectory, raw: UInt8, images: Float32, labels: UInt8
) -> tuple[Measured | None, int | None, dict[str, Any]]:
    """The champion, measured, its version and its recipe; None, None and nothing if there is no champion yet."""
    number = None
    try:
        champion = models.champion()
        if champion is None:
            return None, None, {}
        number = champion.number
        models.verify(champion)
        config = champion.metadata()["config"]
    except (ModelError, KeyError) as error:
        return Measured([Finding("files", False, str(error))]), number, {}
    inspection = inspect_keras_file(champion.model, raw[:GOLDEN_IMAGES])
    findings = [Finding("files", True, f"the files of version {number} are as published"), *inspection.findings]
    if not inspection.passed:
        way_out = "go back with `models rollback`, or, if no version can be used any more, to none with `models retire`"
        findings.append(Finding("champion", False, f"version {number} cannot be measured; {way_out}"))
    return _measure(inspection.model, findings, images, labels), number, config


def _measure(model: keras.Model | None, findings: list[Finding], images: Float32, labels: UInt8) -> Measured:
    """Run a model over all test images; a model that gave no usable answer before is None and left alone."""
    if model is None:
        return Measured(findings)
    chunks = [np.asarray(model(images[i : i + CHUNK], training=False)) for i in range(0, len(images), CHUNK)]
    probabilities = np.concatenate(chunks)
    bad = unusable(probabilities)
    findings = [*findings, finite("test images finite", MODEL, bad, len(labels), "test images")]
    return Measured(findings) if bad else Measured(findings, probabilities, measure(probabilities, labels))


def worst_mistakes(probabilities: Float32, labels: UInt8) -> list[dict[str, Any]]:
    """The test images mistaken with the highest probability: index, label, predicted digit and its probability."""
    predicted, sureness = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:MISTAKES]
    return [
        {"index": i, "label": int(labels[i]), "predicted": int(predicted[i]), "probability": float(sureness[i])}
        for i in worst.tolist()
    ]


def _draw(
    run: Path,
    candidate: Metrics,
    champion: Metrics | None,
    history: list[dict[str, Any]],
    mistakes: list[dict[str, Any]],
    raw: UInt8,
) -> None:
    # Imported here: half a second that only this task needs.
    from mnist_tasks import figures

    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    figures.training_curves(history, folder / "training.png")
    figures.confusion_matrix(candidate.confusion, folder / "confusion.png")
    figures.worst_mistakes(raw[[mistake["index"] for mistake in mistakes]], mistakes, folder / "mistakes.png")
    of_champion = champion.digits if champion else None
    figures.recall_by_digit(candidate.digits, of_champion, folder / "recall.png")


def _same_weights(model: keras.Model, expected: str) -> Finding:
    found = weights_sha256(model)
    verb = "are" if found == expected else "are not"
    return Finding("weights", found == expected, f"the weights {verb} those that train wrote down: {found}")


def _digests(run: Path, *names: str) -> dict[str, str]:
    """SHA-256 of files, and of all those in folders, of these names, by their path in the run's folder."""
    paths = [path for name in names for path in (run / name, *sorted((run / name).rglob("*")))]
    return {path.relative_to(run).as_posix(): sha256(path) for path in paths if path.is_file()}


def table(measured: dict[str, Metrics]) -> Iterator[str]:
    """Lines of an aligned table: each model's metrics side by side, then the first one's confusion matrix."""
    models = list(measured.values())
    if not models:
        return

    def row(label: str, values: Iterable[str]) -> str:
        return f"{label:<16}" + "".join(f"{value:>24}" for value in values)

    yield row("", measured)
    yield row("accuracy", (f"{model.accuracy:.4f}" for model in models))
    yield row("95 % interval", ("{:.4f} to {:.4f}".format(*model.accuracy_95) for model in models))
    yield row("loss", (f"{model.loss:.4f}" for model in models))
    yield row("", (_columns("precision", "recall", "F1") for _ in models))
    for digit, first in enumerate(models[0].digits):
        values = (model.digits[digit] for model in models)
        yield row(
            f"{digit} ({first.support:,} images)",
            (_columns(*(_share(share) for share in (value.precision, value.recall, value.f1))) for value in values),
        )
    yield f"confusion of the {next(iter(measured))}: a row a digit, a column what it was taken for"
    yield " " * 8 + "".join(f"{digit:>6}" for digit in range(DIGITS))
    for digit, counts in enumerate(models[0].confusion):
        yield f"{digit:>8}" + "".join(f"{count or '.':>6}" for count in counts)


def _columns(precision: str, recall: str, f1: str) -> str:
    return f"{precision:>9} {recall:>6} {f1:>5}"


def _share(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "-"
