"""Temporary system errors are retried; errors that need a person are not."""

from __future__ import annotations

import errno
import gzip

import pytest

from mnist_tasks.system.errors import InputError, is_transient


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR, errno.EMFILE, errno.ENOMEM, errno.ENOSPC])
def test_what_a_share_or_a_busy_machine_says_may_pass(number: int) -> None:
    assert is_transient(OSError(number, "now"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ELOOP])
def test_what_is_wrong_until_a_person_changes_it_does_not_pass(number: int) -> None:
    assert not is_transient(OSError(number, "always"))


@pytest.mark.parametrize("error", [gzip.BadGzipFile("no gzip"), OSError("bad magic"), ValueError("no"), EOFError()])
def test_content_that_makes_no_sense_does_not_pass(error: Exception) -> None:
    assert not is_transient(error)


def test_too_little_memory_may_pass() -> None:
    assert is_transient(MemoryError())


def test_an_error_that_stands_for_itself_does_not_pass() -> None:
    with pytest.raises(InputError) as caught:
        _deep_header()

    assert not is_transient(caught.value)


def _deep_header() -> None:
    try:
        raise MemoryError
    except MemoryError:
        raise InputError("bad header of an array") from None


def test_an_error_that_was_made_from_one_that_may_pass_may_pass() -> None:
    error = InputError("corrupt")
    error.__cause__ = OSError(errno.EIO, "now")

    assert is_transient(error)
