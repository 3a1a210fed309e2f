"""Whether a published version still works here and now: loaded in a fresh process, it must give what it gave then.

`python -m mnist_tasks.registry.smoke_test FOLDER` is that process; it prints one line for each failed check. Its exit
status is 0 if the model gives the same, 1 if it does not, and `NOT_NOW` if that could not be found out now.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import is_conclusive

SECONDS = 300  # a cold disk and a busy machine included
NOT_NOW = os.EX_TEMPFAIL


def smoke_test(folder: Path) -> None:
    """Load a version's files in a fresh process and compare its golden probabilities; needs no TensorFlow in this one.

    Raises:
        ModelError: if it does not load, or gives anything else than when it was approved.
        OSError: if that could not be found out now: no memory, no time, or a file that could not be read now.
    """
    command = [sys.executable, "-m", "mnist_tasks.registry.smoke_test", str(folder)]
    try:
        result = subprocess.run(  # noqa: S603 - this Python, with a path of the model directory
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"the smoke test did not end within {SECONDS} s; try again on an idle machine"
        raise TimeoutError(errno.ETIMEDOUT, text, str(folder)) from None
    if result.returncode == -signal.SIGKILL:
        text = "the smoke test was killed, as the system does when memory runs out; try again when there is more"
        raise OSError(errno.ENOMEM, text, str(folder))
    if result.returncode == NOT_NOW:
        text = f"the smoke test could not be done now: {result.stdout.strip()}; try again"
        raise OSError(errno.EAGAIN, text, str(folder))
    if result.returncode:
        problem = result.stdout.strip() or result.stderr.strip()[-2000:] or f"status {result.returncode}"
        raise ModelError(f"{folder} does not pass its smoke test: {problem}; go back to another version")


def _main(folder: Path) -> int:
    try:
        return _compare(folder)
    except Exception as error:
        if is_conclusive(error):
            raise
        print(str(error) or type(error).__name__)
        return NOT_NOW


def _compare(folder: Path) -> int:
    import numpy as np

    from mnist_tasks.evaluation.integrity import inspect, same
    from mnist_tasks.registry.version import GOLDEN, MODEL
    from mnist_tasks.system.tensorflow_setup import use_devices

    use_devices()
    try:
        with np.load(folder / GOLDEN) as golden:
            images, then = golden["images"], golden["probabilities"]
    except Exception as error:  # NumPy lets through BadZipFile, EOFError, KeyError, OSError, ValueError and more
        if not is_conclusive(error):
            raise
        print(f"{folder / GOLDEN} cannot be read: {error}")
        return 1
    found = inspect(folder / MODEL, folder, images)
    if found.golden is not None:
        found.findings.append(same("golden", "the model now and when it was approved", then, found.golden))
    failed = [finding.message for finding in found.findings if not finding.passed]
    print(*failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
