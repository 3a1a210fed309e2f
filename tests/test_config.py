"""The default parameters are the classic recipe; a bad value is refused with its name and bound."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mnist_tasks.config import RollbackConfig, TrainConfig, recipe_of
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.recipes import RECIPES
from mnist_tasks.run_parameters import GROUPS, RunConfig, run_form
from mnist_tasks.system.errors import InputError
from mnist_tasks.training.architectures import ARCHITECTURES

CHOICES = (None, "skip", "retrain")

# Bad values of parameters and their error messages; tests/dags checks that the form shows the same messages.
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("source", "", "'' should be non-empty"),
    ("inbox", "", "'' should be non-empty"),
    ("on_bad_batch", "drop", "'drop' is not one of ['quarantine', 'fail']"),
    ("max_wrong_labels", 5, "5 is greater than the maximum of 1"),
    ("max_duplicates", -1, "-1 is less than the minimum of 0"),
    ("min_digit_share", 0.2, "0.2 is greater than the maximum of 0.1"),
    ("max_label_drift", 2, "2 is greater than the maximum of 1"),
    ("max_pixel_drift", -0.1, "-0.1 is less than the minimum of 0"),
    ("recipe", "resnet", "'resnet' is not one of ['classic', 'classic-fast', 'cnn-fast', 'cnn', 'cnn-best']"),
    ("architecture", "resnet", "'resnet' is not one of ['mlp', 'cnn-2', 'cnn-4', 'cnn-5', None]"),
    ("hidden_units", 0, "0 is less than the minimum of 1"),
    ("activation", "step", "'step' is not one of"),
    ("dropout", 1, "1 is greater than or equal to the maximum of 1"),
    ("dropout", -0.1, "-0.1 is less than the minimum of 0"),
    ("optimizer", "newton", "'newton' is not one of"),
    ("learning_rate", -0.001, "-0.001 is less than or equal to the minimum of 0"),
    ("learning_rate", 0, "0 is less than or equal to the minimum of 0"),
    ("epochs", 0, "0 is less than the minimum of 1"),
    ("epochs", "5", "'5' is not of type 'integer', 'null'"),
    ("epochs", 2.5, "2.5 is not of type 'integer', 'null'"),
    ("min_accuracy", None, "None is not of type 'number'"),
    ("shift", 9, "9 is greater than the maximum of 8"),
    ("label_smoothing", 1, "1 is greater than or equal to the maximum of 1"),
    ("schedule", "step", "'step' is not one of ['constant', 'one_cycle', None]"),
    ("precision", "float16", "'float16' is not one of"),
    ("validation_split", 0.6, "0.6 is greater than the maximum of 0.5"),
    ("patience", -1, "-1 is less than the minimum of 0"),
    ("device", "tpu", "'tpu' is not one of ['auto', 'cpu', 'gpu', None]"),
    ("strategy", "tpu", "'tpu' is not one of"),
    ("image_memory", 0, "0 is less than the minimum of 1"),
    ("tensorboard", 1, "1 is not of type 'boolean', 'null'"),
    ("batch_size", 0, "0 is less than the minimum of 1"),
    ("seed", -1, "-1 is less than the minimum of 0"),
    ("min_accuracy", 97, "97 is greater than the maximum of 1"),
    ("max_regression", -0.002, "-0.002 is less than the minimum of 0"),
    ("max_accuracy", 1.1, "1.1 is greater than the maximum of 1"),
    ("max_loss", -1, "-1 is less than the minimum of 0"),
    ("min_digit_recall", 93, "93 is greater than the maximum of 1"),
    ("min_digit_precision", -1, "-1 is less than the minimum of 0"),
    ("max_digit_regression", 2, "2 is greater than the maximum of 1"),
    ("max_loss_increase", -0.1, "-0.1 is less than the minimum of 0"),
    ("max_champion_drop", 1.5, "1.5 is greater than the maximum of 1"),
    ("min_support", 0, "0 is less than the minimum of 1"),
    ("when_unchanged", "ignore", "'ignore' is not one of ['skip', 'retrain', None]"),
    ("on_rejection", "ignore", "'ignore' is not one of ['skip', 'fail']"),
    ("force", "yes", "'yes' is not of type 'boolean'"),
    ("force_reason", "x" * 501, "'" + "x" * 501 + "' is too long"),
]


@pytest.mark.parametrize(
    ("run_type", "by_default"),
    [("scheduled", True), ("asset_triggered", True), ("manual", False), ("backfill", False)],
)
def test_only_a_run_that_nobody_has_asked_for_ends_where_nothing_has_changed(run_type: str, by_default: bool) -> None:
    skips = {
        choice: RunConfig.from_parameters({"when_unchanged": choice}).unchanged.skips(run_type) for choice in CHOICES
    }

    assert skips == {None: by_default, "skip": True, "retrain": False}


def test_the_defaults_are_the_classic_recipe() -> None:
    config = RunConfig.from_parameters({})

    assert config.training == TrainConfig(
        architecture="mlp",
        hidden_units=128,
        activation="relu",
        dropout=0.2,
        optimizer="adam",
        learning_rate=0.001,
        schedule="constant",
        label_smoothing=0,
        epochs=5,
        batch_size=32,
        shift=0,
        precision="float32",
        validation_split=0,
    )
    assert (config.gate, config.gate.min_accuracy) == (GateConfig(), 0.97)
    assert config.data.source == "builtin"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_of_a_recipe_can_be_overridden(recipe: str) -> None:
    as_it_is = RunConfig.from_parameters({"recipe": recipe, "epochs": None, "seed": None}).training
    changed = RunConfig.from_parameters({"recipe": recipe, "epochs": 9, "dropout": 0.4}).training

    assert as_it_is == TrainConfig(**RECIPES[recipe].parameters)
    assert changed == TrainConfig(**{**RECIPES[recipe].parameters, "epochs": 9, "dropout": 0.4})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipe": "cnn", "hidden_units": 64}, "hidden_units: 64: the architecture cnn-4 has no such layer"),
        ({"patience": 3}, "patience: 3: early stopping needs a validation split"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"^{words}"):
        RunConfig.from_parameters(values)


@pytest.mark.parametrize(("name", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_name_and_bound(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.from_parameters({name: value})

    assert str(error.value).startswith(f"{name}: {words}")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"^learning_rate: .*(nan|inf)"):
        TrainConfig(learning_rate=value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"epochs: .*; min_accuracy: "):
        RunConfig.from_parameters({"epochs": 0, "min_accuracy": 2})


def test_an_unknown_parameter_is_refused_with_the_closest_one() -> None:
    with pytest.raises(InputError, match=r"^epoch: unknown parameter; did you mean epochs\?$"):
        RunConfig.from_parameters({"epoch": 3})


def test_every_field_is_in_one_section_of_the_form() -> None:
    names = [name for fields in run_form().values() for name in fields]

    # A recipe can set beta_2; the form cannot.
    assert sorted([*names, "beta_2"]) == sorted(name for group in GROUPS for name in group.model_fields)


def test_another_optimizer_goes_without_what_the_recipe_sets_for_adam() -> None:
    training = RunConfig.from_parameters({"recipe": "cnn", "optimizer": "sgd"}).training

    assert (training.optimizer, training.beta_2) == ("sgd", TrainConfig().beta_2)


def test_every_architecture_can_be_asked_for() -> None:
    assert TrainConfig.model_json_schema()["properties"]["architecture"]["enum"] == list(ARCHITECTURES)


def test_a_rollback_needs_a_reason() -> None:
    assert RollbackConfig(reason="it was bad").version is None
    assert RollbackConfig(reason="it was bad", version=None).version is None
    for values, words in (
        ({}, "reason: Field required"),
        ({"reason": ""}, "reason: '' should be non-empty"),
        ({"reason": "x", "version": 0}, "version: 0 is less than the minimum of 1"),
        ({"reason": "x", "version": "two"}, "version: 'two' is not of type 'integer', 'null'"),
    ):
        with pytest.raises(InputError) as error:
            RollbackConfig(**values)
        assert str(error.value) == words


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_is_known_by_the_recipe_that_it_is_closest_to(recipe: str) -> None:
    def named(**given: Any) -> tuple[str, dict[str, Any]]:
        config = RunConfig.from_parameters({"recipe": recipe, **given}).training
        return recipe_of({**config.model_dump(), "precision": "float32", "device": "cpu"})

    assert named() == (recipe, {})
    assert named(epochs=9, seed=7) == (recipe, {"epochs": 9, "seed": 7})
    assert recipe_of({"architecture": "mlp", "epochs": 5, "unknown": 1}) == ("classic", {})
