"""An inbox in an object store is taken in as one in a folder is, and what has been copied is not copied again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest
from fsspec.registry import _registry  # type: ignore[import-untyped]

from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.inbox import find_batches
from mnist_tasks.data.remote_inbox import copy_inbox
from mnist_tasks.documents import ValidationReport
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.object_store import Store
from tests.data.test_download import Bucket
from tests.servers.start import faulty
from tests.servers.start import s3 as s3_server

URL = "s3://bucket/in box"
SECRET = "PLANTED/s3cret+key"  # noqa: S105 - to look for it in logs
LATER = 3600.0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A store in memory, which counts what is read from it."""
    monkeypatch.setitem(_registry, "s3", Bucket)
    bucket = Bucket()
    bucket.store.clear()
    yield bucket
    bucket.store.clear()


def now() -> float:
    return datetime.now(timezone.utc).timestamp()


def names(folder: Path) -> dict[str, bool]:
    """The batches that `load` finds in the copy, each with whether it is complete."""
    return {batch.name: batch.complete for batch in find_batches(folder)}


def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is downloaded from now on."""
    seen: list[str] = []
    original = Store.download

    def download(store: Store, name: str, target: Path) -> None:
        seen.append(name)
        original(store, name, target)

    monkeypatch.setattr(Store, "download", download)
    return seen


def test_complete_batches_are_copied_once(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "old/a.npy",
        "old/deep/b.npy",
        "single.npz",
        "marked/x.npy",
        "marked/.done",
        "beside.npz",
        "beside.npz.done",
    ):
        bucket.pipe(f"/bucket/in box/{name}", name.encode())
    seen = downloads(monkeypatch)

    folder = copy_inbox(URL, tmp_path, now())
    assert names(folder) == {"beside.npz": True, "marked": True, "old": False, "single.npz": False}
    assert sorted(seen) == ["beside.npz", "marked/x.npy"]

    folder = copy_inbox(URL, tmp_path, now() + LATER)
    assert names(folder) == dict.fromkeys(("beside.npz", "marked", "old", "single.npz"), True)
    assert (folder / "old" / "deep" / "b.npy").read_bytes() == b"old/deep/b.npy"
    assert sorted(seen) == ["beside.npz", "marked/x.npy", "old/a.npy", "old/deep/b.npy", "single.npz"]

    copy_inbox(URL, tmp_path, now() + LATER)
    assert len(seen) == 5


def test_what_changes_there_changes_here(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.npz", "b/x.npy", "b/y.npy", "c.npz"):
        bucket.pipe(f"/bucket/in box/{name}", b"1")
    copy_inbox(URL, tmp_path, now() + LATER)
    seen = downloads(monkeypatch)

    bucket.rm("/bucket/in box/c.npz")
    bucket.rm("/bucket/in box/b/x.npy")
    bucket.pipe("/bucket/in box/a.npz", b"22")
    folder = copy_inbox(URL, tmp_path, now())  # a has just changed
    assert names(folder)["a.npz"] is False
    assert list(folder.glob("a.npz/*")) == []

    folder = copy_inbox(URL, tmp_path, now() + LATER)
    assert names(folder) == {"a.npz": True, "b": True}
    assert (folder / "a.npz").read_bytes() == b"22"
    assert [path.name for path in (folder / "b").iterdir()] == ["y.npy"]
    assert seen == ["a.npz", "b/y.npy"]  # b had changed, too

    other = copy_inbox("s3://bucket/elsewhere", tmp_path, now())
    assert names(other) == {}
    assert [path.name for path in (tmp_path / ".inbox").iterdir()] == [other.name]


def test_an_object_that_is_written_twice_in_a_second_is_read_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/in box/a.npz", b"1")
    (found,) = Store.objects(store_of(URL)).values()
    monkeypatch.setattr(Store, "objects", lambda _: {"a.npz": replace(found, tag="one")})
    copy_inbox(URL, tmp_path, now() + LATER)
    seen = downloads(monkeypatch)
    copy_inbox(URL, tmp_path, now() + LATER)
    assert seen == []

    monkeypatch.setattr(Store, "objects", lambda _: {"a.npz": replace(found, tag="two")})
    copy_inbox(URL, tmp_path, now() + LATER)
    assert seen == ["a.npz"]


def store_of(url: str) -> Store:
    from mnist_tasks.system.store_url import StoreUrl

    return Store(StoreUrl.parse(url))


@pytest.mark.parametrize("name", ["../out.npz", "a/../../out.npz", "a\\b.npz", "line\nbreak"])
def test_a_name_that_would_lead_elsewhere_is_refused(
    name: str, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/in box/a.npz", b"1")
    (found,) = Store.objects(store_of(URL)).values()
    monkeypatch.setattr(Store, "objects", lambda _: {name: found})

    with pytest.raises(InputError, match="which no file can be named; rename it"):
        copy_inbox(URL, tmp_path / "datasets", now() + LATER)
    assert not (tmp_path / "out.npz").exists()


def test_an_object_and_a_folder_of_one_name_are_refused(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/in box/a.npz", b"1")
    (found,) = Store.objects(store_of(URL)).values()
    monkeypatch.setattr(Store, "objects", lambda _: {"a": found, "a/b": found})
    monkeypatch.setattr(Store, "download", lambda _, name, target: target.write_text(name))

    with pytest.raises(InputError, match=r"has a/b as an object and as a folder; rename one of them"):
        copy_inbox(URL, tmp_path, now() + LATER)


def test_what_cannot_be_listed_is_no_inbox(tmp_path: Path, npz: Path) -> None:
    with pytest.raises(InputError, match=r"^inbox: https://example\.com/in cannot be listed; use a folder, s3 or gs"):
        load(str(npz), tmp_path, inbox="https://example.com/in")
    with pytest.raises(InputError, match="s3://conn@bucket/in may not be read: MNIST_SOURCES allows "):
        load(str(npz), tmp_path, inbox="s3://conn@bucket/in")


@pytest.mark.slow
def test_source_and_inbox_come_by_a_connection(
    digits: Digits, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From a server with S3's protocol; the same digest as from the same files on this machine."""
    local = tmp_path / "local"
    local.mkdir()
    np.savez(local / "monday.npz", x_train=255 - digits.x_test[:50], y_train=digits.y_test[:50])
    np.savez(local / "tuesday.npz", x_train=digits.x_test[50:100, ::-1], y_train=digits.y_test[50:100])
    for path in list(local.iterdir()):
        Path(f"{path}.done").touch()
    with s3_server(tmp_path / "log") as server, faulty(server) as proxy:
        connection: dict[str, Any] = {"conn_type": "aws", "login": "key", "password": SECRET}
        connection["extra"] = {"endpoint_url": proxy.url}
        monkeypatch.setenv("AIRFLOW_CONN_DIGITS", json.dumps(connection))
        monkeypatch.setenv("MNIST_SOURCES", "/, s3://digits@bucket")
        plain = fsspec.filesystem("s3", key="key", secret=SECRET, endpoint_url=server)
        plain.mkdir("bucket")
        plain.put(str(npz), "bucket/digits.npz")
        plain.put(f"{local}/", "bucket/inbox", recursive=True)
        proxy.requests.clear()

        places = ("s3://digits@bucket/digits.npz", "s3://digits@bucket/inbox/")
        run = tmp_path / "run"
        there = load(places[0], tmp_path / "datasets", inbox=places[1], run=run)
        here = load(str(npz), tmp_path / "datasets here", inbox=local)
        assert (there.digest, there.batches + there.quarantined) == (here.digest, 2)

        proxy.requests.clear()
        again = load(str(npz), tmp_path / "datasets", inbox=places[1])
        assert again.digest == there.digest
        assert not [path for path in proxy.made("GET") if ".npz" in path.partition("?")[0]]  # nothing was new

        plain.rm("bucket/inbox/monday.npz.done")
        plain.rm("bucket/inbox/monday.npz")
        fewer = load(str(npz), tmp_path / "datasets", inbox=places[1])
        assert fewer.batches + fewer.quarantined == 1

    report = ValidationReport.read(run / "data" / "validation.json", "")
    assert report.source == places[0]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != tmp_path / "log"]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in caplog.text
