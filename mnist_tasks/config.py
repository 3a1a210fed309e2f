"""What a user can set for one run: the data source, the recipe and the gate's policy, as one flat set of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from mnist_tasks.gate import Policy
from mnist_tasks.settings import Settings, one_of

Group = TypeVar("Group", bound=Settings)


class DataConfig(Settings):
    """Where the digits come from."""

    source: Annotated[str, Field(min_length=1)] = Field(
        "builtin",
        title="Data source",
        description="`builtin` (MNIST as shipped with the project), `keras` (downloaded and cached by Keras), or the "
        "path of an `.npz` file or of a folder with the four IDX files, as the worker sees it.",
    )


class TrainConfig(Settings):
    """The recipe. The defaults are the classic one: Flatten, Dense 128 relu, Dropout 0.2, Dense 10 softmax; Adam."""

    architecture: Annotated[str, one_of("mlp")] = Field(
        "mlp", title="Architecture", description="`mlp`: one hidden layer with dropout."
    )
    hidden_units: int = Field(128, ge=1, le=8192, title="Hidden units", description="Width of the hidden layer.")
    activation: Annotated[str, one_of("relu", "gelu", "silu", "elu", "selu", "tanh", "sigmoid")] = Field(
        "relu", title="Activation", description="Activation of the hidden layer."
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, title="Dropout", description="Share of the hidden units dropped at each training step."
    )
    optimizer: Annotated[str, one_of("adam", "adamw", "nadam", "rmsprop", "sgd")] = Field(
        "adam", title="Optimizer", description="A Keras optimizer; all but the learning rate as Keras sets it."
    )
    learning_rate: float = Field(0.001, gt=0, le=10, title="Learning rate", description="Constant over the training.")
    loss: Annotated[str, one_of("sparse_categorical_crossentropy")] = Field(
        "sparse_categorical_crossentropy", title="Loss", description="Keras' loss for integer labels."
    )
    epochs: int = Field(5, ge=1, le=1000, title="Epochs", description="Passes over the training set.")
    batch_size: int = Field(
        32, ge=1, le=60000, title="Batch size", description="Images a step; at most the size of the training set."
    )
    seed: int = Field(
        42, ge=0, le=2**32 - 1, title="Seed", description="Of the weights, the order of the images and the dropout."
    )


class RunConfig(DataConfig, TrainConfig, Policy):
    """All that the trigger form asks for, as one flat set of parameters; `part` gives each function its own."""

    GROUPS: ClassVar[Mapping[str, type[Settings]]] = {"Data": DataConfig, "Training": TrainConfig, "Gate": Policy}

    def part(self, group: type[Group]) -> Group:
        """The settings of one of the groups."""
        return group(**self.model_dump(include=set(group.model_fields)))
