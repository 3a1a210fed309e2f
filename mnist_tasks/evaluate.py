"""The fourth task: measure the candidate, and the champion on the same images by the same code, on the test set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mnist_tasks.dataset import DIGITS, Dataset, Float32, UInt8
from mnist_tasks.errors import ModelError
from mnist_tasks.files import sha256, write_json
from mnist_tasks.metrics import Metrics, measure
from mnist_tasks.registry import MODEL, ModelDirectory
from mnist_tasks.runtime import reported, use_devices

log = logging.getLogger(__name__)

CHUNK = 1000  # images at a time


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` hands on: the test accuracies, and which version was champion; None if there is none."""

    accuracy: float
    champion: int | None
    champion_accuracy: float | None


@reported
def evaluate(dataset_folder: Path, run: Path, models: Path) -> Evaluated:
    """Measure the run's `model.keras` and the champion on the dataset's test images; write `evaluation.json`.

    Args:
        dataset_folder: `datasets/<digest>`, normalized.
        run: the run's folder, with the candidate.
        models: the model directory.

    Raises:
        ModelError: if the candidate or the champion cannot be loaded, has changed on disk, or gives no probabilities.
    """
    dataset = Dataset(dataset_folder)
    images, labels = dataset.normalized("test"), np.array(dataset.labels("test"))
    champion = ModelDirectory(models).champion()
    if champion:
        champion.verify()

    log.info("evaluating on the %s", use_devices())
    measured = {"candidate": _measure(run / MODEL, images, labels, "the candidate")}
    if champion:
        measured[f"champion {champion.number}"] = _measure(
            champion.model, images, labels, f"the champion, version {champion.number},"
        )
    for line in table(measured):
        log.info("%s", line)

    candidate, *others = measured.values()
    write_json(
        run / "evaluation.json",
        {
            "dataset": dataset.digest,
            "test_images": len(labels),
            "candidate": {"model_sha256": sha256(run / MODEL), **asdict(candidate)},
            "champion": {"version": champion.number, **asdict(others[0])} if champion else None,
        },
    )
    log.info("wrote evaluation.json to %s", run)
    return Evaluated(
        candidate.accuracy, champion.number if champion else None, others[0].accuracy if champion else None
    )


def _measure(path: Path, images: Float32, labels: UInt8, name: str) -> Metrics:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False)
        chunks = [np.asarray(model(images[i : i + CHUNK], training=False)) for i in range(0, len(images), CHUNK)]
    # Keras lets through whatever its parts raise: OSError, ValueError, KeyError, TypeError, BadZipFile and more.
    except Exception as error:
        raise ModelError(f"{name} cannot be used: {path}: {error}") from error
    probabilities = np.concatenate(chunks)
    if probabilities.shape != (len(labels), DIGITS):
        raise ModelError(
            f"{name} gives {probabilities.shape[1:]} an image, but {DIGITS} probabilities are needed: {path}"
        )
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"{name} gives NaN or infinity for {np.count_nonzero(~finite):,} of {len(labels):,} test images: {path}"
        )
    return measure(probabilities, labels)


def table(measured: dict[str, Metrics]) -> Iterator[str]:
    """Lines of an aligned table: each model's metrics side by side, then the first one's confusion matrix."""
    models = list(measured.values())

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
    yield "confusion of the candidate: a row a digit, a column what it was taken for"
    yield " " * 8 + "".join(f"{digit:>6}" for digit in range(DIGITS))
    for digit, counts in enumerate(models[0].confusion):
        yield f"{digit:>8}" + "".join(f"{count or '.':>6}" for count in counts)


def _columns(precision: str, recall: str, f1: str) -> str:
    return f"{precision:>9} {recall:>6} {f1:>5}"


def _share(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "-"
