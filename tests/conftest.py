"""Shared fixtures: a slice of MNIST, a model trained on it once per session, and a separate Airflow installation."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from surroundings import FOREIGN, FOREIGN_NAMES

from mnist_tasks.config import TrainConfig
from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.sources import read_source
from mnist_tasks.evaluate import evaluate
from mnist_tasks.load import load
from mnist_tasks.normalize import normalize
from mnist_tasks.train import train
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import COUNTS

# Airflow reads its settings when the test modules import it, which is after this module. Each pytest-xdist worker has
# its own folder.
TEST_HOME = Path(tempfile.mkdtemp(prefix="mnist-tests-"))
# Environment variables that the user has set for other programs must not reach a test.
for name in [name for name in os.environ if name.startswith((*FOREIGN, "MNIST")) or name.lower().endswith("_proxy")]:
    del os.environ[name]
for name in FOREIGN_NAMES:
    os.environ.pop(name, None)
os.environ |= {
    "AIRFLOW_HOME": str(TEST_HOME / "airflow"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{TEST_HOME / 'airflow.db'}",
    "MNIST_HOME": str(TEST_HOME / "home"),
    # As the recipe classic has it, whether a test has imported TensorFlow before the training or not.
    "TF_ENABLE_ONEDNN_OPTS": "0",
}

END_TO_END = "tests/e2e/"
TRAIN, TEST = 2000, 500


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep all end-to-end tests on one worker of `--dist loadgroup`: each Airflow that they start needs the machine.

    The mark `xdist_group`, which is meant for this, has no effect with pytest 9.2 (pytest-dev/pytest-xdist#1386).
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: END_TO_END if nodeid.startswith(END_TO_END) else nodeid
    return scheduler


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # in a worker of pytest-xdist
        session.config.workeroutput["counts"] = COUNTS


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the counts of a pytest-xdist worker. A worker that crashed has no output."""
    COUNTS.extend(getattr(node, "workeroutput", {}).get("counts", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("how much was tried")
        for line in dict.fromkeys(COUNTS):  # two workers may have counted the same corpus
            terminalreporter.write_line(line)


def pytest_unconfigure() -> None:
    shutil.rmtree(TEST_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def mnist() -> Digits:
    """All of MNIST."""
    return read_source("builtin")


@pytest.fixture(scope="session")
def digits(mnist: Digits) -> Digits:
    """The first 2,000 training and 500 test images."""
    return Digits(mnist.x_train[:TRAIN], mnist.y_train[:TRAIN], mnist.x_test[:TEST], mnist.y_test[:TEST])


@pytest.fixture(scope="session")
def npz(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slice as an `.npz` file."""
    path = tmp_path_factory.mktemp("source") / "digits.npz"
    np.savez(path, **vars(digits))
    return path


@pytest.fixture(scope="session")
def trained(npz: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A workspace with a trained and evaluated run `first`, and the digest of its dataset."""
    workspace = Workspace(tmp_path_factory.mktemp("trained"))
    digest = load(str(npz), workspace.datasets).digest
    normalize(workspace.dataset(digest))
    run = workspace.run("first")
    train(workspace.dataset(digest), TrainConfig(epochs=3), run)
    evaluate(workspace.dataset(digest), run, workspace.models)
    return workspace, digest


@pytest.fixture
def workspace(trained: tuple[Workspace, str], tmp_path: Path) -> Workspace:
    """A copy of the workspace with the trained run, which a test may change."""
    shutil.copytree(trained[0].root, tmp_path / "home", symlinks=True)
    return Workspace(tmp_path / "home")


@pytest.fixture(scope="session")
def digest(trained: tuple[Workspace, str]) -> str:
    return trained[1]


@pytest.fixture
def dataset(workspace: Workspace, digest: str) -> Path:
    """The folder of the normalized slice."""
    return workspace.dataset(digest)


@pytest.fixture
def run(workspace: Workspace) -> Path:
    """The folder of a run that is trained and evaluated. There is no champion yet; the accuracy is about 85 %."""
    return workspace.run("first")
