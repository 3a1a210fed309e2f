"""What nobody needs is removed; what is needed, in use or for the record stays, however often it is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from mnist_tasks.clean import KEPT_WHOLE, Cleaned, clean
from mnist_tasks.cli.main import main
from mnist_tasks.config import DataRules
from mnist_tasks.data.dataset import BATCHES, Dataset, Digits
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import PROJECT, Workspace
from tests.forms import done, write_npz
from tests.helpers import COUNTS, publish, stand_in

DAY = 24 * 3600
RULES = DataRules(max_wrong_labels=1, max_label_drift=1, max_pixel_drift=1, min_digit_share=0, max_duplicates=1)


def home_of_nights(root: Path, digits: Digits, npz: Path, nights: int = 4) -> tuple[Workspace, list[str]]:
    """A workspace after some nights with a new batch and a new version each, and the datasets' digests."""
    workspace = Workspace(root)
    (root / "inbox").mkdir(parents=True)
    models = ModelDirectory(workspace.models)
    digests: list[str] = []
    for night in range(nights):
        images = np.roll(digits.x_train[night * 20 :][:20], 6, axis=1)
        done(write_npz(root / "inbox" / f"{night}", images, digits.y_train[night * 20 :][:20]))
        digests.append(load(str(npz), workspace.datasets, inbox=root / "inbox", rules=RULES).digest)
        normalize(workspace.dataset(digests[-1]))
        run = workspace.run(f"night-{night}")
        metadata = {**stand_in(run.name, root / "runs")["metadata"], "dataset": digests[-1]}
        publish(models, run.name, night or None, metadata=metadata)
        age(run, nights - night)
    return workspace, digests


def age(folder: Path, days: float) -> None:
    """Set the dates of all files to so many days ago."""
    then = time.time() - days * DAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def old_run(workspace: Workspace, number: int, days: float) -> Path:
    run = workspace.run(f"run-{number:03}")
    for name in ("model.keras", "saved_model/saved_model.pb", "figures/recall.png", "checkpoint.npz", "tensorboard/e"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(b"0" * 1000)
    for name in ("training", "evaluation", "decision", "parameters"):
        (run / f"{name}.json").write_text("{}")
    age(run, days)
    return run


def test_an_old_run_keeps_its_documents_and_the_newest_runs_keep_everything(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    runs = [old_run(workspace, number, days=200 - number) for number in range(KEPT_WHOLE + 3)]
    recent = old_run(workspace, 99, days=89)

    would = clean(workspace, dry_run=True)
    assert all((run / "model.keras").exists() for run in runs)
    cleaned = clean(workspace)

    assert [would.runs, would.freed_bytes] == [cleaned.runs, cleaned.freed_bytes] == [4, 4 * 5000]
    assert [path.name for path in sorted(runs[0].rglob("*"))] == [
        *("decision.json", "evaluation.json", "parameters.json", "training.json"),
    ]
    assert (recent / "tensorboard" / "e").exists()
    assert (runs[4] / "model.keras").exists()
    assert clean(workspace) == Cleaned(0, 0, 0, 0, 0, False)
    assert clean(workspace, keep_runs=None).runs == 0


def test_runs_of_a_clock_that_jumped_keep_their_files(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    runs = [old_run(workspace, number, days=4000) for number in range(KEPT_WHOLE)]
    runs += [old_run(workspace, 50, days=-4000)]

    assert clean(workspace, keep_runs=timedelta(days=1)).runs == 1
    assert sum((run / "model.keras").exists() for run in runs) == KEPT_WHOLE


def test_datasets_stay_as_long_as_a_version_or_a_run_has_them(digits: Digits, npz: Path, tmp_path: Path) -> None:
    workspace, digests = home_of_nights(tmp_path, digits, npz)
    (base,) = {Dataset(workspace.dataset(digest)).description().base for digest in digests}
    for run in (tmp_path / "runs").iterdir():
        shutil.rmtree(run)
    assert clean(workspace).datasets == 0

    would = clean(workspace, keep_versions=1, dry_run=True)
    cleaned = clean(workspace, keep_versions=1)

    # The champion, the one before it, and the one that a rollback would go to after that.
    assert [version.number for version in ModelDirectory(workspace.models).versions()] == [3, 4]
    assert (would.versions, would.datasets, would.freed_bytes) == (2, 2, cleaned.freed_bytes)
    left = {path.name for path in workspace.datasets.iterdir() if not path.name.startswith(".")}
    assert left == {base, *digests[2:]}
    for digest in digests[2:]:
        Dataset(workspace.dataset(digest)).verify("train") if digest == digests[3] else None
        assert Dataset(workspace.dataset(digest)).content_digest() == digest
    assert cleaned.batches == 0  # the inbox still has them


def test_batches_that_neither_a_dataset_nor_the_inbox_has_are_removed(
    digits: Digits, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.data.batches.TICK", -3600)
    workspace, digests = home_of_nights(tmp_path, digits, npz, nights=3)
    assert len(list((workspace.datasets / BATCHES).glob("?" * 64))) == 3
    shutil.rmtree(tmp_path / "runs")
    for path in (tmp_path / "inbox").glob("*"):
        path.unlink()
    bare = load(str(npz), workspace.datasets, inbox=tmp_path / "inbox", rules=RULES).digest
    shutil.rmtree(workspace.models)
    for digest in digests[:2]:
        for path in workspace.dataset(digest).glob("x_*_normalized.npy"):
            path.unlink()

    cleaned = clean(workspace)

    assert (cleaned.datasets, cleaned.batches) == (2, 0)  # the last night's dataset has all three
    for path in workspace.dataset(digests[2]).glob("x_*_normalized.npy"):
        path.unlink()
    normalize(workspace.dataset(bare))
    assert [clean(workspace).batches, clean(workspace).batches] == [3, 0]
    assert load(str(npz), workspace.datasets).reused


def test_a_version_that_cannot_be_read_keeps_every_dataset(
    digits: Digits, npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace, digests = home_of_nights(tmp_path, digits, npz, nights=3)
    (workspace.models / "2" / "metadata.json").write_text("{")
    shutil.rmtree(tmp_path / "runs")

    assert clean(workspace).datasets == 0
    assert "no dataset is removed" in caplog.text
    assert all(workspace.dataset(digest).exists() for digest in digests)


def test_the_command_says_what_it_would_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))
    monkeypatch.setenv("MNIST_KEEP_RUNS", "7d")
    for number in range(KEPT_WHOLE + 1):
        old_run(Workspace(tmp_path), number, days=8)

    assert main(["clean", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 1
    assert main(["clean"]) == 0
    assert "removed the working files of 1 runs" in capsys.readouterr().out
    monkeypatch.setenv("MNIST_KEEP_RUNS", "ninety days")
    assert main(["clean"]) == 2
    assert "MNIST_KEEP_RUNS: 'ninety days' is not a time to keep something" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_everything_valid(digits: Digits, npz: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    workspace, _ = home_of_nights(start, digits, npz)
    for number in range(KEPT_WHOLE + 1):
        old_run(workspace, number, days=400)

    result = subprocess.run(
        [sys.executable, "-m", "tests.crash_points", str(tmp_path), "clean"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    COUNTS.extend(result.stdout.splitlines())
