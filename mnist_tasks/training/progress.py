"""How far a training is within its epoch: a line in the log now and then, and `progress.json` for those who watch."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from mnist_tasks.documents import ProgressPoint, TrainingProgress
from mnist_tasks.system.files import atomic_file, to_json, write_text

log = logging.getLogger(__name__)

WRITE_SECONDS = 2.0  # at least, between two points
LOG_SECONDS = 30.0  # between lines about an epoch that takes longer
MAX_POINTS = 400  # beyond it every second one goes


class ProgressFile:
    """Called by the loop about once a second. An epoch that is over before anybody could read leaves nothing.

    Args:
        path: of `progress.json`.
        epochs: how many the training has.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs
        self.points: list[ProgressPoint] = []
        self.seconds = WRITE_SECONDS
        self.written = self.logged = time.monotonic()
        path.unlink(missing_ok=True)  # that of an earlier try

    def __call__(self, epoch: int, images: int, of: int, loss: float) -> None:
        """Note how far an epoch is.

        Args:
            epoch: its number, from 1.
            images: that it has trained on.
            of: all its images.
            loss: the mean over these images, in nats.
        """
        now = time.monotonic()
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            log.info("epoch %d/%d: %s of %s images, loss %.4f", epoch, self.epochs, f"{images:,}", f"{of:,}", loss)
        if now - self.written >= self.seconds:
            self.written = now
            self._write(epoch, images, of, loss)

    def _write(self, epoch: int, images: int, of: int, loss: float) -> None:
        self.points.append(ProgressPoint(epochs=round(epoch - 1 + images / of, 4), loss=loss))
        if len(self.points) > MAX_POINTS:
            self.points = self.points[1::2]
            self.seconds *= 2
        progress = TrainingProgress(epoch=epoch, epochs=self.epochs, images=images, of=of, points=self.points)
        try:
            with atomic_file(self.path, durable=False) as temporary:
                write_text(temporary, to_json(progress.to_json_value()))
        except OSError as error:  # only people look at it
            log.warning("%s cannot be written: %s", self.path.name, error)
