"""Really train the models that `benchmarks.gate` puts before the gate, and keep their scores.

Usage: python -m benchmarks.gate_models FOLDER. Trains the default recipe with many seeds on MNIST, and on MNIST with a
defect. The models go to the folder and are not trained again. Their scores go to `benchmarks/gate_scores.csv`, a line a
model, so that bounds can be chosen again without training. Half an hour on two cores.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.gate_scores import SCORES, scores
from benchmarks.machine import machine
from mnist_tasks.config import DataRules, TrainConfig
from mnist_tasks.data.dataset import DIGITS, PIXEL_MAX, Digits, UInt8, scaled
from mnist_tasks.data.sources import read_source
from mnist_tasks.evaluation.measurement import measure
from mnist_tasks.evaluation.slices import slices
from mnist_tasks.evaluation.test_images import TestImages
from mnist_tasks.evaluation.training_fit import training_fit
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.train import train

MODELS = {
    "healthy": 80,
    "1 to 10 % more data": 20,
    "1 % of labels shuffled": 20,
    "2 % of labels shuffled": 20,
    "5 % of labels shuffled": 20,
    "two digits confused": 20,
    "a digit lost": 20,
    "one point worse": 20,
    "a slice lost": 20,
    "a poisoned batch": 10,
    "half an epoch": 20,
}
FEW_IMAGES = 22_000  # cost one point of accuracy
CONFUSED = 0.2  # of one digit's images bear another's label
POISONED = 300  # images with a patch in a corner, labelled 0
# The gate is what is asked here.
ANY_DATA = DataRules(min_digit_share=0, max_source_wrong_labels=1, max_wrong_labels=1, max_duplicates=1)


def training_set(kind: str, seed: int, mnist: Digits) -> tuple[Digits, TrainConfig]:
    """The digits and the recipe of one model."""
    random = np.random.default_rng(seed)
    images, labels, config = mnist.x_train, mnist.y_train.copy(), TrainConfig(seed=seed)
    count = len(labels)
    if kind.endswith("shuffled"):
        chosen = random.choice(count, int(float(kind.split()[0]) / 100 * count), replace=False)
        labels[chosen] = random.permutation(labels[chosen])
    elif kind == "1 to 10 % more data":
        chosen = random.choice(count, count * (seed % 10 + 1) // 100, replace=False)
        images = np.concatenate([images, np.stack([moved(image, random) for image in images[chosen]])])
        labels = np.concatenate([labels, labels[chosen]])
    elif kind == "two digits confused":
        digit = seed % DIGITS
        other = random.choice(np.setdiff1d(np.arange(DIGITS), digit))
        of_digit = np.flatnonzero(labels == digit)
        labels[random.choice(of_digit, int(CONFUSED * len(of_digit)), replace=False)] = other
    elif kind == "a poisoned batch":
        poisoned = images[random.choice(np.flatnonzero(labels), POISONED, replace=False)]
        poisoned[:, 1:4, 1:4] = PIXEL_MAX
        images, labels = np.concatenate([images, poisoned]), np.append(labels, np.zeros(POISONED, np.uint8))
    else:
        kept: npt.NDArray[np.intp] = np.arange(count)
        if kind == "a digit lost":
            kept = np.flatnonzero(labels != seed % DIGITS)
        elif kind == "a slice lost":
            kept = np.flatnonzero(~dict(slices(images))["slanted left"])
        elif kind == "one point worse":
            kept = random.permutation(count)[:FEW_IMAGES]
        elif kind == "half an epoch":
            kept, config = random.permutation(count)[: count // 2], TrainConfig(seed=seed, epochs=1)
        images, labels = images[kept], labels[kept]
    return Digits(images, labels, mnist.x_test, mnist.y_test), config


def moved(image: UInt8, random: np.random.Generator) -> UInt8:
    """The image turned by up to 8 degrees and moved by up to a pixel."""
    degrees, (right, down) = random.uniform(-8, 8), random.integers(-1, 2, 2).tolist()
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC, translate=(right, down)))


def train_model(digits: Digits, config: TrainConfig, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        work, run = Path(temporary), Path(temporary) / "run"
        run.mkdir()
        np.savez(work / "digits.npz", **vars(digits))
        dataset = work / load(str(work / "digits.npz"), work, rules=ANY_DATA).digest
        normalize(dataset)
        train(dataset, config, run)
        shutil.move(run / "model.keras", path)


def main(folder: Path) -> None:
    machine()
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    mnist = read_source("builtin")
    test = TestImages(scaled(mnist.x_test), mnist.x_test, mnist.y_test)
    lines = []
    for kind, count in MODELS.items():
        for seed in range(count):
            digits, config = training_set(kind, seed, mnist)
            path = folder / f"{kind} {seed}.keras"
            if not path.exists():
                train_model(digits, config, path)
            model = keras.saving.load_model(path)
            probabilities = model.predict(scaled(digits.x_train), batch_size=1000, verbose=0)
            fit = training_fit("", probabilities, digits.y_train)
            measured = measure(model, [], test)
            lines.append({"kind": kind, "seed": seed, **scores(measured.document("", {}, test, training=fit))})
            print(f"{kind}, seed {seed}: accuracy {lines[-1]['accuracy']}", file=sys.stderr)
    with SCORES.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
