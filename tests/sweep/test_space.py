"""What a sweep may search, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_tasks.config import SweepConfig
from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.sweep.plan import check_sweep
from mnist_tasks.sweep.space import PRESETS, check_space, distributions, first_try, run_parameters
from mnist_tasks.system.errors import InputError


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "space: it has no parameter; name one"),
        ({"learning_rat": [0.1]}, "space: learning_rat: unknown parameter; did you mean learning_rate?"),
        ({"seed": [1, 2]}, "space: seed: unknown parameter; "),
        ({"min_accuracy": [0.1]}, "space: min_accuracy: unknown parameter; "),
        ({"learning_rate": {"min": 0.1, "max": 0.01}}, "space: learning_rate: min 0.1 is greater than max 0.01"),
        ({"learning_rate": {"min": 0.1, "max": 11}}, "space: learning_rate: 11 is greater than the maximum of 10"),
        ({"dropout": {"min": 0, "max": 0.5, "log": True}}, "space: dropout: min 0: with log, the least value must be"),
        ({"epochs": {"min": 1.5, "max": 3}}, "space: epochs: 1.5 is not of type 'integer', 'null'"),
        ({"epochs": []}, "space: epochs: the list is empty"),
        ({"epochs": [0, 3]}, "space: epochs: 0 is less than the minimum of 1"),
        ({"epochs": 3}, "space: epochs: 3 is neither a list of values nor {"),
        ({"epochs": {"min": 1, "mx": 3}}, "space: epochs: {'min': 1, 'mx': 3} is neither a list of values nor {"),
        ({"epochs": [None]}, "space: epochs: null is not a value to try"),
        ({"recipe": ["clasic"]}, "space: recipe: 'clasic' is not one of ['classic', "),
        ({"recipe": {"min": "classic", "max": "cnn"}}, "space: recipe: only numbers have a least and a greatest value"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        check_space(space)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trials": 0}, "trials: 0 is less than the minimum of 1"),
        ({"trials": 10_000}, "trials: 10000 is greater than the maximum of 1000"),
        ({"max_minutes": 0}, "max_minutes: 0 is less than or equal to the minimum of 0"),
        ({"validation_split": 0}, "validation_split: 0 is less than or equal to the minimum of 0"),
        ({"trial": 8}, "trial: unknown parameter; did you mean trials?"),
        ({"space": [1]}, "space: [1] is not of type 'object', 'null'"),
    ],
)
def test_a_sweep_out_of_bounds_is_refused_with_the_words_of_the_form(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        SweepConfig(**values)
    assert str(error.value) == words


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_begins_with_its_first_recipe_as_it_is(preset: str) -> None:
    space, trials = check_sweep(SweepConfig(preset=preset))

    assert trials == PRESETS[preset].trials
    first = first_try(space)
    recipe = first["recipe"]
    usual = RunConfig.from_parameters({"recipe": recipe}).training
    assert RunConfig.from_parameters(run_parameters(first)).training == usual
    for name, value in first.items():
        assert distributions(space)[name]._contains(distributions(space)[name].to_internal_repr(value))


def test_what_a_space_of_ones_own_does_not_hold_is_left_to_the_search() -> None:
    assert first_try({"learning_rate": {"min": 0.01, "max": 0.1}, "epochs": [1, 5]}) == {"epochs": 5}
    assert check_sweep(SweepConfig(space={"epochs": [1]}, trials=3)) == ({"epochs": [1]}, 3)


def test_a_convolutional_trial_has_no_hidden_layer_and_numbers_are_short() -> None:
    asked = {"recipe": "cnn", "hidden_units": 256, "learning_rate": 0.0012345678}

    assert run_parameters(asked) == {"recipe": "cnn", "learning_rate": 0.001235}
    assert run_parameters({"hidden_units": 256}) == {"hidden_units": 256}
    assert run_parameters({"architecture": "cnn-2", "hidden_units": 256}) == {"architecture": "cnn-2"}
