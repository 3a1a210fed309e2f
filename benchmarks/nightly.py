"""The DAG run against a plain Keras script: wall time and peak memory, alternating, in one measurement.

Usage: python -m benchmarks.nightly [ROUNDS] [JSON FILE]. The first DAG run, which writes the dataset, is not
counted. Times on a shared machine mean little; their ratio does.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine
from mnist_tasks.workspace import PROJECT

TASKS = ("load", "normalize", "train", "evaluate", "promote")


def plain_script() -> dict[str, float]:
    """Seconds of the whole process, its accuracy and its peak memory."""
    start = time.monotonic()
    command = [sys.executable, str(PROJECT / "benchmarks" / "plain_script.py")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return {**result, "seconds": time.monotonic() - start}


def dag_run(home: str) -> dict[str, float]:
    """Seconds from trigger to end and of the whole command, how they were spent, accuracy, and each task's memory.

    `imports` is TensorFlow's, in two tasks; `work` what else the task functions took; `Airflow` all the rest.
    """
    start = time.monotonic()
    command = [sys.executable, str(PROJECT / "scripts" / "run.py")]
    environment = {**os.environ, "MNIST_HOME": home}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    seconds = time.monotonic() - start
    found = {task: re.search(rf"{task} took .* peak memory (\d+) MB", output) for task in TASKS}
    peaks = {f"{task} peak MB": float(match[1]) for task, match in found.items() if match}
    triggered = float(re.findall(r"success (\S+) s after it was triggered", output)[0])
    imports = sum(map(float, re.findall(r"TensorFlow \S+, imported in (\S+) s", output)))
    work = sum(map(float, re.findall(r" took (\S+) s; peak memory", output)))
    return {
        "seconds": triggered,
        "  imports seconds": imports,
        "  work seconds": work - imports,
        "  Airflow seconds": triggered - work,
        "  promote seconds": float(re.findall(r"promote took (\S+) s", output)[0]),
        "command seconds": seconds,
        "accuracy": float(re.findall(r"^  accuracy  (\S+)", output, re.MULTILINE)[0]),
        "peak MB": max(peaks.values()),
        **peaks,
    }


def main(rounds: int, path: Path | None) -> None:
    host = machine()
    with tempfile.TemporaryDirectory() as home:
        dag_run(home)
        pairs = [(dag_run(home), plain_script()) for _ in range(rounds)]
    dags, plains = ([pair[side] for pair in pairs] for side in (0, 1))

    print(f"{rounds} rounds; median (lowest to highest)")
    print(f"{'':<24}{'DAG run':>28}{'plain script':>28}{'ratio':>8}")
    for name in dags[0]:
        row = f"{name:<24}{_spread([run[name] for run in dags]):>28}"
        if name in plains[0]:
            ratio = statistics.median(dag[name] / plain[name] for dag, plain in pairs)
            row += f"{_spread([run[name] for run in plains]):>28}{ratio:>8.2f}"
        print(row)
    if path:
        path.write_text(json.dumps({"machine": host, "dag runs": dags, "plain scripts": plains}, indent=2))


def _spread(values: list[float]) -> str:
    digits = 4 if max(values) <= 1 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
