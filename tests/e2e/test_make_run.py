"""`make run` and `make up` with a real scheduler, API server and LocalExecutor."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.workspace import PROJECT
from tests.helpers import ANYTHING, HANG_SECONDS, free_port

RUN, UP = PROJECT / "scripts" / "run.py", PROJECT / "scripts" / "up.py"
PROMOTED, REJECTED, FAILED = 0, 1, 2

pytestmark = pytest.mark.slow

# Processes that existed before these tests.
EARLIER_PIDS = set(psutil.pids())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for the whole module; its runs follow one another as on a user's machine."""
    return tmp_path_factory.mktemp("home")


def start(script: Path, home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    # A variable for another Airflow must not reach this one.
    foreign = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production/airflow"}
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **foreign, "MNIST_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process to end, check that it leaves no processes behind, and return its exit status and output."""
    output, _ = process.communicate(timeout=HANG_SECONDS)
    assert airflow_processes() == []
    return process.returncode, output


def airflow_processes() -> list[str]:
    """Return the command lines of the Airflow processes of these tests, which run in the project folder."""
    ignored = EARLIER_PIDS | pids_of_other_workers()
    here = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(PROJECT) and process.pid not in ignored
    ]
    return [line for line in (" ".join(process.info["cmdline"] or ()) for process in here) if "airflow" in line]


def pids_of_other_workers() -> set[int]:
    """Return the processes of the other pytest-xdist workers, whose tests start Airflow processes too."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return set()
    controller, here = psutil.Process(os.getppid()), os.getpid()
    workers = [worker for worker in controller.children() if worker.pid != here]
    return {process.pid for worker in workers for process in [worker, *worker.children(recursive=True)]}


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read the output up to the first line that contains `words`."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} is not in:\n{''.join(lines)}")


def test_the_default_run_promotes_a_model_that_a_fresh_python_can_load(home: Path) -> None:
    status, output = finish(start(RUN, home))

    assert status == PROMOTED, output
    champion = ModelDirectory(home / "models").champion()
    assert champion
    assert (champion.metadata().test_accuracy or 0) >= 0.97
    assert champion.metadata().config["epochs"] == 5
    assert re.search(r"^promoted as version 1: accuracy 0\.97\d+ reaches the minimum", output, re.MULTILINE)
    for task in ("load", "normalize", "train", "evaluate", "promote"):
        assert f"  {task}: success" in output
    assert len(re.findall(r"epoch \d/5: loss .* images/s", output)) == 5
    # It fits a screen: tables and lists are folded, as in Airflow's UI. What is still waited for is said now and then.
    report = [line for line in output.splitlines() if not re.search(r": \d+ s$|, \d+ s after the trigger$", line)]
    assert len(report) <= 45, output
    assert "60,000 images; recipe classic\n" in output
    assert "::" not in output
    script = f"import keras; print(keras.models.load_model({str(home / 'models/champion/model.keras')!r}).output_shape)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert loaded.stdout == "(None, 10)\n"


def test_no_task_log_has_a_line_at_error_level_or_uses_half_the_plain_scripts_memory(home: Path) -> None:
    logs = list((home / "airflow" / "logs").glob("dag_id=mnist_training/*/task_id=*/attempt=*.log"))

    assert len(logs) == 5
    for log in logs:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["event"] for line in lines if line["level"] in ("warning", "error", "critical")] == []
        (peak,) = (int(m[1]) for line in lines if (m := re.search(r"peak memory (\d+) MB", line["event"])))
        assert peak < 775, log


def test_a_rejected_run_leaves_the_champion_and_says_so(home: Path) -> None:
    status, output = finish(start(RUN, home, "min_accuracy=0.998", "epochs=1"))

    assert status == REJECTED, output
    assert "  promote: skipped" in output
    assert re.search(r"^rejected: accuracy 0\.\d+ is below the minimum of 0\.9980", output, re.MULTILINE)
    (decision_path,) = (home / "runs" / name for name in re.findall(r"runs/(\S+)/decision\.json", output))
    assert not json.loads((decision_path / "decision.json").read_text())["promoted"]
    assert (home / "models" / "champion").readlink() == Path("1")


def test_a_run_on_which_nothing_has_changed_ends_in_seconds_if_that_is_asked_for(home: Path) -> None:
    status, output = finish(start(RUN, home, "when_unchanged=skip"))

    assert status == PROMOTED, output
    assert "  train: skipped" in output
    assert re.search(r"^unchanged: nothing has changed since version 1, the champion,", output, re.MULTILINE)
    assert (home / "models" / "champion").readlink() == Path("1")


def test_a_missing_pool_and_a_paused_dag_are_named_with_a_command_that_helps(home: Path) -> None:
    def refused(words: str, expected_command: str) -> str:
        status, output = finish(start(RUN, home, "epochs=1", MNIST_GPU_POOL="gpu"))
        assert (status, words in output) == (FAILED, True), output
        command = output.splitlines()[-1]
        assert command.endswith(expected_command)
        return command

    before = ModelDirectory(home / "models").versions()
    # The commands in the message work in a shell exactly as shown.
    command = refused("MNIST_GPU_POOL: Airflow has no pool 'gpu'", "pools set gpu 1 'train and evaluate'")
    pause = command[: command.index(" pools ")] + " dags pause --yes mnist_training"
    for line in (command, pause):
        subprocess.run(["/bin/sh", "-c", line], check=True, capture_output=True)
    command = refused("mnist_training is paused", "dags unpause --yes mnist_training")
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)

    status, output = finish(start(RUN, home, "when_unchanged=skip", MNIST_GPU_POOL="gpu"))
    assert status == PROMOTED, output
    assert ModelDirectory(home / "models").versions() == before


def test_a_failed_run_names_the_reason(home: Path) -> None:
    source = home / "digits.npz"
    source.write_bytes(b"PK not really")
    status, output = finish(start(RUN, home, f"source={source}"))

    assert status == FAILED
    assert f"{source} is not a" in output
    assert (home / "models" / "champion").readlink() == Path("1")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("epochs=0", "failed: epochs: 0 is less than the minimum of 1"),
        ("epoch=3", "failed: epoch: unknown parameter; did you mean epochs?"),
        ("epochs", "failed: 'epochs' is not a parameter; write name=value"),
        ("min_accuracy=0.999", "failed: min_accuracy: 0.999 is above max_accuracy, 0.9985, so no model could pass"),
        ("source=/no/such/file.npz", "failed: data source '/no/such/file.npz' does not exist on this worker"),
        ("source=ftp://host/digits.npz", "failed: source: ftp://host/digits.npz cannot be read: use https"),
    ],
)
def test_a_bad_parameter_is_refused_before_airflow_starts(argument: str, words: str, tmp_path: Path) -> None:
    status, output = finish(start(RUN, tmp_path, argument))

    assert (status, words in output) == (FAILED, True)
    assert not (tmp_path / "airflow").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_trains_leaves_no_process_and_the_next_run_works(signum: signal.Signals, home: Path) -> None:
    process = start(RUN, home, "epochs=1000")
    wait_for(process, "epoch 1/1000")

    process.send_signal(signum)
    status, output = finish(process)

    assert (status, "stopped; the run is marked as failed" in output) == (FAILED, True)
    assert (home / "models" / "champion").readlink() == Path("1")


def test_after_a_kill_the_services_end_and_the_next_run_cleans_up(home: Path) -> None:
    process = start(RUN, home, "epochs=1000")
    wait_for(process, "epoch 1/1000")

    process.kill()
    process.communicate()
    deadline = time.monotonic() + HANG_SECONDS
    while airflow_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert airflow_processes() == []

    anything = [f"{name}={value}" for name, value in ANYTHING.items()]
    status, output = finish(start(RUN, home, "epochs=1", *anything))
    assert status == PROMOTED, output
    assert "was interrupted; marking it as failed" in output


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which another socket listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_port_is_named(port: int, tmp_path: Path) -> None:
    status, output = finish(start(UP, tmp_path, PORT=str(port)))

    assert status == FAILED
    assert f"failed: port {port} on 127.0.0.1 cannot be used: Address already in use; choose another" in output


@pytest.mark.parametrize("text", ["http", "0", "65536"])
def test_a_bad_port_is_named(text: str, tmp_path: Path) -> None:
    assert finish(start(UP, tmp_path, PORT=text)) == (
        FAILED,
        f"failed: PORT={text} is not a port number from 1 to 65535\n",
    )


def test_the_ui_is_on_loopback_only_with_a_password_that_is_shown_once(home: Path) -> None:
    port = free_port()
    process = start(UP, home, PORT=str(port))
    output = wait_for(process, "password")

    assert f"http://127.0.0.1:{port}" in output
    passwords = home / "airflow" / "passwords.json"
    assert passwords.stat().st_mode & 0o777 == 0o600
    password = json.loads(passwords.read_text())["admin"]
    assert password in output
    services = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    addresses = {c.laddr.ip for service in services for c in service.net_connections() if c.status == "LISTEN"}
    assert addresses == {"127.0.0.1"}

    rollback_in_the_ui(port, password, home)

    second = start(RUN, home)
    refusal, _ = second.communicate(timeout=HANG_SECONDS)
    assert (second.returncode, f"(process {process.pid})" in refusal) == (FAILED, True)

    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0
    again = start(UP, home, PORT=str(port))
    assert password not in wait_for(again, "password")
    again.send_signal(signal.SIGINT)
    assert finish(again)[0] == 0


def rollback_in_the_ui(port: int, password: str, home: Path) -> None:
    """Trigger mnist_rollback through the API of the UI: without a reason, which is refused, and with a reason."""
    models = ModelDirectory(home / "models")
    numbers = [version.number for version in models.versions()]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_SECONDS, trust_env=False) as client:
        token = client.post("/auth/token", json={"username": "admin", "password": password}).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        runs = "/api/v2/dags/mnist_rollback/dagRuns"
        refused = client.post(runs, json={"logical_date": None, "conf": {"reason": ""}})
        assert (refused.status_code, "should be non-empty" in refused.text) == (400, True)
        run = client.post(runs, json={"logical_date": None, "conf": {"reason": "it was bad"}}).raise_for_status().json()
        deadline = time.monotonic() + HANG_SECONDS
        while run["state"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.3)
            run = client.get(f"{runs}/{run['dag_run_id']}").json()
    assert run["state"] == "success"
    champion = models.champion()
    assert champion
    assert (champion.number, champion.metadata().restores) == (numbers[-1] + 1, numbers[-2])
    assert models.history()[-1].published_by == run["dag_run_id"]


def test_a_training_task_that_is_killed_is_retried_from_its_last_epoch(home: Path) -> None:
    before = ModelDirectory(home / "models").versions()
    process = start(RUN, home, "epochs=30", "max_loss_increase=1", "max_loss_slide=1", "max_calibration_increase=1")
    wait_for(process, "epoch 3/30")
    task = max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.memory_info().rss)

    task.kill()
    status, output = finish(process)

    assert status == PROMOTED, output
    assert re.search(r"continuing after epoch \d+, where an earlier try stopped", output)
    assert "train: success, try 2" in output
    assert "  train: up_for_retry; tried again in 30 to 60 s, try 2 of 3\n" in output
    assert len(ModelDirectory(home / "models").versions()) == len(before) + 1
