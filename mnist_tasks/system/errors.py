"""The errors that a retry cannot fix, and the one place that decides which of the system's errors may pass."""

from __future__ import annotations

import errno

# The system's errors for a path that stay until a person changes something. All other errors, such as EIO, ESTALE,
# EMFILE or ENOSPC, say nothing about the path: a network share may be back a minute later.
LASTING = frozenset(
    {
        errno.EACCES,
        errno.EILSEQ,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOSYS,
        errno.ENOTDIR,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EROFS,
    }
)


class TaskError(Exception):
    """Bad input or an unusable result; the message names the value, the bound and the way out.

    The same inputs fail the same way every time, so the DAG fails at once instead of retrying. Failures that may
    pass by themselves, such as a disk that fills up half-way, stay the ``OSError`` they are and are retried.
    """


class InputError(TaskError):
    """A parameter, a data source or a name that cannot be used."""


class TrainingDivergedError(TaskError):
    """The training loss is no longer a finite number."""


class ModelError(TaskError):
    """A model, or the model directory, that cannot be trusted."""


def is_transient(error: BaseException) -> bool:
    """Whether an error, or its cause, is the system's and may be gone at the next try.

    Code that turns a read error into a verdict on a file asks this first and raises such an error unchanged. It is then
    retried, and no file is called damaged only because it could not be read now. Libraries raise an `OSError` without a
    number for content that they cannot parse; that error lasts.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or (
            isinstance(cause, OSError) and cause.errno is not None and cause.errno not in LASTING
        ):
            return True
        # `from None` means that the cause does not count.
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
