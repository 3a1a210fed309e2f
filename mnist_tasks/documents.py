"""What one task writes and another, a page or the command line reads: one pydantic model for each file.

The writer and every reader share the model. A file of an older release still reads: a field that it lacks has a
default. Fields that a newer release has added are kept, so that a version that is published again loses nothing. A file
that is damaged ends in one error, which names the file, the problem and the way out.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import explained_read_errors, is_conclusive, write_json


class Document(BaseModel):
    """Base of all documents: immutable, and read and written as JSON."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @classmethod
    def read(cls, path: Path, way_out: str) -> Self:
        """Read a document.

        Args:
            path: the JSON file.
            way_out: what to do if it is missing or damaged, for the message, such as `clear the train task`.

        Raises:
            ModelError: if the file is missing, is not JSON, or a field has another type than it should.
            OSError: if the file cannot be read now or by this user; the next try may succeed.
        """
        try:
            with explained_read_errors(path):
                return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            if not is_conclusive(error):
                raise
            problem = problems(error) if isinstance(error, ValidationError) else str(error)
            raise ModelError(f"{path} cannot be read: {problem}; {way_out}") from error

    def write(self, path: Path) -> None:
        """Write the document in one step, so that no reader finds half of it.

        Raises:
            ValueError: if a number is NaN or infinite, which JSON does not have.
        """
        write_json(path, self.model_dump(mode="json"))


def problems(error: ValidationError) -> str:
    """What a validation error says, on one line, each problem with its field."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in error.errors()
    )
