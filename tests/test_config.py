"""Parameters: the defaults are the classic recipe, and bad values are refused with their name and bound."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mnist_tasks.config import RunConfig, TrainConfig
from mnist_tasks.errors import InputError
from mnist_tasks.gate import Policy
from mnist_tasks.models import ARCHITECTURES

# A bad value of a parameter, and the words that refuse it; tests/dags checks that the form says the same.
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("source", "", "'' should be non-empty"),
    ("architecture", "resnet", "'resnet' is not one of ['mlp']"),
    ("hidden_units", 0, "0 is less than the minimum of 1"),
    ("activation", "step", "'step' is not one of"),
    ("dropout", 1, "1 is greater than or equal to the maximum of 1"),
    ("dropout", -0.1, "-0.1 is less than the minimum of 0"),
    ("optimizer", "newton", "'newton' is not one of"),
    ("learning_rate", -0.001, "-0.001 is less than or equal to the minimum of 0"),
    ("learning_rate", 0, "0 is less than or equal to the minimum of 0"),
    ("loss", "hinge", "'hinge' is not one of ['sparse_categorical_crossentropy']"),
    ("epochs", 0, "0 is less than the minimum of 1"),
    ("epochs", "5", "'5' is not of type 'integer'"),
    ("epochs", 2.5, "2.5 is not of type 'integer'"),
    ("epochs", None, "None is not of type 'integer'"),
    ("batch_size", 0, "0 is less than the minimum of 1"),
    ("seed", -1, "-1 is less than the minimum of 0"),
    ("min_accuracy", 97, "97 is greater than the maximum of 1"),
    ("max_regression", -0.002, "-0.002 is less than the minimum of 0"),
]


def test_the_defaults_are_the_classic_recipe() -> None:
    config = RunConfig()

    assert config.part(TrainConfig) == TrainConfig(
        architecture="mlp",
        hidden_units=128,
        activation="relu",
        dropout=0.2,
        optimizer="adam",
        learning_rate=0.001,
        loss="sparse_categorical_crossentropy",
        epochs=5,
        batch_size=32,
    )
    assert config.part(Policy) == Policy(min_accuracy=0.97, max_regression=0.002)
    assert config.source == "builtin"


@pytest.mark.parametrize(("name", "value", "words"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_name_and_bound(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig(**{name: value})

    assert str(error.value).startswith(f"{name}: {words}")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"^learning_rate: .*(nan|inf)"):
        TrainConfig(learning_rate=value)


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"epochs: .*; min_accuracy: "):
        RunConfig(epochs=0, min_accuracy=2)


def test_an_unknown_parameter_is_refused_with_the_closest_one() -> None:
    with pytest.raises(InputError, match=r"^epoch: unknown parameter; did you mean epochs\?$"):
        RunConfig.model_validate({"epoch": 3})


def test_groups_share_no_field() -> None:
    names = [name for group in RunConfig.GROUPS.values() for name in group.model_fields]

    assert sorted(names) == sorted(RunConfig.model_fields)


def test_every_architecture_can_be_asked_for() -> None:
    assert TrainConfig.model_json_schema()["properties"]["architecture"]["enum"] == list(ARCHITECTURES)
