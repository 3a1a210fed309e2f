"""The watched inbox: the schedule that it gives, and its trigger, which says everything once."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from mnist_inbox import MOST, InboxTrigger

from tests.dags.conftest import DAGS, parse

# After them the modules of the DAG folder can be imported.
pytestmark = pytest.mark.usefixtures("dags")


class Store:
    """What Airflow keeps with an asset."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.failing = 0

    async def aget(self, key: str, default: Any) -> Any:
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the API server is gone")
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = json.dumps(value)


def watcher(inbox: Path, store: Store) -> InboxTrigger:
    """The trigger as the triggerer makes it."""
    name, arguments = InboxTrigger(folder=str(inbox), every=0.01).serialize()
    assert name == "mnist_inbox.InboxTrigger"
    trigger = InboxTrigger(**json.loads(json.dumps(arguments)))
    trigger.asset_state_store = store  # type: ignore[assignment]
    return trigger


def fired(trigger: InboxTrigger, seconds: float = 0.3) -> list[Any]:
    """What a trigger fires for within some time."""
    events: list[Any] = []

    async def listen() -> None:
        async for event in trigger.run():
            events.append(event.payload["batches"])  # noqa: PERF401 - it never ends

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(listen(), seconds))
    return events


def drop(inbox: Path, name: str, content: str = "") -> None:
    inbox.mkdir(exist_ok=True)
    (inbox / name).write_text(content or name)
    (inbox / f"{name}.done").touch()


def test_each_batch_is_said_once_even_by_a_new_triggerer(tmp_path: Path) -> None:
    inbox, store = tmp_path / "inbox", Store()
    assert fired(watcher(inbox, store)) == []

    drop(inbox, "b")
    drop(inbox, "a")
    assert fired(watcher(inbox, store)) == [["a", "b"]]
    assert fired(watcher(inbox, store)) == []

    drop(inbox, "c")
    assert fired(watcher(inbox, store)) == [["c"]]


def test_a_batch_that_is_replaced_is_another_and_one_that_comes_back_is_not(tmp_path: Path) -> None:
    inbox, store = tmp_path / "inbox", Store()
    drop(inbox, "a")
    drop(inbox, "b")
    assert fired(watcher(inbox, store)) == [["a", "b"]]

    inbox.rename(tmp_path / "away")
    assert fired(watcher(inbox, store)) == []
    (tmp_path / "away").rename(inbox)
    assert fired(watcher(inbox, store)) == []

    drop(inbox, "b", "other content")
    assert fired(watcher(inbox, store)) == [["b"]]


def test_what_fails_is_tried_again(tmp_path: Path) -> None:
    store = Store()
    store.failing = 3
    drop(tmp_path / "inbox", "a")

    assert fired(watcher(tmp_path / "inbox", store)) == [["a"]]


def test_it_stops_saying_anything_when_there_are_more_batches_than_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, store = tmp_path / "inbox", Store()
    monkeypatch.setattr("mnist_inbox.MOST", 3)
    for name in "abcd":
        drop(inbox, name)
    assert fired(watcher(inbox, store)) == []

    for name in ("a", "a.done"):
        (inbox / name).unlink()
    assert fired(watcher(inbox, store)) == [["b", "c", "d"]]
    assert len(json.dumps(["0" * 16] * MOST)) < 65536


def test_a_slow_file_system_does_not_hold_up_the_other_triggers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: Path) -> dict[str, str]:
        time.sleep(0.5)
        return {}

    monkeypatch.setattr("mnist_inbox.complete_batches", slow)
    trigger, turns = watcher(tmp_path, Store()), 0

    async def others() -> None:
        look = asyncio.create_task(trigger.look())
        while not look.done():
            nonlocal turns
            turns += 1
            await asyncio.sleep(0.01)

    asyncio.run(others())

    assert turns > 10


WATCHERS = (
    "'schedule': type(dag.timetable).__name__, 'watchers': [watcher.name for asset in "
    "getattr(getattr(dag.timetable, 'asset_condition', None), 'objects', ()) for watcher in asset.watchers]"
)


def test_it_is_off_by_default_and_then_not_even_imported() -> None:
    answer = parse(WATCHERS)

    assert answer["watchers"] == []
    assert {"mnist_watch", "mnist_inbox"} & set(answer["modules"]) == set()


@pytest.mark.parametrize(("cron", "schedule"), [("0 2 * * *", "AssetOrTimeSchedule"), ("", "AssetTriggeredTimetable")])
def test_it_comes_in_addition_to_the_nightly_schedule_and_imports_nothing_heavy(cron: str, schedule: str) -> None:
    answer = parse(WATCHERS, MNIST_WATCH_INBOX="30s", MNIST_SCHEDULE=cron)

    assert (answer["schedule"], answer["watchers"]) == (schedule, ["mnist_inbox"])
    assert {"tensorflow", "keras", "numpy", "pandas"} & set(answer["modules"]) == set()


def test_a_bad_setting_is_an_import_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_WATCH_INBOX", "1")

    (error,) = DagBag(str(DAGS / "mnist_training.py")).import_errors.values()

    assert "MNIST_WATCH_INBOX: '1' is no time to wait from 1s to 365d" in error
