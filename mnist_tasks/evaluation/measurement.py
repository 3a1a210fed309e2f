"""Measures a model on tonight's test images and on MNIST's own: probabilities, metrics, and its part of the document.

If MNIST's own test images are the first of tonight's, as they mostly are, nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnist_tasks.data.dataset import DIGITS, Float32, UInt8, scaled
from mnist_tasks.documents import Finding, Mistake, MnistMetrics, ModelEvaluation, Part, SliceMetrics
from mnist_tasks.evaluation.confidence import Confidence, confidence
from mnist_tasks.evaluation.integrity import finite, unusable
from mnist_tasks.evaluation.metrics import Metrics, compute_metrics
from mnist_tasks.evaluation.test_images import TestImages

if TYPE_CHECKING:
    import keras

CHUNK_IMAGES = 1000  # at a time
MAX_MISTAKES = 24


@dataclass(frozen=True)
class Measured:
    """One model: the findings about its integrity and, if they allow it, its probabilities and metrics.

    `probabilities` is float32 of shape (images, 10). `mnist` has the metrics on MNIST's own test set, `parts` the
    accuracy on each part of the test images, `slices` on each slice, `changed` on images after each change.
    """

    findings: list[Finding]
    probabilities: Float32 | None = None
    metrics: Metrics | None = None
    mnist: Metrics | None = None
    parts: list[Part] = field(default_factory=list)
    confidence: Confidence | None = None
    slices: list[SliceMetrics] = field(default_factory=list)
    changed: list[SliceMetrics] = field(default_factory=list)

    def document(self, dataset: str, config: Mapping[str, Any], test: TestImages, **more: Any) -> ModelEvaluation:
        """The model's part of `evaluation.json`.

        Args:
            dataset: the digest of the data that it was measured on.
            config: the recipe that it was trained by, which names the loss.
            test: the test images.
            more: other fields of the document, such as `version` and `published`, for the champion.
        """
        mnist = {name: getattr(self.mnist, name) for name in ("accuracy", "accuracy_95", "loss")} if self.mnist else {}
        return ModelEvaluation(
            **more,
            dataset=dataset,
            objective={
                "loss": config.get("loss", "sparse_categorical_crossentropy"),
                "label_smoothing": config.get("label_smoothing"),
            },
            integrity=self.findings,
            **(vars(self.metrics) if self.metrics else {}),
            **(vars(self.confidence) if self.confidence else {}),
            mnist=MnistMetrics(**mnist, is_test_set=test.is_mnist),
            parts=self.parts,
            slices=self.slices,
            changed=self.changed,
        )


def measure(model: keras.Model | None, findings: list[Finding], test: TestImages) -> Measured:
    """Run a model over all test images.

    Args:
        model: the model; None if its integrity checks have failed, so that it cannot be measured.
        findings: those checks.
        test: the test images.
    """
    if model is None:
        return Measured(findings)
    probabilities = _probabilities(model, len(test.labels), lambda rows: test.images[rows])
    bad = unusable(probabilities)
    findings = [*findings, finite("test images finite", "model.keras", bad, len(test.labels), "test images")]
    if bad:
        return Measured(findings)
    if test.begins_with_mnist:
        mnist_labels, on_mnist = test.labels[: len(test.mnist_labels)], probabilities[: len(test.mnist_labels)]
    else:
        mnist_labels = test.mnist_labels
        on_mnist = _probabilities(model, len(mnist_labels), lambda rows: scaled(test.mnist_images[rows]))
        bad = unusable(on_mnist)
        what = "images of MNIST's own test set"
        findings.append(finite("MNIST's images finite", "model.keras", bad, len(mnist_labels), what))
        if bad:
            return Measured(findings)
    metrics = compute_metrics(probabilities, test.labels)
    mnist = metrics if test.is_mnist else compute_metrics(on_mnist, mnist_labels)
    correct = probabilities.argmax(axis=1) == test.labels
    return Measured(
        findings,
        probabilities,
        metrics,
        mnist,
        test.parts(correct, mnist.accuracy),
        confidence(probabilities, test.labels),
        [_slice(name, correct[members]) for name, members in test.slices.items()],
        list(_robustness(model, test)),
    )


def _slice(name: str, correct: npt.NDArray[np.bool_]) -> SliceMetrics:
    return SliceMetrics(name, len(correct), float(correct.mean()) if len(correct) else None)


def _robustness(model: keras.Model, test: TestImages) -> Iterator[SliceMetrics]:
    """The accuracy after each change; None if the model gives no finite numbers then."""
    labels = test.labels[test.changed_positions]
    for name, images in test.changed.items():
        probabilities = _probabilities(model, len(labels), images.__getitem__)
        if unusable(probabilities):
            yield SliceMetrics(name, len(labels))
        else:
            yield _slice(name, probabilities.argmax(axis=1) == labels)


def _probabilities(model: keras.Model, count: int, images: Callable[[slice], Float32]) -> Float32:
    chunks = (images(slice(start, start + CHUNK_IMAGES)) for start in range(0, count, CHUNK_IMAGES))
    return np.concatenate([np.asarray(model(chunk, training=False)) for chunk in chunks])


def worst_mistakes(
    probabilities: Float32,
    labels: UInt8,
    among: npt.NDArray[np.intp] | slice = slice(None),
    at_most: int | None = MAX_MISTAKES,
) -> list[Mistake]:
    """The test images that were mistaken with the highest probability, the worst first.

    Args:
        probabilities: float32 of shape (n, 10).
        labels: uint8 of shape (n,).
        among: the positions to look at.
        at_most: how many; None for all.
    """
    predicted, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.arange(len(labels))[among]
    wrong = wrong[predicted[wrong] != labels[wrong]]
    worst = wrong[np.argsort(-highest[wrong], kind="stable")][:at_most]
    return [
        Mistake(index=i, label=int(labels[i]), predicted=int(predicted[i]), probability=float(highest[i]))
        for i in worst.tolist()
    ]


def table(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Lines of an aligned table: the metrics of all models side by side, then the first model's confusion matrix."""
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
    yield f"confusion of the {next(iter(measured))}: rows are digits, columns what they were taken for"
    yield " " * 8 + "".join(f"{digit:>6}" for digit in range(DIGITS))
    for digit, counts in enumerate(models[0].confusion):
        yield f"{digit:>8}" + "".join(f"{count or '.':>6}" for count in counts)


def _columns(precision: str, recall: str, f1: str) -> str:
    return f"{precision:>9} {recall:>6} {f1:>5}"


def _share(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "-"
