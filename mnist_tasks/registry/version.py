"""One published version of the model: its files and what its documents say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import explained_read_errors, is_conclusive, sha256

MODEL, SAVED_MODEL, GOLDEN = "model.keras", "saved_model", "golden.npz"
METADATA, EVALUATION, DECISION, CARD = "metadata.json", "evaluation.json", "decision.json", "model_card.md"

PRUNED, RETIRED = "pruned", "retired"  # folders beside the versions

REPAIR = "python -m mnist_tasks models repair"
WAY_OUT = f"; restore it from a backup, or run {REPAIR}"


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
        """Whether it was set aside with a champion that was retired: TF Serving does not see it."""
        return self.folder.parent.name == RETIRED

    def metadata(self) -> dict[str, Any]:
        """What `metadata.json` says: run, configuration, dataset, digests of files and weights, library versions.

        Raises:
            ModelError: if it cannot be read.
        """
        return self._document(METADATA)

    def evaluation(self) -> dict[str, Any]:
        """What `evaluation.json` says; raises a `ModelError` if it cannot be read."""
        return self._document(EVALUATION)

    def decision(self) -> dict[str, Any]:
        """What `decision.json` says; raises a `ModelError` if it cannot be read."""
        return self._document(DECISION)

    def card(self) -> str:
        """The model card, Markdown; raises a `ModelError` if it cannot be read."""
        path = self.folder / CARD
        try:
            with explained_read_errors(path):
                return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            if not is_conclusive(error):
                raise
            raise ModelError(f"version {self.number} is damaged: {path} cannot be read: {error}{WAY_OUT}") from error

    def _document(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            with explained_read_errors(path):
                document = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(document, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            if not is_conclusive(error):
                raise
            raise ModelError(f"version {self.number} is damaged: {path} cannot be read: {error}{WAY_OUT}") from error
        return document

    def changed(self, name: str, digest: str) -> str | None:
        """What is wrong with one of its files if it is not the one that was published with this digest."""
        path = self.folder / name
        try:
            found = sha256(path)
        except OSError as error:
            if not is_conclusive(error):
                raise
            return f"version {self.number} is damaged: {path} cannot be read: {error.strerror}"
        if found == digest:
            return None
        return f"version {self.number} is damaged: {path} has SHA-256 {found}, but {digest} was published"


def version_name(number: int | None) -> str:
    return "none" if number is None else f"version {number}"
