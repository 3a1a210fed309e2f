"""What a command prints while it waits."""

from __future__ import annotations

import time

import progress
import pytest
from progress import say, waiting


def test_a_wait_is_announced_again_and_again_but_not_while_there_is_something_else_to_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.3)
    say("starting")
    with waiting(lambda seconds: f"  {seconds:.0f} s"):
        for _ in range(20):
            say("news")
            time.sleep(0.02)
    assert "  0 s" not in capsys.readouterr().out

    with waiting(lambda seconds: f"  {seconds:.0f} s"):
        time.sleep(1)
    assert "  0 s" in capsys.readouterr().out

    time.sleep(0.5)
    assert capsys.readouterr().out == ""


def test_an_error_in_the_block_ends_the_announcements() -> None:
    with pytest.raises(KeyError), waiting(lambda _: ""):
        raise KeyError
