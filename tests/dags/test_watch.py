"""The watched inbox: its schedule, and its trigger, which reports each batch once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from mnist_inbox import MAX_MARKS_PER_PAGE, InboxTrigger

from mnist_tasks.data.inbox import complete_batches
from tests.dags.conftest import DAGS, parse

# The fixture `dags` makes the modules of the DAG folder importable.
pytestmark = pytest.mark.usefixtures("dags")


class Store:
    """A stand-in for the values that Airflow stores with an asset."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.failing = 0
        self.calls: int | None = None  # successful calls before it fails

    def _call(self) -> None:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise ConnectionError("the API server is gone")

    async def aget(self, key: str, default: Any) -> Any:
        self._call()
        if self.failing:
            self.failing -= 1
            raise ConnectionError("the API server is gone")
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        self._call()
        self.values[key] = json.dumps(value)


def watcher(inbox: Path, store: Store) -> InboxTrigger:
    """Create the trigger from its serialized form, as the triggerer does."""
    name, arguments = InboxTrigger(folder=str(inbox), every=0.01).serialize()
    assert name == "mnist_inbox.InboxTrigger"
    trigger = InboxTrigger(**json.loads(json.dumps(arguments)))
    trigger.asset_state_store = store  # type: ignore[assignment]
    return trigger


def fired(trigger: InboxTrigger, seconds: float = 0.3) -> list[Any]:
    """Return the batches of each event that a trigger fires within some time."""
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


def test_any_number_of_batches_is_said_once_in_values_that_airflow_keeps(tmp_path: Path) -> None:
    inbox, store = tmp_path / "inbox", Store()
    names = sorted(f"{number:0120}.npz" for number in range(5000))
    for name in names[:-1]:
        drop(inbox, name)

    (event,) = asyncio.run(first_event(watcher(inbox, store)))
    assert event == {"batches": [name[:100] for name in names[:10]], "number": 4999}
    assert asyncio.run(watcher(inbox, store).look()) == []
    drop(inbox, names[-1])
    assert asyncio.run(watcher(inbox, store).look()) == [names[-1]]
    assert asyncio.run(watcher(inbox, store).look()) == []
    assert max(map(len, store.values.values())) < 65535
    assert len(json.dumps(["0" * 16] * MAX_MARKS_PER_PAGE)) < 65535


def test_looking_again_and_again_needs_no_more_memory_and_asks_airflow_nothing(tmp_path: Path) -> None:
    inbox, store = tmp_path / "inbox", Store()
    for number in range(1000):
        drop(inbox, f"{number}.npz")
    trigger = watcher(inbox, store)
    held = []
    tracemalloc.start()
    try:
        for _ in range(5):
            asyncio.run(trigger.look())
            gc.collect()
            # Only what the trigger holds: other tests have left threads that allocate something now and then.
            snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*inbox.py")])
            held.append(sum(trace.size for trace in snapshot.traces))
            store.calls = 0  # from now on it fails
    finally:
        tracemalloc.stop()

    # If each look kept something of each batch, it would take 100 kB a look.
    assert held[0] > 50_000, held
    assert held[-1] - held[0] < 50_000, held


async def first_event(trigger: InboxTrigger) -> list[Any]:
    async for event in trigger.run():
        return [event.payload]
    return []


def test_what_an_earlier_release_has_said_is_not_said_again(tmp_path: Path) -> None:
    """Earlier releases kept one list with a hash of the name and the stamp of each batch."""
    inbox, store = tmp_path / "inbox", Store()
    drop(inbox, "a")
    drop(inbox, "b")
    (stamp,) = [stamp for name, stamp in complete_batches(inbox).items() if name == "a"]
    mark = hashlib.sha256(f"a\n{stamp}".encode()).hexdigest()[:16]
    store.values["said"] = json.dumps(["0" * 16, mark])

    assert fired(watcher(inbox, store)) == [["b"]]
    assert fired(watcher(inbox, store)) == []
    assert json.loads(store.values["said"]) == ["0" * 16, mark]


def test_a_page_that_is_full_forgets_batches_that_went_away_and_none_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox, store = tmp_path / "inbox", Store()
    monkeypatch.setattr("mnist_inbox.PAGES", 1)
    monkeypatch.setattr("mnist_inbox.MAX_MARKS_PER_PAGE", 3)
    for name in "abcd":
        drop(inbox, name)
    said = asyncio.run(watcher(inbox, store).look())
    (left,) = set("abcd") - set(said)
    assert asyncio.run(watcher(inbox, store).look()) == []
    assert "1 are left to the next run; join or remove old ones" in capsys.readouterr().out

    for name in (said[0], f"{said[0]}.done"):
        (inbox / name).unlink()
    assert asyncio.run(watcher(inbox, store).look()) == [left]
    assert asyncio.run(watcher(inbox, store).look()) == []


def test_what_is_remembered_is_said_even_if_the_rest_cannot_be_remembered(tmp_path: Path) -> None:
    """Whenever the database becomes unavailable, each batch is reported once or found again at the next look."""
    names = sorted(f"{number}.npz" for number in range(20))
    for name in names:
        drop(tmp_path / "inbox", name)
    for calls in range(1, 45):
        store, said = Store(), []
        store.calls = calls
        for _ in range(3):
            trigger = watcher(tmp_path / "inbox", store)
            with contextlib.suppress(ConnectionError):
                said += asyncio.run(trigger.look())
            store.calls = None
        assert sorted(said) == names, calls


def test_a_slow_file_system_does_not_hold_up_the_other_triggers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_: Path) -> dict[str, str]:
        time.sleep(1)
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

    assert turns > 5


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

    assert "MNIST_WATCH_INBOX: '1' is not a time to wait from 1s to 365d" in error
