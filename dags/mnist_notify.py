"""Tells people what became of a run, through the Airflow notifiers that MNIST_NOTIFY names; off without it.

MNIST_NOTIFY is a JSON list of objects: under `notifier` the import path of a notifier's class, beside it the class's
arguments. Text in them may use what there is to tell as `{{ mnist.title }}`, `{{ mnist.message }}` and the other fields
of `News`. It is read when there is something to tell: a mistake in it is logged as an error and stops no training.
"""

from __future__ import annotations

import html
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pydoc import locate
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier
from airflow.sdk.configuration import conf
from mnist_common import CHAMPION, Context, Rejected

from mnist_tasks.workspace import Workspace

log = logging.getLogger(__name__)

SETTING = "MNIST_NOTIFY"
TIMEOUT = 10.0  # seconds; Airflow ends a task that is still busy 20 s after its outcome is known


@dataclass(frozen=True)
class News:
    """What there is to tell: `event` is promoted, rejected, failed, waiting or rolled back; `title` is one line."""

    event: str
    title: str
    text: str
    run_id: str
    link: str

    @property
    def message(self) -> str:
        """All of it, as plain text."""
        return f"{self.title}\n{self.text}\nrun: {self.run_id}\n{self.link}"

    @property
    def html(self) -> str:
        """All of it, as HTML."""
        title, text, run_id, link = (html.escape(part) for part in (self.title, self.text, self.run_id, self.link))
        lines = text.replace("\n", "<br>\n")
        return f'<p><b>{title}</b></p>\n<p>{lines}</p>\n<p>run: <a href="{link}">{run_id}</a></p>'


class WebhookNotifier(BaseNotifier):
    """Posts a message to a chat, as Slack's and Mattermost's incoming webhooks take it.

    Args:
        conn_id: the Airflow connection whose password is the webhook's URL.
        url: the URL itself, if there is no such connection. Who has it can write to the chat, so it is never logged.
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
        timeout: float = TIMEOUT,
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
        # The one logs the address of each request at INFO, the other's parts what is sent and answered at DEBUG.
        for name in ("httpx", "httpcore", *logging.root.manager.loggerDict):
            if name.split(".")[0] in ("httpx", "httpcore"):
                logging.getLogger(name).setLevel(logging.WARNING)
        try:
            answer = httpx.post(url, json={"text": self.text}, timeout=self.timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) if isinstance(error, httpx.NetworkError) else "look at its URL, and for a proxy"
            raise ConnectionError(f"the webhook cannot be reached: {type(error).__name__}: {reason}") from None
        if not answer.is_success:
            # Nothing of the answer: many servers repeat in it, or in the address that they lead on to, what was asked.
            raise ConnectionError(f"the webhook answered with status {answer.status_code}; look at its URL")


def tell(context: Context, describe: Callable[[Context], News | None]) -> None:
    """Hand what `describe` makes of a task's context to each notifier; whatever fails is logged and goes no further."""
    setting = os.environ.get(SETTING, "").strip()
    if not setting:
        return
    try:
        news = describe(context)
    except Exception:
        log.warning("%s: cannot say what happened", SETTING, exc_info=True)
        return
    if news is None:
        return
    for name, notifier in _notifiers(setting):
        try:
            notifier({**context, "mnist": news})
            log.info("told by %s: %s", name, news.title)
        except Exception:
            log.warning("%s: %s failed; nothing else depends on it", SETTING, name, exc_info=True)


def tell_promotion(context: Context) -> None:
    """Of a new champion: promote's on_success_callback."""
    tell(context, _promotion)


def tell_rejection(context: Context) -> None:
    """Of a candidate that was not good enough: promote's on_skipped_callback. Where there was none, of nothing."""
    tell(context, _rejection)


def tell_failure(context: Context) -> None:
    """Of a task that has failed for good: any task's on_failure_callback, promote's on_rejection=fail included."""
    tell(context, _rejection if isinstance(context.get("exception"), Rejected) else _failure)


def tell_rollback(context: Context) -> None:
    """Of an older model that is champion again: rollback's on_success_callback."""
    tell(context, _rollback)


def _promotion(context: Context) -> News:
    from mnist_tasks.registry.model_directory import ModelDirectory
    from mnist_tasks.registry.outcome import not_published, version_of

    workspace, decision = Workspace.from_environment(), _decision(context)
    version = version_of(decision, workspace.run(context["run_id"]), ModelDirectory(workspace.models))
    if version is None:
        return _news("failed", not_published(decision), f"{_comparison(decision)}\n{_standing()}", context)
    how = "promoted by force" if decision["forced"] else "promoted"
    return _news("promoted", f"version {version} {how}", _comparison(decision), context)


def _rejection(context: Context) -> News | None:
    from mnist_tasks.registry.outcome import UNCHANGED

    decision = _decision(context)
    if decision["outcome"] == UNCHANGED:
        return None
    return _news("rejected", "candidate rejected", f"{_comparison(decision)}\n{_standing()}", context)


def _failure(context: Context) -> News:
    task, error = context["ti"].task_id, context.get("exception")
    # Airflow has no exception where the task's process did not live to report one.
    reason = str(error or "") or (type(error).__name__ if error else "its process ended; the task's log may say why")
    return _news("failed", f"{task} failed", f"{reason}\n{_standing()}", context)


def _standing() -> str:
    """Who is champion now, as a sentence: it is looked up, whatever has happened."""
    from mnist_tasks.registry.model_directory import ModelDirectory
    from mnist_tasks.system.errors import TaskError

    try:
        standing = ModelDirectory(Workspace.from_environment().models).standing()
    except TaskError as error:  # an unusable MNIST_HOME is no reason to keep silent about the failure
        standing = f"who is champion cannot be said: {error}"
    return f"{standing[0].upper()}{standing[1:]}."


def _rollback(context: Context) -> News:
    outcome = context["outlet_events"][CHAMPION].extra
    # None where there was no champion, as one had been retired.
    instead = f", instead of version {outcome['replaces']}" if outcome["replaces"] else ""
    text = (
        f"It is version {outcome['restores']} again{instead}; accuracy {outcome['accuracy']:.4f}.\n"
        f"Reason: {context['params']['reason']}"
    )
    return _news("rolled back", f"rolled back, version {outcome['version']} is champion", text, context)


def waiting(wait: str) -> Callable[[Context], News]:
    """That a candidate waits for a person's approval, and for how long."""

    def describe(context: Context) -> News:
        text = f"It passes the gate. Approve or reject it within {wait}; without an answer it is rejected."
        return _news("waiting", "a candidate waits for approval", text, context, "/tasks/approve/required_actions")

    return describe


def _news(event: str, what: str, text: str, context: Context, below: str = "") -> News:
    dag_id, run_id = context["ti"].dag_id, context["run_id"]
    base = conf.get("api", "base_url", fallback=None) or "http://localhost:8080"
    link = f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id)}{below}"
    return News(event, f"{dag_id}: {what}", text, run_id, link)


def _decision(context: Context) -> dict[str, Any]:
    path = Workspace.from_environment().run(context["run_id"]) / "decision.json"
    decision: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return decision


def _comparison(decision: dict[str, Any]) -> str:
    ours, theirs = (_share(decision[f"{whose}_accuracy"]) for whose in ("candidate", "champion"))
    champion = decision["champion_version"]
    against = f"against {theirs} of version {champion}" if champion else "no champion to compare with"
    return f"Accuracy {ours}, {against}.\nReason: {decision['reason']}"


def _share(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "unknown"


def _notifiers(setting: str) -> Iterator[tuple[str, BaseNotifier]]:
    """The notifiers of the setting, each with its name for the log; what is wrong with the others is logged."""
    try:
        entries = json.loads(setting)
    except ValueError as error:
        log.error("%s is no JSON: %s; nobody is told", SETTING, error)
        return
    if not isinstance(entries, list):
        log.error("%s is no JSON list of objects, each with a notifier; nobody is told", SETTING)
        return
    for number, entry in enumerate(entries, start=1):
        try:
            path, arguments = entry["notifier"], {key: value for key, value in entry.items() if key != "notifier"}
            found = locate(path)
            if not (isinstance(found, type) and issubclass(found, BaseNotifier)):
                raise TypeError(f"{path!r} is no notifier class that can be imported here")
            notifier = found(**arguments)
        except Exception as error:
            # Only what is wrong: the entry itself may hold a password.
            log.error("%s: entry %d cannot be used: %s: %s", SETTING, number, type(error).__name__, error)
        else:
            yield path, notifier
