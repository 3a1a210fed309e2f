"""A model server that follows the model directory, as TensorFlow Serving does, gives no wrong and no failed answer.

The server is the stand-in of `tests/servers/serving.py`, in a process of its own; the versions are real SavedModels.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import keras
import numpy as np
import pytest

from mnist_tasks.data.dataset import Digits
from mnist_tasks.evaluation.integrity import TOLERANCE
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.publishing import publish
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.files import sha256
from mnist_tasks.training.architectures import export
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import COUNTS, HANG_SECONDS, LENIENT, free_port, stand_in, with_documents

pytestmark = pytest.mark.slow

PUBLISHES, ROLLBACKS, MODELS, CLIENTS = 50, 10, 5, 3


@contextmanager
def serving(models: Path) -> Iterator[tuple[str, Path]]:
    """The server's address and its standard error; its first version may not be there yet."""
    models.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), models.parent / "serving.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.serving", str(models), str(port)],
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, number: int) -> None:
    """Wait until a version is served."""
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        try:
            status = httpx.get(f"{url}/v1/models/mnist", timeout=HANG_SECONDS).json()
            if [int(entry["version"]) for entry in status.get("model_version_status", [])] == [number]:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"version {number} is not served"
        time.sleep(0.02)


@dataclass
class Clients:
    """Clients that ask without a pause, and what is wrong with the answers.

    `answers` are the probabilities of each model, `order` the models in the order in which they became champion.
    """

    url: str
    images: Any
    answers: list[Any]
    order: list[int] = field(default_factory=list)
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        body = json.dumps({"instances": self.images.tolist()}).encode()
        with httpx.Client(timeout=HANG_SECONDS) as client:
            while not self.stop.is_set():
                # The last one that was served before the request, and all that became champion until the answer.
                first = len(self.order) - 2
                try:
                    answer = client.post(f"{self.url}/v1/models/mnist:predict", content=body)
                    predictions = np.asarray(answer.json()["predictions"], np.float32)
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.wrong.append(repr(error))
                    continue
                possible = self.order[max(0, first) :]
                if not any(np.abs(predictions - self.answers[model]).max() <= TOLERANCE for model in possible):
                    self.wrong.append(f"an answer is of none of the models {possible}")
                self.asked += 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, mnist: Digits) -> tuple[list[Path], Any, list[Any]]:
    """Five SavedModels with other weights each, images, and the probabilities of each model for them."""
    images = mnist.x_test[:8]
    folders, answers = [], []
    for seed in range(MODELS):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Flatten(), keras.layers.Dense(16, "relu"), keras.layers.Dense(10, "softmax")]
        model = keras.Sequential([keras.Input((28, 28)), *layers])
        folder = tmp_path_factory.mktemp("exported") / str(seed)
        export(model, folder)
        folders.append(folder)
        answers.append(np.asarray(model(images.astype(np.float32) / 255, training=False)))
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(answers, 2)) > 10 * TOLERANCE
    return folders, images, answers


def publish_saved_model(models: ModelDirectory, folder: Path, name: str) -> int:
    """Publish a SavedModel as the next version."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    candidate = stand_in(name, models.root.parent / "runs")
    candidate["files"] = {"model.keras": candidate["files"]["model.keras"], **files}
    candidate["digests"] = {path: sha256(file) for path, file in candidate["files"].items()}
    champion = models.champion()
    replaces = champion.number if champion else None
    return publish(models, **with_documents({**candidate, "replaces": replaces})).number


def test_fifty_publishes_and_ten_rollbacks_under_load(
    exported: tuple[list[Path], Any, list[Any]], tmp_path: Path
) -> None:
    folders, images, answers = exported
    models = ModelDirectory(tmp_path / "models")
    model_of: dict[int, int] = {}

    def next_version(step: int) -> int:
        if step % 6 == 5:
            version = roll_back(models, reason="it was bad", published_by="me", smoke_test=lambda _: None)
            model_of[version.number] = model_of[version.metadata().restores or 0]
            return version.number
        number = publish_saved_model(models, folders[step % MODELS], f"run-{step}")
        model_of[number] = step % MODELS
        return number

    with serving(models.root) as (url, log):
        clients = Clients(url, images, answers)
        threads = [threading.Thread(target=clients.ask) for _ in range(CLIENTS)]
        for step in range(PUBLISHES + ROLLBACKS):
            # Before it can be served.
            upcoming = (
                step % MODELS if step % 6 != 5 else model_of[models.champion_history().champion_before(step) or 0]
            )
            clients.order.append(upcoming)
            number = next_version(step)
            assert model_of[number] == upcoming
            wait_for(url, number)
            if step == 0:
                for thread in threads:
                    thread.start()
            if step % 10 == 9:
                prune(models, 3)
        clients.stop.set()
        for thread in threads:
            thread.join(HANG_SECONDS)
        errors = [line for line in log.read_text().splitlines() if line.startswith("cannot load")]

    assert clients.wrong == []
    assert errors == []
    assert clients.asked > PUBLISHES + ROLLBACKS
    rolled_back = sum(event.restores is not None for event in models.history())
    assert (rolled_back, len(model_of)) == (ROLLBACKS, PUBLISHES + ROLLBACKS)
    COUNTS.append(f"serving: {clients.asked} answers during {PUBLISHES} publishes and {ROLLBACKS} rollbacks")


def check(home: Workspace, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnist_tasks", "serve-check", "--url", url, *options]
    environment = {**os.environ, "MNIST_HOME": str(home.root)}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_serve_check_compares_the_server_with_what_was_approved(workspace: Workspace, run: Path) -> None:
    nothing = check(workspace, "http://127.0.0.1:9")
    assert (nothing.returncode, nothing.stderr.partition(";")[0]) == (2, f"failed: {workspace.models} has no champion")
    promote(run, workspace.models, LENIENT)
    away = check(workspace, "http://127.0.0.1:9")
    assert (away.returncode, away.stdout) == (2, "")
    assert "http://127.0.0.1:9/v1/models/mnist cannot be reached: ConnectError; is the server up?" in away.stderr

    with serving(workspace.models) as (url, _):
        wait_for(url, 1)
        good = check(workspace, url)
        assert (good.returncode, good.stdout, good.stderr) == (
            0,
            f"{url} serves version 1, the champion, and gives the probabilities that were approved\n",
            "",
        )
        unknown = check(workspace, url, "--name", "other")
        assert (unknown.returncode, "answers with status 404: Could not find" in unknown.stderr) == (2, True)

    elsewhere = workspace.root / "elsewhere"
    shutil.copytree(workspace.models / "1", elsewhere / "2")
    with serving(elsewhere) as (url, _):
        wait_for(url, 2)
        other = check(workspace, url)
        assert (other.returncode, other.stdout.partition(";")[0]) == (
            1,
            f"{url} serves version 2, but version 1 is champion",
        )


def test_serve_check_finds_other_answers(
    workspace: Workspace, run: Path, exported: tuple[list[Path], Any, list[Any]]
) -> None:
    promote(run, workspace.models, LENIENT)
    wrong = workspace.root / "wrong"
    shutil.copytree(exported[0][0], wrong / "1")

    with serving(wrong) as (url, _):
        wait_for(url, 1)
        found = check(workspace, url, "--json")

    assert found.returncode == 1
    (problem,) = json.loads(found.stdout)
    assert problem.startswith("the server now and the model when it was approved do not agree on the golden images")
