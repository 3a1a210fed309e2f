"""All parameters of a run as one flat set: the trigger form's fields, and the configuration that they become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_tasks.config import (
    WITH_BETA_2,
    CleanConfig,
    DataConfig,
    DataRules,
    RecipeName,
    RollbackConfig,
    SweepConfig,
    TrainConfig,
    UnchangedConfig,
)
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.recipes import RECIPES
from mnist_tasks.system.parameters import Parameters, check

Schema = dict[str, Any]

GROUPS: tuple[type[Parameters], ...] = (DataConfig, DataRules, RecipeName, UnchangedConfig, TrainConfig, GateConfig)

# The sections of the trigger form: what people change most comes first.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Run": ("source", "recipe", "epochs", "min_accuracy", "when_unchanged"),
    "Inbox": ("inbox", "on_bad_batch"),
    "Model": ("architecture", "hidden_units", "activation", "dropout"),
    "Training": (
        "learning_rate",
        "schedule",
        "batch_size",
        "optimizer",
        "label_smoothing",
        "shift",
        "validation_split",
        "patience",
        "seed",
    ),
    "Machine": ("device", "strategy", "precision", "image_memory", "tensorboard"),
    "Gate": (
        "max_regression",
        "max_loss_increase",
        "min_digit_recall",
        "min_digit_precision",
        "on_rejection",
        "force",
        "force_reason",
    ),
    "Gate: beyond accuracy": (
        "max_label_issues",
        "max_training_loss_increase",
        "max_calibration_increase",
        "min_slice_accuracy",
        "max_slice_regression",
        "max_robustness_regression",
        "max_slide",
        "max_loss_slide",
        "reference",
        "reference_versions",
        "max_size_mb",
        "max_slowdown",
    ),
    "Gate: details": (
        "max_accuracy",
        "max_loss",
        "max_digit_regression",
        "max_champion_drop",
        "fixed_test_set",
        "min_support",
    ),
    "Checks of the data": (
        "max_wrong_labels",
        "max_source_wrong_labels",
        "max_test_share",
        "max_duplicates",
        "min_digit_share",
        "max_label_drift",
        "max_batch_drift",
        "max_pixel_drift",
    ),
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that the trigger form asks for, checked."""

    data: DataConfig
    rules: DataRules
    training: TrainConfig
    gate: GateConfig
    unchanged: UnchangedConfig

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> RunConfig:
        """The configuration for one flat set of parameters, as the form and the command line give it.

        Raises:
            InputError: naming each parameter that is unknown or out of bounds.
        """
        check({name: schema for section in run_form().values() for name, schema in section.items()}, parameters)

        def given(names: Mapping[str, Any]) -> dict[str, Any]:
            return {name: parameters[name] for name in names if parameters.get(name) is not None}

        recipe = dict(RECIPES[RecipeName(**given(RecipeName.model_fields)).recipe].parameters)
        if parameters.get("optimizer") not in (None, *WITH_BETA_2):
            recipe.pop("beta_2", None)
        return cls(
            DataConfig(**given(DataConfig.model_fields)),
            DataRules(**given(DataRules.model_fields)),
            TrainConfig(**{**recipe, **given(TrainConfig.model_fields)}),
            GateConfig(**given(GateConfig.model_fields)),
            UnchangedConfig(**given(UnchangedConfig.model_fields)),
        )


def run_form() -> dict[str, dict[str, Schema]]:
    """The JSON schema of each parameter of a run, by section of the trigger form and by name.

    A training parameter is empty (null) by default: then it is as the recipe has it.
    """
    schemas = {name: schema for group in GROUPS for name, schema in _schemas(group).items()}
    for name in TrainConfig.model_fields:
        schemas[name] = _optional(name, schemas[name])
    return {section: {name: schemas[name] for name in names} for section, names in SECTIONS.items()}


def sweep_form() -> dict[str, dict[str, Schema]]:
    """As `run_form`, for a sweep."""
    return {"Data": _schemas(DataConfig), "Sweep": _schemas(SweepConfig)}


def split_sweep(parameters: Mapping[str, Any]) -> tuple[DataConfig, SweepConfig]:
    """The two groups of a sweep's flat set of parameters, as the form and the command line give it."""
    given = {name: value for name, value in parameters.items() if value is not None}
    data = {name: given.pop(name) for name in DataConfig.model_fields if name in given}
    return DataConfig(**data), SweepConfig(**given)


def rollback_form() -> dict[str, dict[str, Schema]]:
    """As `run_form`, for a rollback."""
    return {"Rollback": _schemas(RollbackConfig)}


def clean_form() -> dict[str, dict[str, Schema]]:
    """As `run_form`, for a clean-up."""
    return {"Clean-up": _schemas(CleanConfig)}


def _schemas(group: type[Parameters]) -> dict[str, Schema]:
    properties: dict[str, Schema] = group.model_json_schema()["properties"]
    return properties


def _optional(name: str, schema: Schema) -> Schema:
    """The schema of a training parameter that may be empty; the description says what it is then."""
    values = {recipe: entry.parameters.get(name, schema["default"]) for recipe, entry in RECIPES.items()}
    if len(set(values.values())) == 1:
        usual = f"`{str(schema['default']).lower()}`"
    else:
        usual = ", ".join(f"{recipe} `{value}`" for recipe, value in values.items())
    optional = {
        **schema,
        "type": [schema["type"], "null"],
        "default": None,
        "description": f"{schema['description']} If empty: {usual}.",
    }
    if "enum" in schema:
        # values_display is Airflow's: what its form shows for a value.
        optional |= {"enum": [*schema["enum"], None], "values_display": {"null": "as in the recipe"}}
    return optional
