"""Draw the figures of an evaluation into a folder. A figure that fails is left out: only people look at it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mnist_tasks.data.dataset import UInt8
from mnist_tasks.documents import Epoch, Evaluation, Mistake, Mistakes
from mnist_tasks.system.files import write_atomically
from mnist_tasks.system.task_log import best_effort

log = logging.getLogger(__name__)


def draw_figures(
    folder: Path,
    evaluation: Evaluation,
    epochs: Sequence[Epoch],
    test_images: UInt8,
    mistakes: Mistakes,
    suspects: Sequence[Mistake],
    suspect_images: UInt8,
) -> None:
    """Draw all figures.

    Args:
        folder: where the PNG files go; those of an earlier try are removed.
        evaluation: what was measured.
        epochs: the training.
        test_images: uint8 of shape (n, 28, 28).
        mistakes: those that the candidate mistook.
        suspects: the training images whose label is doubted most.
        suspect_images: uint8 of shape (len(suspects), 28, 28).
    """
    # Imported here, because it takes half a second.
    try:
        from mnist_tasks.evaluation import figures, sheets
    except Exception as error:
        log.warning("no figure is drawn, because matplotlib cannot be imported: %s: %s", type(error).__name__, error)
        return

    candidate, champion, between = evaluation.candidate, evaluation.champion, evaluation.disagreements
    surest, pictured = evaluation.mistakes or [], mistakes.mistakes[: mistakes.pictured]

    def sheet(title: str, shown: Sequence[Mistake], images: UInt8) -> partial[None]:
        return partial(sheets.mistaken_images, images, shown, title)

    def tested(shown: Sequence[Mistake]) -> UInt8:
        return test_images[[mistake.index for mistake in shown]]

    drawings = {
        "training.png": partial(figures.training_curves, epochs),
        "confusion.png": partial(figures.confusion_matrix, candidate.confusion),
        "mistakes.png": sheet("The surest mistakes on the test set", surest, tested(surest)),
        "recall.png": partial(figures.recall_by_digit, candidate.digits, champion.digits if champion else None),
        "calibration.png": partial(
            figures.reliability, candidate.calibration, champion.calibration if champion else ()
        ),
    }
    if between and between.lost:
        drawings["lost.png"] = sheet("Only the champion gets these right", between.lost, tested(between.lost))
    if between and between.gained:
        drawings["gained.png"] = sheet("Only the candidate gets these right", between.gained, tested(between.gained))
    if pictured:
        drawings["mistaken.png"] = partial(sheets.side_by_side, tested(pictured), mistakes.columns)
    if suspects:
        drawings["suspects.png"] = sheet("Training images whose label is doubted most", suspects, suspect_images)
    folder.mkdir(exist_ok=True)
    for earlier in folder.glob("*.png"):  # of an earlier try
        earlier.unlink()
    for name, draw in drawings.items():
        with best_effort(name), figures.plain():
            write_atomically(folder / name, draw)
