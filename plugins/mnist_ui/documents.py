"""The parts of a candidate's JSON files that the pages show, and what each must look like to be shown.

What a file of an older release does not have has a default; what is there and is of another kind makes the file
damaged, so that no page has to expect a text where a number belongs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat

Share = Annotated[float, Field(ge=0, le=1)]


class Document(BaseModel):
    """A JSON object; keys that no page shows may be anything."""

    model_config = ConfigDict(frozen=True)


class Digit(Document):
    """How well one digit is recognized."""

    support: int | None = None
    precision: Share | None = None
    recall: Share | None = None
    f1: Share | None = None


class OnMnist(Document):
    """A model on MNIST's own test set; the accuracy is missing if an older release, or nothing, was measured."""

    accuracy: Share | None = None
    is_test_set: bool = True


class Metrics(Document):
    """One model on the test images; all is missing if it could not be measured."""

    version: int | None = None
    accuracy: Share | None = None
    accuracy_95: tuple[Share, Share] | None = None
    loss: FiniteFloat | None = None
    digits: list[Digit] = []
    confusion: list[list[int]] = []
    mnist: OnMnist = OnMnist()


class Mistake(Document):
    """A test image that was taken for another digit."""

    index: int
    label: int
    predicted: int
    probability: Share


class Evaluation(Document):
    """`evaluation.json`; `mistakes` is None if an older release wrote it."""

    source: str | None = None
    test_images: int | None = None
    mistakes: list[Mistake] | None = None
    candidate: Metrics
    champion: Metrics | None = None


class Check(Document):
    """One rule of the gate and how the candidate stood against it."""

    rule: str = Field("", validation_alias=AliasChoices("rule", "name"))
    metric: str = ""
    slice: str = "overall"
    value: float | None = None
    bound: float | None = None
    baseline: float | None = None
    verdict: str = ""
    message: str = ""


class Batch(Document):
    """What became of one batch of the inbox."""

    name: str
    verdict: str = ""
    reason: str = ""
    train_images: int = 0
    test_images: int = 0
    picture: str | None = None
    checks: list[Check] = []


class Data(Document):
    """`data/validation.json`: what the task load has checked."""

    source: str = ""
    checks: list[Check] = []
    batches: list[Batch] = []


class Decision(Document):
    """`decision.json`."""

    promoted: bool = False
    outcome: str | None = None
    forced: bool = False
    reason: str = ""
    version: int | None = None
    champion_version: int | None = None
    rejected_in: str | None = None
    not_published: str | None = None
    checks: list[Check] = []
    policy: dict[str, Any] = {}

    @property
    def verdict(self) -> str:
        """What the gate has said, which publishes nothing by itself: approved, unchanged, rejected or refused."""
        if self.promoted or self.outcome in ("promoted", "approved"):  # an older release called an approval so
            return "approved"
        return self.outcome or "rejected"

    @property
    def min_accuracy(self) -> float | None:
        """The lowest accuracy that the gate would have let pass."""
        value = self.policy.get("min_accuracy")
        return float(value) if isinstance(value, float | int) and 0 <= value <= 1 else None


class Training(Document):
    """`training.json` of a run, or `metadata.json` of a version: the same, and who published it when."""

    dataset: str | None = None
    config: dict[str, Any] = {}
    device: str | None = None
    seconds: float | None = None
    git_commit: str | None = None
    library_versions: dict[str, str] = {}
    run_id: str | None = None
    published: str | None = None
    forced: bool = False
    restores: int | None = None


class Epoch(Document):
    """One epoch of `history.json`."""

    number: int
    metrics: dict[str, float] = {}
    seconds: float | None = None
