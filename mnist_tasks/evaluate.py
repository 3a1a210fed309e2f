"""The fourth task: inspect the candidate's files, measure it and the champion on the same images, draw figures.

Both are measured on tonight's test images and on MNIST's own, the one yardstick that no source and no batch can change.
Where those are among tonight's, as they mostly are, nothing is computed twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.data.dataset import DIGITS, Dataset, Float32, UInt8, scaled
from mnist_tasks.evaluation.integrity import Finding, finite, inspect, inspect_keras_file, unusable
from mnist_tasks.evaluation.metrics import Metrics, measure
from mnist_tasks.evaluation.test_images import TestImages, published_accuracy
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import GOLDEN, MODEL, SAVED_MODEL, Version
from mnist_tasks.system.errors import ModelError, is_transient
from mnist_tasks.system.files import read_json, sha256, write_atomically, write_json
from mnist_tasks.system.task_log import best_effort, log_group, log_resources
from mnist_tasks.system.tensorflow_setup import use_devices
from mnist_tasks.training.architectures import weights_sha256
from mnist_tasks.training.provenance import library_versions

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

CHUNK = 1000  # images at a time
GOLDEN_IMAGES = 100  # the first of the test set
MISTAKES = 24

# How far a champion's accuracy on MNIST's own test set may lie from the one that it was published with: ten images, for
# other processors and GPUs, on which some hundred-thousandths of a probability tip an image in a thousand; and with
# other versions of the libraries.
REPRODUCED, REPRODUCED_ELSEWHERE = 0.001, 0.005


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
    """One model: the findings about its integrity and, if they allow it, its probabilities and metrics.

    `mnist` are the metrics on MNIST's own test set, `parts` the shares of each part of the test images, by its name.
    """

    findings: list[Finding]
    probabilities: Float32 | None = None
    metrics: Metrics | None = None
    mnist: Metrics | None = None
    parts: list[dict[str, Any]] = field(default_factory=list)

    def record(self, dataset: Dataset, config: Mapping[str, Any], test: TestImages) -> dict[str, Any]:
        """Its part of `evaluation.json`, with the data it was measured on and what it was trained to minimize."""
        mnist = {name: getattr(self.mnist, name) for name in ("accuracy", "accuracy_95", "loss")} if self.mnist else {}
        return {
            "dataset": dataset.digest,
            "objective": {name: config.get(name) for name in ("loss", "label_smoothing")},
            "integrity": [asdict(finding) for finding in self.findings],
            **(asdict(self.metrics) if self.metrics else {}),
            "mnist": {**mnist, "is_test_set": test.is_mnist},
            "parts": self.parts,
        }


@dataclass
class Champion:
    """The champion: its version and recipe, what it was published with, and how it measures tonight."""

    number: int | None
    measured: Measured
    config: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)


@log_resources
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
    test = TestImages.of(dataset, description)
    labels, raw = test.labels, test.raw
    history, training = (read_json(run / name, "train") for name in ("history.json", "training.json"))

    log.info("evaluating on the %s", use_devices())
    # Before they are loaded: what is measured must be what was hashed.
    files = _digests(run, MODEL, SAVED_MODEL)
    inspection = inspect(run / MODEL, run / SAVED_MODEL, raw[:GOLDEN_IMAGES])
    if inspection.model:
        inspection.findings.append(_same_weights(inspection.model, training["weights_sha256"]))
    candidate = _measure(inspection.model, inspection.findings, test)
    champion = _champion(ModelDirectory(models), test)
    of_champion = champion.measured if champion else None
    for model in filter(None, (candidate, of_champion)):
        for finding in model.findings:
            log.log(logging.DEBUG if finding.passed else logging.ERROR, "%s", finding.message)
    measured = {"candidate": candidate, f"champion {champion.number if champion else None}": of_champion}
    with log_group(log, "the metrics"):
        for line in table({name: model for name, model in measured.items() if model and model.metrics}):
            log.info("%s", line)

    mistakes = []
    if candidate.metrics and candidate.probabilities is not None and inspection.golden is not None:
        golden = inspection.golden
        write_atomically(run / GOLDEN, lambda path: np.savez(path, images=raw[:GOLDEN_IMAGES], probabilities=golden))
        mistakes = worst_mistakes(candidate.probabilities, labels)
        _draw(run, candidate.metrics, of_champion.metrics if of_champion else None, history, mistakes, raw)
    write_json(
        run / "evaluation.json",
        {
            "dataset": dataset.digest,
            **{name: description[name] for name in ("source", "train_images", "test_images")},
            "files": files | _digests(run, GOLDEN, "history.json", "figures"),
            "training_sha256": sha256(run / "training.json"),
            "signatures": inspection.signatures,
            "mistakes": mistakes,
            "candidate": candidate.record(dataset, training["config"], test),
            "champion": {
                "version": champion.number,
                **champion.measured.record(dataset, champion.config, test),
                "published": champion.published,
            }
            if champion
            else None,
        },
    )
    log.info("wrote evaluation.json and figures/ to %s", run)
    return Evaluated(
        candidate.metrics.accuracy if candidate.metrics else None,
        champion.number if champion else None,
        of_champion.metrics.accuracy if of_champion and of_champion.metrics else None,
    )


def _champion(models: ModelDirectory, test: TestImages) -> Champion | None:
    """The champion, measured; None if there is none yet."""
    number = None
    try:
        version = models.champion()
        if version is None:
            return None
        number = version.number
        models.verify(version)
        metadata, evaluation = version.metadata(), version.evaluation()
        config = metadata["config"]
    except (ModelError, KeyError) as error:
        if is_transient(error):
            raise
        return Champion(number, Measured([Finding("files", False, str(error))]))
    inspection = inspect_keras_file(version.model, test.raw[:GOLDEN_IMAGES])
    findings = [Finding("files", True, f"the files of version {number} are as published"), *inspection.findings]
    if not inspection.passed:
        way_out = "go back with `models rollback`, or, if no version can be used any more, to none with `models retire`"
        findings.append(Finding("champion", False, f"version {number} cannot be measured; {way_out}"))
    measured = _measure(inspection.model, findings, test)
    candidate = evaluation.get("candidate") or {}
    published = {name: candidate.get(name) for name in ("accuracy", "accuracy_95")}
    if measured.mnist and (then := published_accuracy(evaluation)) is not None:
        measured.findings.append(_reproduced(version, metadata, then, measured.mnist.accuracy))
    return Champion(number, measured, config, published)


def _reproduced(version: Version, metadata: Mapping[str, Any], then: float, now: float) -> Finding:
    """Whether the champion gets on MNIST's own test set what it got when it was published.

    The files, the images and the code are the same. Other libraries may round otherwise, so that more is allowed then.
    """
    there, here = metadata.get("library_versions") or {}, library_versions()
    changed = [f"{name} was {there.get(name)}, is {here[name]}" for name in here if there.get(name) != here[name]]
    bound = REPRODUCED_ELSEWHERE if changed else REPRODUCED
    difference = abs(now - then)
    passed = difference <= bound
    message = (
        f"version {version.number} got {then:.4f} on MNIST's own test set when it was published and gets {now:.4f} "
        f"now: {'within' if passed else 'more than'} the allowed difference of {bound:g}"
    )
    if not passed:
        because = f" ({', '.join(changed)})" if changed else ""
        message += (
            f"; the same model gives other answers here{because}: mend this machine or its libraries, or go back with "
            "`models rollback`"
        )
    return Finding("reproduction", passed, message, difference, bound)


def _measure(model: keras.Model | None, findings: list[Finding], test: TestImages) -> Measured:
    """Run a model over all test images; a model that gave no usable answer before is None and left alone."""
    if model is None:
        return Measured(findings)
    probabilities = _probabilities(model, len(test.labels), lambda rows: test.images[rows])
    bad = unusable(probabilities)
    findings = [*findings, finite("test images finite", MODEL, bad, len(test.labels), "test images")]
    if bad:
        return Measured(findings)
    if test.begins_with_mnist:
        on_mnist, answers = test.labels[: len(test.mnist_labels)], probabilities[: len(test.mnist_labels)]
    else:
        on_mnist = test.mnist_labels
        answers = _probabilities(model, len(on_mnist), lambda rows: scaled(test.mnist_images[rows]))
        bad = unusable(answers)
        findings.append(finite("MNIST's images finite", MODEL, bad, len(on_mnist), "images of MNIST's own test set"))
        if bad:
            return Measured(findings)
    metrics = measure(probabilities, test.labels)
    mnist = metrics if test.is_mnist else measure(answers, on_mnist)
    hits = probabilities.argmax(axis=1) == test.labels
    return Measured(findings, probabilities, metrics, mnist, test.parts(hits, mnist.accuracy))


def _probabilities(model: keras.Model, count: int, images: Callable[[slice], Float32]) -> Float32:
    chunks = (images(slice(start, start + CHUNK)) for start in range(0, count, CHUNK))
    return np.concatenate([np.asarray(model(chunk, training=False)) for chunk in chunks])


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
    try:
        from mnist_tasks.evaluation import figures
    except Exception as error:
        log.warning("no figure is drawn, as matplotlib cannot be imported: %s: %s", type(error).__name__, error)
        return

    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    mistaken = raw[[mistake["index"] for mistake in mistakes]]
    of_champion = champion.digits if champion else None
    drawings = {
        "training.png": partial(figures.training_curves, history),
        "confusion.png": partial(figures.confusion_matrix, candidate.confusion),
        "mistakes.png": partial(figures.worst_mistakes, mistaken, mistakes),
        "recall.png": partial(figures.recall_by_digit, candidate.digits, of_champion),
    }
    for name, draw in drawings.items():
        (folder / name).unlink(missing_ok=True)  # an earlier try's
        with best_effort(name), figures.plain():
            write_atomically(folder / name, draw)


def _same_weights(model: keras.Model, expected: str) -> Finding:
    found = weights_sha256(model)
    verb = "are" if found == expected else "are not"
    return Finding("weights", found == expected, f"the weights {verb} those that train wrote down: {found}")


def _digests(run: Path, *names: str) -> dict[str, str]:
    """SHA-256 of files, and of all those in folders, of these names, by their path in the run's folder."""
    paths = [path for name in names for path in (run / name, *sorted((run / name).rglob("*")))]
    return {path.relative_to(run).as_posix(): sha256(path) for path in paths if path.is_file()}


def table(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Lines of an aligned table: each model's metrics side by side, then the first one's confusion matrix."""
    models = [model.metrics for model in measured.values() if model.metrics]
    if not models:
        return

    def row(label: str, values: Iterable[str]) -> str:
        return f"{label:<16}" + "".join(f"{value:>24}" for value in values)

    yield row("", measured)
    yield row("accuracy", (f"{model.accuracy:.4f}" for model in models))
    yield row("95 % interval", ("{:.4f} to {:.4f}".format(*model.accuracy_95) for model in models))
    yield row("loss", (f"{model.loss:.4f}" for model in models))
    if not any(model.mnist is model.metrics for model in measured.values()):
        mnist = [model.mnist for model in measured.values() if model.mnist]
        yield row("on MNIST's own", (f"{model.accuracy:.4f}" for model in mnist))
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
