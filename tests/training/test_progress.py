"""What is said about a training within an epoch."""

from __future__ import annotations

import itertools
import logging
import types
from pathlib import Path

import pytest

from mnist_tasks.documents import TrainingProgress
from mnist_tasks.training import progress as module
from mnist_tasks.training.progress import MAX_POINTS, ProgressFile


class Clock:
    """A time that only the test advances."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    return clock


def read(path: Path) -> TrainingProgress:
    return TrainingProgress.read(path, "")


def test_an_epoch_of_minutes_is_seen_in_a_file_and_every_half_minute_in_the_log(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "progress.json"
    path.write_text("{}")  # of a try that was killed
    watch = ProgressFile(path, 5)
    assert not path.exists()

    for second in range(1, 61):
        clock.now = second
        watch(2, 1000 * second, 60_000, 1 / second)

    progress = read(path)
    assert (progress.epoch, progress.epochs, progress.images, progress.of) == (2, 5, 60_000, 60_000)
    assert [point.epochs for point in progress.points[::10]] == pytest.approx([1.0333, 1.3667, 1.7])
    assert progress.points[-1].loss == pytest.approx(1 / 60)
    assert caplog.messages == [
        "epoch 2/5: 30,000 of 60,000 images, loss 0.0333",
        "epoch 2/5: 60,000 of 60,000 images, loss 0.0167",
    ]


def test_a_training_of_days_keeps_a_bounded_number_of_points_from_its_beginning_to_now(
    clock: Clock, tmp_path: Path
) -> None:
    watch = ProgressFile(tmp_path / "progress.json", 1)

    for second in range(0, 200_000, 2):
        clock.now = second
        watch(1, second + 1, 200_000, 0.5)

    points = [point.epochs for point in read(tmp_path / "progress.json").points]
    assert MAX_POINTS / 2 <= len(points) <= MAX_POINTS
    assert points[0] < 0.02
    assert points[-1] > 0.98
    assert max(later - earlier for earlier, later in itertools.pairwise(points)) < 0.01


def test_a_folder_that_cannot_be_written_to_does_not_end_the_training(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = ProgressFile(tmp_path / "gone" / "progress.json", 1)

    clock.now = 3
    watch(1, 1, 2, 0.5)

    assert [(record.levelname, "progress.json cannot be written" in record.message) for record in caplog.records] == [
        ("WARNING", True)
    ]
