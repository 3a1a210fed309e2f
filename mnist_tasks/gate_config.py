"""What the gate asks of a candidate: each bound with its default, its limits and its words for the trigger form."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema, model_validator

from mnist_tasks.system.errors import InputError
from mnist_tasks.system.parameters import Parameters, one_of

CHAMPIONS_FOR_REFERENCE = 100


class GateConfig(Parameters):
    """What the gate asks of a candidate. Shares are fractions of the test images, in [0, 1]; losses are in nats."""

    min_accuracy: float = Field(
        0.97, ge=0, le=1, title="Minimum accuracy", description="A candidate below it is rejected."
    )
    max_accuracy: float = Field(
        0.9985,
        ge=0,
        le=1,
        title="Suspicious accuracy",
        description="A candidate above it is rejected: no single network is known to be that good, so test images have "
        "probably got into its training.",
    )
    max_loss: float = Field(
        0.3, ge=0, title="Maximum loss", description="Mean cross-entropy, in nats; a candidate above it is rejected."
    )
    min_digit_recall: float = Field(
        0.93,
        ge=0,
        le=1,
        title="Minimum recall of a digit",
        description="Share of each digit's images that must be recognized.",
    )
    min_digit_precision: float = Field(
        0.93,
        ge=0,
        le=1,
        title="Minimum precision of a digit",
        description="Share of the images taken for a digit that must be that digit.",
    )
    max_regression: float = Field(
        0.006,
        ge=0,
        le=1,
        title="Allowed regression",
        description="How far the candidate's accuracy may lie below the champion's, both measured in this run.",
    )
    max_digit_regression: float = Field(
        0.04,
        ge=0,
        le=1,
        title="Allowed regression of a digit",
        description="How far the candidate's recall of a digit may lie below the champion's.",
    )
    max_loss_increase: float = Field(
        0.016,
        ge=0,
        title="Allowed increase of the loss",
        description="How far the candidate's loss may lie above the champion's, in nats. Shows wrong labels long "
        "before the accuracy does. Skipped if the two were trained for different losses, as with label smoothing.",
    )
    max_label_issues: float = Field(
        0.003,
        ge=0,
        le=1,
        title="Allowed doubtful labels",
        description="Share of the training images that the candidate is sure to be another digit than their label "
        "says. It holds for the very first model as well.",
    )
    max_training_loss_increase: float = Field(
        0.02,
        ge=0,
        title="Allowed increase of the training loss",
        description="How far the candidate's loss on its training images may lie above the champion's on those that "
        "the champion was trained on, in nats. Shows labels that cannot be learnt. Skipped if the two were trained by "
        "different recipes.",
    )
    max_calibration_increase: float = Field(
        0.006,
        ge=0,
        le=1,
        title="Allowed increase of the calibration error",
        description="How far the candidate's expected calibration error may lie above the champion's. Skipped if the "
        "two were trained for different losses.",
    )
    min_slice_accuracy: float = Field(
        0.92,
        ge=0,
        le=1,
        title="Minimum accuracy on a slice",
        description="Share of the images of each slice that must be recognized, such as thin or slanted digits.",
    )
    max_slice_regression: float = Field(
        0.03,
        ge=0,
        le=1,
        title="Allowed regression of a slice",
        description="How far the candidate's accuracy on a slice may lie below the champion's.",
    )
    max_robustness_regression: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Allowed regression of the robustness",
        description="How far the candidate's accuracy may lie below the champion's on images that are moved, rotated, "
        "thinner, thicker, noisy or faint.",
    )
    max_slide: float = Field(
        0.008,
        ge=0,
        le=1,
        title="Allowed slide",
        description="How far the candidate's accuracy may lie below that of the reference, the best of the last "
        "champions. Stops a slide that is too slow to be seen night by night.",
    )
    max_loss_slide: float = Field(
        0.018,
        ge=0,
        title="Allowed slide of the loss",
        description="How far the candidate's loss may lie above the reference's, in nats. Skipped if the two were "
        "trained for different losses.",
    )
    reference: Annotated[int | None, WithJsonSchema({"type": ["integer", "null"], "minimum": 1})] = Field(
        None,
        title="Reference",
        description="The version that the candidate is measured against beside the champion. If empty: the best of "
        "the last champions since a person has last forced one.",
    )
    reference_versions: int = Field(
        CHAMPIONS_FOR_REFERENCE,
        ge=1,
        le=10_000,
        title="Champions for the reference",
        description="From how many of the last champions the best is taken.",
    )
    max_size_mb: Annotated[float | None, WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0})] = Field(
        None, title="Maximum size", description="MB that `model.keras` may have. If empty: any."
    )
    max_slowdown: Annotated[float | None, WithJsonSchema({"type": ["number", "null"], "exclusiveMinimum": 0})] = Field(
        None,
        title="Allowed slowdown",
        description="How many times the champion's time the candidate may take for a prediction, of one image and of "
        "1,000. If empty: any.",
    )
    max_champion_drop: float = Field(
        0.05,
        ge=0,
        le=1,
        title="Allowed drop of the champion",
        description="How far the champion's accuracy on tonight's test images may lie below its published one, beyond "
        "what chance explains. A larger drop stops the run: the test images have changed, not the candidate. Set it to "
        "1 for new test images that are meant to be much harder.",
    )
    fixed_test_set: bool = Field(
        True,
        title="MNIST's test set counts",
        description="The accuracy must keep its bounds on MNIST's own 10,000 test images as well, whatever the "
        "source and the inbox contain. Switch it off only for digits that are not meant to look like MNIST's.",
    )
    min_support: int = Field(
        100,
        ge=1,
        le=1_000_000,
        title="Minimum support",
        description="A digit, a slice or a kind of changed images with fewer test images is not judged on its own, "
        "because chance would decide.",
    )
    on_rejection: Annotated[str, one_of("skip", "fail")] = Field(
        "skip",
        title="On rejection",
        description="`skip`: the task promote is skipped and the run succeeds; `fail`: both fail.",
    )
    force: bool = Field(
        False,
        title="Force",
        description="Publish although quality checks failed. It never overrules an integrity check and needs a reason.",
    )
    # It may be null, because Airflow's form treats an empty text as a missing one.
    force_reason: Annotated[str | None, WithJsonSchema({"type": ["string", "null"], "maxLength": 500})] = Field(
        None,
        title="Reason to force",
        description="Who decided so, and why. It goes into the decision, the history and the model card.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> GateConfig:
        if self.min_accuracy > self.max_accuracy:
            raise InputError(
                f"min_accuracy: {self.min_accuracy} is above max_accuracy, {self.max_accuracy}, so no model could "
                "pass; lower the first or raise the second"
            )
        if self.force and not (self.force_reason or "").strip():
            raise InputError("force: a reason is needed; set force_reason to who decided so, and why")
        if self.force_reason and not self.force:
            raise InputError(f"force_reason: {self.force_reason!r} without force; set force=true, or leave it out")
        return self
