"""`make sweep` with a real scheduler, API server and LocalExecutor."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import psutil
import pytest

from mnist_tasks.documents import Trial
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import PROJECT
from tests.e2e.test_make_run import FAILED, REJECTED, finish, start
from tests.helpers import HANG_SECONDS

SWEEP = PROJECT / "scripts" / "sweep.py"
SPACE = {"epochs": [40], "learning_rate": [0.001, 0.002]}

pytestmark = pytest.mark.slow


def test_a_sweep_survives_a_kill_and_the_gate_decides_on_what_wins(npz: Path, tmp_path: Path) -> None:
    space = f"space={json.dumps(SPACE)}"
    process = start(SWEEP, tmp_path, space, "trials=3", "finalists=1", "seeds=2", f"source={npz}", "inbox=none")
    deadline = time.monotonic() + HANG_SECONDS
    while not (begun := [path for path in tmp_path.glob("sweeps/*/trials/0/trial.json") if epochs(path) >= 2]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.memory_info().rss).kill()

    status, output = finish(process)

    # 2,000 images are too few for the minimum of the gate.
    assert status == REJECTED, output
    (path,) = begun
    trials = [Trial.read(each, "") for each in sorted(path.parents[1].glob("*/trial.json"))]
    assert [(trial.state, len(trial.epochs)) for trial in trials] == [("complete", 40)] * 4
    log = "".join(each.read_text() for each in tmp_path.glob("airflow/logs/dag_id=mnist_sweep/**/attempt=2.log"))
    assert re.search(r"continuing after epoch \d+, where an earlier try stopped", log)
    assert "over 2 seeds of 3 complete trials" in output
    assert re.search(r"^\*  \d .* complete", output, re.MULTILINE)
    assert re.search(r"^rejected: accuracy 0\.\d+ is below the minimum", output, re.MULTILINE)
    assert ModelDirectory(tmp_path / "models").versions() == []


def epochs(path: Path) -> int:
    return len(json.loads(path.read_text()).get("epochs", []))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("trials=0", "failed: trials: 0 is less than the minimum of 1"),
        ("trial=8", "failed: trial: unknown parameter; did you mean trials?"),
        ("space={}", "failed: space: it has no parameter"),
        ('space={"epochs": {"min": 5, "max": 1}}', "failed: space: epochs: min 5 is greater than max 1"),
        ("source=/no/such/file.npz", "failed: data source '/no/such/file.npz' does not exist on this worker"),
    ],
)
def test_a_bad_sweep_is_refused_before_airflow_starts(argument: str, words: str, tmp_path: Path) -> None:
    status, output = finish(start(SWEEP, tmp_path, argument))

    assert (status, words in output) == (FAILED, True), output
    assert not (tmp_path / "airflow").exists()
