"""Tells people what became of a run, through the Airflow notifiers that MNIST_NOTIFY names; off without it.

MNIST_NOTIFY is a JSON list of objects: under `notifier` the import path of a notifier's class, beside it the class's
arguments. Text in them may use `{{ mnist.title }}`, `{{ mnist.message }}` and the other fields of `Notification`. The
setting is read when there is something to tell: a mistake in it is logged as an error and stops no training.
"""

from __future__ import annotations

import html
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pydoc import locate
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf
from mnist_common import CHAMPION, Context, Rejected

from mnist_tasks.workspace import Workspace

if TYPE_CHECKING:
    from mnist_tasks.documents import DecisionRecord

log = logging.getLogger(__name__)

SETTING = "MNIST_NOTIFY"
SHOWN_BATCHES = 5
TIMEOUT_SECONDS = 10.0  # Airflow ends a task that is still busy 20 s after its outcome is known


@dataclass(frozen=True)
class Notification:
    """What people are told.

    `event` is promoted, rejected, failed, waiting, rolled back, swept, late or stale; `title` is one line.
    """

    event: str
    title: str
    text: str
    run_id: str
    link: str

    @property
    def message(self) -> str:
        """Everything, as plain text."""
        return f"{self.title}\n{self.text}\nrun: {self.run_id}\n{self.link}"

    @property
    def html(self) -> str:
        """Everything, as HTML."""
        title, text, run_id, link = (html.escape(part) for part in (self.title, self.text, self.run_id, self.link))
        lines = text.replace("\n", "<br>\n")
        return f'<p><b>{title}</b></p>\n<p>{lines}</p>\n<p>run: <a href="{link}">{run_id}</a></p>'


class WebhookNotifier(BaseNotifier):
    """Posts a message to a chat, as Slack's and Mattermost's incoming webhooks take it.

    Args:
        conn_id: the Airflow connection whose password is the webhook's URL.
        url: the URL itself, if there is no such connection. Whoever has it can write to the chat, so it is never
            logged.
        text: the message.
        timeout: seconds to wait for the chat's server.
    """

    template_fields = ("text",)

    def __init__(
        self,
        *,
        conn_id: str | None = None,
        url: str | None = None,
        text: str = "{{ mnist.message }}",
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        super().__init__()
        if bool(conn_id) == bool(url):
            raise ValueError("give either conn_id, a connection whose password is the webhook's URL, or url")
        self.conn_id, self.url, self.text, self.timeout = conn_id, url, text, timeout

    def notify(self, context: Context) -> None:  # noqa: ARG002
        """Post the text."""
        import httpx
        from airflow.sdk import Connection
        from airflow.sdk.log import mask_secret

        url = Connection.get(self.conn_id).password if self.conn_id else self.url
        if not url:
            raise ValueError(f"the connection {self.conn_id} has no password; set it to the webhook's URL")
        mask_secret(url)
        # httpx logs the address of each request at INFO, httpcore what is sent and answered at DEBUG.
        for name in ("httpx", "httpcore", *logging.root.manager.loggerDict):
            if name.split(".")[0] in ("httpx", "httpcore"):
                logging.getLogger(name).setLevel(logging.WARNING)
        try:
            answer = httpx.post(url, json={"text": self.text}, timeout=self.timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) if isinstance(error, httpx.NetworkError) else "look at its URL, and for a proxy"
            raise ConnectionError(f"the webhook cannot be reached: {type(error).__name__}: {reason}") from None
        if not answer.is_success:
            # The answer is not shown: many servers repeat the request in it, or in the address that they redirect to.
            raise ConnectionError(f"the webhook answered with status {answer.status_code}; look at its URL")


def tell(context: Context, describe: Callable[[Context], Notification | None]) -> bool:
    """Describe what happened to each notifier; return whether one of them has told it.

    An error is logged and has no other effect.
    """
    setting = os.environ.get(SETTING, "").strip()
    if not setting:
        return False
    try:
        notification = describe(context)
    except Exception:
        log.warning("%s: what happened cannot be described", SETTING, exc_info=True)
        return False
    if notification is None:
        return False
    told = False
    for name, notifier in _notifiers(setting):
        try:
            notifier({**context, "mnist": notification})
            log.info("told by %s: %s", name, notification.title)
            told = True
        except Exception:
            log.warning("%s: %s failed; nothing else depends on it", SETTING, name, exc_info=True)
    return told


def tell_promotion(context: Context) -> None:
    """Tell of a new champion: promote's on_success_callback."""
    tell(context, _promotion)


def tell_rejection(context: Context) -> None:
    """Tell of a rejected candidate, if there was a candidate: promote's on_skipped_callback."""
    tell(context, _rejection)


def tell_failure(context: Context) -> None:
    """Tell of a task that has failed for good, or of a rejection with on_rejection=fail: on_failure_callback."""
    tell(context, _rejection if isinstance(context.get("exception"), Rejected) else _failure)


def tell_rollback(context: Context) -> None:
    """Tell of an older model that is champion again: rollback's on_success_callback."""
    tell(context, _rollback)


def tell_sweep(context: Context) -> None:
    """Tell what a sweep has found: choose's on_success_callback."""
    tell(context, _sweep)


def _sweep(context: Context) -> Notification:
    from mnist_tasks.documents import SweepResult

    folder = Workspace.from_environment().sweep_folder(context["run_id"])
    result = SweepResult.read(folder / "result.json", "clear the choose task")
    chosen = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
    text = f"Its best is {result.reason}: {chosen}.\nmnist_training trains it on all images now, and its gate decides."
    return _notification("swept", "the sweep has ended", text, context)


def _promotion(context: Context) -> Notification:
    from mnist_tasks.registry.model_directory import ModelDirectory
    from mnist_tasks.registry.outcome import not_published, version_of

    workspace, decision = Workspace.from_environment(), _decision(context)
    version = version_of(decision, workspace.run(context["run_id"]), ModelDirectory(workspace.models))
    if version is None:
        return _notification("failed", not_published(decision), f"{_comparison(decision)}\n{champion_now()}", context)
    how = "promoted by force" if decision.forced else "promoted"
    text = f"{_comparison(decision)}{_left_out(context)}"
    return _notification("promoted", f"version {version} {how}", text, context)


def _rejection(context: Context) -> Notification | None:
    from mnist_tasks.registry.outcome import UNCHANGED

    decision = _decision(context)
    if decision.outcome == UNCHANGED:
        return None
    text = f"{_comparison(decision)}\n{champion_now()}{_left_out(context)}"
    return _notification("rejected", "candidate rejected", text, context)


def _failure(context: Context) -> Notification:
    task, error = context["ti"].task_id, context.get("exception")
    # Airflow has no exception if the task's process died before it could report one.
    reason = str(error or "") or (type(error).__name__ if error else "its process ended; the task's log may say why")
    return _notification("failed", f"{task} failed", f"{reason}\n{champion_now()}", context)


def champion_now() -> str:
    """Who is champion now, as a sentence. It is looked up, whatever has happened."""
    from mnist_tasks.registry.model_directory import ModelDirectory
    from mnist_tasks.system.errors import TaskError

    try:
        clause = ModelDirectory(Workspace.from_environment().models).describe_champion()
    except TaskError as error:  # the failure is told of even if MNIST_HOME cannot be used
        clause = f"the champion is unknown: {error}"
    return f"{clause[0].upper()}{clause[1:]}."


def _rollback(context: Context) -> Notification:
    outcome = context["outlet_events"][CHAMPION].extra
    # None if there was no champion, because it had been retired.
    instead = f", instead of version {outcome['replaces']}" if outcome["replaces"] else ""
    text = (
        f"It is version {outcome['restores']} again{instead}; accuracy {outcome['accuracy']:.4f}.\n"
        f"Reason: {context['params']['reason']}"
    )
    return _notification("rolled back", f"rolled back, version {outcome['version']} is champion", text, context)


def waiting(wait: str) -> Callable[[Context], Notification]:
    """Describe that a candidate waits for a person's approval, and for how long."""

    def describe(context: Context) -> Notification:
        text = f"It passes the gate. Approve or reject it within {wait}; without an answer it is rejected."
        return _notification(
            "waiting", "a candidate waits for approval", text, context, "/tasks/approve/required_actions"
        )

    return describe


def _notification(event: str, what: str, text: str, context: Context, below: str = "") -> Notification:
    dag_id, run_id = context["ti"].dag_id, context["run_id"]
    return Notification(event, f"{dag_id}: {what}", text, run_id, f"{run_page(dag_id, run_id)}{below}")


def run_page(dag_id: str, run_id: str) -> str:
    """The address of a run in Airflow's UI."""
    base = conf.get("api", "base_url", fallback=None) or "http://localhost:8080"
    return f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id)}"


def _decision(context: Context) -> DecisionRecord:
    from mnist_tasks.documents import DecisionRecord

    path = Workspace.from_environment().run(context["run_id"]) / "decision.json"
    return DecisionRecord.read(path, "clear the promote task to write it again")


def _comparison(decision: DecisionRecord) -> str:
    candidate, champion = (share(value) for value in (decision.candidate_accuracy, decision.champion_accuracy))
    version = decision.champion_version
    against = f"against {champion} of version {version}" if version else "no champion to compare with"
    return f"Accuracy {candidate}, {against}.\nReason: {decision.reason}"


def _left_out(context: Context) -> str:
    """The batches of the inbox that were left out, on lines of their own; nothing if there are none."""
    from mnist_tasks.documents import ValidationReport

    path = Workspace.from_environment().run(context["run_id"]) / "data" / "validation.json"
    if not path.exists():
        return ""
    batches = [
        batch for batch in ValidationReport.read(path, "clear the load task").batches if batch.verdict == "quarantined"
    ]
    lines = [f"\nBatch {batch.name} was left out: {batch.reason}" for batch in batches[:SHOWN_BATCHES]]
    more = len(batches) - len(lines)
    return "".join(lines) + (f"\n{more} more batches were left out." if more else "")


def share(value: float | None) -> str:
    """A fraction for a message, with four decimals."""
    return "unknown" if value is None else f"{value:.4f}"


def _notifiers(setting: str) -> Iterator[tuple[str, BaseNotifier]]:
    """The notifiers of the setting, each with its name for the log. Entries that cannot be used are logged."""
    try:
        entries = json.loads(setting)
    except ValueError as error:
        log.error("%s is not JSON: %s; nobody is told", SETTING, error)
        return
    if not isinstance(entries, list):
        log.error("%s is not a JSON list of objects, each with a notifier; nobody is told", SETTING)
        return
    for number, entry in enumerate(entries, start=1):
        try:
            path, arguments = entry["notifier"], {key: value for key, value in entry.items() if key != "notifier"}
            notifier_class = locate(path)
            if not (isinstance(notifier_class, type) and issubclass(notifier_class, BaseNotifier)):
                raise TypeError(f"{path!r} is not a notifier class that can be imported here")
            notifier = notifier_class(**arguments)
        except Exception as error:
            # The entry itself is not shown, because it may hold a password.
            log.error("%s: entry %d cannot be used: %s: %s", SETTING, number, type(error).__name__, error)
        else:
            yield path, notifier
