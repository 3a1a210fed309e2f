"""The failures that a retry cannot mend."""


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
