"""Parts of the launcher without Airflow: its environment, exit status, refusals and output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy
from airflow.sdk.api.client import Client
from airflow_api import DAG, LaunchError, Run, require_dag
from run import Seen, show
from surroundings import database_url, proxies, surroundings, unusable_proxies

from mnist_tasks.workspace import PROJECT

UNKNOWN = "socks://127.0.0.1:7890/"  # desktops set this; httpx knows only socks5 and socks5h


def around(given: Mapping[str, str], home: Path = Path("/home/mnist")) -> dict[str, str]:
    return surroundings({"HOME": "/", **given}, home, 8080, home / "passwords.json")


@pytest.mark.parametrize(
    ("given", "proxy"),
    [
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost"}, "http://proxy:3128"),
        (
            {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "fd00::/8,10.0.0.0/8,[::1],*.example.com"},
            "http://proxy:3128",
        ),
        ({"http_proxy": "proxy:3128", "HTTP_PROXY": "other", "ALL_PROXY": UNKNOWN}, "proxy:3128"),
        ({"http_proxy": "gopher://proxy", "no_proxy": " , *.example.com:80,[,%zz,\\"}, None),
        ({"ALL_PROXY": UNKNOWN, "all_proxy": UNKNOWN}, None),
        ({}, None),
    ],
)
def test_airflows_client_reaches_loopback_without_a_proxy(
    given: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    environment = around(given)
    assert dict(os.environ) == before

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in [name for name in environment if name.lower().endswith("_proxy")]:
        monkeypatch.setenv(name, environment[name])
    with Client(base_url="http://127.0.0.1:8080/execution/", token="") as client:
        direct = client._transport
        for url in ("http://127.0.0.1:8080/execution/", "http://localhost/", "http://[::1]:80/"):
            assert client._transport_for_url(httpx.URL(url)) is direct
        assert (client._transport_for_url(httpx.URL("http://data.example.org/")) is not direct) == bool(proxy)
    assert environment.get("http_proxy") == environment.get("HTTP_PROXY") == proxy
    assert environment["no_proxy"] == environment["NO_PROXY"]


def test_of_airflows_variables_only_those_about_metrics_and_connections_are_passed_on() -> None:
    given = {"AIRFLOW__METRICS__OTEL_ON": "True", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production"}

    environment = around({**given, "AIRFLOW_CONN_STORE": "aws://", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"})

    assert environment["AIRFLOW__METRICS__OTEL_ON"] == "True"
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite:///")
    assert environment["AIRFLOW_CONN_STORE"] == "aws://"


def test_exceptions_that_httpx_understands_stay() -> None:
    assert proxies({"NO_PROXY": "example.com, fd00::/8,.internal"})["no_proxy"] == (
        "localhost,127.0.0.1,::1,example.com,.internal"
    )


def test_a_proxy_that_cannot_be_used_is_named_without_its_password() -> None:
    assert unusable_proxies(
        {"ALL_PROXY": "socks://me:secret@host", "https_proxy": "http://host", "http_proxy": ""}
    ) == ["ALL_PROXY"]


def test_what_is_meant_for_other_programs_is_not_handed_on() -> None:
    foreign = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production/airflow",
        "_AIRFLOW_WWW_USER_PASSWORD": "x",
        "GIT_DIR": "/another/.git",
        "KERAS_BACKEND": "jax",
        "LC_ALL": "en_US.ISO-8859-1",
        "MAKEFLAGS": "-q",
        "MATPLOTLIBRC": "/home/me/matplotlibrc",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": "/opt/ros/lib",
    }

    environment = around({**foreign, "TF_NUM_INTRAOP_THREADS": "2", "MNIST_APPROVAL": "24h"})

    assert {name: environment.get(name) for name in foreign if environment.get(name) == foreign[name]} == {}
    assert (environment["TF_NUM_INTRAOP_THREADS"], environment["MNIST_APPROVAL"]) == ("2", "24h")
    assert (environment["LC_ALL"], environment["PYTHONUTF8"]) == ("C.UTF-8", "1")


def test_a_user_without_a_name_or_a_home_gets_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", unknown)

    environment = around({"HOME": "/no/such/home"}, tmp_path)

    assert environment["USER"] == environment["LOGNAME"] == f"user-{os.getuid()}"
    assert environment["HOME"] == str(tmp_path)


def test_a_database_in_a_folder_with_a_question_mark_lies_there(tmp_path: Path) -> None:
    (tmp_path / "a b?c#d%e").mkdir()

    url = database_url(tmp_path / "a b?c#d%e" / "airflow.db")

    with sqlalchemy.create_engine(url).connect() as connection:
        connection.exec_driver_sql("create table t (a)")

    assert [path.name for path in tmp_path.rglob("*.db")] == ["airflow.db"]
    assert (tmp_path / "a b?c#d%e" / "airflow.db").stat().st_size
    assert database_url(Path("/srv/mnist/airflow.db")) == "sqlite:////srv/mnist/airflow.db"


@pytest.mark.parametrize(
    "odd", [{"PYTHONWARNINGS": "error"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONPATH": "/shadow"}, {}]
)
@pytest.mark.parametrize("script", ["run.py", "up.py"])
def test_a_dollar_is_refused_and_other_programs_variables_do_not_matter(
    script: str, odd: dict[str, str], tmp_path: Path
) -> None:
    if "PYTHONPATH" in odd:
        (tmp_path / "httpx.py").write_text("import sys; sys.exit(1)")
        odd = {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(PROJECT / "scripts" / script)]
    environment = {**os.environ, "MNIST_HOME": str(tmp_path / "ü $HOME"), **odd}

    result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"failed: MNIST_HOME: Airflow would read {tmp_path}/ü $HOME as {tmp_path}/ü /")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("entry.end(0)", 0),
        ("entry.end(1)", 1),
        ("import no_such_package", 2),
        ("raise MemoryError", 2),
        ("raise KeyboardInterrupt", 2),
        ("sys.exit(1)", 2),
        ("sys.exit(0)", 2),
        ("pass", 2),
    ],
)
def test_only_a_command_that_comes_to_its_end_says_how_it_ended(command: str, status: int, tmp_path: Path) -> None:
    assert start(tmp_path, command).wait() == status


def test_output_that_nobody_reads_costs_nothing(tmp_path: Path) -> None:
    lines = "\nfor n in range(20_000):\n    print(n)\n    print(n, file=sys.stderr)\nentry.end(1)"
    reader, writer = os.pipe()
    process = start(tmp_path, lines, stdout=writer, stderr=writer)
    os.close(writer)

    assert os.read(reader, 2)
    os.close(reader)

    assert process.wait() == 1


@pytest.mark.parametrize("closed", ["stdout", "stderr", "stdin"])
def test_a_closed_descriptor_costs_nothing(closed: str, tmp_path: Path) -> None:
    number = ("stdin", "stdout", "stderr").index(closed)

    process = start(tmp_path, "print(1); print(2, file=sys.stderr); entry.end(0)", f"exec {number}>&-")

    assert process.wait() == 0


@pytest.mark.parametrize(
    ("ignored", "sent", "expected"),
    [
        ("SIGHUP", "SIGHUP", "goes on"),  # as under nohup
        ("SIGUSR1", "SIGHUP", "SIGHUP"),
        ("SIGINT", "SIGINT", "SIGINT"),  # as background processes of a shell without job control
    ],
)
def test_a_hang_up_that_is_ignored_stays_so(ignored: str, sent: str, expected: str, tmp_path: Path) -> None:
    command = f"""
import os, signal
from process_tree import Stopped, stop_on_signals
stop_on_signals()
try:
    os.kill(os.getpid(), signal.{sent})
    print("goes on")
except Stopped as stopped:
    print(stopped)
entry.end(0)
"""
    process = start(tmp_path, command, f"trap '' {ignored.removeprefix('SIG')}", stdout=subprocess.PIPE)

    assert process.communicate()[0] == f"{expected}\n"


def start(folder: Path, command: str, preparation: str = ":", **arguments: Any) -> subprocess.Popen[str]:
    """Run a shell command that prepares the process, then start a command like those in `scripts`."""
    script = folder / "command.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(PROJECT / 'scripts')!r})\nimport entry; entry.start()\n{command}"
    )
    shell = ["/bin/sh", "-c", f'{preparation}; exec "$@"', "sh"]
    options: dict[str, Any] = {"stderr": subprocess.DEVNULL, **arguments}
    # Under nohup the tests themselves ignore a hang-up, which a shell cannot undo.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
    return subprocess.Popen([*shell, sys.executable, str(script)], text=True, **options)


class Api:
    """A stand-in for Airflow's API with answers by path; any other path gives 404."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def client(self) -> httpx.Client:
        def answer(request: httpx.Request) -> httpx.Response:
            body = self.answers.get(request.url.path.removeprefix("/api/v2/").replace("/", "_"))
            return httpx.Response(200 if body else 404, json=body or {"detail": "not found"})

        return httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(answer))


def by_hand(*arguments: str) -> str:
    return " ".join(["$ airflow", *arguments])


GOOD = {"has_import_errors": False, "is_paused": False}
ERRORS = {"import_errors": [{"filename": "mnist_training.py", "stack_trace": "Traceback ...:\nInputError: MNIST_X\n"}]}


@pytest.mark.parametrize(
    ("api", "pool", "words"),
    [
        (Api(importErrors=ERRORS), "", f"cannot import the DAG {DAG}:\nmnist_training.py: InputError: MNIST_X$"),
        (Api(importErrors={"import_errors": []}), "", f"cannot import the DAG {DAG}$"),
        (Api(dags_mnist_training={**GOOD, "has_import_errors": True}, importErrors=ERRORS), "", "InputError: MNIST_X$"),
        (
            Api(dags_mnist_training=GOOD),
            "gpu",
            "^MNIST_GPU_POOL: Airflow has no pool 'gpu', .*\n[$] airflow pools set gpu 1 train and evaluate$",
        ),
    ],
)
def test_a_training_that_could_not_run_is_refused(
    api: Api, pool: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_GPU_POOL", pool)

    with pytest.raises(LaunchError, match=words):
        require_dag(api.client(), by_hand)


def test_a_training_that_can_run_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_GPU_POOL", "gpu")
    pool = {"name": "gpu"}

    assert require_dag(Api(dags_mnist_training=GOOD, pools_gpu=pool).client(), by_hand) is None
    paused = require_dag(Api(dags_mnist_training={**GOOD, "is_paused": True}, pools_gpu=pool).client(), by_hand)
    assert paused
    assert "mnist_training is paused" in paused
    assert paused.endswith("\n$ airflow dags unpause --yes mnist_training")


@pytest.mark.parametrize(
    ("rule", "number", "pause"),
    [
        ({"seconds": 30, "backoff": 2.0}, 1, "30 to 60 s, try 2 of 3"),
        ({"seconds": 30, "backoff": 2.0}, 2, "60 to 120 s, try 3 of 3"),
        ({"seconds": 5, "backoff": 0.0}, 1, "5 s, try 2 of 3"),
    ],
)
@pytest.mark.parametrize("logged", [True, False])
def test_a_retry_says_why_when_and_which_try(
    rule: dict[str, float],
    number: int,
    pause: str,
    logged: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {
        "retry_delay": {"days": 0, "seconds": rule["seconds"], "microseconds": 0},
        "retry_exponential_backoff": rule["backoff"],
    }
    run = Run(Api(dags_mnist_training_tasks_load=answer).client(), "night", tmp_path)
    if logged:
        log = run.log_path("load", number)
        log.parent.mkdir(parents=True)
        line = {"event": "Task failed", "level": "error", "error_detail": [{"exc_value": "[Errno 5] I/O"}]}
        log.write_text(json.dumps(line) + "\n")
    task = {"task_id": "load", "state": "up_for_retry", "try_number": number, "max_tries": 2, "end_date": "2026"}

    show(run, task, Seen(state="running", try_number=number))

    why = "Task failed: [Errno 5] I/O" if logged else "its log does not say why"
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"    {why}")
    again = f", try {number}" if number > 1 else ""
    assert last == f"  load: up_for_retry{again}; tried again in {pause}"
