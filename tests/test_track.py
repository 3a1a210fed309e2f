"""Runs and champions in a real MLflow: once each, whatever dies or is away, and never a wrong alias."""

from __future__ import annotations

import http.server
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import sha256
from mnist_tasks.system.store_url import ServerUrl
from mnist_tasks.track import Tracked, track
from mnist_tasks.workspace import PROJECT, Workspace
from tests.helpers import COUNTS, HANG_SECONDS, LENIENT, published
from tests.servers.start import PLACE, Faulty, Killing, Request, faulty, mlflow

pytestmark = pytest.mark.slow

SECRET = "PLANTED-s3cret"  # noqa: S105 - to look for it in logs
EXPERIMENT = "mnist_training"


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def proxy(shared_server: str) -> Iterator[Faulty]:
    """A proxy before a server without any experiment or registered model."""
    with faulty(shared_server) as proxy:
        call(proxy.url, "registered-models/delete", {"name": "mnist"}, "DELETE")
        for experiment in call(proxy.url, "experiments/search", {"max_results": 100}).get("experiments", []):
            if experiment["name"] != "Default":
                named = {"experiment_id": experiment["experiment_id"], "new_name": os.urandom(8).hex()}
                call(proxy.url, "experiments/update", named)
        proxy.requests.clear()
        yield proxy


@pytest.fixture
def server(proxy: Faulty) -> ServerUrl:
    return ServerUrl.parse(proxy.url)


def call(url: str, what: str, body: dict[str, Any], method: str = "POST") -> dict[str, Any]:
    """Ask MLflow directly, as its UI does."""
    asked = body if method == "GET" else None
    sent = None if method == "GET" else body
    answer = httpx.request(method, f"{url}/api/2.0/mlflow/{what}", timeout=HANG_SECONDS, params=asked, json=sent)
    return dict(answer.json())


def runs(url: str) -> list[dict[str, Any]]:
    found = call(url, "experiments/get-by-name", {"experiment_name": EXPERIMENT}, "GET")
    ids = [found["experiment"]["experiment_id"]]
    return list(call(url, "runs/search", {"experiment_ids": ids}).get("runs", []))


def registered(url: str) -> dict[str, Any]:
    return dict(call(url, "registered-models/get", {"name": "mnist"}, "GET").get("registered_model", {}))


def versions(url: str) -> list[dict[str, Any]]:
    return list(call(url, "model-versions/search", {"filter": "name='mnist'"}, "GET").get("model_versions", []))


def alias(url: str) -> str | None:
    return {entry["alias"]: entry["version"] for entry in registered(url).get("aliases", [])}.get("champion")


def pairs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["key"]: entry["value"] for entry in entries}


@pytest.fixture
def promoted(workspace: Workspace, run: Path) -> Workspace:
    """A workspace with a real run that became champion."""
    (run / "parameters.json").write_text(json.dumps({"epochs": 3, "recipe": "classic", "a name": "with blanks"}))
    assert promote(run, workspace.models, LENIENT).promoted
    return workspace


def test_a_run_and_its_champion_are_recorded_once(promoted: Workspace, run: Path, server: ServerUrl) -> None:
    first = track(run, promoted.models, server, EXPERIMENT)
    second = track(run, promoted.models, server, EXPERIMENT)

    assert first == second
    (recorded,) = runs(server.url)
    assert recorded["info"]["run_id"] == first.mlflow_run
    assert (recorded["info"]["run_name"], recorded["info"]["status"]) == ("first", "FINISHED")
    assert pairs(recorded["data"]["params"]) == {"epochs": "3", "recipe": "classic", "a name": "with blanks"}
    metrics = pairs(recorded["data"]["metrics"])
    evaluation = json.loads((run / "evaluation.json").read_text())["candidate"]
    assert metrics["test_accuracy"] == evaluation["accuracy"]
    assert metrics["test_recall_7"] == evaluation["digits"][7]["recall"]
    history = json.loads((run / "history.json").read_text())
    asked = {"run_id": first.mlflow_run, "metric_key": "loss"}
    curve = call(server.url, "metrics/get-history", asked, "GET")["metrics"]
    assert [(point["step"], point["value"]) for point in curve] == [
        (epoch["number"], epoch["metrics"]["loss"]) for epoch in history
    ]
    tags = pairs(recorded["data"]["tags"])
    assert (tags["mnist.outcome"], tags["mnist.version"]) == ("promoted", "1")
    files = {
        entry["path"] for entry in call(server.url, "artifacts/list", {"run_id": first.mlflow_run}, "GET")["files"]
    }
    assert {"decision.json", "evaluation.json", "history.json", "figures", "model"} <= files

    (version,) = versions(server.url)
    assert (alias(server.url), version["version"], version["run_id"]) == ("1", "1", first.mlflow_run)
    tags = pairs(version["tags"])
    assert tags["mnist.model_sha256"] == sha256(promoted.models / "1" / "model.keras")
    assert (tags["mnist.run_id"], tags["mnist.gate"], tags["mnist.version"]) == ("first", "passed", "1")


def test_mlflow_itself_loads_the_champion(promoted: Workspace, run: Path, server: ServerUrl) -> None:
    """By its alias, as the documentation says; with MLflow's own loader, which needs pandas from the servers."""
    track(run, promoted.models, server, EXPERIMENT)
    program = """
import sys
sys.path += sys.argv[1:2]
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[2])
golden = numpy.load(sys.argv[3])
model = mlflow.tensorflow.load_model("models:/mnist@champion")
assert numpy.abs(model.predict(golden["images"] / 255) - golden["probabilities"]).max() < 1e-5
found = mlflow.pyfunc.load_model("models:/mnist@champion").predict(golden["images"].astype("float32") / 255)
assert numpy.abs(found - golden["probabilities"]).max() < 1e-5
"""
    (packages,) = PLACE.glob("lib/python*/site-packages")
    golden = promoted.models / "champion" / "golden.npz"
    command = [sys.executable, "-c", program, str(packages), server.url, str(golden)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr


def test_a_run_that_changes_nothing_is_not_recorded(promoted: Workspace, run: Path, server: ServerUrl) -> None:
    decision = json.loads((run / "decision.json").read_text())
    (run / "decision.json").write_text(json.dumps({**decision, "outcome": "unchanged", "promoted": False}))

    assert track(run, promoted.models, server, EXPERIMENT) == Tracked(None, "1")
    # But for the champion, whose run MLflow does not know yet.
    assert [pairs(each["data"]["tags"])["mnist.run_id"] for each in runs(server.url)] == ["first"]


@pytest.mark.parametrize(("outcome", "status"), [("rejected", "FINISHED"), ("refused", "FAILED"), (None, "FAILED")])
def test_a_run_without_a_new_champion_is_recorded_too(
    workspace: Workspace, run: Path, server: ServerUrl, outcome: str | None, status: str
) -> None:
    (run / "parameters.json").write_text("{}")
    if outcome:
        (run / "decision.json").write_text(json.dumps({"outcome": outcome, "reason": "not good", "promoted": False}))

    assert track(run, workspace.models, server, EXPERIMENT).champion is None
    (recorded,) = runs(server.url)
    assert recorded["info"]["status"] == status
    assert pairs(recorded["data"]["tags"]).get("mnist.outcome") == outcome
    assert registered(server.url) == {}


@pytest.fixture
def two(tmp_path: Path) -> ModelDirectory:
    """A model directory with two versions, whose runs MLflow does not know."""
    return published(ModelDirectory(tmp_path / "models"), 2)


NO_RUN = Path("/no/such/run")


def rollback(models: ModelDirectory, to: int) -> None:
    roll_back(models, to, reason="it is better", published_by="me", smoke_test=lambda _: None)


def test_a_rollback_moves_the_alias_back_and_a_retirement_removes_it(two: ModelDirectory, server: ServerUrl) -> None:
    models = two.root
    rollback(two, 1)
    assert track(NO_RUN, models, server, EXPERIMENT).champion == "1"
    rollback(two, 2)
    assert track(NO_RUN, models, server, EXPERIMENT).champion == "2"
    rollback(two, 1)
    assert track(NO_RUN, models, server, EXPERIMENT).champion == "1"

    found = {entry["version"]: pairs(entry["tags"]) for entry in versions(server.url)}
    assert {number: tags["mnist.version"] for number, tags in found.items()} == {"1": "1", "2": "2"}
    assert found["1"]["mnist.version_now"] == "5"
    assert alias(server.url) == "1"

    retire(two, reason="all are bad", published_by="me")
    assert track(NO_RUN, models, server, EXPERIMENT).champion is None
    assert alias(server.url) is None


@pytest.mark.parametrize("by_hand", ["moved", "removed"])
def test_an_alias_that_was_moved_by_hand_is_said_and_moved(
    two: ModelDirectory, server: ServerUrl, by_hand: str, caplog: pytest.LogCaptureFixture
) -> None:
    rollback(two, 1)
    track(NO_RUN, two.root, server, EXPERIMENT)
    rollback(two, 2)
    track(NO_RUN, two.root, server, EXPERIMENT)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "alias" in record.message]
    if by_hand == "moved":
        call(server.url, "registered-models/alias", {"name": "mnist", "alias": "champion", "version": "1"})
    else:
        call(server.url, "registered-models/alias", {"name": "mnist", "alias": "champion"}, "DELETE")

    assert track(NO_RUN, two.root, server, EXPERIMENT).champion == "2"

    assert alias(server.url) == "2"
    (warning,) = [record.message for record in caplog.records if record.message.startswith("somebody")]
    assert warning == (
        "somebody has moved the alias champion of the registered model mnist: it is at version "
        f"{'1' if by_hand == 'moved' else 'none'}, and was set to 2 from here; it is set to 2"
    )


def test_an_alias_that_was_never_set_from_here_is_said_and_moved(
    two: ModelDirectory, server: ServerUrl, caplog: pytest.LogCaptureFixture
) -> None:
    call(server.url, "registered-models/create", {"name": "mnist"})
    call(server.url, "model-versions/create", {"name": "mnist", "source": "s3://bucket/elsewhere"})
    call(server.url, "registered-models/alias", {"name": "mnist", "alias": "champion", "version": "1"})

    assert track(NO_RUN, two.root, server, EXPERIMENT).champion == "2"

    assert "it is at version 1, and was set to none from here; it is set to 2" in caplog.text
    assert alias(server.url) == "2"


def test_an_experiment_that_was_deleted_is_named(two: ModelDirectory, server: ServerUrl) -> None:
    made = call(server.url, "experiments/create", {"name": "mnist_deleted"})
    call(server.url, "experiments/delete", made)

    with pytest.raises(InputError, match=r"the experiment mnist_deleted was deleted in http.*; restore it there"):
        track(NO_RUN, two.root, server, "mnist_deleted")


def writes(request: Request) -> bool:
    """Whether a request changes something; searches are POST requests, too."""
    return request.method != "GET" and not request.path.endswith("/search")


def test_a_kill_at_any_request_is_completed_by_the_next_call(promoted: Workspace, run: Path, proxy: Faulty) -> None:
    """The first call dies before its first request that writes, the second before its second, and so on."""
    program = "import sys; from pathlib import Path; from mnist_tasks.track import track; "
    program += "from mnist_tasks.system.store_url import ServerUrl; "
    program += "track(Path(sys.argv[1]), Path(sys.argv[2]), ServerUrl.parse(sys.argv[3]), 'mnist_training')"
    command = [sys.executable, "-c", program, str(run), str(promoted.models), proxy.url]
    kills = 0
    while True:
        proxy.before = killing = Killing(kills + 1, writes)
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        killing.process.put(process)
        said = process.communicate(timeout=HANG_SECONDS)[1]
        assert "somebody has moved" not in said
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    proxy.before = lambda _: None

    assert kills >= 12
    COUNTS.append(f"mlflow: killed before each of {kills} requests that write")
    (recorded,), (version,) = runs(proxy.url), versions(proxy.url)
    assert (recorded["info"]["status"], alias(proxy.url)) == ("FINISHED", version["version"])


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((500, b""), ConnectionError, "answers with status 500; try again later"),
        ((503, b"<html>"), ConnectionError, "answers with status 503; try again later"),
        ((401, b""), InputError, "answers with status 401; name an Airflow connection with a login that may write"),
        ((404, b"<html>"), InputError, "answers with status 404 and .*, not as an MLflow server does; correct MNIST_"),
        ((200, b"<html>"), InputError, "answers with status 200 and .*, not as an MLflow server does; correct MNIST_"),
        ((200, b"[]"), InputError, "answers with status 200 and .*, not as an MLflow server does; correct MNIST_"),
    ],
)
def test_a_server_that_is_none_or_says_no_is_explained(
    two: ModelDirectory, proxy: Faulty, answer: tuple[int, bytes], kind: type[Exception], words: str
) -> None:
    proxy.before = lambda _: answer

    with pytest.raises(kind, match=words):
        track(NO_RUN, two.root, ServerUrl.parse(proxy.url), EXPERIMENT)


@pytest.mark.parametrize(("status", "kind"), [(500, ConnectionError), (503, ConnectionError), (400, InputError)])
def test_a_server_that_fails_later_is_explained(
    two: ModelDirectory, proxy: Faulty, status: int, kind: type[Exception]
) -> None:
    body = json.dumps(
        {"error_code": "INVALID_PARAMETER_VALUE" if status == 400 else "INTERNAL_ERROR", "message": SECRET}
    )
    proxy.before = lambda request: (status, body.encode()) if request.path.endswith("/create") else None

    with pytest.raises(kind, match=f"the MLflow server at {proxy.url} ") as refusal:
        track(NO_RUN, two.root, ServerUrl.parse(proxy.url), EXPERIMENT)
    assert SECRET not in str(refusal.value)
    proxy.before = lambda _: None
    rollback(two, 1)
    assert track(NO_RUN, two.root, ServerUrl.parse(proxy.url), EXPERIMENT).champion == "1"


def test_an_unknown_connection_is_named(two: ModelDirectory) -> None:
    with pytest.raises(InputError, match="Airflow has no connection nobody; add it in the UI under Admin"):
        track(NO_RUN, two.root, ServerUrl.parse("http://nobody@127.0.0.1:9"), EXPERIMENT)


def test_a_server_that_is_away_is_tried_again(two: ModelDirectory) -> None:
    with pytest.raises(
        ConnectionError, match=r"the MLflow server at http://127\.0\.0\.1:9 cannot be reached now: Connect"
    ):
        track(NO_RUN, two.root, ServerUrl.parse("http://127.0.0.1:9"), EXPERIMENT)


class Protected(http.server.BaseHTTPRequestHandler):
    """A server that notes who asks."""

    seen: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append(self.headers.get("Authorization"))
        self.send_error(503, SECRET)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@pytest.mark.parametrize(
    ("connection", "header"),
    [
        ({"conn_type": "http", "login": "me", "password": SECRET}, "Basic bWU6UExBTlRFRC1zM2NyZXQ="),
        ({"conn_type": "http", "password": SECRET}, f"Bearer {SECRET}"),
    ],
)
def test_the_connections_credentials_are_sent_and_said_to_nobody(
    two: ModelDirectory,
    connection: dict[str, str],
    header: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"tracker{len(header)}"  # Airflow keeps what it has read
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    Protected.seen.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Protected) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = ServerUrl.parse(f"http://{name}@127.0.0.1:{httpd.server_address[1]}")
        with pytest.raises(ConnectionError, match="503") as refusal:
            track(NO_RUN, two.root, address, EXPERIMENT)
        httpd.shutdown()

    assert Protected.seen == [header]
    assert SECRET not in str(refusal.value) + caplog.text
    assert not [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]
