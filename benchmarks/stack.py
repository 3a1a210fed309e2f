"""A DAG run on the stack of docker-compose.yaml against one of `make run`: wall time from trigger to end, alternating.

Usage, in the checkout, with a Docker engine: PYTHONPATH=scripts python -m benchmarks.stack [ROUNDS [JSON FILE]].
The stack stands still while `make run` is measured. The first run of each, which writes the dataset, is not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from mnist_tasks.workspace import PROJECT
from tests.e2e.test_stack import HEALTHY, Stack, started, took, wait_until, what_is_missing


def on_the_stack(stack: Stack) -> float:
    """Seconds of a run of `make stack-run`."""
    wait_until(lambda: stack.health() == HEALTHY)
    result = stack.make("stack-run")
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    return took(result.stdout)


def embedded(home: Path) -> float:
    """Seconds of a run of `make run`."""
    command = [sys.executable, str(PROJECT / "scripts" / "run.py")]
    environment = {**os.environ, "MNIST_HOME": str(home)}
    return took(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main(rounds: int, path: Path | None) -> None:
    if missing := what_is_missing():
        raise SystemExit(missing)
    host = machine()
    pairs = []
    with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as stack:
        for _ in range(rounds + 1):
            seconds = on_the_stack(stack)
            stack("pause")
            try:
                pairs.append((seconds, embedded(Path(folder) / "home")))
            finally:
                stack("unpause")
    ratios = [ours / reference for ours, reference in pairs[1:]]
    print(f"{'':<12}{'stack':>10}{'make run':>10}{'ratio':>8}")
    for number, (ours, reference) in enumerate(pairs):
        name = f"round {number}" if number else "first runs"
        print(f"{name:<12}{ours:>8.1f} s{reference:>8.1f} s{ours / reference:>8.2f}")
    print(f"median of {rounds} rounds: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if path:
        path.write_text(json.dumps({"machine": host, "stack, make run": pairs}, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
