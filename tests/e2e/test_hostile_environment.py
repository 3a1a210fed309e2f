"""`make run` works with every environment variable that has ever broken a run and with a moved workspace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import PROJECT
from tests.helpers import ANYTHING, HANG_SECONDS

pytestmark = pytest.mark.slow

PARAMETERS = [f"{name}={value}" for name, value in {"epochs": 1, **ANYTHING}.items()]


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """Environment variables as desktops, notebooks, containers and other projects leave them behind."""
    home = tmp_path / "user"
    (home / ".keras").mkdir(parents=True)
    keras = '{"backend": "jax", "floatx": "float64", "image_data_format": "channels_first"}'
    (home / ".keras" / "keras.json").write_text(keras)
    for folder in (home, home / ".config" / "matplotlib"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "matplotlibrc").write_text("text.usetex: True\n")
    (home / "httpx.py").write_text("raise ImportError('not the one that is meant')\n")
    return {
        "ALL_PROXY": "socks://127.0.0.1:9/",
        "HOME": str(home),
        "KERAS_BACKEND": "jax",
        "LC_ALL": "en_US.ISO-8859-1",
        "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NO_PROXY": "fd00::/8",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(home),
        "PYTHONWARNINGS": "error",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "localhost",
    }


def make_run(home: Path, environment: dict[str, str], *before: str, folder: Path = PROJECT) -> str:
    """Run `make run`, check that its model is promoted, and return the output."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    result = subprocess.run(
        [*before, "make", "-C", str(PROJECT), "run", *PARAMETERS],
        cwd=folder,
        env={**kept, **environment, "MNIST_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=HANG_SECONDS,
        check=False,
    )
    assert (result.returncode, "promoted as version" in result.stdout) == (0, True), result.stdout
    return result.stdout


def as_nobody_known() -> list[str]:
    """Return a command prefix that runs as a user without an entry in passwd; empty if that is not allowed here."""
    command = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    allowed = shutil.which(command[0]) and not subprocess.run([*command, "true"], capture_output=True).returncode
    return command if allowed else []


def test_it_ends_promoted_with_the_weights_of_a_clean_environment(hostile: dict[str, str], tmp_path: Path) -> None:
    first, moved = tmp_path / "first", tmp_path / "ä ?#% moved"
    make_run(first, {})
    first.rename(moved)

    output = make_run(moved, hostile, *as_nobody_known(), folder=Path(hostile["HOME"]))

    assert "ALL_PROXY is ignored" in output
    assert not first.exists()
    clean, other = (version.metadata().weights_sha256 for version in ModelDirectory(moved / "models").versions())
    assert other == clean
    databases = list(tmp_path.rglob("airflow.db"))
    assert databases == [moved / "airflow" / "airflow.db"]
    assert databases[0].stat().st_mode & 0o077 == 0
    assert len(list((moved / "airflow" / "logs").glob("dag_id=mnist_training/*/task_id=promote/attempt=1.log"))) == 2
