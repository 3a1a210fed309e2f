"""The model card of a version: Markdown with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

FIGURES = {
    "figures/recall.png": "Recall of each digit, the candidate's and the champion's",
    "figures/confusion.png": "Test images by true and predicted digit",
    "figures/mistakes.png": "The test images mistaken with the highest probability",
    "figures/training.png": "Loss and accuracy of each epoch",
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
- It has no class for anything that is no digit: it answers with a digit, often a sure one, whatever it sees.
- The probabilities are not calibrated. The test images come from the same source as the training images; on other
  people's handwriting the accuracy is lower."""


def model_card(metadata: Mapping[str, Any], evaluation: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    """The card, from a version's `metadata.json` (without its digests), `evaluation.json` and `decision.json`."""
    return "\n".join([*_front_matter(metadata, evaluation), *_body(metadata, evaluation, decision), ""])


def _front_matter(metadata: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[str]:
    candidate = evaluation["candidate"]
    # https://huggingface.co/docs/hub/model-cards: results are given as a `model-index`.
    results = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            "name": _dataset_name(evaluation),
            "type": "mnist" if _is_mnist(evaluation) else "image-classification",
            "split": "test",
            "revision": evaluation["dataset"],
        },
        "metrics": [
            {"type": name, "value": candidate[name], "name": name.capitalize()} for name in ("accuracy", "loss")
        ],
    }
    front_matter = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["mnist", "handwritten-digits", metadata["config"]["architecture"]],
        "metrics": ["accuracy"],
        "model-index": [{"name": f"mnist-{metadata['config']['architecture']}", "results": [results]}],
    }
    yield "---"
    yield yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True).rstrip()
    yield "---"


def _body(metadata: Mapping[str, Any], evaluation: Mapping[str, Any], decision: Mapping[str, Any]) -> Iterator[str]:
    candidate, config = evaluation["candidate"], metadata["config"]
    yield f"# Handwritten digits, version {metadata['version']}"
    yield ""
    yield "Classifies an image of 28x28 grey pixels as a digit, 0 to 9. Trained by the Airflow DAG `mnist_training`."
    yield ""
    if decision["forced"]:
        yield f"> **Forced.** It did not pass its quality checks: {_plain(decision['reason'])}"
        yield ""
    if metadata.get("restores"):
        instead = f"instead of version {metadata['replaces']}" if metadata["replaces"] else "there was no champion"
        yield (
            f"> The files are those of version {metadata['restores']}, published again: {_plain(metadata['reason'])} "
            f"({instead})."
        )
        yield ""
    yield from _table(
        ("", ""),
        [
            (
                "accuracy",
                "{:.4f} (95 % interval {:.4f} to {:.4f})".format(candidate["accuracy"], *candidate["accuracy_95"]),
            ),
            ("loss", f"{candidate['loss']:.4f} nats"),
            *_on_mnist(candidate),
            ("measured on", f"{evaluation['test_images']:,} test images of {_dataset_name(evaluation)}"),
            ("published", f"{metadata['published']}, by {metadata['published_by']}"),
            ("decision", decision["reason"]),
            *([("approved by", metadata["approved_by"])] if metadata.get("approved_by") else []),
        ],
    )
    yield from LOADING.splitlines()
    yield ""
    yield "## Each digit"
    yield ""
    yield from _table(
        ("digit", "test images", "precision", "recall", "F1"),
        (
            (entry["digit"], f"{entry['support']:,}", *(_share(entry[name]) for name in ("precision", "recall", "f1")))
            for entry in candidate["digits"]
        ),
    )
    files = evaluation.get("files")  # a figure that could not be drawn is not among them
    for path, text in FIGURES.items():
        if files is None or path in files:
            yield f"![{text}]({path})"
            yield ""
    yield "## How it was made"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("run", metadata["run_id"]),
            (
                "dataset",
                f"{_dataset_name(evaluation)}, {evaluation['train_images']:,} training images, {evaluation['dataset']}",
            ),
            *((name, value) for name, value in config.items()),
            ("training", f"{metadata['seconds']:.1f} s on {metadata['device']}"),
            ("libraries", ", ".join(f"{name} {version}" for name, version in metadata["library_versions"].items())),
            ("git commit", metadata["git_commit"] or "unknown"),
            ("SHA-256 of the weights", metadata["weights_sha256"]),
        ],
    )
    yield from LIMITS.splitlines()


def _on_mnist(candidate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The accuracy on MNIST's own test set, where the test images are others."""
    mnist = candidate.get("mnist") or {"is_test_set": True}
    if not mnist["is_test_set"]:
        yield (
            "accuracy on MNIST's own test set",
            "{:.4f} (95 % interval {:.4f} to {:.4f})".format(mnist["accuracy"], *mnist["accuracy_95"]),
        )


def _is_mnist(evaluation: Mapping[str, Any]) -> bool:
    return evaluation["source"] in ("builtin", "keras")


def _dataset_name(evaluation: Mapping[str, Any]) -> str:
    return "MNIST" if _is_mnist(evaluation) else str(evaluation["source"])


def _share(value: float | None) -> str:
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
