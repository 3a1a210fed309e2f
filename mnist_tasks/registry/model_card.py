"""The model card of a version: Markdown with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml

from mnist_tasks.documents import DecisionRecord, Evaluation, Metadata, MnistMetrics, ModelEvaluation

FIGURES = {
    "figures/recall.png": "Recall of each digit, the candidate's and the champion's",
    "figures/confusion.png": "Test images by true and predicted digit",
    "figures/mistakes.png": "The test images mistaken with the highest probability",
    "figures/training.png": "Loss and accuracy of each epoch",
    "figures/calibration.png": "How often the model is right where it is so sure",
    "figures/lost.png": "Test images that only the champion gets right",
    "figures/gained.png": "Test images that only the candidate gets right",
    "figures/suspects.png": "Training images whose label is doubted most",
}

LOADING = """\
## Load it

```python
import keras

model = keras.models.load_model("model.keras")  # float32 in [0, 1], shape (n, 28, 28)
probabilities = model.predict(images / 255)  # shape (n, 10)
```

The folder is also a SavedModel, as TF Serving loads it: `serving_default` takes raw pixels, uint8 from 0 (background)
to 255 (ink), shape (n, 28, 28), and normalizes them itself."""

LIMITS = """\
## Limits

- It knows digits as MNIST has them: white ink on black, upright, one in the middle of 28x28 pixels. Bring other images
  into that form first; `python -m mnist_tasks predict` does.
- It has no class for anything that is not a digit: it answers with a digit, often with a high probability, whatever it
  sees.
- The probabilities are not calibrated. The test images come from the same source as the training images; on other
  people's handwriting the accuracy is lower."""


def model_card(metadata: Metadata, evaluation: Evaluation, decision: DecisionRecord) -> str:
    """The card, from a version's metadata (without its digests), evaluation and decision."""
    return "\n".join(
        [
            *_front_matter(metadata, evaluation),
            *_head(metadata, decision),
            *_summary(metadata, evaluation, decision),
            *LOADING.splitlines(),
            "",
            *_digits(evaluation),
            *_origin(metadata, evaluation),
            *LIMITS.splitlines(),
            "",
        ]
    )


def _front_matter(metadata: Metadata, evaluation: Evaluation) -> Iterator[str]:
    candidate, name = evaluation.candidate, f"mnist-{metadata.config['architecture']}"
    # https://huggingface.co/docs/hub/model-cards: results are given as a `model-index`.
    results = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            "name": _dataset_name(evaluation),
            "type": "mnist" if _is_mnist(evaluation) else "image-classification",
            "split": "test",
            "revision": evaluation.dataset,
        },
        "metrics": [
            {"type": "accuracy", "value": candidate.accuracy, "name": "Accuracy"},
            {"type": "loss", "value": candidate.loss, "name": "Loss"},
        ],
    }
    front_matter = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["mnist", "handwritten-digits", metadata.config["architecture"]],
        "metrics": ["accuracy"],
        "model-index": [{"name": name, "results": [results]}],
    }
    yield "---"
    yield yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True).rstrip()
    yield "---"


def _head(metadata: Metadata, decision: DecisionRecord) -> Iterator[str]:
    yield f"# Handwritten digits, version {metadata.version}"
    yield ""
    yield "Classifies an image of 28x28 grey pixels as a digit, 0 to 9. Trained by the Airflow DAG `mnist_training`."
    yield ""
    if decision.forced:
        yield f"> **Forced.** It did not pass its quality checks: {_plain(decision.reason)}"
        yield ""
    if metadata.restores:
        instead = f"instead of version {metadata.replaces}" if metadata.replaces else "there was no champion"
        yield (
            f"> The files are those of version {metadata.restores}, published again: {_plain(metadata.reason)} "
            f"({instead})."
        )
        yield ""
    if metadata.imported_from:
        there = metadata.imported_from
        yield (
            f"> Imported from another installation, where it was version {there.version}, {there.event} at "
            f"{there.time}: {_plain(metadata.reason)}."
        )
        yield ""


def _summary(metadata: Metadata, evaluation: Evaluation, decision: DecisionRecord) -> Iterator[str]:
    candidate = evaluation.candidate
    rows = [("accuracy", _with_interval(candidate)), ("loss", f"{_number(candidate.loss)} nats")]
    if candidate.mnist.is_test_set is False:
        rows.append(("accuracy on MNIST's own test set", _with_interval(candidate.mnist)))
    rows += [
        ("measured on", f"{evaluation.test_images:,} test images of {_dataset_name(evaluation)}"),
        ("published", f"{metadata.published}, by {metadata.published_by}"),
        ("decision", decision.reason),
    ]
    if metadata.approved_by:
        rows.append(("approved by", metadata.approved_by))
    yield from _table(("", ""), rows)


def _digits(evaluation: Evaluation) -> Iterator[str]:
    yield "## Each digit"
    yield ""
    rows = (
        (each.digit, f"{each.support:,}", _number(each.precision), _number(each.recall), _number(each.f1))
        for each in evaluation.candidate.digits
    )
    yield from _table(("digit", "test images", "precision", "recall", "F1"), rows)
    for path, text in FIGURES.items():
        # A figure that could not be drawn is not among the files. The first releases did not list them.
        if not evaluation.files or path in evaluation.files:
            yield f"![{text}]({path})"
            yield ""


def _origin(metadata: Metadata, evaluation: Evaluation) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    images = f"{_dataset_name(evaluation)}, {evaluation.train_images:,} training images, {evaluation.dataset}"
    rows = [
        ("run", metadata.run_id),
        ("dataset", images),
        *metadata.config.items(),
        ("training", f"{metadata.seconds:.1f} s on {metadata.device}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in metadata.library_versions.items())),
        ("git commit", metadata.git_commit or "unknown"),
        ("SHA-256 of the weights", metadata.weights_sha256),
    ]
    yield from _table(("", ""), rows)


def _with_interval(measured: ModelEvaluation | MnistMetrics) -> str:
    low, high = measured.accuracy_95 or (None, None)
    return f"{_number(measured.accuracy)} (95 % interval {_number(low)} to {_number(high)})"


def _is_mnist(evaluation: Evaluation) -> bool:
    return evaluation.source in ("builtin", "keras")


def _dataset_name(evaluation: Evaluation) -> str:
    return "MNIST" if _is_mnist(evaluation) else str(evaluation.source)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain(value: Any) -> str:
    """Text that people wrote, on one line and with whatever Markdown or HTML would make of it escaped."""
    # An underscore within a word, as in hidden_units, means nothing.
    return re.sub(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(str(value).split()))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table; what a cell holds stays in it."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(_plain, row)) + " |"
    yield ""
