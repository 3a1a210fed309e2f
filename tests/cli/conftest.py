"""What tests of the command line share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mnist_tasks.cli.main import main
from mnist_tasks.data.dataset import Digits
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.files import read_json
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command on the workspace in `tmp_path / "home"` and returns status, output and errors."""
    monkeypatch.setenv("MNIST_HOME", str(tmp_path / "home"))

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # raised by argparse
            status = int(exit_.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return command


@pytest.fixture
def models(run: Path, workspace: Workspace) -> ModelDirectory:
    """Versions 1 and 2 with real models, from the runs `first` and `second`."""
    promote(run, workspace.models, LENIENT)
    second = run.with_name("second")
    shutil.copytree(run, second)
    evaluation = read_json(second / "evaluation.json", "evaluate")
    evaluation["champion"] = {**evaluation["candidate"], "version": 1}
    (second / "evaluation.json").write_text(json.dumps(evaluation))
    promote(second, workspace.models, LENIENT)
    return ModelDirectory(workspace.models)


@pytest.fixture
def picture(digits: Digits, tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(digits.x_test[0]).save(path)
    return path


def process(workspace: Workspace, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "MNIST_HOME": str(workspace.root), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
