"""Each task as the training set grows: time and peak memory with 1, 2, 4, 8 and 16 times MNIST.

Usage: python -m benchmarks.growth [LARGEST] [JSON FILE]. The copies of the training images are moved by up to two
pixels, each in another way. Each task runs in a process of its own, `train` for one epoch of the recipe `classic`: with
the default `image_memory`, which 8 times MNIST exceeds, and with all images streamed, which must give the same weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from mnist_tasks.config import DataRules, TrainConfig
from mnist_tasks.data.sources import BUILTIN
from mnist_tasks.evaluate import evaluate
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.system.task_log import peak_memory_mb
from mnist_tasks.train import train
from mnist_tasks.workspace import Workspace

STREAMED_MB = 16  # less than MNIST itself, which is 188 MB of normalized images

TASKS = ("load", "normalize", "train", "streamed", "evaluate")


def copies_of_mnist(copies: int, path: Path) -> None:
    """Write an `.npz` with that many times the training images, and the test images as they are."""
    with np.load(BUILTIN) as arrays:
        digits = {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    moves.sort(key=lambda move: abs(move[0]) + abs(move[1]))  # the first copy is MNIST itself
    images = [np.roll(digits["x_train"], move, axis=(1, 2)) for move in moves[:copies]]
    many = {"x_train": np.concatenate(images), "y_train": np.tile(digits["y_train"], copies)}
    np.savez(path, **{**digits, **many})


def run_task(name: str, home: Path) -> dict[str, Any]:
    """Run a task in this process; what it gives, its seconds and the peak memory of the process in MB."""
    workspace = Workspace(home)
    start = time.perf_counter()
    if name == "load":
        result: Any = load(str(home / "many.npz"), workspace.datasets, rules=DataRules(max_duplicates=1))
    else:
        (dataset,) = (folder for folder in workspace.datasets.iterdir() if folder.is_dir())
        if name == "normalize":
            result = normalize(dataset)
        elif name == "evaluate":
            result = evaluate(dataset, workspace.run("train"), workspace.models)
        else:
            memory = {"image_memory": STREAMED_MB} if name == "streamed" else {}
            result = train(dataset, TrainConfig(epochs=1, **memory), workspace.run(name))
    return {**asdict(result), "task seconds": time.perf_counter() - start, "peak MB": peak_memory_mb()}


def measure(copies: int) -> dict[str, dict[str, Any]]:
    """Every task in turn on one size of training set."""
    results = {}
    with tempfile.TemporaryDirectory() as home:
        copies_of_mnist(copies, Path(home) / "many.npz")
        for name in TASKS:
            command = [sys.executable, "-m", "benchmarks.growth", "--task", name, home]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            results[name] = json.loads(output.stdout.splitlines()[-1])
    digests = {results[name]["weights_sha256"] for name in ("train", "streamed")}
    if len(digests) != 1:
        raise SystemExit(f"{copies} times MNIST: streamed images give other weights: {digests}")
    return results


def main(largest: int, path: Path | None) -> None:
    results, host = {}, machine()
    budget = TrainConfig().image_memory
    print(f"seconds and peak MB of each task; train keeps images of up to {budget:,} MB, streamed of {STREAMED_MB}")
    print(f"{'times MNIST':<12}" + "".join(f"{name:>20}" for name in TASKS))
    for copies in (2**power for power in range(largest.bit_length())):
        results[copies] = measure(copies)
        columns = (f"{run['task seconds']:.1f} s {run['peak MB']:,.0f} MB" for run in results[copies].values())
        print(f"{copies:<12}" + "".join(f"{column:>20}" for column in columns), flush=True)
    if path:
        path.write_text(json.dumps({"machine": host, "image_memory": budget, "results": results}, indent=2))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--task", name, home]:
            print(json.dumps(run_task(name, Path(home))))
        case arguments:
            main(int(arguments[0]) if arguments else 16, Path(arguments[1]) if arguments[1:] else None)
