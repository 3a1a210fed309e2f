"""The test images: whatever a source or an inbox adds, each model is also measured on MNIST's own test set."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.config import DataRules, TrainConfig
from mnist_tasks.data.dataset import Dataset, Digits, Float32, UInt8, scaled
from mnist_tasks.data.sources import BUILTIN, MNIST_DIGEST
from mnist_tasks.documents import Evaluation, MnistMetrics, ModelEvaluation
from mnist_tasks.evaluate import evaluate
from mnist_tasks.evaluation import test_images
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace
from tests.helpers import ANYTHING, LENIENT
from tests.test_evaluate import failures

FLOOR = GateConfig(**{**ANYTHING, "min_accuracy": 0.6, "max_champion_drop": 0.05})


def images(raw: UInt8, labels: UInt8, own: int | None = None) -> test_images.TestImages:
    return test_images.TestImages(scaled(raw), raw, labels, own)


def test_mnists_own_is_found_in_tonights_byte_for_byte(mnist: Digits) -> None:
    same = images(mnist.x_test, mnist.y_test)
    more = images(np.concatenate([mnist.x_test, mnist.x_train[:50]]), np.append(mnist.y_test, mnist.y_train[:50]))
    other = mnist.x_test.copy()
    other[-1, 14, 14] ^= 1

    assert (same.begins_with_mnist, same.is_mnist) == (True, True)
    assert (more.begins_with_mnist, more.is_mnist) == (True, False)
    for test in (images(other, mnist.y_test), images(mnist.x_test, mnist.y_test[::-1]), images(*mnist_slice(mnist))):
        assert (test.begins_with_mnist, test.is_mnist) == (False, False)
        assert np.array_equal(test.mnist_images, mnist.x_test)
        assert np.array_equal(test.mnist_labels, mnist.y_test)


def mnist_slice(mnist: Digits) -> tuple[UInt8, UInt8]:
    return mnist.x_test[:-1], mnist.y_test[:-1]


def test_the_parts_are_the_sources_the_inboxs_and_mnists(mnist: Digits) -> None:
    hits = np.array([True] * 10_000 + [False] * 50)
    more = (np.concatenate([mnist.x_test, mnist.x_train[:50]]), np.append(mnist.y_test, mnist.y_train[:50]))

    for own in (10_000, None):  # an older dataset has no count, so its images are compared
        assert [(part.name, part.images, part.accuracy) for part in images(*more, own).parts(hits, 1.0)] == [
            ("the source's own test images", 10_000, 1.0),
            ("those that the inbox adds", 50, 0.0),
            ("MNIST's own test set", 10_000, 1.0),
        ]
    assert images(mnist.x_test, mnist.y_test).parts(hits[:10_000], 1.0) == []
    few = images(mnist.x_train[:4], mnist.y_train[:4])
    assert [part.images for part in few.parts(hits[:4], 0.9)] == [4, 10_000]


@pytest.mark.parametrize("damage", ["gone", "cut short", "other labels", "no archive"])
def test_a_damaged_yardstick_does_not_measure(
    damage: str, tmp_path: Path, mnist: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnist.npz"
    if damage == "cut short":
        path.write_bytes(BUILTIN.read_bytes()[:100_000])
    elif damage == "other labels":
        np.savez(path, x_test=mnist.x_test, y_test=mnist.y_test[::-1])
    elif damage == "no archive":
        path.write_bytes(b"no archive")
    monkeypatch.setattr(test_images, "BUILTIN", path)

    with pytest.raises(InputError, match="install the project again"):
        test_images.mnist_test_set()


def test_a_yardstick_that_cannot_be_read_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def hiccup(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(np, "load", hiccup)

    with pytest.raises(OSError, match="Input/output error"):
        test_images.mnist_test_set()


def test_what_a_version_of_an_older_release_got_on_mnist_is_known_only_if_that_was_its_test_set() -> None:
    old = ModelEvaluation(accuracy=0.9765)
    new = ModelEvaluation(accuracy=0.5, mnist=MnistMetrics(accuracy=0.97))
    published = test_images.published_mnist_accuracy

    assert published(Evaluation(candidate=old, dataset=MNIST_DIGEST)) == 0.9765
    assert published(Evaluation(candidate=old, dataset="0" * 64)) is None
    assert published(Evaluation(candidate=new)) == 0.97
    assert published(Evaluation(candidate=ModelEvaluation(), dataset=MNIST_DIGEST)) is None


@pytest.fixture
def transposed(workspace: Workspace, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was trained on transposed digits, as in EMNIST, with its own test set; it is not evaluated.

    The checks that let `load` find such digits are switched off.
    """
    monkeypatch.setattr("mnist_tasks.data.neighbours.MIN_AGREEMENT", 1)
    blind = DataRules(max_source_wrong_labels=1)
    source = tmp_path / "transposed.npz"
    turned = {name: array.swapaxes(1, 2) if array.ndim == 3 else array for name, array in vars(digits).items()}
    np.savez(source, **turned)
    folder = workspace.dataset(load(str(source), workspace.datasets, rules=blind).digest)
    normalize(folder)
    run = workspace.run("transposed")
    train(folder, TrainConfig(epochs=3), run)
    return run


def test_transposed_digits_never_replace_a_champion_that_reads_upright_ones_nor_are_the_first_model(
    transposed: Path, run: Path, workspace: Workspace
) -> None:
    models = ModelDirectory(workspace.models)
    folder = workspace.dataset(json.loads((transposed / "training.json").read_text())["dataset"])

    first = evaluate(folder, transposed, workspace.models)
    rejected = promote(transposed, workspace.models, FLOOR)
    promote(run, workspace.models, LENIENT)
    evaluated = evaluate(folder, transposed, workspace.models)

    assert first.accuracy
    assert first.accuracy > 0.8  # measured on test images that are transposed as well
    assert not rejected.promoted
    assert rejected.reason.startswith("accuracy on MNIST's own test set 0.")
    assert (
        "is below the minimum of 0.6000 (if these digits are not meant to look like MNIST's, set fixed_test_set=false)"
        in (rejected.reason)
    )
    assert evaluated.champion_accuracy
    assert evaluated.champion_accuracy < 0.3
    for policy in (FLOOR, GateConfig(**FLOOR.model_dump() | {"force": True, "force_reason": "I want it"})):
        with pytest.raises(
            ModelError, match=r"^refused: the champion's accuracy is 0\.\d+ on tonight's test images and"
        ):
            promote(transposed, workspace.models, policy)
    harder = promote(transposed, workspace.models, GateConfig(**FLOOR.model_dump() | {"max_champion_drop": 1}))
    assert not harder.promoted
    champion = models.champion()
    assert champion
    assert champion.metadata().run_id == "first"


def test_a_champion_that_does_not_reproduce_its_score_on_mnist_is_refused(
    run: Path, dataset: Path, workspace: Workspace
) -> None:
    """This happens on a machine whose libraries give other outputs for the same model."""
    promote(run, workspace.models, LENIENT)
    second = workspace.run("second")
    train(dataset, TrainConfig(epochs=1), second)
    evaluate(dataset, second, workspace.models)
    assert failures(second, "champion") == []
    then = json.loads((second / "evaluation.json").read_text())["champion"]["mnist"]["accuracy"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_tasks.registry.opponents.published_mnist_accuracy", lambda _: then + 0.0021)
        evaluate(dataset, second, workspace.models)
        (problem,) = failures(second, "champion")
        patch.setattr("mnist_tasks.evaluate.library_versions", lambda: {"keras": "99"})
        evaluate(dataset, second, workspace.models)

    assert problem.startswith(
        f"version 1 got {then + 0.0021:.4f} on MNIST's own test set when it was published and gets"
    )
    assert "more than the allowed difference of 0.001; the same model gives other answers here: fix" in problem
    assert failures(second, "champion") == []


def test_mnists_own_is_in_the_table_the_card_and_the_record(
    run: Path, dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    evaluate(dataset, run, workspace.models)

    candidate = json.loads((run / "evaluation.json").read_text())["candidate"]
    accuracy = candidate["mnist"]["accuracy"]
    assert candidate["mnist"]["is_test_set"] is False
    assert 0.7 < accuracy < 0.95
    assert [part["accuracy"] for part in candidate["parts"]] == [candidate["accuracy"], accuracy]
    assert any(line.split() == ["on", "MNIST's", "own", f"{accuracy:.4f}"] for line in caplog.messages)
    promote(run, workspace.models, LENIENT)
    assert (
        f"| accuracy on MNIST's own test set | {accuracy:.4f} (95 % int"
        in ModelDirectory(workspace.models).version("1").card()
    )


def test_where_tonights_are_mnists_nothing_is_measured_twice(
    run: Path, workspace: Workspace, mnist: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.dataset(load("builtin", workspace.datasets).digest)
    normalize(folder)
    counted = []

    def count(pixels: UInt8) -> Float32:
        counted.append(len(pixels))
        return scaled(pixels)

    monkeypatch.setattr("mnist_tasks.evaluation.measurement.scaled", count)
    evaluate(folder, run, workspace.models)

    candidate = json.loads((run / "evaluation.json").read_text())["candidate"]
    assert (candidate["mnist"]["is_test_set"], candidate["parts"], counted) == (True, [], [])
    assert candidate["mnist"]["accuracy"] == candidate["accuracy"]
    assert len(Dataset(folder).labels("test")) == len(mnist.y_test)
