"""The models that a candidate is measured against: the champion, and the best of the last champions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mnist_tasks.documents import Finding, Metadata, ModelEvaluation, PublishedMetrics
from mnist_tasks.evaluation.integrity import Inspection, inspect_keras_file
from mnist_tasks.evaluation.measurement import Measured, measure
from mnist_tasks.evaluation.test_images import TestImages, published_mnist_accuracy
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.reference import best_first, last_champions
from mnist_tasks.registry.version import ROLLBACK, WAY_OUT, Version
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.suggestions import CLI

log = logging.getLogger(__name__)

# How far a champion's accuracy on MNIST's own test set may differ from the published one. With the same libraries
# it is ten images: other processors and GPUs change the fifth decimal of probabilities, which tips one image in 1000.
MAX_DIFFERENCE, MAX_DIFFERENCE_OF_OTHER_LIBRARIES = 0.001, 0.005


@dataclass(frozen=True)
class Opponent:
    """A published version: what it was published with, and how it measures tonight.

    `number` is None if the champion link cannot be read. `champions_since` counts the champions after a reference.
    """

    number: int | None
    measured: Measured
    inspection: Inspection = field(default_factory=Inspection)
    metadata: Metadata = field(default_factory=Metadata)
    published: PublishedMetrics = field(default_factory=PublishedMetrics)
    champions_since: int | None = None

    def document(self, dataset: str, test: TestImages, **more: Any) -> ModelEvaluation:
        """Its part of `evaluation.json`; `more` has fields of it that were measured elsewhere."""
        more = {"published": self.published, **more}
        if self.champions_since is not None:
            more["champions_since"] = self.champions_since
        return self.measured.document(dataset, self.metadata.config, test, version=self.number, **more)


def champion_tonight(models: ModelDirectory, test: TestImages, libraries: Mapping[str, str]) -> Opponent | None:
    """The champion, measured; None if there is none yet.

    Args:
        models: the model directory.
        test: tonight's test images.
        libraries: the versions of the libraries that measure it.

    Raises:
        OSError: if a file cannot be read now.
    """
    number = None
    try:
        version = models.champion()
        if version is None:
            return None
        number = version.number
        return _measured(models, version, test, libraries)
    except ModelError as error:
        if is_transient(error):
            raise
        return Opponent(number, Measured([Finding("files", False, str(error))]))


def reference_tonight(
    models: ModelDirectory,
    champion: int,
    test: TestImages,
    libraries: Mapping[str, str],
    *,
    pinned: int | None,
    last: int,
) -> tuple[Opponent | None, str | None]:
    """The reference, measured; or None and the reason why there is none.

    Args:
        models: the model directory.
        champion: the champion's number.
        test: tonight's test images.
        libraries: the versions of the libraries that measure it.
        pinned: the version that a person has chosen; None for the best of the last champions.
        last: of how many.

    Raises:
        InputError: if the chosen version does not exist or cannot be measured.
        OSError: if a file cannot be read now.
    """
    history = models.champion_history()
    chain = last_champions(history, champion, last)
    if pinned is not None:
        way_out = "choose another version as reference, or leave it empty"
        try:
            found = _measured(models, models.version(str(pinned)), test, libraries)
        except ModelError as error:
            if is_transient(error):
                raise
            raise InputError(f"reference: {pinned}: {error}; {way_out}") from error
        if found.measured.metrics is None:
            problem = next(finding.message for finding in found.measured.findings if not finding.passed)
            raise InputError(f"reference: {pinned}: {problem}; {way_out}")
        return _with_age(found, chain, history.original(pinned)), None
    for version in best_first(models, chain):
        if version.number == history.original(champion):
            return None, f"version {champion}, the champion, is itself the best of the last {len(chain)}"
        try:
            found = _measured(models, version, test, libraries)
        except ModelError as error:
            if is_transient(error):
                raise
            log.warning("version %d is no reference: %s", version.number, error)
            continue
        if found.measured.metrics:
            return _with_age(found, chain, version.number), None
        log.warning("version %d is no reference: it cannot be measured", version.number)
    return None, "none of the last champions can be measured"


def _with_age(found: Opponent, chain: list[int], original: int) -> Opponent:
    since = chain.index(original) if original in chain else None
    return replace(found, champions_since=since)


def _measured(models: ModelDirectory, version: Version, test: TestImages, libraries: Mapping[str, str]) -> Opponent:
    """Verify and measure a version.

    Raises:
        ModelError: if its files are not those that were published.
    """
    models.verify(version)
    metadata, evaluation = version.metadata(), version.evaluation()
    if not metadata.config:
        raise ModelError(f"version {version.number} is damaged: its metadata.json has no config{WAY_OUT}")
    inspection = inspect_keras_file(version.model, test.golden)
    findings = [Finding("files", True, f"the files of version {version.number} are as published")]
    findings += inspection.findings
    if not inspection.passed:
        way_out = (
            f"go back with `{ROLLBACK}` or, if no version can be used any more, to none with `{CLI} models retire "
            "--reason '...'`"
        )
        findings.append(Finding("champion", False, f"version {version.number} cannot be measured; {way_out}"))
    measured = measure(inspection.model, findings, test)
    published_accuracy = published_mnist_accuracy(evaluation)
    if measured.mnist and published_accuracy is not None:
        measured.findings.append(_reproduced(version, metadata, libraries, published_accuracy, measured.mnist.accuracy))
    candidate = evaluation.candidate
    published = PublishedMetrics(accuracy=candidate.accuracy, accuracy_95=candidate.accuracy_95)
    return Opponent(version.number, measured, inspection, metadata, published)


def _reproduced(
    version: Version, metadata: Metadata, libraries: Mapping[str, str], published: float, tonight: float
) -> Finding:
    """Check that the champion has the accuracy on MNIST's own test set with which it was published.

    The files, the images and the code are the same. Other libraries may round differently, so more is allowed then.
    """
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
            f"back with `{ROLLBACK}`"
        )
    return Finding("reproduction", passed, message, difference, bound)
