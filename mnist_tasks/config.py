"""What a user can set for one run: data and its checks, recipe and details, the gate's policy; and for a rollback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, model_validator

from mnist_tasks.gate_config import GateConfig
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.parameters import Parameters, check, one_of


class DataConfig(Parameters):
    """Where the digits come from."""

    source: Annotated[str, Field(min_length=1)] = Field(
        "builtin",
        title="Data source",
        description="`builtin` (MNIST as shipped with the project), `keras` (downloaded and cached by Keras), or the "
        "path or URL (`https`, `s3`, `gs`) of an `.npz` file, of a folder with MNIST's IDX files or of a folder of "
        "pictures `0/` to `9/`, as the worker sees it. Without a test set of its own, MNIST's is used.",
    )
    inbox: Annotated[str | None, WithJsonSchema({"type": ["string", "null"], "minLength": 1})] = Field(
        None,
        title="Inbox",
        description="Folder with labelled batches to add to the source. If empty: `inbox` in `MNIST_HOME`, if there is "
        "one; `none` for none.",
    )


class DataRules(Parameters):
    """What is asked of the data; all shares are fractions of the images in question."""

    on_bad_batch: Annotated[str, one_of("quarantine", "fail")] = Field(
        "quarantine",
        title="On a bad batch",
        description="`quarantine`: it is left out, named with its reason, and looked at again the next night; `fail`: "
        "the run fails. A bad source always fails the run.",
    )
    max_wrong_labels: float = Field(
        0.02,
        ge=0,
        le=1,
        title="Allowed wrong labels",
        description="Share of a batch's labels that all nearest images of the source contradict.",
    )
    max_source_wrong_labels: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed wrong labels of a source",
        description="Share of a source's labels that all nearest images of MNIST contradict; other handwriting has up "
        "to 0.05.",
    )
    max_test_share: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed share of the test set",
        description="Share of the test images that all batches together may bring; a batch beyond it is left out.",
    )
    max_duplicates: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Allowed duplicates",
        description="Share of images that are there more than once, with the same label.",
    )
    min_digit_share: float = Field(
        0.02,
        ge=0,
        le=0.1,
        title="Minimum share of a digit",
        description="Share of the training and of the test images that each digit must have, a batch included.",
    )
    max_label_drift: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed drift of the labels",
        description="L-infinity distance between the digits' shares of the training images, a batch included, and of "
        "those that the champion was trained on; so for the test images.",
    )
    max_pixel_drift: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Allowed drift of the pixels",
        description="Jensen-Shannon divergence, in bits, between the histogram of the pixels, of training and of test "
        "images, and that of the training images of the champion.",
    )


class TrainConfig(Parameters):
    """All that decides how a model is trained. The defaults are the recipe `classic`."""

    architecture: Annotated[str, one_of("mlp", "cnn-2", "cnn-4", "cnn-5")] = Field(
        "mlp",
        title="Architecture",
        description="`mlp`: one hidden layer with dropout; `cnn-2`, `cnn-4`, `cnn-5`: that many convolutions.",
    )
    hidden_units: int = Field(
        128, ge=1, le=8192, title="Hidden units", description="Width of the hidden layer of `mlp`."
    )
    activation: Annotated[str, one_of("relu", "gelu", "silu", "elu", "selu", "tanh", "sigmoid")] = Field(
        "relu", title="Activation", description="Activation of the hidden layers."
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, title="Dropout", description="Share of the last hidden values dropped at each training step."
    )
    optimizer: Annotated[str, one_of("adam", "adamw", "nadam", "rmsprop", "sgd")] = Field(
        "adam", title="Optimizer", description="A Keras optimizer; all but the learning rate as Keras sets it."
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        lt=1,
        title="Adam's beta 2",
        description="How slowly `adam`, `adamw` and `nadam` forget earlier gradients' size; lower for short training.",
    )
    learning_rate: float = Field(
        0.001, gt=0, le=10, title="Learning rate", description="With the schedule `one_cycle` its highest value."
    )
    schedule: Annotated[str, one_of("constant", "one_cycle")] = Field(
        "constant",
        title="Learning rate schedule",
        description="`one_cycle`: rises for a fifth of the steps, then falls to zero along a cosine.",
    )
    label_smoothing: float = Field(
        0, ge=0, lt=1, title="Label smoothing", description="Share of each label spread evenly over all digits."
    )
    epochs: int = Field(5, ge=1, le=1000, title="Epochs", description="Passes over the training set.")
    batch_size: int = Field(
        32, ge=1, le=60000, title="Batch size", description="Images a step; at most the size of the training set."
    )
    shift: int = Field(
        0, ge=0, le=8, title="Random shift", description="Augmentation: pixels that a training image is moved at most."
    )
    precision: Annotated[str, one_of("auto", "float32", "mixed_bfloat16")] = Field(
        "float32",
        title="Precision",
        description="What the layers compute in while they are trained; `auto`: bfloat16 where the device multiplies "
        "in it, float32 elsewhere. The published model is float32.",
    )
    validation_split: float = Field(
        0,
        ge=0,
        le=0.5,
        title="Validation split",
        description="Share of the training images, drawn by the seed, to measure after each epoch and not train on.",
    )
    patience: int = Field(
        0,
        ge=0,
        le=1000,
        title="Patience",
        description="Early stopping: epochs without a lower validation loss until training ends with the weights of "
        "the best epoch; 0 for never. Needs a validation split.",
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="Of the weights, the order of the images, dropout, shifts and the validation split.",
    )
    device: Annotated[str, one_of("auto", "cpu", "gpu")] = Field(
        "auto", title="Device", description="`auto`: a GPU if TensorFlow sees one; `gpu`: fails without one."
    )
    strategy: Annotated[str, one_of("single", "mirrored")] = Field(
        "single",
        title="Distribution strategy",
        description="`mirrored`: all GPUs of the machine; each batch is split evenly over them.",
    )
    image_memory: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        title="Memory for images",
        description="MB that the training images may take on the device, or in the process on a CPU. More are read in "
        "pieces while the model is trained; the weights are the same, bit for bit.",
    )
    tensorboard: bool = Field(
        False, title="TensorBoard", description="Write event files to `tensorboard/` in the run's folder."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        changed = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if "hidden_units" in changed and self.architecture != "mlp":
            raise InputError(
                f"hidden_units: {self.hidden_units}: the architecture {self.architecture} has no such layer; "
                "leave it out"
            )
        if "beta_2" in changed and self.optimizer not in ("adam", "adamw", "nadam"):
            raise InputError(f"beta_2: {self.beta_2}: the optimizer {self.optimizer} has none; leave it out")
        if self.patience and not self.validation_split:
            raise InputError(
                f"patience: {self.patience}: early stopping needs a validation split; set validation_split, such as 0.1"
            )
        return self


_CNN = {
    "batch_size": 128,
    "beta_2": 0.98,
    "learning_rate": 0.01,
    "schedule": "one_cycle",
    "label_smoothing": 0.1,
    "dropout": 0,
    "precision": "auto",
}

# Named recipes: what each is for, and what it sets otherwise than `classic`. A new one is a new entry here.
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "classic": ("one hidden layer, as in every tutorial", {}),
    "classic-fast": (
        "the same network in half the time",
        {"batch_size": 256, "learning_rate": 0.008, "schedule": "one_cycle"},
    ),
    "cnn-fast": ("99.0 %", {**_CNN, "architecture": "cnn-2", "epochs": 2}),
    "cnn": ("99.4 %", {**_CNN, "architecture": "cnn-4", "epochs": 3, "shift": 1}),
    "cnn-best": ("99.6 %", {**_CNN, "architecture": "cnn-5", "epochs": 6, "shift": 1}),
}


class RecipeName(Parameters):
    """Which recipe the other training parameters start from."""

    recipe: Annotated[str, one_of(*RECIPES)] = Field(
        "classic",
        title="Recipe",
        description="What the other training parameters are if they are left empty: "
        + ", ".join(f"`{name}` ({text})" for name, (text, _) in RECIPES.items())
        + ".",
    )


class UnchangedConfig(Parameters):
    """What to do when training could only make the champion again."""

    when_unchanged: Annotated[
        str | None,
        WithJsonSchema(
            {
                "type": ["string", "null"],
                "enum": ["skip", "retrain", None],
                "values_display": {"null": "skip, unless triggered by hand"},
            }
        ),
    ] = Field(
        None,
        title="When nothing has changed",
        description="Since the champion was trained: `skip` ends the run at once, `retrain` goes on. If empty: `skip` "
        "for the schedule and the inbox, `retrain` if triggered by hand.",
    )

    def skips(self, run_type: str) -> bool:
        """Whether a run that Airflow has started for this reason ends where nothing has changed."""
        by_itself = run_type in ("scheduled", "asset_triggered")
        return (self.when_unchanged or ("skip" if by_itself else "retrain")) == "skip"


@dataclass(frozen=True)
class RunConfig:
    """All that the trigger form asks for, checked."""

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
        sections = form()
        check({name: schema for section in sections.values() for name, schema in section.items()}, parameters)

        def given(names: Mapping[str, Any]) -> dict[str, Any]:
            return {name: parameters[name] for name in names if parameters.get(name) is not None}

        recipe = RECIPES[RecipeName(**given(RecipeName.model_fields)).recipe][1]
        return cls(
            DataConfig(**given(DataConfig.model_fields)),
            DataRules(**given(DataRules.model_fields)),
            TrainConfig(**{**recipe, **given(TrainConfig.model_fields)}),
            GateConfig(**given(GateConfig.model_fields)),
            UnchangedConfig(**given(UnchangedConfig.model_fields)),
        )


class RollbackConfig(Parameters):
    """What a rollback needs to know."""

    version: Annotated[int | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})] = Field(
        None, title="Version", description="The version to go back to. If empty: the one before the champion."
    )
    reason: str = Field(
        min_length=1,
        max_length=500,
        title="Reason",
        description="Who goes back and why; for the history and the model card.",
    )

    @classmethod
    def form(cls) -> dict[str, dict[str, dict[str, Any]]]:
        """As `form`, for a rollback."""
        return {"Rollback": _properties(cls)}


def form() -> dict[str, dict[str, dict[str, Any]]]:
    """The JSON schema of each parameter, by section of the trigger form and by name.

    A parameter of the training is empty (null) by default: then it is as the recipe has it.
    """
    fields = {name: _as_in_the_recipe(name, schema) for name, schema in _properties(TrainConfig).items()}
    model = {name: fields.pop(name) for name in ("architecture", "hidden_units", "activation", "dropout")}
    return {
        "Data": _properties(DataConfig),
        "Checks of the data": _properties(DataRules),
        "Model": _properties(RecipeName) | model,
        "Training": _properties(UnchangedConfig) | fields,
        "Gate": _properties(GateConfig),
    }


def _properties(group: type[Parameters]) -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = group.model_json_schema()["properties"]
    return properties


def _as_in_the_recipe(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    values = {recipe: fields.get(name, schema["default"]) for recipe, (_, fields) in RECIPES.items()}
    if len(set(values.values())) == 1:
        usual = f"`{schema['default']}`"
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
