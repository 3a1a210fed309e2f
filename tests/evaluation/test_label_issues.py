"""Confident learning finds the labels that were made wrong, and the same ones as the authors' library."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mnist_tasks.evaluation.label_issues import label_issues
from tests.helpers import Array

CLEANLAB = """
import sys
import numpy as np
from cleanlab.filter import find_label_issues
with np.load(sys.argv[1]) as arrays:
    found = find_label_issues(
        arrays["labels"].astype(int),
        arrays["probabilities"].astype(float),
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
np.save(sys.argv[2], found)
"""


def noisy(images: int, wrong: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Return probabilities, labels of which some are wrong, and the positions of the wrong ones."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 10, images)
    logits = random.normal(size=(images, 10)).astype(np.float32)
    logits[np.arange(images), truth] += random.uniform(1, 9, images).astype(np.float32)
    exponentials = np.exp(logits)
    labels, chosen = truth.astype(np.uint8), random.choice(images, wrong, replace=False)
    labels[chosen] = (labels[chosen] + random.integers(1, 10, wrong)) % 10
    return exponentials / exponentials.sum(axis=1, keepdims=True), labels, np.sort(chosen)


def test_most_of_the_wrong_labels_are_found_and_few_others() -> None:
    probabilities, labels, wrong = noisy(5000, 100)

    found = label_issues(probabilities, labels)

    assert len(np.intersect1d(found, wrong)) > 60
    assert len(np.setdiff1d(found, wrong)) < 10


def test_the_surest_come_first() -> None:
    probabilities, labels, _ = noisy(2000, 200)

    found = label_issues(probabilities, labels)

    margins = probabilities[found, labels[found]] - probabilities[found].max(axis=1)
    assert (np.diff(margins) >= 0).all()
    assert (probabilities[found].argmax(axis=1) != labels[found]).all()


def test_a_digit_that_no_image_has_is_nothing_to_doubt_for() -> None:
    probabilities = np.full((4, 10), 0.01, np.float32)
    probabilities[[0, 1, 2, 3], [0, 0, 1, 9]] = 0.91

    assert label_issues(probabilities, np.array([0, 0, 1, 1], np.uint8)).size == 0  # nothing is labelled 9


def test_probabilities_that_are_no_numbers_say_nothing() -> None:
    probabilities, labels, _ = noisy(100, 20)
    probabilities[3, 4] = np.nan

    assert label_issues(probabilities, labels).size == 0


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 50, 1000])
def test_they_are_those_of_the_authors_library(wrong: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.getbasetemp() / "cleanlab"
    python = shared / "bin" / "python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "-p", sys.executable, str(shared)], check=True)
        install = [*uv, "pip", "install", "-q", "-p", str(python), "cleanlab==2.9.0"]
        result = subprocess.run(install, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"cleanlab 2.9.0 cannot be installed for the comparison: {result.stderr.strip()[-500:]}")
    probabilities, labels, _ = noisy(6000, wrong, seed=wrong)
    given, answer = shared / f"{wrong}.npz", shared / f"{wrong}.npy"
    np.savez(given, probabilities=probabilities, labels=labels)
    subprocess.run([str(python), "-c", CLEANLAB, str(given), str(answer)], check=True)

    expected = np.load(answer)
    assert np.sort(label_issues(probabilities, labels)).tolist() == np.sort(expected).tolist()
