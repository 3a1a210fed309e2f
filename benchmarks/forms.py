"""Seconds and memory that MNIST's 60,000 training images take to be read, by the form that they come in.

Usage: python -m benchmarks.forms. A process each. The digests show that every form gives the same digits.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from mnist_tasks.data.sources import read_source
from tests.forms import FORMS

READ = """
import sys, time
from pathlib import Path
from mnist_tasks.data.sources import fetch
from mnist_tasks.system.files import sha256
from mnist_tasks.system.task_log import peak_memory_mb
start = time.perf_counter()
fetch(Path(sys.argv[1]), Path(sys.argv[2]))
seconds = time.perf_counter() - start
print(f"{seconds:.1f} s, {peak_memory_mb():.0f} MB, {sha256(Path(sys.argv[2], 'x_train.npy'))[:12]}")
"""


def main() -> None:
    machine()
    mnist = read_source("builtin")
    with tempfile.TemporaryDirectory() as temporary:
        for form, write in FORMS.items():
            path = write(Path(temporary) / form, mnist.x_train, mnist.y_train)
            out = Path(temporary) / f"{form} read"
            out.mkdir()
            command = [sys.executable, "-c", READ, str(path), str(out)]
            print(form, subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), sep="\t")


if __name__ == "__main__":
    main()
