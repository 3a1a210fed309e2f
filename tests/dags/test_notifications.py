"""Notifications: the messages at a mail server and in a chat, and that no failure to notify can harm a run."""

from __future__ import annotations

import email
import email.policy
import json
import logging
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import DAG, BaseNotifier

from mnist_tasks.promote import promote
from mnist_tasks.system.disk_space import SPACE
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace
from tests.dags.conftest import DAGS, states
from tests.helpers import ANYTHING, LENIENT, free_port

FAST = {"epochs": 1, **ANYTHING}
MAIL = {
    "notifier": "airflow.providers.smtp.notifications.smtp.SmtpNotifier",
    "from_email": "airflow@example.com",
    "to": "team@example.com",
    "subject": "[{{ mnist.event }}] {{ mnist.title }}",
    "html_content": "{{ mnist.html }}",
}
CHAT = {"notifier": "mnist_notify.WebhookNotifier", "conn_id": "mnist_chat"}
NOBODY_LISTENS = f"http://127.0.0.1:{free_port()}/services/T0/B0/very-secret"

# This module provides notifiers of other people, which the setting names by import path.
HERE = "tests.dags.test_notifications"

Notify = Callable[..., None]

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")


class Mail(socketserver.StreamRequestHandler):
    """A mail server with the few SMTP commands that are needed to receive a message."""

    def handle(self) -> None:
        self.wfile.write(b"220 stand-in\r\n")
        for line in self.rfile:
            command = line.strip().upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                message = b"".join(iter(self.rfile.readline, b".\r\n"))
                cast("Server", self.server).messages.append(message)
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")


class Chat(BaseHTTPRequestHandler):
    """A webhook that accepts every message.

    A message to /404/... or /301/... gets that status and an answer that repeats the path.
    """

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cast("Server", self.server).messages.append(body)
        status = self.path.split("/")[1]
        self.send_response(int(status) if status in ("404", "301") else 200)
        self.send_header("Location", f"https://elsewhere.example{self.path}")
        self.end_headers()
        self.wfile.write(f"Cannot POST {self.path}".encode())

    def log_message(self, *_: Any) -> None:
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.messages: list[bytes] = []
        self.port: int = self.server_address[1]


@contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[Server]:
    with Server(handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def html(mail: EmailMessage) -> str:
    text: str = next(part.get_content() for part in mail.walk() if part.get_content_type() == "text/html")
    return text


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[EmailMessage]]]:
    """A function that returns the messages that a stand-in for a mail server has received."""
    with serving(Mail) as server:
        extra = {"disable_ssl": True, "disable_tls": True}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        yield lambda: [email.message_from_bytes(message, policy=email.policy.default) for message in server.messages]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """A function that returns the texts that a stand-in for a chat has received."""
    with serving(cast("type[socketserver.BaseRequestHandler]", Chat)) as server:
        connection = {"conn_type": "http", "password": f"http://127.0.0.1:{server.port}/services/T0/B0/very-secret"}
        monkeypatch.setenv("AIRFLOW_CONN_MNIST_CHAT", json.dumps(connection))
        yield lambda: [json.loads(message)["text"] for message in server.messages]


@pytest.fixture
def notify(monkeypatch: pytest.MonkeyPatch) -> Notify:
    """A function that sets the notifiers in MNIST_NOTIFY."""

    def configure(*entries: Any) -> None:
        monkeypatch.setenv("MNIST_NOTIFY", json.dumps(entries))

    return configure


@pytest.fixture
def dag(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> DAG:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com/ours/")
    return dags["mnist_training"]


class Raising(BaseNotifier):
    """A notifier with a bug."""

    def notify(self, context: Any) -> None:  # noqa: ARG002
        raise RuntimeError("a bug in the notifier")


def no_notifier() -> None:
    """A function that is not a notifier."""


def something(_: Any) -> Any:
    """Return a notification."""
    from mnist_notify import Notification

    return Notification("failed", "title", "text", "run", "link")


def test_a_promotion_and_a_rejection_arrive_by_mail_and_in_the_chat(
    dag: DAG,
    home: Workspace,
    npz: Path,
    notify: Notify,
    mailbox: Callable[[], list[EmailMessage]],
    chat: Callable[[], list[str]],
) -> None:
    notify(MAIL, CHAT)

    promoted = dag.test(run_conf={**FAST, "source": str(npz)})
    rejected = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99})

    decision = json.loads((home.run(rejected.run_id) / "decision.json").read_text())
    accuracy = f"{decision['champion_accuracy']:.4f}"
    assert [mail["Subject"] for mail in mailbox()] == [
        "[promoted] mnist_training: version 1 promoted",
        "[rejected] mnist_training: candidate rejected",
    ]
    assert {mail["To"] for mail in mailbox()} == {"team@example.com"}
    first, second = chat()
    link = "https://airflow.example.com/ours/dags/mnist_training/runs/"
    assert first.startswith(
        f"mnist_training: version 1 promoted\nAccuracy {accuracy}, no champion to compare with.\nReason: accuracy "
    )
    assert first.splitlines()[-2] == f"run: {promoted.run_id}"
    assert first.splitlines()[-1].startswith(f"{link}manual__")
    assert f"\nAccuracy {decision['candidate_accuracy']:.4f}, against {accuracy} of version 1.\nReason: acc" in second
    assert f"\nReason: {decision['reason']}\nVersion 1 is champion.\nrun: {rejected.run_id}\n" in second
    mail = html(mailbox()[1])
    assert f"Accuracy {decision['candidate_accuracy']:.4f}, against {accuracy} of version 1.<br>" in mail
    assert f">{rejected.run_id}</a>" in mail


def test_a_failure_arrives_with_its_reason(
    dag: DAG,
    home: Workspace,
    notify: Notify,
    mailbox: Callable[[], list[EmailMessage]],
    chat: Callable[[], list[str]],
) -> None:
    notify(MAIL, CHAT)

    run = dag.test(run_conf={**FAST, "source": str(home.root / "<missing>.npz")})

    (mail,), (text,) = mailbox(), chat()
    assert mail["Subject"] == "[failed] mnist_training: load failed"
    assert "&lt;missing&gt;.npz" in html(mail)
    assert text.startswith("mnist_training: load failed\ndata source '")
    assert "<missing>.npz' does not exist" in text
    assert f"\nThere is no champion.\nrun: {run.run_id}\n" in text


def test_a_failure_after_the_link_has_moved_names_the_new_champion(
    dag: DAG,
    home: Workspace,
    npz: Path,
    notify: Notify,
    chat: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise ModelError("the card cannot be copied")

    notify(CHAT)
    monkeypatch.setattr("mnist_tasks.promote.copy", broken)

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, (home.models / "champion").readlink()) == ("failed", Path("1"))
    (text,) = chat()
    assert text.startswith("mnist_training: promote failed\nthe card cannot be copied\nVersion 1 is champion.\n")


def test_a_promotion_that_is_none_is_not_told_as_one(
    workspace: Workspace, run: Path, notify: Notify, chat: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older release wrote `promoted` before it published."""
    from mnist_notify import tell_promotion

    monkeypatch.setenv("MNIST_HOME", str(workspace.root))
    notify(CHAT)
    record = {"outcome": "promoted", "promoted": True, "forced": False, "version": None, "reason": "good"}
    numbers = {"candidate_accuracy": 0.98, "champion_accuracy": None, "champion_version": None}
    (run / "decision.json").write_text(json.dumps(record | numbers))
    context = {"ti": SimpleNamespace(task_id="promote", dag_id="mnist_training"), "run_id": run.name}

    tell_promotion(context)
    (run / "decision.json").unlink()
    promote(run, workspace.models, LENIENT)
    tell_promotion(context)

    first, second = chat()
    assert first.startswith("mnist_training: approved by the gate, but not published\nAccuracy 0.9800, no champion")
    assert "\nThere is no champion.\n" in first
    assert second.startswith("mnist_training: version 1 promoted\n")


def test_a_workspace_that_cannot_be_used_does_not_silence_a_failure(
    notify: Notify, chat: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_notify import tell_failure

    notify(CHAT)
    monkeypatch.setattr("mnist_tasks.workspace.Workspace.from_environment", unusable)

    tell_failure({"ti": SimpleNamespace(task_id="load", dag_id="mnist_training"), "run_id": "x", "exception": None})

    (text,) = chat()
    assert text.startswith("mnist_training: load failed\n")
    assert "\nThe champion is unknown: MNIST_HOME: no.\n" in text


def unusable() -> Workspace:
    raise InputError("MNIST_HOME: no")


def test_a_rejection_that_fails_the_run_is_told_once_and_as_a_rejection(
    dag: DAG, home: Workspace, npz: Path, notify: Notify, chat: Callable[[], list[str]]
) -> None:
    notify(CHAT)

    run = dag.test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99, "on_rejection": "fail"})

    assert (run.state, home.models.is_dir()) == ("failed", True)
    (text,) = chat()
    assert text.startswith("mnist_training: candidate rejected\nAccuracy 0.")
    assert "\nThere is no champion.\nrun: " in text


def test_a_task_that_is_retried_is_told_of_once_it_has_failed_for_good(
    dag: DAG, home: Workspace, notify: Notify, chat: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    notify(CHAT)
    monkeypatch.setattr("mnist_tasks.load.load", full)
    monkeypatch.setattr(dag.get_task("load"), "retry_delay", timedelta(0))

    run = dag.test(run_conf=FAST)

    assert (run.state, home.datasets.is_dir()) == ("failed", True)
    (load,) = (task for task in run.get_task_instances() if task.task_id == "load")
    assert load.try_number == 3
    (text,) = chat()
    words = f"mnist_training: load failed\nwriting to {home.root} failed: No space left on device: "
    assert text.startswith(words)
    assert f"{SPACE}\nThere is no champion.\n" in text


def test_a_rollback_and_its_failure_are_told(
    dags: dict[str, DAG],
    workspace: Workspace,
    run: Path,
    notify: Notify,
    chat: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(workspace.root))
    promote(run, workspace.models, LENIENT)
    evaluation = json.loads((run / "evaluation.json").read_text())
    second = run.rename(run.with_name("second"))
    champion = {**evaluation["candidate"], "version": 1}
    (second / "evaluation.json").write_text(json.dumps(evaluation | {"champion": champion}))
    promote(second, workspace.models, LENIENT)
    notify(CHAT)

    dags["mnist_rollback"].test(run_conf={"reason": "it was bad"})
    dags["mnist_rollback"].test(run_conf={"reason": "it was bad", "version": 9})

    done, failed = chat()
    assert done.startswith("mnist_rollback: rolled back, version 3 is champion\nIt is version 1 again, instead of ver")
    assert "\nReason: it was bad\n" in done
    assert failed.startswith("mnist_rollback: rollback failed\n")
    assert "has no version 9" in failed


def test_what_people_wrote_is_no_template(
    dags: dict[str, DAG],
    home: Workspace,
    notify: Notify,
    mailbox: Callable[[], list[EmailMessage]],
    chat: Callable[[], list[str]],
) -> None:
    notify(MAIL, CHAT)

    dags["mnist_training"].test(run_conf={**FAST, "source": "{{ conn.mnist_chat.password }}"})

    assert home.root.is_dir()
    assert "{{ conn.mnist_chat.password }}" in chat()[0]
    assert "very-secret" not in chat()[0] + html(mailbox()[0])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**MAIL, "smtp_conn_id": "nowhere"}, "Connection refused"),
        ({**MAIL, "smtp_conn_id": "not_there"}, "SMTP connection is not found"),
        ({**CHAT, "conn_id": "chat_nowhere"}, "the webhook cannot be reached: ConnectError: [Errno 111]"),
        ({**CHAT, "conn_id": "chat_bad"}, "the webhook cannot be reached: UnsupportedProtocol: look at its URL"),
        ({**CHAT, "conn_id": "chat_empty"}, "the connection chat_empty has no password"),
        ({**CHAT, "conn_id": "chat_refuses"}, "the webhook answered with status 404; look at its URL"),
        ({**CHAT, "conn_id": "chat_moved"}, "the webhook answered with status 301; look at its URL"),
        ({**CHAT, "text": "{{ mnist.no_such_field }}"}, "no_such_field"),
        ({"notifier": f"{HERE}.Raising"}, "a bug in the notifier"),
    ],
)
def test_a_failing_notifier_is_a_warning_and_the_others_tell(
    entry: dict[str, Any],
    words: str,
    dag: DAG,
    notify: Notify,
    chat: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mnist_notify import tell

    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.connection", "httpcore.http11"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    here = json.loads(os.environ["AIRFLOW_CONN_MNIST_CHAT"])["password"].split("/")[2]
    urls = {"nowhere": NOBODY_LISTENS, "bad": "htp://very-secret", "refuses": f"http://{here}/404/very-secret"}
    urls["moved"] = f"http://{here}/301/very-secret?token=very-secret"
    for name, url in {**urls, "empty": ""}.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_CHAT_{name.upper()}", json.dumps({"conn_type": "http", "password": url}))
    extra = {"disable_ssl": True, "disable_tls": True}
    nowhere = {"conn_type": "smtp", "host": "127.0.0.1", "port": free_port(), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(nowhere))
    notify(entry, CHAT)

    tell({"dag": dag}, something)

    assert chat()[-1] == "title\ntext\nrun: run\nlink"
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING and record.exc_info)
    assert warning.getMessage() == f"MNIST_NOTIFY: {entry['notifier']} failed; nothing else depends on it"
    assert words in str(warning.exc_text)
    assert "Traceback" in str(warning.exc_text)
    assert "very-secret" not in caplog.text + "".join(capfd.readouterr())


def test_a_promotion_stays_one_if_it_cannot_be_told(
    dag: DAG, home: Workspace, npz: Path, notify: Notify, chat: Callable[[], list[str]]
) -> None:
    notify({"notifier": f"{HERE}.Raising"}, CHAT)

    run = dag.test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, set(states(run).values())) == ("success", {"success"})
    assert (home.models / "champion").readlink() == Path("1")
    assert len(chat()) == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("[{]", "MNIST_NOTIFY is not JSON: Expecting property name enclosed in double quotes"),
        ('{"notifier": "very-secret"}', "MNIST_NOTIFY is not a JSON list of objects, each with a notifier"),
        ('["very-secret"]', "MNIST_NOTIFY: entry 1 cannot be used: TypeError"),
        ('[{"to": "very-secret"}]', "MNIST_NOTIFY: entry 1 cannot be used: KeyError: 'notifier'"),
        (
            '[{"notifier": "no.such.Class"}]',
            "entry 1 cannot be used: TypeError: 'no.such.Class' is not a notifier class",
        ),
        (f'[{{"notifier": "{HERE}.no_notifier"}}]', "no_notifier' is not a notifier class that can be imported here"),
        ('[{"notifier": "mnist_notify.WebhookNotifier"}]', "entry 1 cannot be used: ValueError: give either conn_id"),
        (
            '[{"notifier": "mnist_notify.WebhookNotifier", "urll": "very-secret"}]',
            "WebhookNotifier.__init__() got an unexpected keyword argument 'urll'",
        ),
    ],
)
def test_a_mistake_in_the_setting_is_an_error_in_the_log_and_no_more(
    setting: str, words: str, dag: DAG, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_notify import tell

    monkeypatch.setenv("MNIST_NOTIFY", setting)

    tell({"dag": dag}, something)

    (error,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert error.levelname == "ERROR"
    assert words in error.getMessage()
    assert "very-secret" not in caplog.text


def test_one_bad_entry_does_not_silence_the_others(
    dag: DAG, home: Workspace, notify: Notify, chat: Callable[[], list[str]]
) -> None:
    notify({"notifier": "no.such.Class"}, {"notifier": f"{HERE}.Raising"}, CHAT)

    run = dag.test(run_conf={**FAST, "source": str(home.root / "missing.npz")})

    assert (run.state, states(run)["load"]) == ("failed", "failed")
    assert len(chat()) == 1


def test_without_the_setting_nobody_is_asked_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnist_notify import tell

    for setting in (None, "", " "):
        monkeypatch.delenv("MNIST_NOTIFY", raising=False)
        if setting is not None:
            monkeypatch.setenv("MNIST_NOTIFY", setting)
        tell({}, lambda _: pytest.fail("it was asked"))


def test_not_knowing_what_happened_is_a_warning(
    notify: Notify, chat: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    from mnist_notify import tell_promotion

    notify(CHAT)

    tell_promotion({})

    assert "MNIST_NOTIFY: what happened cannot be described" in caplog.text
    assert "KeyError" in caplog.text
    assert chat() == []


def test_parsing_with_the_setting_imports_no_more_than_without(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import mnist_training, mnist_rollback\n"
        "print(*sorted(sys.modules))"
    )

    def modules() -> set[str]:
        command = [sys.executable, "-c", script, str(DAGS)]
        return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    without = modules()
    monkeypatch.setenv("MNIST_NOTIFY", json.dumps([MAIL, CHAT]))

    assert modules() == without
    assert "airflow.providers.smtp.notifications.smtp" not in without
