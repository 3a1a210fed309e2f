"""The worklist of doubtful labels names each image's batch and position there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.data.origins import origins
from mnist_tasks.data.sources import read_source
from mnist_tasks.evaluation.suspects import COLUMNS, SUSPECTS, images_of, write_suspects
from mnist_tasks.load import load
from tests.helpers import Array

ANY_DATA = DataRules(min_digit_share=0, max_label_drift=1, max_pixel_drift=1, max_duplicates=1, max_wrong_labels=1)


def dataset_with_batches(home: Path) -> tuple[Dataset, dict[str, Array]]:
    """Return MNIST with two batches of its training images upside down, and their images by the batch's name."""
    mnist = read_source("builtin")
    inbox = home / "inbox"
    inbox.mkdir(parents=True)
    batches = {}
    for number, name in enumerate(("first.npz", "second.npz")):
        rows = slice(100 * number, 100 * number + 50)
        batches[name] = mnist.x_train[rows, ::-1]
        np.savez(inbox / name, x_train=batches[name], y_train=mnist.y_train[rows])
        (inbox / f"{name}.done").touch()
    loaded = load("builtin", home / "datasets", inbox=inbox, rules=ANY_DATA)
    assert loaded.batches == 2
    return Dataset(home / "datasets" / loaded.digest), batches


def test_an_image_comes_from_the_source_or_from_its_place_in_a_batch(tmp_path: Path) -> None:
    dataset, batches = dataset_with_batches(tmp_path)
    images = dataset.array("x_train")

    found = origins(dataset, "train", [0, 59_999, *range(60_000, 60_100)])

    assert found[:2] == [("builtin", 0), ("builtin", 59_999)]
    assert sorted(found[2:]) == [(name, position) for name in sorted(batches) for position in range(50)]
    for index, (name, position) in enumerate(found[2:], start=60_000):
        assert np.array_equal(images[index], batches[name][position])


def test_the_worklist_has_a_line_for_each_suspect_the_surest_first(tmp_path: Path) -> None:
    dataset, _ = dataset_with_batches(tmp_path)
    labels = dataset.labels("train")
    probabilities = np.full((len(labels), 10), 0.001, np.float32)
    probabilities[np.arange(len(labels)), labels] = 0.991
    for index, sure in ((60_007, 0.9), (5, 0.95)):
        probabilities[index] = (1 - sure) / 9
        probabilities[index, (labels[index] + 1) % 10] = sure
    probabilities[60_007] = np.where(probabilities[60_007] > 0.5, 0.995, probabilities[60_007])
    (run := tmp_path / "run").mkdir()

    suspects = write_suspects(run, dataset, probabilities, labels)

    with (run / SUSPECTS).open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert [suspect.index for suspect in suspects] == [int(row[0]) for row in rows]
    ((name, position),) = origins(dataset, "train", [60_007])
    line = next(row for row in rows if row[0] == "60007")
    label = int(labels[60_007])
    assert line[1:5] == [name, str(position), str(label), str((label + 1) % 10)]
    assert np.array_equal(images_of(dataset, suspects), dataset.array("x_train")[[each.index for each in suspects]])


def test_a_training_set_without_doubts_gives_a_list_with_a_header_only(tmp_path: Path) -> None:
    dataset, _ = dataset_with_batches(tmp_path)
    labels = dataset.labels("train")

    assert write_suspects(tmp_path, dataset, np.eye(10, dtype=np.float32)[labels], labels) == []
    assert (tmp_path / SUSPECTS).read_text().splitlines() == [",".join(COLUMNS)]
    assert images_of(dataset, []).shape == (0, 28, 28)
