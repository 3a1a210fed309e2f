"""The fourth task: inspect the candidate's files, measure it and the champion on the same images, draw figures.

Both are measured on tonight's test images and on MNIST's own, which no source and no batch can change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.data.dataset import Dataset, UInt8
from mnist_tasks.documents import (
    Evaluation,
    Finding,
    Metadata,
    Mistake,
    PublishedMetrics,
    Training,
    TrainingHistory,
)
from mnist_tasks.evaluation.integrity import Inspection, inspect, inspect_keras_file
from mnist_tasks.evaluation.measurement import Measured, measure, table, worst_mistakes
from mnist_tasks.evaluation.metrics import Metrics
from mnist_tasks.evaluation.test_images import TestImages, published_mnist_accuracy
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import EVALUATION, GOLDEN, MODEL, SAVED_MODEL, WAY_OUT, Version
from mnist_tasks.system.errors import ModelError, is_transient
from mnist_tasks.system.files import sha256, write_atomically
from mnist_tasks.system.task_log import best_effort, log_group, log_resources
from mnist_tasks.system.tensorflow_setup import use_devices
from mnist_tasks.training.architectures import weights_sha256
from mnist_tasks.training.provenance import library_versions

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

GOLDEN_IMAGES = 100  # the first of the test set

# How far a champion's accuracy on MNIST's own test set may differ from the published one. With the same libraries
# it is ten images: other processors and GPUs change the fifth decimal of probabilities, which tips one image in 1000.
MAX_DIFFERENCE, MAX_DIFFERENCE_OF_OTHER_LIBRARIES = 0.001, 0.005


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` hands on: test accuracies and the champion's version.

    An accuracy is None if the model cannot be measured; both values of the champion are if there is none.
    """

    accuracy: float | None
    champion: int | None
    champion_accuracy: float | None


@dataclass(frozen=True)
class Champion:
    """The champion: its version and recipe, what it was published with, and how it measures tonight.

    `number` is None if the champion link cannot be read.
    """

    number: int | None
    measured: Measured
    config: dict[str, Any] = field(default_factory=dict)
    published: PublishedMetrics = field(default_factory=PublishedMetrics)


@log_resources
def evaluate(dataset_folder: Path, run: Path, models: Path) -> Evaluated:
    """Inspect and measure the run's candidate, measure the champion; write `evaluation.json` and the figures.

    A model that cannot be trusted is not an error here: the problem is written down, and the gate refuses the model.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        run: the run's folder, with the candidate.
        models: the model directory.

    Raises:
        InputError: if the dataset cannot be read.
        ModelError: if `training.json` or `history.json` cannot be read.
    """
    log.info("reading the candidate in %s and the test images in %s", run, dataset_folder)
    dataset = Dataset(dataset_folder)
    description = dataset.description()
    dataset.verify("test")
    test = TestImages.of(dataset, description)
    history = TrainingHistory.read(run / "history.json", "clear the train task to write it again")
    training = Training.read(run / "training.json", "clear the train task to write it again")

    log.info("evaluating on the %s", use_devices())
    # The digests come first: what is measured must be what was hashed.
    files = _digests(run, MODEL, SAVED_MODEL)
    inspection = inspect(run / MODEL, run / SAVED_MODEL, test.raw[:GOLDEN_IMAGES])
    if inspection.model:
        inspection.findings.append(_same_weights(inspection.model, training.weights_sha256))
    candidate = measure(inspection.model, inspection.findings, test)
    champion = _champion(ModelDirectory(models), test)
    _log(candidate, champion)
    mistakes = _write_golden_and_figures(run, inspection, candidate, champion, history, test)
    Evaluation(
        dataset=dataset.digest,
        source=description.source,
        train_images=description.train_images,
        test_images=description.test_images,
        files=files | _digests(run, GOLDEN, "history.json", "figures"),
        training_sha256=sha256(run / "training.json"),
        signatures=inspection.signatures,
        mistakes=mistakes,
        candidate=candidate.document(dataset.digest, training.config, test),
        champion=champion.measured.document(
            dataset.digest, champion.config, test, version=champion.number, published=champion.published
        )
        if champion
        else None,
    ).write(run / EVALUATION)
    log.info("wrote evaluation.json and figures/ to %s", run)
    return Evaluated(
        candidate.metrics.accuracy if candidate.metrics else None,
        champion.number if champion else None,
        champion.measured.metrics.accuracy if champion and champion.measured.metrics else None,
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
        if not metadata.config:
            raise ModelError(f"version {number} is damaged: its metadata.json has no config{WAY_OUT}")
    except ModelError as error:
        if is_transient(error):
            raise
        return Champion(number, Measured([Finding("files", False, str(error))]))
    inspection = inspect_keras_file(version.model, test.raw[:GOLDEN_IMAGES])
    findings = [Finding("files", True, f"the files of version {number} are as published"), *inspection.findings]
    if not inspection.passed:
        way_out = "go back with `models rollback` or, if no version can be used any more, to none with `models retire`"
        findings.append(Finding("champion", False, f"version {number} cannot be measured; {way_out}"))
    measured = measure(inspection.model, findings, test)
    published_accuracy = published_mnist_accuracy(evaluation)
    if measured.mnist and published_accuracy is not None:
        measured.findings.append(_reproduced(version, metadata, published_accuracy, measured.mnist.accuracy))
    candidate = evaluation.candidate
    published = PublishedMetrics(accuracy=candidate.accuracy, accuracy_95=candidate.accuracy_95)
    return Champion(number, measured, metadata.config, published)


def _reproduced(version: Version, metadata: Metadata, published: float, tonight: float) -> Finding:
    """Check that the champion has the accuracy on MNIST's own test set with which it was published.

    The files, the images and the code are the same. Other libraries may round differently, so more is allowed then.
    """
    libraries = library_versions()
    changed = [
        f"{name} was {metadata.library_versions.get(name)}, is {libraries[name]}"
        for name in libraries
        if metadata.library_versions.get(name) != libraries[name]
    ]
    bound = MAX_DIFFERENCE_OF_OTHER_LIBRARIES if changed else MAX_DIFFERENCE
    difference = abs(tonight - published)
    passed = difference <= bound
    message = (
        f"version {version.number} got {published:.4f} on MNIST's own test set when it was published and gets "
        f"{tonight:.4f} now: {'within' if passed else 'more than'} the allowed difference of {bound:g}"
    )
    if not passed:
        libraries_text = f" ({', '.join(changed)})" if changed else ""
        message += (
            f"; the same model gives other answers here{libraries_text}: fix this machine or its libraries, or go "
            "back with `models rollback`"
        )
    return Finding("reproduction", passed, message, difference, bound)


def _log(candidate: Measured, champion: Champion | None) -> None:
    """Log the findings about both models, and their metrics side by side."""
    models = {"candidate": candidate}
    if champion:
        models[f"champion {champion.number}"] = champion.measured
    for model in models.values():
        for finding in model.findings:
            log.log(logging.DEBUG if finding.passed else logging.ERROR, "%s", finding.message)
    with log_group(log, "the metrics"):
        for line in table({name: model for name, model in models.items() if model.metrics}):
            log.info("%s", line)


def _write_golden_and_figures(
    run: Path,
    inspection: Inspection,
    candidate: Measured,
    champion: Champion | None,
    history: TrainingHistory,
    test: TestImages,
) -> list[Mistake]:
    """Write the golden images and the figures of a candidate that could be measured; return its worst mistakes."""
    golden = inspection.golden
    if candidate.metrics is None or candidate.probabilities is None or golden is None:
        return []
    images = test.raw[:GOLDEN_IMAGES]
    write_atomically(run / GOLDEN, lambda path: np.savez(path, images=images, probabilities=golden))
    mistakes = worst_mistakes(candidate.probabilities, test.labels)
    _draw(run, candidate.metrics, champion.measured.metrics if champion else None, history, mistakes, test.raw)
    return mistakes


def _draw(
    run: Path,
    candidate: Metrics,
    champion: Metrics | None,
    history: TrainingHistory,
    mistakes: Sequence[Mistake],
    raw: UInt8,
) -> None:
    # Imported here, because it takes half a second.
    try:
        from mnist_tasks.evaluation import figures
    except Exception as error:
        log.warning("no figure is drawn, because matplotlib cannot be imported: %s: %s", type(error).__name__, error)
        return

    folder = run / "figures"
    folder.mkdir(exist_ok=True)
    mistaken = raw[[mistake.index for mistake in mistakes]]
    champion_digits = champion.digits if champion else None
    drawings = {
        "training.png": partial(figures.training_curves, history.root),
        "confusion.png": partial(figures.confusion_matrix, candidate.confusion),
        "mistakes.png": partial(figures.worst_mistakes, mistaken, mistakes),
        "recall.png": partial(figures.recall_by_digit, candidate.digits, champion_digits),
    }
    for name, draw in drawings.items():
        (folder / name).unlink(missing_ok=True)  # of an earlier try
        with best_effort(name), figures.plain():
            write_atomically(folder / name, draw)


def _same_weights(model: keras.Model, expected: str | None) -> Finding:
    digest = weights_sha256(model)
    verb = "are" if digest == expected else "are not"
    return Finding("weights", digest == expected, f"the weights {verb} those that train wrote down: {digest}")


def _digests(run: Path, *names: str) -> dict[str, str]:
    """SHA-256 of the files with these names, and of all files in the folders, by their path in the run's folder."""
    paths = [path for name in names for path in (run / name, *sorted((run / name).rglob("*")))]
    return {path.relative_to(run).as_posix(): sha256(path) for path in paths if path.is_file()}
