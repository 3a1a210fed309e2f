"""A year of nights: `load` and `normalize` with one new batch of 200 images each night, and the disk that they use.

Usage: python -m benchmarks.year [NIGHTS [JSON FILE]]. The batches are MNIST's training digits, each moved and turned by
chance. The nights that are printed are measured in a process of their own. Then `load` runs once more with nothing new,
and a first start reads all batches at once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from mnist_tasks.data.dataset import UInt8
from mnist_tasks.data.sources import read_source
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize

IMAGES = 200
PRINTED = (1, 2, 30, 100, 365)

NIGHT = """
import sys, time
from pathlib import Path
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.system.task_log import peak_memory_mb
home = Path(sys.argv[1])
start = time.perf_counter()
loaded = load("builtin", home / "datasets", inbox=home / "inbox", run=home / "runs" / sys.argv[2])
between = time.perf_counter()
normalize(home / "datasets" / loaded.digest)
end = time.perf_counter()
print(between - start, end - between, peak_memory_mb(), loaded.train_images, loaded.batches)
"""


def batch(number: int, images: UInt8, labels: UInt8, folder: Path) -> None:
    """Put a night's digits into the inbox."""
    rng = np.random.default_rng(number)
    chosen = rng.choice(len(images), IMAGES, replace=False)
    turned = [
        np.asarray(
            Image.fromarray(image).rotate(
                rng.uniform(-10, 10), Image.Resampling.BICUBIC, translate=tuple(rng.integers(-2, 3, 2))
            )
        )
        for image in images[chosen]
    ]
    path = folder / f"night-{number:04}.npz"
    np.savez_compressed(path, x_train=np.stack(turned), y_train=labels[chosen])
    path.with_name(f"{path.name}.done").touch()


def measured(home: Path, name: str) -> dict[str, float]:
    """A night in a process of its own: seconds of both tasks, its peak memory in MB, images and disk used in MB."""
    command = [sys.executable, "-c", NIGHT, str(home), name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    names = ("load seconds", "normalize seconds", "peak MB", "training images", "batches")
    disk = sum(path.stat().st_size for path in (home / "datasets").rglob("*") if path.is_file()) / 1e6
    return {**dict(zip(names, map(float, output[-5:]), strict=True)), "datasets MB": disk}


def main(nights: int, path: Path | None) -> None:
    host, results = machine(), {}
    mnist = read_source("builtin")
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "inbox").mkdir()
        for night in range(1, nights + 1):
            batch(night, mnist.x_train, mnist.y_train, home / "inbox")
            if night in PRINTED or night == nights:
                results[f"night {night}"] = measured(home, str(night))
                print(f"night {night}", results[f"night {night}"], flush=True)
            else:
                loaded = load("builtin", home / "datasets", inbox=home / "inbox", run=home / "runs" / str(night))
                normalize(home / "datasets" / loaded.digest)
        results["nothing new"] = measured(home, "nothing new")
        shutil.rmtree(home / "datasets")
        results["first start"] = measured(home, "first start")
    for name in ("nothing new", "first start"):
        print(name, results[name])
    second, last = (
        sum(results[f"night {n}"][f"{task} seconds"] for task in ("load", "normalize")) for n in (2, nights)
    )
    print(f"night {nights} takes {last / second:.2f} times as long as night 2")
    if path:
        path.write_text(json.dumps({"machine": host, **results}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 365, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
