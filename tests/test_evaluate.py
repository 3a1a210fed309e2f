"""Evaluation: candidate and champion are measured on the same images; an untrustworthy model gets no score."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.documents import Epoch, Evaluation, Mistakes
from mnist_tasks.evaluate import evaluate
from mnist_tasks.evaluation import figures
from mnist_tasks.evaluation.integrity import TOLERANCE, inspect, inspect_keras_file
from mnist_tasks.evaluation.measurement import Measured, table
from mnist_tasks.evaluation.metrics import Metrics, compute_metrics
from mnist_tasks.evaluation.robustness import CHANGES
from mnist_tasks.evaluation.sheets import mistaken_images
from mnist_tasks.evaluation.slices import SLICES
from mnist_tasks.evaluation.test_images import TestImages
from mnist_tasks.gate import decide
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import REPAIR, ROLLBACK
from mnist_tasks.system.errors import InputError, ModelError, is_transient
from mnist_tasks.system.files import read_json, sha256
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace
from tests.helpers import ANYTHING, LENIENT


@pytest.fixture
def champion(run: Path, workspace: Workspace) -> Path:
    """The folder of version 1, the champion, which is published from the trained run."""
    promote(run, workspace.models, LENIENT)
    return workspace.models / "1"


def test_scores_are_those_of_keras(run: Path, dataset: Path) -> None:
    model = keras.saving.load_model(run / "model.keras")
    images, labels = Dataset(dataset).normalized("test"), Dataset(dataset).labels("test")
    loss, accuracy = model.evaluate(images, labels, verbose=0)

    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["candidate"]["accuracy"] == pytest.approx(accuracy)
    assert evaluation["candidate"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert evaluation["test_images"] == 500
    assert evaluation["dataset"] == dataset.name
    assert evaluation["champion"] is None


@pytest.mark.parametrize("name", ["x_test_normalized", "x_test", "y_test"])
def test_what_is_measured_on_is_what_was_loaded(name: str, run: Path, dataset: Path, workspace: Workspace) -> None:
    (run / "evaluation.json").unlink()
    array = np.load(dataset / f"{name}.npy", mmap_mode="r+")
    array[len(array) // 2 :] = 0
    array.flush()

    with pytest.raises(
        InputError, match=r"no longer holds the dataset's images|no longer has the content that it is named after"
    ):
        evaluate(dataset, run, workspace.models)
    assert not (run / "evaluation.json").exists()


def test_the_champion_is_measured_on_the_same_images(
    dataset: Path, workspace: Workspace, champion: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = json.loads((champion / "evaluation.json").read_text())["candidate"]
    run = workspace.run("second")
    train(dataset, TrainConfig(epochs=1, seed=1), run)

    evaluated = evaluate(dataset, run, workspace.models)

    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["champion"]["version"] == evaluated.champion == 1
    assert evaluation["champion"]["confusion"] == before["confusion"]
    assert evaluated.champion_accuracy == before["accuracy"] != evaluated.accuracy
    header = next(line for line in caplog.messages if line.split() == ["candidate", "champion", "1"])
    accuracy = next(line for line in caplog.messages if line.startswith("accuracy"))
    assert len(header) == len(accuracy)
    assert accuracy.split()[1:] == [f"{evaluated.accuracy:.4f}", f"{evaluated.champion_accuracy:.4f}"]


def test_the_champion_is_compared_on_its_own_training_images_only_if_its_recipe_is_the_same(
    dataset: Path, workspace: Workspace, champion: Path
) -> None:
    fits = {}
    recipe = json.loads((champion / "metadata.json").read_text())["config"]
    configs = {"same": TrainConfig(**{**recipe, "seed": 1}), "other": TrainConfig(**{**recipe, "hidden_units": 16})}
    for name, config in configs.items():
        run = workspace.run(name)
        train(dataset, config, run)
        evaluate(dataset, run, workspace.models)
        fits[name] = Evaluation.read(run / "evaluation.json", "")

    model = keras.saving.load_model(champion / "model.keras")
    images, labels = Dataset(dataset).normalized("train"), Dataset(dataset).labels("train")
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    same, other = (fits[name].champion for name in ("same", "other"))
    assert same is not None
    assert same.training.loss == pytest.approx(loss, rel=1e-4)
    assert same.training.accuracy == pytest.approx(accuracy)
    assert other is not None
    assert other.training.loss is None
    assert "by another recipe (hidden_units)" in str(other.training.not_measured)
    assert fits["other"].candidate.training.loss is not None


def test_a_champion_whose_data_is_gone_is_not_compared_on_it(run: Path, dataset: Path, workspace: Workspace) -> None:
    training = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps({**training, "dataset": "0" * 64}))
    evaluate(dataset, run, workspace.models)
    promote(run, workspace.models, LENIENT)
    second = workspace.run("second")
    train(dataset, TrainConfig(**training["config"]), second)

    evaluate(dataset, second, workspace.models)

    champion = Evaluation.read(second / "evaluation.json", "").champion
    assert champion is not None
    assert champion.training.loss is None
    assert "the data that the champion was trained on cannot be read" in str(champion.training.not_measured)


@pytest.mark.usefixtures("champion")
def test_slices_changes_confidence_and_cost_of_both_models_are_in_the_document(
    dataset: Path, workspace: Workspace
) -> None:
    run = workspace.run("second")
    train(dataset, TrainConfig(epochs=1, seed=1), run)

    evaluate(dataset, run, workspace.models)

    evaluation = Evaluation.read(run / "evaluation.json", "")
    assert evaluation.champion
    for model in (evaluation.candidate, evaluation.champion):
        assert [each.name for each in model.slices] == list(SLICES)
        assert [each.name for each in model.changed] == list(CHANGES)
        assert {each.support for each in model.changed} == {500}
        assert len(model.calibration) == 15
        assert model.cost is not None
        assert model.cost.parameters == 101_770
        assert model.cost.megabytes == pytest.approx((run / "model.keras").stat().st_size / 1e6, rel=0.05)
        assert min(model.cost.seconds_for_one or 0, model.cost.seconds_for_many or 0) > 0
    between = evaluation.disagreements
    assert between is not None
    right = round(((evaluation.candidate.accuracy or 0) - (evaluation.champion.accuracy or 0)) * 500)
    assert between.only_candidate - between.only_champion == right
    assert evaluation.suspects is not None
    assert len((run / "suspects.csv").read_text().splitlines()) == evaluation.suspects + 1


class TestReference:
    """The best of the last champions is measured, too."""

    @pytest.fixture
    def three(self, dataset: Path, workspace: Workspace, champion: Path) -> Path:
        """Return a candidate after two champions, of which the first is the better one."""
        assert champion.name == "1"
        worse = workspace.run("worse")
        train(dataset, TrainConfig(epochs=1, seed=1, learning_rate=0.0001), worse)
        evaluate(dataset, worse, workspace.models)
        assert promote(worse, workspace.models, LENIENT).version == 2
        third = workspace.run("third")
        train(dataset, TrainConfig(epochs=1, seed=2), third)
        return third

    def test_it_is_the_one_with_the_lowest_loss(self, three: Path, dataset: Path, workspace: Workspace) -> None:
        evaluate(dataset, three, workspace.models)

        evaluation = Evaluation.read(three / "evaluation.json", "")
        first = Evaluation.read(workspace.models / "1" / "evaluation.json", "").candidate
        assert evaluation.reference is not None
        assert (evaluation.reference.version, evaluation.reference.champions_since) == (1, 1)
        assert evaluation.reference.loss == pytest.approx(first.loss)

    def test_one_champion_is_enough_to_be_its_own(self, three: Path, dataset: Path, workspace: Workspace) -> None:
        evaluate(dataset, three, workspace.models, reference_versions=1)

        evaluation = Evaluation.read(three / "evaluation.json", "")
        assert evaluation.reference is None
        assert evaluation.no_reference == "version 2, the champion, is itself the best of the last 1"

    def test_a_person_can_choose_it(self, three: Path, dataset: Path, workspace: Workspace) -> None:
        evaluate(dataset, three, workspace.models, reference=2)

        evaluation = Evaluation.read(three / "evaluation.json", "")
        assert evaluation.reference is not None
        assert (evaluation.reference.version, evaluation.reference.champions_since) == (2, 0)

    def test_one_that_does_not_exist_is_named(self, three: Path, dataset: Path, workspace: Workspace) -> None:
        with pytest.raises(InputError, match=r"reference: 9: .* has no version 9; it has 1, 2; choose another version"):
            evaluate(dataset, three, workspace.models, reference=9)

    def test_a_damaged_one_gives_way_to_the_next(
        self, three: Path, dataset: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = workspace.models / "1" / "model.keras"
        path.chmod(0o644)
        path.write_bytes(b"damaged")

        evaluate(dataset, three, workspace.models)

        evaluation = Evaluation.read(three / "evaluation.json", "")
        assert evaluation.reference is None
        assert evaluation.no_reference == "version 2, the champion, is itself the best of the last 2"
        assert "version 1 is no reference: version 1 is damaged" in caplog.text


def test_the_table_is_aligned() -> None:
    labels = np.arange(10, dtype=np.uint8)
    perfect = compute_metrics(np.eye(10, dtype=np.float32)[labels], labels)
    always_zero = compute_metrics(np.eye(10, dtype=np.float32)[np.zeros(10, int)], labels)

    measured = {"candidate": perfect, "champion 7": always_zero}
    lines = list(table({name: Measured([], metrics=found, mnist=found) for name, found in measured.items()}))

    assert len({len(line) for line in lines[:15]}) == 1
    assert lines[6].split() == ["1", "(1", "images)", "1.000", "1.000", "1.000", "-", "0.000", "0.000"]
    assert lines[-1].split() == ["9", *"........."[:9], "1"]


def save(path: Path, *layers: keras.Layer) -> None:
    keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), *layers]).save(path)


def failures(run: Path, whose: str = "candidate") -> list[str]:
    """Return the messages of the failed findings of an evaluation."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    return [finding["message"] for finding in evaluation[whose]["integrity"] if not finding["passed"]]


def refused(run: Path, workspace: Workspace) -> str:
    """Return the reason why `promote` refuses a candidate, even with force."""
    with pytest.raises(ModelError, match=r"^refused: ") as refusal:
        promote(run, workspace.models, GateConfig(**ANYTHING, force=True, force_reason="I want it"))
    return str(refusal.value)


def test_both_files_of_a_candidate_are_inspected(run: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text())

    assert failures(run) == []
    agreement = next(f for f in evaluation["candidate"]["integrity"] if f["metric"] == "agreement")
    assert 0 <= agreement["value"] <= agreement["bound"] == TOLERANCE
    assert evaluation["signatures"].keys() == {"model.keras", "serving_default"}
    assert {"model.keras", "saved_model/saved_model.pb", "golden.npz", "history.json"} <= evaluation["files"].keys()


def test_the_surest_mistakes_are_listed(run: Path, dataset: Path) -> None:
    mistakes = json.loads((run / "evaluation.json").read_text())["mistakes"]
    probabilities = keras.saving.load_model(run / "model.keras").predict(Dataset(dataset).normalized("test"), verbose=0)
    labels = Dataset(dataset).labels("test")

    assert len(mistakes) == 24
    sureness = [mistake["probability"] for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in mistakes:
        assert labels[mistake["index"]] == mistake["label"] != mistake["predicted"]
        assert probabilities[mistake["index"]].argmax() == mistake["predicted"]


def test_all_mistakes_are_kept_with_a_picture_of_each(run: Path, dataset: Path) -> None:
    found = Mistakes.read(run / "mistakes.json", "")
    evaluation = Evaluation.read(run / "evaluation.json", "")
    data = Dataset(dataset)
    probabilities = keras.saving.load_model(run / "model.keras").predict(data.normalized("test"), verbose=0)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != data.labels("test"))

    assert sorted(mistake.index for mistake in found.mistakes) == wrong.tolist()
    assert found.mistakes[:24] == evaluation.mistakes
    assert found.test_set_sha256 == data.description().test_set_sha256
    assert found.images == len(data.labels("test"))
    # A change between evaluating and publishing is noticed.
    assert {"mistakes.json", "figures/mistaken.png"} <= set(evaluation.files)
    with Image.open(run / "figures" / "mistaken.png") as picture:
        pixels = np.asarray(picture)
    for place, mistake in enumerate(found.mistakes[: found.pictured]):
        row, column = (28 * number for number in divmod(place, found.columns))
        assert np.array_equal(pixels[row : row + 28, column : column + 28], data.array("x_test")[mistake.index])


def test_figures_are_drawn_even_where_nothing_is_known(tmp_path: Path) -> None:
    """There are no mistakes, no images of one digit, only one epoch, and no champion."""
    labels = np.zeros(5, np.uint8)
    metrics = compute_metrics(np.eye(10, dtype=np.float32)[labels], labels)

    epoch = Epoch(number=1, metrics={"loss": 0.1, "accuracy": 1.0}, seconds=1, images_per_second=1)
    figures.training_curves([epoch], tmp_path / "training.png")
    figures.confusion_matrix(metrics.confusion, tmp_path / "confusion.png")
    mistaken_images(np.zeros((0, 28, 28), np.uint8), [], "Mistakes", tmp_path / "mistakes.png")
    figures.reliability([], [], tmp_path / "calibration.png")
    figures.recall_by_digit(metrics.digits, None, tmp_path / "recall.png")

    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 2, path  # the figure is not blank
    assert len(list(tmp_path.iterdir())) == 5


def test_a_candidate_without_ten_outputs_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    save(run / "model.keras", keras.layers.Dense(9, "softmax"))

    evaluated = evaluate(dataset, run, workspace.models)

    assert evaluated.accuracy is None
    message = "it gives float32 (100, 9) for 100 images, but float32 (100, 10) is needed"
    assert message in failures(run)[0]
    assert message in refused(run, workspace)


def test_a_candidate_that_gives_nan_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    save(run / "model.keras", keras.layers.Dense(10, kernel_initializer=keras.initializers.Constant(np.nan)))

    assert evaluate(dataset, run, workspace.models).accuracy is None
    assert "model.keras gives NaN or infinity for 100 of 100 golden images" in refused(run, workspace)


def test_a_candidate_that_gives_no_probabilities_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    save(run / "model.keras", keras.layers.Dense(10, "relu"))

    evaluate(dataset, run, workspace.models)

    assert "probabilities for the golden images do not sum to 1" in refused(run, workspace)


def test_a_candidate_that_gives_nan_for_a_blank_image_is_refused(
    run: Path, dataset: Path, workspace: Workspace
) -> None:
    save(run / "model.keras", keras.layers.LayerNormalization(epsilon=0), keras.layers.Dense(10, "softmax"))

    assert evaluate(dataset, run, workspace.models).accuracy is None
    assert "model.keras gives NaN or infinity for 2 of 5 extreme images" in refused(run, workspace)


def test_a_candidate_that_gives_other_answers_for_an_image_alone_is_refused(
    run: Path, dataset: Path, workspace: Workspace
) -> None:
    save(run / "model.keras", keras.layers.UnitNormalization(axis=0), keras.layers.Dense(10, "softmax"))

    assert evaluate(dataset, run, workspace.models).accuracy is None
    assert "model.keras, given one image alone and among others, do not agree" in refused(run, workspace)


def test_a_candidate_with_other_weights_than_train_wrote_down_is_refused(
    run: Path, dataset: Path, workspace: Workspace
) -> None:
    training = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps({**training, "weights_sha256": "0" * 64}))

    evaluate(dataset, run, workspace.models)

    assert "the weights are not those that train wrote down" in refused(run, workspace)


def test_what_is_hashed_is_what_is_measured(
    run: Path, dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced during the measurement is refused."""

    def exchange(*arguments: Any) -> Metrics:
        save(run / "model.keras", keras.layers.Dense(10, "softmax"))
        return compute_metrics(*arguments)

    monkeypatch.setattr("mnist_tasks.evaluation.measurement.compute_metrics", exchange)
    evaluate(dataset, run, workspace.models)

    with pytest.raises(ModelError, match=r"model\.keras is not the file that was evaluated"):
        promote(run, workspace.models, LENIENT)


@pytest.mark.parametrize("output", ["nan", "flat", "named"])
def test_a_saved_model_that_gives_something_else_is_refused(
    output: str, run: Path, dataset: Path, workspace: Workspace
) -> None:
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.shape(images)[0]
        answers = {
            "nan": {"probabilities": tf.fill([count, 10], float("nan"))},
            "flat": {"probabilities": tf.fill([count], 0.1)},
            "named": {"a": tf.fill([count, 10], 0.1), "b": tf.fill([count, 10], 0.1)},
        }
        return answers[output]

    images = tf.TensorSpec((None, 28, 28), tf.uint8, name="images")
    function = tf.function(serve, input_signature=[images])
    shutil.rmtree(run / "saved_model")
    tf.saved_model.save(tf.Module(), run / "saved_model", signatures={"serving_default": function})

    evaluate(dataset, run, workspace.models)

    assert "SavedModel" in refused(run, workspace) or "saved_model" in refused(run, workspace)


def test_a_keras_model_with_named_or_flat_outputs_is_refused(run: Path, dataset: Path, workspace: Workspace) -> None:
    inputs = keras.Input((28, 28))
    digits = keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(inputs))
    for outputs in ({"digits": digits}, keras.ops.max(digits, axis=1), [digits, digits]):
        keras.Model(inputs, outputs).save(run / "model.keras")

        assert evaluate(dataset, run, workspace.models).accuracy is None
        assert "model.keras" in refused(run, workspace)


def test_a_candidate_whose_files_are_different_models_is_refused(
    run: Path, dataset: Path, workspace: Workspace
) -> None:
    """This happens after a crash between writing the two files, or if the export does not normalize."""
    save(run / "model.keras", keras.layers.Dense(10, "softmax"))

    evaluate(dataset, run, workspace.models)

    assert "model.keras and the SavedModel do not agree on the golden images" in refused(run, workspace)


@pytest.mark.parametrize("name", ["model.keras", "saved_model/saved_model.pb", "saved_model/variables/variables.index"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated"])
def test_a_candidate_that_cannot_be_loaded_is_refused(
    damage: str, name: str, run: Path, dataset: Path, workspace: Workspace
) -> None:
    content = (run / name).read_bytes()
    (run / name).unlink()
    if damage != "missing":
        (run / name).write_bytes(b"garbage" if damage == "garbage" else content[: len(content) // 2])

    evaluate(dataset, run, workspace.models)

    assert "cannot be loaded and used" in failures(run)[0]
    assert failures(run)[0] in refused(run, workspace)


@pytest.mark.parametrize("damage", ["missing", "changed", "dangling"])
def test_a_damaged_champion_is_named_with_the_way_out_and_stays(
    damage: str, run: Path, dataset: Path, workspace: Workspace, champion: Path
) -> None:
    if damage == "missing":
        (champion / "model.keras").unlink()
    elif damage == "changed":
        save(champion / "model.keras", keras.layers.Dense(10, "softmax"))
    else:
        champion.rename(workspace.root / "away")
    next_run = run.rename(run.with_name("second"))

    evaluated = evaluate(dataset, next_run, workspace.models)

    assert evaluated.champion_accuracy is None
    reason = refused(next_run, workspace)
    assert "which is not a version" in reason if damage == "dangling" else "models/1/model.keras" in reason
    assert f"run {REPAIR}" in reason
    assert (workspace.models / "champion").readlink() == Path("1")


def test_a_champion_that_keras_cannot_load_is_named(
    run: Path, dataset: Path, workspace: Workspace, champion: Path
) -> None:
    """The file is the published one, but a newer Keras may not read an old format."""
    (champion / "model.keras").write_bytes(b"from another age")
    metadata = json.loads((champion / "metadata.json").read_text())
    metadata["sha256"]["model.keras"] = sha256(champion / "model.keras")
    (champion / "metadata.json").write_text(json.dumps(metadata))
    (workspace.models / "history.jsonl").unlink()  # it holds the digest of the old metadata

    evaluate(dataset, run.rename(run.with_name("second")), workspace.models)

    problem, way_out = failures(run.with_name("second"), "champion")
    assert f"go back with `{ROLLBACK}`" in way_out
    assert problem.startswith(f"{champion / 'model.keras'} cannot be loaded and used")


@pytest.mark.usefixtures("champion")
def test_losses_are_compared_only_between_models_trained_for_the_same(dataset: Path, workspace: Workspace) -> None:
    next_run = workspace.run("second")
    train(dataset, TrainConfig(epochs=1, label_smoothing=0.1), next_run)

    evaluate(dataset, next_run, workspace.models)

    evaluation = Evaluation.read(next_run / "evaluation.json", "")
    (check,) = (
        check
        for check in decide(evaluation.candidate, evaluation.champion, LENIENT).checks
        if check.rule == "max_loss_increase"
    )
    assert (check.verdict, "'label_smoothing': 0.1" in check.message) == ("skipped", True)


@pytest.mark.parametrize("name", ["training_curves", "confusion_matrix", "recall_by_digit"])
def test_a_figure_that_fails_costs_a_line_and_not_the_night(
    name: str,
    run: Path,
    dataset: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr(figures, name, broken)
    evaluate(dataset, run, workspace.models)
    promote(run, workspace.models, LENIENT)

    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    figure = {"training_curves": "training", "confusion_matrix": "confusion"}.get(name)
    path = f"figures/{figure or 'recall'}.png"
    assert (
        line == f"{Path(path).name} is not drawn; the task goes on without it: RuntimeError: latex could not be found"
    )
    assert not (run / path).exists()  # the figure of an earlier try is removed as well
    version = ModelDirectory(workspace.models).version("1")
    assert (path in version.card(), version.card().count("![")) == (False, 5)
    assert ModelDirectory(workspace.models).damage(version) == []


def test_without_matplotlib_there_are_no_figures_and_all_else(
    run: Path,
    dataset: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr("mnist_tasks.evaluation.figures")
    monkeypatch.setitem(sys.modules, "mnist_tasks.evaluation.figures", None)

    assert evaluate(dataset, run, workspace.models).accuracy
    assert "no figure is drawn, because matplotlib cannot be imported: ModuleNotFoundError" in caplog.text


# Reading this file gives EIO, as on a network share with temporary errors.
EIO = Path("/proc/self/mem")


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_a_file_of_the_saved_model_that_cannot_be_read_now_is_no_finding(name: str, run: Path, dataset: Path) -> None:
    (run / "saved_model" / name).unlink()
    (run / "saved_model" / name).symlink_to(EIO)

    with pytest.raises(OSError, match="Input/output error"):
        inspect(run / "model.keras", run / "saved_model", Dataset(dataset).array("x_test")[:10])


def test_a_keras_file_that_cannot_be_read_now_is_no_finding(run: Path, dataset: Path) -> None:
    (run / "model.keras").unlink()
    (run / "model.keras").symlink_to(EIO)

    with pytest.raises(OSError, match="Input/output error"):
        inspect_keras_file(run / "model.keras", Dataset(dataset).array("x_test")[:10])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ESTALE, "Stale file handle"), tf.errors.ResourceExhaustedError(None, None, "")],
)
def test_what_may_pass_while_a_model_is_loaded_goes_through(
    error: Exception, run: Path, dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("keras.saving.load_model", fail)

    with pytest.raises(type(error)):
        evaluate(dataset, run, workspace.models)


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize("method", ["champion", "verify"])
def test_a_champion_that_cannot_be_read_now_is_not_refused(
    method: str, run: Path, dataset: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is transient if the model directory passes the system's error on, and if it wraps it."""
    for wrapped in (False, True):

        def fail(*_: Any, wrapped: bool = wrapped) -> None:
            try:
                raise OSError(errno.EIO, "Input/output error")
            except OSError as error:
                if wrapped:
                    raise ModelError("version 1 is damaged") from error
                raise

        monkeypatch.setattr(ModelDirectory, method, fail)
        with pytest.raises((OSError, ModelError)) as raised:
            evaluate(dataset, run, workspace.models)
        assert is_transient(raised.value)


def test_a_document_that_cannot_be_read_now_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").symlink_to(EIO)
    with pytest.raises(OSError, match="Input/output error"):
        read_json(tmp_path / "evaluation.json", "evaluate")

    with pytest.raises(ModelError, match="clear the evaluate task"):
        read_json(tmp_path / "missing.json", "evaluate")


def test_the_objective_is_the_same_with_and_without_the_parameter_that_older_releases_had() -> None:
    recorded = {"loss": "sparse_categorical_crossentropy", "label_smoothing": 0.1}
    test = cast("TestImages", SimpleNamespace(is_mnist=True))

    ours = [Measured([]).document("0" * 64, config, test) for config in (recorded, {"label_smoothing": 0.1})]

    assert ours[0].objective == ours[1].objective == recorded
