"""The fourth task: inspect the candidate's files, measure it and the champion on the same images, draw figures.

Both are measured on tonight's test images and on MNIST's own, which no source and no batch can change.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.data.dataset import Dataset, Float32, test_set_digest
from mnist_tasks.documents import (
    Evaluation,
    Finding,
    Metadata,
    Mistake,
    Mistakes,
    ModelEvaluation,
    Training,
    TrainingFit,
    TrainingHistory,
)
from mnist_tasks.evaluation.cost import cost
from mnist_tasks.evaluation.drawing import draw_figures
from mnist_tasks.evaluation.integrity import Inspection, inspect
from mnist_tasks.evaluation.measurement import MAX_MISTAKES, Measured, measure, table, worst_mistakes
from mnist_tasks.evaluation.significance import disagreements
from mnist_tasks.evaluation.suspects import SUSPECTS, images_of, write_suspects
from mnist_tasks.evaluation.test_images import TestImages
from mnist_tasks.evaluation.training_fit import SAMPLED_IMAGES, probabilities_on, training_fit
from mnist_tasks.gate_config import CHAMPIONS_FOR_REFERENCE
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.opponents import Opponent, champion_tonight, reference_tonight
from mnist_tasks.registry.version import EVALUATION, GOLDEN, MISTAKES, MODEL, SAVED_MODEL
from mnist_tasks.system.errors import InputError, is_transient
from mnist_tasks.system.files import sha256, write_atomically
from mnist_tasks.system.task_log import log_group, log_resources
from mnist_tasks.system.tensorflow_setup import use_devices
from mnist_tasks.training.architectures import weights_sha256
from mnist_tasks.training.fingerprint import SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS
from mnist_tasks.training.provenance import library_versions

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MAX_PICTURED, PICTURED_IN_A_ROW = 1000, 25  # mistaken images beside each other, half a kilobyte each
SETTINGS_WITHOUT_EFFECT_ON_FIT = {*SETTINGS_WITHOUT_EFFECT_ON_WEIGHTS, "seed", "strategy", "precision"}


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` hands on: test accuracies and the champion's version.

    An accuracy is None if the model cannot be measured; both values of the champion are if there is none.
    """

    accuracy: float | None
    champion: int | None
    champion_accuracy: float | None


@log_resources
def evaluate(
    dataset_folder: Path,
    run: Path,
    models: Path,
    *,
    reference: int | None = None,
    reference_versions: int = CHAMPIONS_FOR_REFERENCE,
) -> Evaluated:
    """Inspect and measure the candidate, the champion and a reference; write `evaluation.json` and what people look at.

    A model that cannot be trusted is not an error here: the problem is written down, and the gate refuses the model.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        run: the run's folder, with the candidate.
        models: the model directory.
        reference: the version to measure beside the champion; None for the best of the last champions.
        reference_versions: of how many champions.

    Raises:
        InputError: if the dataset or the reference that was asked for cannot be read.
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
    inspection = inspect(run / MODEL, run / SAVED_MODEL, test.golden)
    if inspection.model:
        inspection.findings.append(_same_weights(inspection.model, training.weights_sha256))
    candidate = measure(inspection.model, inspection.findings, test)
    directory, libraries = ModelDirectory(models), library_versions()
    champion = champion_tonight(directory, test, libraries)
    best, no_reference = None, None
    if champion and champion.number and champion.measured.metrics:
        best, no_reference = reference_tonight(
            directory, champion.number, test, libraries, pinned=reference, last=reference_versions
        )
    _log(candidate, champion, best)
    of_candidate, suspects = _on_training_images(run, inspection, candidate, dataset, test)
    evaluation = Evaluation(
        dataset=dataset.digest,
        source=description.source,
        train_images=description.train_images,
        test_images=description.test_images,
        training_sha256=sha256(run / "training.json"),
        signatures=inspection.signatures,
        suspects=len(suspects),
        candidate=candidate.document(dataset.digest, training.config, test, **of_candidate),
        champion=_document(champion, directory, training, dataset, test) if champion else None,
        reference=best.document(dataset.digest, test) if best else None,
        no_reference=no_reference,
    )
    if inspection.golden is not None and candidate.probabilities is not None:
        golden = inspection.golden
        write_atomically(run / GOLDEN, lambda path: np.savez(path, images=test.golden, probabilities=golden))
        evaluation = _with_mistakes(evaluation, candidate, champion, test)
        shown = suspects[:MAX_MISTAKES]
        mistakes = _mistakes(candidate.probabilities, test)
        mistakes.write(run / MISTAKES)
        draw_figures(run / "figures", evaluation, history.root, test.raw, mistakes, shown, images_of(dataset, shown))
    others = _digests(run, GOLDEN, MISTAKES, "history.json", "figures")
    evaluation = evaluation.model_copy(update={"files": files | others})
    evaluation.write(run / EVALUATION)
    log.info("wrote evaluation.json, %s and figures/ to %s", SUSPECTS, run)
    return Evaluated(
        candidate.metrics.accuracy if candidate.metrics else None,
        champion.number if champion else None,
        champion.measured.metrics.accuracy if champion and champion.measured.metrics else None,
    )


def _on_training_images(
    run: Path, inspection: Inspection, candidate: Measured, dataset: Dataset, test: TestImages
) -> tuple[dict[str, Any], list[Mistake]]:
    """What is measured of the candidate alone, by field of its document; and the training images that it doubts."""
    if inspection.model is None or candidate.metrics is None:
        return {}, []
    probabilities, labels = probabilities_on(inspection.model, dataset)
    fields = {
        "training": training_fit(dataset.digest, probabilities, labels),
        "cost": cost(inspection.model, run / MODEL, test.images),
    }
    return fields, write_suspects(run, dataset, probabilities, labels)


def _mistakes(probabilities: Float32, test: TestImages) -> Mistakes:
    """All test images that the candidate mistook, so that any two versions can be compared on the same test set."""
    mistakes = worst_mistakes(probabilities, test.labels, at_most=None)
    return Mistakes(
        test_set_sha256=test_set_digest(len(test.labels), [test.raw, test.labels]),
        images=len(test.labels),
        pictured=min(len(mistakes), MAX_PICTURED),
        columns=PICTURED_IN_A_ROW,
        mistakes=mistakes,
    )


def _with_mistakes(
    evaluation: Evaluation, candidate: Measured, champion: Opponent | None, test: TestImages
) -> Evaluation:
    """The evaluation with the candidate's worst mistakes, and where it differs from the champion."""
    ours, theirs = candidate.probabilities, champion.measured.probabilities if champion else None
    if ours is None:
        return evaluation
    update = {
        "mistakes": worst_mistakes(ours, test.labels),
        "disagreements": disagreements(ours, theirs, test.labels),
    }
    return evaluation.model_copy(update=update)


def _document(
    champion: Opponent, models: ModelDirectory, training: Training, dataset: Dataset, test: TestImages
) -> ModelEvaluation:
    """The champion's part of `evaluation.json`."""
    model = champion.inspection.model
    if model is None or champion.number is None or champion.measured.metrics is None:
        return champion.document(dataset.digest, test)
    path = models.version(str(champion.number)).model
    return champion.document(
        dataset.digest,
        test,
        training=_fit_of_champion(model, champion.metadata, training, dataset.folder.parent),
        cost=cost(model, path, test.images),
    )


def _fit_of_champion(model: keras.Model, champion: Metadata, candidate: Training, datasets: Path) -> TrainingFit:
    """How well the champion fits some of the images that it was trained on, if its recipe is the candidate's."""
    names = [
        name
        for name in sorted({*champion.config, *candidate.config} - SETTINGS_WITHOUT_EFFECT_ON_FIT)
        if champion.config.get(name) != candidate.config.get(name)
    ]
    if names:
        message = f"the champion was trained by another recipe ({', '.join(names)}), so its training loss says nothing"
        return TrainingFit(not_measured=message)
    dataset = Dataset(datasets / str(champion.dataset))
    try:
        return training_fit(dataset.digest, *probabilities_on(model, dataset, at_most=SAMPLED_IMAGES))
    except InputError as error:
        if is_transient(error):
            raise
        return TrainingFit(not_measured=f"the data that the champion was trained on cannot be read: {error}")


def _log(candidate: Measured, champion: Opponent | None, reference: Opponent | None) -> None:
    """Log the findings about all models, and their metrics side by side."""
    models = {"candidate": candidate}
    if champion:
        models[f"champion {champion.number}"] = champion.measured
    if reference:
        models[f"reference {reference.number}"] = reference.measured
    for model in models.values():
        for finding in model.findings:
            log.log(logging.DEBUG if finding.passed else logging.ERROR, "%s", finding.message)
    with log_group(log, "the metrics"):
        for line in table({name: model for name, model in models.items() if model.metrics}):
            log.info("%s", line)


def _same_weights(model: keras.Model, expected: str | None) -> Finding:
    digest = weights_sha256(model)
    verb = "are" if digest == expected else "are not"
    return Finding("weights", digest == expected, f"the weights {verb} those that train wrote down: {digest}")


def _digests(run: Path, *names: str) -> dict[str, str]:
    """SHA-256 of the files with these names, and of all files in the folders, by their path in the run's folder."""
    paths = [path for name in names for path in (run / name, *sorted((run / name).rglob("*")))]
    return {path.relative_to(run).as_posix(): sha256(path) for path in paths if path.is_file()}
