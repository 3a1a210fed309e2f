"""Functions and constants that several test modules share."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy.typing as npt
import pytest

from mnist_tasks.documents import DecisionRecord, Evaluation, Training
from mnist_tasks.gate_config import GateConfig
from mnist_tasks.registry import publishing
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import Version
from mnist_tasks.system.files import sha256
from mnist_tasks.workspace import PROJECT, Workspace

# Parameters of the gate that let every model pass whose outputs are probabilities.
ANYTHING = {
    "min_accuracy": 0,
    "max_accuracy": 1,
    "max_loss": 100,
    "min_digit_recall": 0,
    "min_digit_precision": 0,
    "max_regression": 1,
    "max_digit_regression": 1,
    "max_loss_increase": 100,
    "max_champion_drop": 1,
    "max_label_issues": 1,
    "max_training_loss_increase": 100,
    "max_calibration_increase": 1,
    "min_slice_accuracy": 0,
    "max_slice_regression": 1,
    "max_robustness_regression": 1,
    "max_slide": 1,
    "max_loss_slide": 100,
}
LENIENT = GateConfig(**ANYTHING)

# Nothing in these tests takes a tenth of this time, even on a slow machine. Whatever takes longer hangs.
HANG_SECONDS = 1800

# Lines of the section "how much was tried" of the test report.
COUNTS: list[str] = []

Array = npt.NDArray[Any]

NOBODY = 65534


def without_root(function: Callable[[], Any], folder: Path) -> Any:
    """Call a function as the user nobody, who has no root rights but gets access to `folder`."""
    if os.geteuid():
        return function()
    for path in (folder, *folder.parents):
        if path.owner() == "root" and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    try:
        return function()
    finally:
        os.seteuid(0)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of the given size, such as 1M, or skip the test where mounting is not allowed."""
    folder.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size={size} tmpfs {folder} 2>/dev/null"):  # noqa: S605
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        yield folder
    finally:
        os.system(f"umount {folder}")  # noqa: S605


def free_port() -> int:
    """Return a TCP port on the loopback interface on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def served(home: Workspace, **environment: str) -> Iterator[str]:
    """Start `make up` on a workspace, wait until users can log in, and yield the URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / "up.py")],
        env={**os.environ, "MNIST_HOME": str(home.root), "PORT": str(port), **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        assert any("password" in line for line in process.stdout)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANG_SECONDS)


def password(home: Workspace) -> str:
    """Return the admin password of the Airflow that `served` starts."""
    return str(json.loads((home.root / "airflow" / "passwords.json").read_text())["admin"])


@contextmanager
def logged_in(url: str, home: Workspace) -> Iterator[httpx.Client]:
    """Yield an API client for the Airflow that `served` starts, logged in as admin."""
    with httpx.Client(base_url=url, timeout=HANG_SECONDS, trust_env=False) as client:
        login = {"username": "admin", "password": password(home)}
        token = client.post("/auth/token", json=login).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def stand_in(name: str, folder: Path) -> dict[str, Any]:
    """Write small files that stand in for the model of the run `name`; return the arguments to publish them."""
    contents = {
        "model.keras": name * 100,
        "saved_model.pb": name * 10,
        "variables/variables.index": name,
        "golden.npz": name,
    }
    files = {path: folder / name / path for path in contents}
    for path, content in contents.items():
        files[path].parent.mkdir(parents=True, exist_ok=True)
        files[path].write_text(content)
    digits = [{"digit": n, "support": 10, "precision": 0.9, "recall": 0.9, "f1": 0.9} for n in range(10)]
    return {
        "files": files,
        "digests": {path: sha256(file) for path, file in files.items()},
        "published_by": name,
        "reason": f"{name} is better",
        "metadata": {
            "run_id": name,
            "weights_sha256": f"weights of {name}",
            "dataset": "0" * 64,
            "config": {"architecture": "mlp", "seed": 3},
            "seconds": 1.0,
            "device": "CPU",
            "library_versions": {"keras": "3"},
            "git_commit": None,
            "test_accuracy": 0.9,
        },
        "evaluation": {
            "dataset": "0" * 64,
            "source": "builtin",
            "train_images": 60000,
            "test_images": 100,
            "candidate": {"accuracy": 0.9, "accuracy_95": [0.8, 0.95], "loss": 0.3, "digits": digits},
        },
        "decision": {"forced": False, "reason": f"{name} is better"},
    }


def with_documents(candidate: dict[str, Any]) -> dict[str, Any]:
    """Convert the result of `stand_in` to the arguments of `publish`, which takes documents instead of plain JSON."""
    arguments = {name: value for name, value in candidate.items() if name not in ("metadata", "reason")}
    metadata = dict(candidate["metadata"])
    decision = {
        "run_id": metadata.pop("run_id"),
        "candidate_accuracy": metadata.pop("test_accuracy"),
        **candidate["decision"],
        "reason": candidate["reason"],
    }
    return {
        **arguments,
        "training": Training.model_validate_json(json.dumps(metadata)),
        "evaluation": Evaluation.model_validate_json(json.dumps(candidate["evaluation"])),
        "decision": DecisionRecord.model_validate_json(json.dumps(decision)),
    }


def published(models: ModelDirectory, count: int, name: str = "run") -> ModelDirectory:
    """Publish versions 1 to `count`, each by a run of its own; return the directory."""
    for number in range(1, count + 1):
        publish(models, f"{name}-{number}", number - 1 or None)
    return models


def publish(models: ModelDirectory, name: str, replaces: int | None, **changed: Any) -> Version:
    """Publish small files that stand in for the model of the run `name`."""
    candidate = stand_in(name, models.root.parent / "runs")
    changed = {**({"reason": changed["decision"]["reason"]} if "decision" in changed else {}), **changed}
    return publishing.publish(models, **with_documents({**candidate, "replaces": replaces, **changed}))
