"""What a user can set for one run: the data and its checks, and the training; and what a rollback needs.

`run_parameters` puts them together, with the bounds of the gate in `gate_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, model_validator

from mnist_tasks.recipes import RECIPES
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.parameters import Parameters, one_of

WITH_BETA_2 = ("adam", "adamw", "nadam")  # optimizers


class DataConfig(Parameters):
    """Where the digits come from."""

    source: Annotated[str, Field(min_length=1)] = Field(
        "builtin",
        title="Data source",
        description="`builtin` (MNIST as shipped with the project), `keras` (downloaded and cached by Keras), or the "
        "path or URL (`https`, `s3://conn_id@bucket/...`, `gs`) of an `.npz` file, of a CSV, ARFF or parquet table, of "
        "a folder with MNIST's IDX files or of a folder of pictures `0/` to `9/`, as the worker sees it. Without a "
        "test set of its own, MNIST's is used.",
    )
    inbox: Annotated[str | None, WithJsonSchema({"type": ["string", "null"], "minLength": 1})] = Field(
        None,
        title="Inbox",
        description="Folder with labelled batches to add to the source, or the URL of one (`s3://conn_id@bucket/...`, "
        "`gs`). If empty: `inbox` in `MNIST_HOME`, if there is one; `none` for none.",
    )


class DataRules(Parameters):
    """The rules for data. All shares are fractions of the images in question."""

    on_bad_batch: Annotated[str, one_of("quarantine", "fail")] = Field(
        "quarantine",
        title="On a bad batch",
        description="`quarantine`: the batch is left out, named with its reason, and checked again the next night; "
        "`fail`: the run fails. A bad source always fails the run.",
    )
    max_wrong_labels: float = Field(
        0.02,
        ge=0,
        le=1,
        title="Allowed wrong labels",
        description="Share of a batch's labels that may be contradicted by all nearest images of the source. Small "
        "batches of one origin are judged together as well. Of a source, by its own nearest images.",
    )
    max_source_wrong_labels: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed wrong labels of a source",
        description="Share of a source's labels that may be contradicted by all nearest images of MNIST. Other "
        "handwriting has up to 0.05.",
    )
    max_test_share: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed share of the test set",
        description="Share of the test images that all batches together may bring. A batch beyond it is left out.",
    )
    max_duplicates: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Allowed duplicates",
        description="Share of images that may occur more than once, with the same label.",
    )
    min_digit_share: float = Field(
        0.02,
        ge=0,
        le=0.1,
        title="Minimum share of a digit",
        description="Share of the training images, and of the test images, that each digit must have.",
    )
    max_label_drift: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed drift of the labels",
        description="L-infinity distance between the digits' shares of the training images and those of the champion's "
        "training images. The same for the test images.",
    )
    max_batch_drift: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Allowed drift of a batch's labels",
        description="How far a digit's share of a batch may lie beyond its share of the champion's training images. "
        "Raise it to 1 for batches of a single digit.",
    )
    max_pixel_drift: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Allowed drift of the pixels",
        description="Jensen-Shannon divergence, in bits, between the histogram of the pixels and that of the "
        "champion's training images. It holds for training and for test images.",
    )


class TrainConfig(Parameters):
    """Everything that decides how a model is trained. The defaults are the recipe `classic`."""

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
        0.2,
        ge=0,
        lt=1,
        title="Dropout",
        description="Share of the last hidden values that are dropped at each training step.",
    )
    optimizer: Annotated[str, one_of("adam", "adamw", "nadam", "rmsprop", "sgd")] = Field(
        "adam", title="Optimizer", description="A Keras optimizer, with Keras' defaults but for the learning rate."
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        lt=1,
        title="Adam's beta 2",
        description="How slowly `adam`, `adamw` and `nadam` forget earlier gradients' size; lower for short training.",
    )
    learning_rate: float = Field(
        0.001,
        gt=0,
        le=10,
        title="Learning rate",
        description="With the schedule `one_cycle`, the highest learning rate.",
    )
    schedule: Annotated[str, one_of("constant", "one_cycle")] = Field(
        "constant",
        title="Learning rate schedule",
        description="`one_cycle`: rises for a fifth of the steps, then falls to zero along a cosine.",
    )
    label_smoothing: float = Field(
        0, ge=0, lt=1, title="Label smoothing", description="Share of each label that is spread evenly over all digits."
    )
    epochs: int = Field(5, ge=1, le=1000, title="Epochs", description="Passes over the training set.")
    batch_size: int = Field(
        32, ge=1, le=60000, title="Batch size", description="Images in a step; at most the size of the training set."
    )
    shift: int = Field(
        0,
        ge=0,
        le=8,
        title="Random shift",
        description="Augmentation: by how many pixels a training image is moved at most.",
    )
    precision: Annotated[str, one_of("auto", "float32", "mixed_bfloat16")] = Field(
        "float32",
        title="Precision",
        description="What the layers compute in while they are trained. `auto`: bfloat16 where the device multiplies "
        "in it, float32 elsewhere. The published model is float32.",
    )
    validation_split: float = Field(
        0,
        ge=0,
        le=0.5,
        title="Validation split",
        description="Share of the training images, drawn by the seed, that are not trained on but measured after each "
        "epoch.",
    )
    patience: int = Field(
        0,
        ge=0,
        le=1000,
        title="Patience",
        description="Early stopping: after how many epochs without a lower validation loss training ends, with the "
        "weights of the best epoch. 0 for never. Needs a validation split.",
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**32 - 1,
        title="Seed",
        description="For the weights, the order of the images, dropout, shifts and the validation split.",
    )
    device: Annotated[str, one_of("auto", "cpu", "gpu")] = Field(
        "auto", title="Device", description="`auto`: a GPU if TensorFlow sees one; `gpu`: the run fails without one."
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
        description="MB that the training images may take on the device, or in the process on a CPU. If they need "
        "more, they are streamed while the model is trained. The weights are the same, bit for bit.",
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
        if "beta_2" in changed and self.optimizer not in WITH_BETA_2:
            raise InputError(f"beta_2: {self.beta_2}: the optimizer {self.optimizer} has none; leave it out")
        if self.patience and not self.validation_split:
            raise InputError(
                f"patience: {self.patience}: early stopping needs a validation split; set validation_split, such as 0.1"
            )
        return self


class RecipeName(Parameters):
    """Which recipe the other training parameters start from."""

    recipe: Annotated[str, one_of(*RECIPES)] = Field(
        "classic",
        title="Recipe",
        description="The values of all training parameters that are left empty: "
        + ", ".join(f"`{name}` ({recipe.purpose})" for name, recipe in RECIPES.items())
        + ".",
    )


# Where a training ran, not what it did; and a precision that is chosen for the device.
NOT_OF_A_RECIPE = {"device", "strategy", "image_memory", "tensorboard", "precision"}


def recipe_of(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The recipe that training parameters are closest to, and those of them that differ from it.

    Args:
        config: parameters by name, as `metadata.json` has them, also of an earlier release.
    """
    defaults = {name: field.default for name, field in TrainConfig.model_fields.items()}
    own = {name: value for name, value in config.items() if name in defaults and name not in NOT_OF_A_RECIPE}
    different = {
        name: {key: value for key, value in own.items() if value != {**defaults, **recipe.parameters}[key]}
        for name, recipe in RECIPES.items()
    }
    closest = min(different, key=lambda name: len(different[name]))
    return closest, different[closest]


class UnchangedConfig(Parameters):
    """What to do when training could only give the champion again."""

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
        description="If nothing has changed since the champion was trained, `skip` ends the run at once and `retrain` "
        "trains. If empty: `skip` for the schedule and the inbox, `retrain` if triggered by hand.",
    )

    def skips(self, run_type: str) -> bool:
        """Whether a run that Airflow has started for this reason ends where nothing has changed."""
        by_itself = run_type in ("scheduled", "asset_triggered")
        return (self.when_unchanged or ("skip" if by_itself else "retrain")) == "skip"


class CleanConfig(Parameters):
    """The parameters of a clean-up."""

    dry_run: bool = Field(False, title="Dry run", description="Only say what would be removed.")


class SweepConfig(Parameters):
    """What a sweep searches, how good is measured, and when it ends."""

    preset: Annotated[str, one_of("quick", "cnn")] = Field(
        "quick",
        title="Preset",
        description="What is tried if the space is empty. `quick`: 8 trials of the network with one hidden layer; "
        "`cnn`: 12 of the convolutional ones.",
    )
    space: Annotated[dict[str, Any] | None, WithJsonSchema({"type": ["object", "null"]})] = Field(
        None,
        title="Space",
        description="Training parameters to try, as JSON: for each a list of values, or its least and greatest value. "
        'Such as {"recipe": ["classic", "cnn"], "learning_rate": {"min": 0.0005, "max": 0.01, "log": true}}.',
    )
    trials: Annotated[int | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1, "maximum": 1000})] = Field(
        None, title="Trials", description="How many at most. If empty: as the preset has it."
    )
    max_minutes: Annotated[
        float | None, WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 20160})
    ] = Field(
        None,
        title="Time limit",
        description="Minutes after which no trial begins, and those that run end with their epoch. If empty: none.",
    )
    objective: Annotated[str, one_of("accuracy", "loss")] = Field(
        "accuracy", title="Objective", description="What is best, measured on the validation images."
    )
    max_training_seconds: Annotated[
        float | None, WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0})
    ] = Field(
        None,
        title="Allowed training time",
        description="Seconds that a training may take to win, as measured on the worker. If empty: any.",
    )
    max_weights: Annotated[int | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})] = Field(
        None, title="Allowed weights", description="How many weights the network may have to win. If empty: any."
    )
    finalists: int = Field(
        2,
        ge=0,
        le=10,
        title="Finalists",
        description="How many of the best trials are trained again with other seeds, so that luck does not win.",
    )
    seeds: int = Field(
        3, ge=1, le=10, title="Seeds", description="With how many seeds a finalist is trained, its trial included."
    )
    validation_split: float = Field(
        0.1,
        gt=0,
        le=0.5,
        title="Validation split",
        description="Share of the training images that is measured and not trained on, the same for all trials. Test "
        "images are never read.",
    )
    seed: int = Field(
        42, ge=0, le=2**32 - 1, title="Seed", description="For the validation split, the search and the trainings."
    )


class RollbackConfig(Parameters):
    """The parameters of a rollback."""

    version: Annotated[int | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})] = Field(
        None, title="Version", description="The version to go back to. If empty: the one before the champion."
    )
    reason: str = Field(
        min_length=1,
        max_length=500,
        title="Reason",
        description="Who goes back to it, and why; for the history and the model card.",
    )
