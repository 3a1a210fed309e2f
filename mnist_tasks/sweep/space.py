"""The space of a sweep: which training parameters are tried, and which values of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_tasks.config import NOT_OF_A_RECIPE, TrainConfig
from mnist_tasks.recipes import RECIPES
from mnist_tasks.run_parameters import RunConfig, run_form
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.parameters import check

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = Mapping[str, Any]

# What a person may search. Where and how a training runs is the machine's; the sweep sets seed, split and stopping.
_FORM = {name: schema for fields in run_form().values() for name, schema in fields.items()}
SEARCHABLE = {
    name: _FORM[name]
    for name in ("recipe", *TrainConfig.model_fields)
    if name in _FORM and name not in {*NOT_OF_A_RECIPE, "validation_split", "patience", "seed"}
}


@dataclass(frozen=True)
class Preset:
    """A space that is ready to be searched, and how many trials it needs."""

    trials: int
    space: Space


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        8,
        {
            "recipe": ["classic", "classic-fast"],
            "hidden_units": [128, 256, 512],
            "learning_rate": {"min": 0.0005, "max": 0.01, "log": True},
            "batch_size": [32, 64, 128, 256],
            "dropout": {"min": 0.1, "max": 0.4},
            "epochs": {"min": 4, "max": 8},
        },
    ),
    "cnn": Preset(
        12,
        {
            "recipe": ["cnn-fast", "cnn", "cnn-best"],
            "learning_rate": {"min": 0.003, "max": 0.03, "log": True},
            "batch_size": [64, 128, 256],
            "dropout": {"min": 0, "max": 0.4},
            "epochs": {"min": 2, "max": 6},
            "shift": [0, 1, 2],
            "label_smoothing": {"min": 0, "max": 0.2},
        },
    ),
}


def check_space(space: Space) -> None:
    """Refuse a space that cannot be searched.

    Raises:
        InputError: naming each parameter that is unknown or has a value out of bounds, or bounds the wrong way round.
    """
    if not space:
        raise InputError('space: it has no parameter; name one, such as {"learning_rate": {"min": 0.001, "max": 0.01}}')
    for name, tried in space.items():
        try:
            _check(name, tried)
        except InputError as error:
            raise InputError(f"space: {error}") from None


def _check(name: str, tried: Any) -> None:
    if name not in SEARCHABLE:
        check(SEARCHABLE, {name: None})
    if isinstance(tried, list):
        if not tried:
            raise InputError(f"{name}: the list is empty; name at least one value")
        values = tried
    elif isinstance(tried, dict) and {"min", "max"} <= set(tried) <= {"min", "max", "log"}:
        values = [tried["min"], tried["max"]]
    else:
        raise InputError(f'{name}: {tried!r} is neither a list of values nor {{"min": ..., "max": ...}}')
    for value in values:
        if value is None:
            raise InputError(f"{name}: null is not a value to try")
        check(SEARCHABLE, {name: value})
    if isinstance(tried, list):
        return
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise InputError(f"{name}: only numbers have a least and a greatest value; give a list")
    low, high = values
    if low > high:
        raise InputError(f"{name}: min {low} is greater than max {high}")
    if tried.get("log") and low <= 0:
        raise InputError(f"{name}: min {low}: with log, the least value must be greater than 0")


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna takes it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, tried in space.items():
        if isinstance(tried, list):
            found[name] = CategoricalDistribution(tried)
        elif "integer" in SEARCHABLE[name]["type"]:
            found[name] = IntDistribution(tried["min"], tried["max"], log=bool(tried.get("log")))
        else:
            found[name] = FloatDistribution(tried["min"], tried["max"], log=bool(tried.get("log")))
    return found


def first_try(space: Space) -> dict[str, Any]:
    """What the first trial is: the first recipe as it is, as far as the space holds its values."""
    recipe = _first_recipe(space)
    usual = RunConfig.from_parameters({"recipe": recipe}).training.model_dump() | {"recipe": recipe}

    def holds(name: str, tried: Any) -> bool:
        value = usual[name]
        return value in tried if isinstance(tried, list) else tried["min"] <= value <= tried["max"]

    return {name: usual[name] for name, tried in space.items() if holds(name, tried)}


def _first_recipe(space: Space) -> str:
    recipes = space.get("recipe")
    return str(recipes[0]) if recipes else next(iter(RECIPES))


def run_parameters(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run of mnist_training, from what Optuna says.

    Numbers are rounded to four digits. What the network does not have is left out.
    """
    parameters = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in chosen.items()}
    architecture = (
        parameters.get("architecture")
        or RunConfig.from_parameters({"recipe": parameters.get("recipe", next(iter(RECIPES)))}).training.architecture
    )
    if architecture != "mlp":
        parameters.pop("hidden_units", None)
    return parameters
