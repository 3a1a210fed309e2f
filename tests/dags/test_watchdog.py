"""The watchdog: it tells of a night in which no run has ended and of a champion that has become old, each once.

Its tasks run as `dag.test` runs them. The runs of the training that they look at are rows in Airflow's database.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag, DagBag, sync_bag_to_db
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.system.files import write_json
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import DAGS, states
from tests.helpers import publish

BUNDLE = "dags-folder"
TWO = datetime(2026, 11, 24, 2, tzinfo=timezone.utc)  # when the night's run is due
SIX = TWO.replace(hour=6)

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> DAG:
    """The DAG with a deadline at six and a champion that may be 14 days old; its training is in the database."""
    monkeypatch.setenv("MNIST_DEADLINE", "06:00")
    monkeypatch.setenv("MNIST_STALE", "14d")
    with create_session() as session:
        if not session.get(DagBundleModel, BUNDLE):
            session.add(DagBundleModel(name=BUNDLE))
    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name=BUNDLE)
    assert bag.import_errors == {}
    sync_bag_to_db(bag, BUNDLE, None)
    pause(False)
    return bag.dags["mnist_watchdog"]


def pause(paused: bool) -> None:
    with create_session() as session:
        model = session.get(DagModel, "mnist_training")
        assert model
        model.is_paused = paused


Run = Callable[..., str]


@pytest.fixture
def run(watchdog: DAG) -> Iterator[Run]:
    """A function that makes a run of the training, with the states of its tasks, and returns its id."""
    assert watchdog
    made: list[DagRun] = []

    def make(due: datetime, state: str, dated: bool = True, **tasks: str) -> str:
        with create_session() as session:
            dag: Any = SerializedDagModel.get_dag("mnist_training", session=session)
            found: DagRun = dag.create_dagrun(
                run_id=f"{'scheduled' if dated else 'asset_triggered'}__{due.isoformat()}",
                run_after=due,
                logical_date=due if dated else None,
                data_interval=(due, due) if dated else None,
                run_type=DagRunType.SCHEDULED if dated else DagRunType.ASSET_TRIGGERED,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState(state),
                session=session,
            )
            for task in found.get_task_instances(session=session):
                task.state = tasks.get(task.task_id)
            made.append(found)
            return found.run_id

    yield make
    with create_session() as session:
        for found in made:
            session.delete(session.merge(found))


class Chat(BaseHTTPRequestHandler):
    """A webhook that accepts messages, unless its server is told to refuse."""

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        server: Any = self.server
        if not server.refuses:
            server.told.append(text)
        self.send_response(500 if server.refuses else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for a chat: `told` has the texts that it got; while `refuses` is true it takes none."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.told, server.refuses = [], False
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    monkeypatch.setenv("MNIST_NOTIFY", json.dumps([{"notifier": "mnist_notify.WebhookNotifier", "url": url}]))
    yield server
    server.shutdown()
    server.server_close()


def look(watchdog: DAG, at: datetime = SIX) -> dict[str, str]:
    """Run the watchdog as the scheduler does at a time; return the states of its tasks."""
    return states(watchdog.test(run_after=at, logical_date=at))


GREEN = {"deadline": "success", "age": "success"}


def test_a_night_whose_run_has_ended_is_not_mentioned(watchdog: DAG, run: Run, home: Workspace, chat: Any) -> None:
    run(TWO, "success")

    assert (look(watchdog), chat.told) == (GREEN, [])
    assert not (home.root / "watchdog.json").exists()


def test_a_run_that_was_triggered_in_the_night_counts_and_one_before_the_night_does_not(
    watchdog: DAG, run: Run, home: Workspace, chat: Any
) -> None:
    run(TWO, "failed", load="failed")
    home.run(run(TWO - timedelta(hours=3), "success", dated=False))
    look(watchdog)
    assert len(chat.told) == 1

    home.run(run(TWO + timedelta(hours=1), "success", dated=False))
    (home.root / "watchdog.json").unlink()
    assert (look(watchdog), len(chat.told)) == (GREEN, 1)


@pytest.mark.parametrize(
    ("state", "tasks", "words"),
    [
        ("failed", {"load": "success", "train": "failed"}, "has failed in train"),
        ("running", {"load": "success", "train": "running"}, "is still running: train"),
        ("running", {"promote": "awaiting_input"}, "waits for a person's approval"),
        ("queued", {}, "is queued and has not begun"),
    ],
)
def test_a_night_without_a_result_is_told_once_and_says_what_the_run_does(
    state: str,
    tasks: dict[str, str],
    words: str,
    watchdog: DAG,
    run: Run,
    home: Workspace,
    chat: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/ours/")
    run_id = run(TWO, state, **tasks)

    assert look(watchdog) == GREEN
    # The same after the task is cleared, and when somebody triggers the DAG in the afternoon.
    look(watchdog)
    look(watchdog, SIX + timedelta(hours=8))
    (text,) = chat.told
    assert text.splitlines()[:3] == [
        "mnist_training: no run has ended by 06:00 UTC",
        f"Run {run_id} {words}.",
        "There is no champion.",
    ]
    link = "https://airflow.example.com/ours/dags/mnist_training/runs/scheduled__2026-11-24T02%3A00%3A00%2B00%3A00"
    assert text.splitlines()[-1] == link

    look(watchdog, SIX + timedelta(days=1))
    assert len(chat.told) == 2
    assert "No run has been started since 02:00 UTC." in chat.told[1]
    assert home.root.is_dir()


def test_a_night_without_a_run_names_the_pause_and_the_run_that_holds_it_up(
    watchdog: DAG, run: Run, home: Workspace, chat: Any
) -> None:
    pause(True)
    look(watchdog)
    assert (
        "\nNo run has been started since 02:00 UTC.\nThe DAG is paused: switch it on in Airflow's UI.\n" in chat.told[0]
    )

    pause(False)
    earlier = run(TWO - timedelta(days=1), "running", promote="awaiting_input")
    (home.root / "watchdog.json").unlink()
    look(watchdog)
    words = f"\nRun {earlier} of 2026-11-23 02:00 UTC waits for a person's approval: others wait for it.\n"
    assert words in chat.told[1]


def test_a_rejection_that_fails_the_run_is_a_result(watchdog: DAG, run: Run, home: Workspace, chat: Any) -> None:
    folder = home.run(run(TWO, "failed", promote="failed"))
    write_json(folder / "decision.json", {"outcome": "rejected"})

    assert (look(watchdog), chat.told) == (GREEN, [])

    write_json(folder / "decision.json", {"outcome": "refused"})
    look(watchdog)
    assert "has failed in promote." in chat.told[0]


def test_a_day_on_which_no_run_is_due_is_no_silence(
    watchdog: DAG, home: Workspace, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_SCHEDULE", "0 2 * * 3")  # Wednesdays; the 24th is a Tuesday

    assert (look(watchdog), chat.told) == (GREEN, [])
    assert home.root.is_dir()


def test_a_chat_that_is_away_is_told_at_the_next_try(
    watchdog: DAG, home: Workspace, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog.get_task("deadline"), "retries", 0)
    chat.refuses = True
    assert look(watchdog)["deadline"] == "failed"

    chat.refuses = False
    assert (look(watchdog), len(chat.told)) == (GREEN, 1)
    assert home.root.is_dir()


def test_without_notifiers_it_is_only_logged(
    watchdog: DAG, home: Workspace, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)

    assert look(watchdog) == GREEN
    assert "nobody is told, because MNIST_NOTIFY is empty" in caplog.text + capfd.readouterr().out
    assert not (home.root / "watchdog.json").exists()


def test_a_folder_that_cannot_be_written_does_not_keep_people_from_being_told(
    watchdog: DAG, home: Workspace, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mnist_tasks.system.files.write_json", full)
    assert (look(watchdog), len(chat.told)) == (GREEN, 1)

    (home.root / "watchdog.json").write_text("{")  # a crash has cut it short
    assert (look(watchdog), len(chat.told)) == (GREEN, 2)


def test_an_old_champion_is_told_once_for_each_time_that_it_is_so_old(
    watchdog: DAG, run: Run, home: Workspace, chat: Any
) -> None:
    run(TWO, "success")
    models = ModelDirectory(home.models)
    publish(models, "first", None)
    look(watchdog)
    assert chat.told == []

    def age(days: int) -> None:
        event = json.loads(models.history_file.path.read_text())
        event["time"] = (datetime.now(timezone.utc) - timedelta(days=days, hours=1)).isoformat()
        models.history_file.path.write_text(json.dumps(event) + "\n")

    for number in range(3):
        write_json(home.run(f"night-{number}") / "decision.json", {"outcome": "rejected"})
    for days in (13, 14, 15, 27, 28):
        age(days)
        assert look(watchdog) == GREEN
    first, second = chat.told
    assert first.splitlines()[:2] == [
        "mnist_training: the champion has been neither replaced nor confirmed for 14 days",
        "The champion, version 1, is 14 days old. The last 3 runs were rejected.",
    ]
    assert "is 28 days old" in second

    write_json(home.run("quiet") / "decision.json", {"outcome": "unchanged", "champion_version": 1})
    age(60)
    os.utime(home.run("quiet") / "decision.json")
    assert (look(watchdog), len(chat.told)) == (GREEN, 2)


def test_there_is_no_watchdog_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, dags: dict[str, DAG]) -> None:
    assert "mnist_watchdog" not in dags
    monkeypatch.setenv("MNIST_DEADLINE", "05:30")
    (found,) = DagBag(str(DAGS / "mnist_watchdog.py")).dags.values()
    assert (list(found.task_dict), str(found.schedule)) == (["deadline"], "30 5 * * *")
    monkeypatch.setenv("MNIST_DEADLINE", "")
    monkeypatch.setenv("MNIST_STALE", "1h")
    (found,) = DagBag(str(DAGS / "mnist_watchdog.py")).dags.values()
    assert (list(found.task_dict), str(found.schedule)) == (["age"], "0 6 * * *")


def test_a_bad_setting_stops_the_watchdog_and_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_DEADLINE", "25:00")

    bag = BundleDagBag(str(DAGS), bundle_path=DAGS, bundle_name=BUNDLE)

    assert "MNIST_DEADLINE: '25:00' is not a time of day from 00:00 to 23:59" in "".join(bag.import_errors.values())
    assert "mnist_training" in bag.dags
