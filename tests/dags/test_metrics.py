"""The job's numbers arrive at a receiver of OpenTelemetry metrics, and no failure to send them can harm a run."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

from mnist_tasks.workspace import PROJECT, Workspace
from tests.dags.conftest import states
from tests.helpers import ANYTHING, HANG_SECONDS, free_port
from tests.otlp import Key, Receiver, receiving

FAST = {"epochs": 2, **ANYTHING}

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")

Flush = Callable[[], dict[Key, float]]


@pytest.fixture
def metrics_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """A function that switches Airflow's metrics on, as a task's process does at its start, and returns the provider.

    Its argument is the address of the receiver.
    """
    providers: list[Any] = []
    # It would flush once more when this process ends, to a receiver that is gone.
    monkeypatch.setattr(
        "airflow.sdk._shared.observability.metrics.otel_logger.atexit_register_metrics_flush", lambda: None
    )

    def switch_on(url: str, seconds: int = 1) -> Any:
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(seconds))
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
        stats.gauge("mnist.test", 1)  # the first metric makes the provider
        from opentelemetry import metrics

        providers.append(metrics.get_meter_provider())
        return providers[-1]

    yield switch_on
    for provider in providers:
        provider.shutdown()
    monkeypatch.undo()
    stats.initialize(factory=get_stats_factory(), export_legacy_names=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def flush(receiver: Receiver, metrics_on: Callable[..., Any]) -> Flush:
    """A function that has everything sent that is left, and returns the job's numbers that have arrived."""
    provider = metrics_on(receiver.url, HANG_SECONDS)

    def send() -> dict[Key, float]:
        provider.force_flush()
        return {key: value for key, value in receiver.ours().items() if key != ("test", ())}

    return send


def outcome(name: str) -> dict[Key, float]:
    names = ("promoted", "rejected", "unchanged", "refused", "not_published")
    return {("outcome", (("outcome", each),)): float(each == name) for each in names}


def of(model: str) -> tuple[tuple[str, str], ...]:
    return (("model", model),)


def test_a_promoted_and_a_rejected_run_send_what_their_documents_say(
    dags: dict[str, DAG], home: Workspace, npz: Path, flush: Flush
) -> None:
    (home.root / "inbox").mkdir()
    (home.root / "inbox" / "bad.npz").write_bytes(b"no archive")
    (home.root / "inbox" / "bad.npz.done").touch()

    run = dags["mnist_training"].test(run_conf={**FAST, "source": str(npz)})
    first = flush()

    folder = home.run(run.run_id)
    documents = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("training", "history", "evaluation")
    }
    candidate = documents["evaluation"]["candidate"]
    age, since = first.pop(("champion_age_seconds", ())), first.pop(("champion_since_seconds", ()))
    assert first == {
        ("batches_merged", ()): 0,
        ("batches_quarantined", ()): 1,
        ("train_images", ()): 2000,
        ("test_images", ()): 500,
        ("training_seconds", ()): documents["training"]["seconds"],
        ("images_per_second", ()): median(epoch["images_per_second"] for epoch in documents["history"]),
        ("accuracy", of("candidate")): candidate["accuracy"],
        ("loss", of("candidate")): candidate["loss"],
        ("champion_version", ()): 1,
        ("rejected_in_a_row", ()): 0,
        **outcome("promoted"),
    }
    assert 0 <= age <= datetime.now(timezone.utc).timestamp() - since

    dags["mnist_training"].test(run_conf={**FAST, "source": str(npz), "min_accuracy": 0.99, "on_rejection": "fail"})
    second = flush()
    assert second[("accuracy", of("champion"))] == candidate["accuracy"]
    assert (second[("champion_version", ())], second[("rejected_in_a_row", ())]) == (1, 1)
    assert outcome("rejected").items() <= second.items()
    page = (PROJECT / "docs" / "operations.md").read_text()
    sent = {name for name, _ in [*first, *second]}
    assert set(re.findall(r"`mnist\.([a-z_]+)`", page)) - {"event", "title", "message", "html", "link"} == sent
    assert set(re.findall(r"airflow_mnist_([a-z_]+)", page)) <= sent


def test_a_run_that_cannot_begin_sends_nothing_that_it_does_not_know(
    dags: dict[str, DAG], home: Workspace, flush: Flush
) -> None:
    run = dags["mnist_training"].test(run_conf={**FAST, "source": str(home.root / "missing.npz")})

    assert (run.state, flush()) == ("failed", {})


def context(task: str, run_id: str = "night") -> dict[str, Any]:
    return {"ti": SimpleNamespace(task_id=task), "run_id": run_id}


def test_with_metrics_off_nothing_is_read(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import mnist_metrics

    read: list[str] = []

    def reader(_: Workspace, run_id: str) -> Iterator[mnist_metrics.Number]:
        read.append(run_id)
        yield "nothing", None, {}

    monkeypatch.setattr(mnist_metrics, "READERS", {"promote": (reader,)})

    mnist_metrics.send_figures(context("promote"))
    assert (read, home.root.is_dir()) == ([], True)

    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
    mnist_metrics.send_figures(context("promote"))
    assert read == ["night"]


def test_a_receiver_that_is_away_does_not_fail_a_run(
    dags: dict[str, DAG], home: Workspace, npz: Path, metrics_on: Callable[..., Any]
) -> None:
    provider = metrics_on(f"http://127.0.0.1:{free_port()}")

    run = dags["mnist_training"].test(run_conf={**FAST, "source": str(npz)})

    assert (run.state, set(states(run).values()), home.root.is_dir()) == ("success", {"success"}, True)
    provider.force_flush(2000)


@pytest.mark.parametrize("switch", ["AIRFLOW__METRICS__STATSD_ON", "AIRFLOW__METRICS__STATSD_DATADOG_ENABLED"])
def test_a_backend_that_is_not_installed_does_not_fail_a_task(
    switch: str, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_metrics import send_figures

    write_decision(home, "{}")
    monkeypatch.setenv(switch, "True")
    stats.initialize(factory=get_stats_factory(), export_legacy_names=True)
    try:
        send_figures(context("promote"))
    finally:
        monkeypatch.delenv(switch)
        stats.initialize(factory=get_stats_factory(), export_legacy_names=True)


@pytest.mark.parametrize("content", ["{", '{"outcome": 3}'])
def test_a_damaged_document_is_a_warning(
    content: str, home: Workspace, flush: Flush, caplog: pytest.LogCaptureFixture
) -> None:
    from mnist_metrics import send_figures

    caplog.set_level(logging.WARNING)
    write_decision(home, content)

    send_figures(context("promote"))

    assert "the figures of the task could not be sent as metrics; nothing else depends on it" in caplog.text
    assert "decision.json cannot be read" in caplog.text
    assert flush() == {}


def write_decision(home: Workspace, content: str) -> None:
    (home.run("night") / "decision.json").write_text(content)


def test_a_backend_that_raises_is_a_warning(
    home: Workspace, flush: Flush, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mnist_metrics import send_figures

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug in the backend")

    write_decision(home, '{"outcome": "rejected"}')
    monkeypatch.setattr(stats, "gauge", broken)

    send_figures(context("promote"))

    assert "a bug in the backend" in caplog.text
    assert flush() == {}
