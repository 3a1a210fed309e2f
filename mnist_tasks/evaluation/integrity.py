"""Loads a model's two files as users and TF Serving do, and checks whether they can be trusted.

A finding is one integrity check: a model with a failed one is never published, whatever the gate's configuration says.
An error that says nothing about the model, such as a share that cannot be read now, is not a finding: it is raised,
and the task is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tasks.data.dataset import DIGITS, IMAGE_SHAPE, PIXEL_MAX, Float32, UInt8, scaled
from mnist_tasks.documents import Finding
from mnist_tasks.system.files import is_conclusive, sha256

if TYPE_CHECKING:
    import keras

# How far probabilities of the same model on the same images may differ: between its two files, and from those recorded
# when it was approved, perhaps on another device. Also how far their sum may differ from 1. Rounding, even TF32 on a
# GPU, stays well below it; a forgotten normalization or other weights do not.
TOLERANCE = 1e-3

SINGLE_IMAGES = 10  # that are also predicted alone

KERAS_SIGNATURE = {"inputs": [None, *IMAGE_SHAPE], "dtype": "float32", "outputs": [None, DIGITS]}
SERVING_SIGNATURE = {"inputs": [None, *IMAGE_SHAPE], "dtype": "uint8", "outputs": [None, DIGITS]}


@dataclass
class Inspection:
    """The findings, and the model that Keras loaded with its golden probabilities; None if it cannot be used."""

    findings: list[Finding] = field(default_factory=list)
    signatures: dict[str, Any] = field(default_factory=dict)
    model: keras.Model | None = None
    golden: Float32 | None = None

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)


def inspect_keras_file(path: Path, golden: UInt8) -> Inspection:
    """Load a `.keras` file in safe mode; check its signature and its probabilities for the golden images.

    Args:
        path: the file.
        golden: raw images, uint8 of shape (n, 28, 28).
    """
    import keras

    inspection = Inspection()
    try:
        model = keras.saving.load_model(path, safe_mode=True)
        (inputs,), (outputs,) = model.inputs, model.outputs
        signature = {"inputs": list(inputs.shape), "dtype": inputs.dtype, "outputs": list(outputs.shape)}

        def run(images: UInt8) -> Float32:
            return _checked(model(scaled(images), training=False), images)

        probabilities = run(golden)
        others = _on_other_images(path.name, run, golden, probabilities)
    # Keras lets through whatever its parts raise: OSError, ValueError, KeyError, TypeError, BadZipFile and more.
    except Exception as error:
        _raise_if_it_may_pass(error, path)
        inspection.findings.append(Finding("model.keras", False, f"{path} cannot be loaded and used: {_line(error)}"))
        return inspection
    inspection.signatures[path.name] = signature
    inspection.findings.append(Finding("model.keras", True, "model.keras loads in safe mode"))
    inspection.findings.append(_signature(path.name, signature, KERAS_SIGNATURE))
    inspection.findings += [*_probabilities(path.name, probabilities), *others]
    if inspection.passed:
        inspection.model, inspection.golden = model, probabilities
    return inspection


def inspect(keras_file: Path, saved_model: Path, golden: UInt8) -> Inspection:
    """Inspect a `.keras` file and the SavedModel that should be the same model, in the folder `saved_model`."""
    import tensorflow as tf

    inspection = inspect_keras_file(keras_file, golden)
    try:
        # The object owns the variables: it must live as long as its signature is called.
        loaded = tf.saved_model.load(saved_model)
        serving = loaded.signatures["serving_default"]
        ((name, inputs),) = serving.structured_input_signature[1].items()
        (outputs,) = serving.structured_outputs.values()
        signature = {"inputs": list(inputs.shape), "dtype": inputs.dtype.name, "outputs": list(outputs.shape)}

        def run(images: UInt8) -> Float32:
            (answer,) = serving(**{name: tf.constant(images)}).values()
            return _checked(answer, images)

        probabilities = run(golden)
        others = _on_other_images("the SavedModel", run, golden, probabilities)
    except Exception as error:  # as with Keras: OSError, KeyError, and any of TensorFlow's own
        _raise_if_it_may_pass(error, saved_model)
        inspection.findings.append(
            Finding("saved_model", False, f"{saved_model} cannot be loaded and used: {_line(error)}")
        )
        return inspection
    inspection.signatures["serving_default"] = signature
    inspection.findings.append(Finding("saved_model", True, "the SavedModel loads"))
    inspection.findings.append(_signature("serving_default", signature, SERVING_SIGNATURE))
    findings = [*_probabilities("the SavedModel", probabilities), *others]
    inspection.findings += findings
    if inspection.golden is not None and all(finding.passed for finding in findings):
        inspection.findings.append(
            same("agreement", "model.keras and the SavedModel", inspection.golden, probabilities)
        )
    return inspection


def _raise_if_it_may_pass(error: Exception, path: Path) -> None:
    """Raise an error of loading that says nothing about the model, even if a library has hidden the cause.

    For a file that cannot be read, `zipfile` reports a bad archive, and HDF5 and TensorFlow have errors of their own.
    So each file is read again here, which shows the system's own error.

    Raises:
        Exception: the error, or the one of reading, if it may pass or this user has no right to read the file.
    """
    import tensorflow as tf

    if not is_conclusive(error) or isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.UnavailableError):
        raise error
    for file in (path, *path.rglob("*")):
        try:
            if file.is_file():
                sha256(file)
        except OSError as unread:
            if not is_conclusive(unread):
                raise unread from error


def _checked(answer: Any, golden: UInt8) -> Float32:
    """A model's answer as an array of shape (n, 10), float32; raises `ValueError` if it is anything else."""
    probabilities = np.asarray(answer)
    if probabilities.dtype != np.float32 or probabilities.shape != (len(golden), DIGITS):
        raise ValueError(
            f"it gives {probabilities.dtype} {probabilities.shape} for {len(golden)} images, but float32 "
            f"{(len(golden), DIGITS)} is needed"
        )
    return probabilities


def same(metric: str, what: str, first: Float32, second: Float32) -> Finding:
    """Check that two arrays of probabilities for the same images agree within the tolerance."""
    if first.shape != second.shape:
        return Finding(metric, False, f"{what} give shapes {first.shape} and {second.shape} for the golden images")
    difference = float(np.abs(first - second).max())
    agree = difference <= TOLERANCE  # false for NaN
    verb = "agree" if agree else "do not agree"
    message = f"{what} {verb} on the golden images: probabilities differ by {difference:.2g}, allowed {TOLERANCE:g}"
    return Finding(metric, agree, message, difference if np.isfinite(difference) else None, TOLERANCE)


def unusable(probabilities: Float32) -> int:
    """How many rows of probabilities have a NaN or an infinity."""
    return int(np.count_nonzero(~np.isfinite(probabilities).all(axis=1)))


def finite(metric: str, name: str, bad: int, count: int, what: str) -> Finding:
    """Check that a model gives finite numbers for all images."""
    text = f"NaN or infinity for {bad:,} of {count:,} {what}" if bad else f"finite numbers for all {count:,} {what}"
    return Finding(metric, not bad, f"{name} gives {text}", bad, 0)


def _signature(name: str, found: dict[str, Any], expected: dict[str, Any]) -> Finding:
    passed = found == expected
    message = f"{name} takes {found['dtype']} {tuple(found['inputs'])} and gives {tuple(found['outputs'])}"
    if not passed:
        message += f", but {expected['dtype']} {tuple(expected['inputs'])} and {tuple(expected['outputs'])} are needed"
    return Finding(f"{name} signature", passed, message)


def _probabilities(name: str, probabilities: Float32, what: str = "golden images") -> Iterator[Finding]:
    metric = name if what == "golden images" else f"{name} {what}"
    bad = unusable(probabilities)
    yield finite(f"{metric} finite", name, bad, len(probabilities), what)
    if bad:
        return
    deviation = float(np.abs(probabilities.sum(axis=1) - 1).max())
    passed = deviation <= TOLERANCE and float(probabilities.min()) >= 0
    text = (
        f"{name}: probabilities for the {what} {'sum' if passed else 'do not sum'} to 1: off by {deviation:.2g}, "
        f"allowed {TOLERANCE:g}"
    )
    yield Finding(f"{metric} sum", passed, text, deviation, TOLERANCE)


def extreme_images() -> UInt8:
    """Images that no digit looks like, uint8 of shape (5, 28, 28): blank, full, halves, a chessboard and a dot."""
    images = np.zeros((5, *IMAGE_SHAPE), np.uint8)
    rows, columns = np.indices(IMAGE_SHAPE)
    images[1] = PIXEL_MAX
    images[2, : IMAGE_SHAPE[0] // 2] = PIXEL_MAX
    images[3] = (rows + columns) % 2 * PIXEL_MAX
    images[4, 0, 0] = PIXEL_MAX
    return images


def _on_other_images(
    name: str, run: Callable[[UInt8], Float32], golden: UInt8, probabilities: Float32
) -> list[Finding]:
    """Check what a model gives for extreme images, and for single images against what it gives for all at once.

    Args:
        name: what the model is called.
        run: gives its probabilities, float32 of shape (n, 10), for raw images.
        golden: raw images, uint8 of shape (n, 28, 28).
        probabilities: what it gives for all of them at once, float32 of shape (n, 10).
    """
    some = golden[:SINGLE_IMAGES]
    alone = np.concatenate([run(some[position : position + 1]) for position in range(len(some))])
    what = f"{name}, given one image alone and among others,"
    return [
        *_probabilities(name, run(extreme_images()), "extreme images"),
        same(f"{name} alone", what, alone, probabilities[: len(some)]),
    ]


def _line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
