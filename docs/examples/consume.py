"""An example to copy: a DAG that predicts with the champion, whenever there is a new one.

It reads `MNIST_HOME/to-read/*.npy`, images as uint8 of shape (n, 28, 28), and writes
`MNIST_HOME/predictions/<version>/<name>.csv` with the digit and its probability for each image.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import Asset, dag, task

CHAMPION = Asset("mnist_champion", group="model")


@dag(schedule=[CHAMPION], catchup=False, max_active_runs=1, tags=["mnist"])
def mnist_consume() -> None:
    @task(retries=2)
    def predict() -> int:
        import keras
        import numpy as np

        home = Path(os.environ["MNIST_HOME"])
        # Follow the link once: the champion may change while this task runs, a version never does.
        version = (home / "models" / "champion").resolve(strict=True)
        model = keras.models.load_model(version / "model.keras")
        folder = home / "predictions" / version.name
        folder.mkdir(parents=True, exist_ok=True)
        paths = sorted((home / "to-read").glob("*.npy"))
        for path in paths:
            images = np.load(path, mmap_mode="r")
            probabilities = model.predict(images.astype(np.float32) / 255, verbose=0)
            table = np.column_stack([probabilities.argmax(axis=1), probabilities.max(axis=1)])
            partial = folder / f".{path.stem}.csv"
            np.savetxt(partial, table, fmt=["%d", "%.4f"], delimiter=",", header="digit,probability", comments="")
            partial.replace(folder / f"{path.stem}.csv")  # nobody reads half of it
        return len(paths)

    predict()


mnist_consume()
