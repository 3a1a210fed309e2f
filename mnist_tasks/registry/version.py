"""One published version of the model: its files and what its documents say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mnist_tasks.documents import DecisionRecord, Evaluation, EvaluationFigures, JsonFile, Metadata, ModelFigures
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import explained_read_errors, is_conclusive, sha256
from mnist_tasks.system.suggestions import CLI

D = TypeVar("D", bound=JsonFile)

MODEL, SAVED_MODEL, GOLDEN = "model.keras", "saved_model", "golden.npz"
METADATA, EVALUATION, DECISION, CARD = "metadata.json", "evaluation.json", "decision.json", "model_card.md"
MISTAKES = "mistakes.json"

PRUNED, RETIRED = "pruned", "retired"  # folders beside the versions
DAMAGED = ".damaged-"  # before the name of what was moved aside

REPAIR = f"{CLI} models repair"
ROLLBACK = f"{CLI} models rollback --reason '...'"
RESTORE = f"restore it from a backup, or run {REPAIR}"
WAY_OUT = f"; {RESTORE}"


@dataclass(frozen=True)
class Version:
    """One published model: a positive number and its folder."""

    number: int
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def retired(self) -> bool:
        """Whether it was set aside when a champion was retired: TF Serving does not see it."""
        return self.folder.parent.name == RETIRED

    def metadata(self) -> Metadata:
        """What `metadata.json` says: run, configuration, dataset, digests of files and weights, library versions.

        Raises:
            ModelError: if it is missing or damaged.
        """
        return self._document(Metadata, METADATA)

    def evaluation(self) -> Evaluation:
        """What `evaluation.json` says; raises a `ModelError` if it is missing or damaged."""
        return self._document(Evaluation, EVALUATION)

    def figures(self) -> ModelFigures:
        """The candidate's accuracy and loss, for a list of versions; raises as `evaluation` if they cannot be read."""
        return self._document(EvaluationFigures, EVALUATION).candidate

    def decision(self) -> DecisionRecord:
        """What `decision.json` says; raises a `ModelError` if it is missing or damaged."""
        return self._document(DecisionRecord, DECISION)

    def _document(self, kind: type[D], name: str) -> D:
        try:
            return kind.read(self.folder / name, RESTORE)
        except ModelError as error:
            raise ModelError(f"version {self.number} is damaged: {error}") from error.__cause__

    def card(self) -> str:
        """The model card, Markdown; raises a `ModelError` if it is missing or damaged."""
        path = self.folder / CARD
        try:
            with explained_read_errors(path):
                return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            if not is_conclusive(error):
                raise
            raise ModelError(f"version {self.number} is damaged: {path} cannot be read: {error}{WAY_OUT}") from error

    def changed(self, name: str, digest: str) -> str | None:
        """What is wrong with one of its files if it is not the one that was published with this digest."""
        path = self.folder / name
        try:
            actual = sha256(path)
        except OSError as error:
            if not is_conclusive(error):
                raise
            return f"version {self.number} is damaged: {path} cannot be read: {error.strerror}"
        if actual == digest:
            return None
        return f"version {self.number} is damaged: {path} has SHA-256 {actual}, but {digest} was published"


def version_name(number: int | None) -> str:
    """A version's number in a message; `none` for no version."""
    return "none" if number is None else f"version {number}"
