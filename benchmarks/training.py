"""The training of each recipe against Keras' `fit`, PyTorch and JAX: wall time, test accuracy, peak memory.

Usage: python -m benchmarks.training [SEEDS [JSON FILE [WORD...]]]. Measures what has one of the words in its name, or
everything without words: in turn, a process each, once for each seed. The wall time is that of the training, tracing
and compiling included. PyTorch and JAX (with optax) train the network of each recipe, run by the Python that the
environment variable PEERS names; they are left out without it. With AVX2=1 in the environment all are told to use no
instructions beyond AVX2, as on a processor without AVX512 and bfloat16. Times on a shared machine mean little; their
ratio to the plain script's, taken seed by seed, does.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from mnist_tasks.data.dataset import Dataset
from mnist_tasks.data.sources import BUILTIN
from mnist_tasks.documents import Training
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.recipes import RECIPES
from mnist_tasks.run_parameters import RunConfig
from mnist_tasks.system.task_log import peak_memory_mb
from mnist_tasks.training.architectures import ARCHITECTURES
from mnist_tasks.workspace import PROJECT

PLAIN = "plain script: fit"
# How to make each library go without newer instructions. TensorFlow does not use oneDNN by itself on such a processor.
WITHOUT_AVX512 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
EMULATED = os.environ.get("AVX2") == "1"

MARKS = (0.978, 0.990, 0.994, 0.996)

Result = dict[str, Any]


def train_recipe(recipe: str, seed: int, dataset_folder: Path) -> Result:
    """Train in this process; besides the result, the floating-point operations a second, in units of 10^9."""
    from mnist_tasks.train import train

    given = {"precision": "float32"} if EMULATED else {}
    config = RunConfig.from_parameters({"recipe": recipe, "seed": seed, **given}).training
    dataset = Dataset(dataset_folder)
    with tempfile.TemporaryDirectory() as run:
        trained = train(dataset_folder, config, Path(run))
        peak = peak_memory_mb()
        import keras

        described = Training.read(Path(run) / "training.json", "train again")

        model = keras.saving.load_model(Path(run) / "model.keras")
    # Each multiplication and addition of the forward pass, and twice that for the gradients.
    work = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            work += 3 * 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    gigaflops = work * config.epochs * len(dataset.labels("train")) / trained.seconds / 1e9
    onednn = described.environment.get("TF_ENABLE_ONEDNN_OPTS", "TensorFlow's choice")
    computed = f"{described.config['precision']}, oneDNN {onednn}"
    _, accuracy = model.evaluate(dataset.normalized("test"), dataset.labels("test"), verbose=0, batch_size=1000)
    return {
        "seconds": trained.seconds,
        "accuracy": accuracy,
        "peak MB": peak,
        "GFLOP/s": gigaflops,
        "computed": computed,
    }


def matrix_multiply() -> Result:
    """The most that this machine does in float32: the best of several large products."""
    import tensorflow as tf

    size = 2048
    matrix, best = tf.random.normal([size, size]), math.inf
    for _ in range(10):
        start = time.perf_counter()
        tf.reduce_sum(matrix @ matrix).numpy()
        best = min(best, time.perf_counter() - start)
    return {"GFLOP/s": 2 * size**3 / best / 1e9}


def commands(seed: int, dataset: Path) -> dict[str, list[str]]:
    """What to run for a seed, by name."""
    plain, this = ([sys.executable, "-m", f"benchmarks.{name}"] for name in ("plain_script", "training"))
    found = {
        PLAIN: [*plain, str(seed)],
        "fit, steps_per_execution": [*plain, str(seed), "steps_per_execution=125"],
        "fit, jit_compile": [*plain, str(seed), "jit_compile=true"],
    }
    for recipe in RECIPES:
        found[f"recipe {recipe}"] = [*this, "--recipe", recipe, str(seed), str(dataset)]
        if peers := os.environ.get("PEERS"):
            script = [peers, str(PROJECT / "benchmarks" / "peers.py")]
            for name, library in (("PyTorch", "torch"), ("JAX", "jax")):
                found[f"{name}, {recipe}"] = [*script, library, str(BUILTIN), json.dumps(peer_recipe(recipe, seed))]
    found["matrix product"] = [*this, "--matrix"]
    return found


def peer_recipe(recipe: str, seed: int) -> dict[str, Any]:
    """What `peers.py` must know of a recipe."""
    config = RunConfig.from_parameters({"recipe": recipe, "seed": seed}).training
    names = ("seed", "epochs", "batch_size", "learning_rate", "beta_2", "label_smoothing", "shift")
    architecture = ARCHITECTURES[config.architecture]
    blocks = architecture.keywords["blocks"] if isinstance(architecture, partial) else ()
    return {**config.model_dump(include=set(names)), "one_cycle": config.schedule == "one_cycle", "blocks": blocks}


def run(name: str, command: list[str]) -> Result:
    environment = {**os.environ, **(WITHOUT_AVX512 if EMULATED else {})}
    if EMULATED and not name.startswith("recipe"):
        environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=PROJECT, env=environment
    ).stdout
    result: Result = json.loads(output.splitlines()[-1])
    return result


def main(seeds: int, path: Path | None, words: Sequence[str]) -> None:
    host = machine() | {"told to use no more than": "AVX2" if EMULATED else "all"}
    if EMULATED:
        print("no instructions beyond AVX2 are used")
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as home:
        dataset = Path(home) / load("builtin", Path(home)).digest
        normalize(dataset)
        for seed in range(1, seeds + 1):
            for name, command in commands(seed, dataset).items():
                if words and name != PLAIN and not any(word in name for word in words):
                    continue
                results.setdefault(name, []).append(run(name, command))
    report(dict(results), seeds)
    if path:
        path.write_text(json.dumps({"machine": host, "seeds": seeds, "results": results}, indent=2))


def report(results: dict[str, list[Result]], seeds: int) -> None:
    peak = max((result["GFLOP/s"] for result in results.pop("matrix product", [])), default=math.nan)
    print(f"{seeds} seeds; median (lowest to highest); matrix product {peak:.0f} GFLOP/s in float32")
    print(f"{'':<26}{'training, s':>22}{'ratio':>22}{'test accuracy':>26}{'peak MB':>9}{'of peak':>9}")
    for name, runs in results.items():
        ratios = [mine["seconds"] / plain["seconds"] for mine, plain in zip(runs, results[PLAIN], strict=True)]
        share = f"{statistics.median(run['GFLOP/s'] for run in runs) / peak:.0%}" if "GFLOP/s" in runs[0] else ""
        print(
            f"{name:<26}{spread([run['seconds'] for run in runs], 1):>22}{spread(ratios, 2):>22}"
            f"{spread([run['accuracy'] for run in runs], 4):>26}"
            f"{statistics.median(run['peak MB'] for run in runs):>9.0f}{share:>9}  {runs[0].get('computed', '')}"
        )
    print("time to a median test accuracy, by the fastest that gets there:")
    medians: dict[str, Any] = {
        name: tuple(statistics.median(run[key] for run in runs) for key in ("seconds", "accuracy"))
        for name, runs in results.items()
    }
    for mark in MARKS:
        reached = [(seconds, name) for name, (seconds, accuracy) in medians.items() if accuracy >= mark]
        print(f"  {mark:.1%}: " + ("{:.1f} s, {}".format(*min(reached)) if reached else "not reached"))


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--recipe", recipe, seed, folder]:
            print(json.dumps(train_recipe(recipe, int(seed), Path(folder))))
        case ["--matrix"]:
            print(json.dumps(matrix_multiply()))
        case arguments:
            main(int(arguments[0]) if arguments else 5, Path(arguments[1]) if arguments[1:] else None, arguments[2:])
