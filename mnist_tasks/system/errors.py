"""The errors that a retry cannot fix, and the one place that decides which of the system's errors may pass."""

from __future__ import annotations

import errno

# What the system says of a path that is wrong until a person changes something. All its other errors, such as EIO,
# ESTALE, EMFILE or ENOSPC, say nothing about what was to be read: a network share may be back a minute later.
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
    """Whether an error, or one that it was made from, is the system's and may be gone at the next try.

    Whoever turns errors of reading into a verdict on what was read asks this first, and lets such an error through: it
    is then retried, and nothing is called damaged that could only not be read now. Libraries raise an `OSError` without
    a number for content that they cannot make sense of; that one lasts.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or (
            isinstance(cause, OSError) and cause.errno is not None and cause.errno not in LASTING
        ):
            return True
        # `from None` says that the error stands for itself.
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
