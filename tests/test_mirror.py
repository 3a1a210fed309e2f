"""The champion in an object store: whole at every instant, whatever dies, fails or is in the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from mnist_tasks.documents import MirroredChampion
from mnist_tasks.mirror import Mirrored, mirror, mirror_problems
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.object_store import Store
from mnist_tasks.system.store_url import StoreUrl
from mnist_tasks.workspace import PROJECT
from tests.helpers import COUNTS, HANG_SECONDS, publish, published
from tests.servers.start import Faulty, Killing, Request, faulty, s3

SECRET = "PLANTED/s3cret+key"  # noqa: S105 - to look for it in logs
FILES = 8  # of a version that `publish` makes


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    """A model directory with two versions."""
    return published(ModelDirectory(tmp_path / "models"), 2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty folder as a store."""
    return f"file://{tmp_path}/there"


def read_champion(url: str) -> int | None:
    """Do as a reader does: follow champion.json and check each file that it names; return the version."""
    store = Store(StoreUrl.parse(url))
    content = store.read("champion.json")
    if content is None:
        return None
    champion = json.loads(content)
    for name, digest in champion["sha256"].items():
        file = store.read(f"{champion['version']}/{name}")
        assert file is not None, name
        assert hashlib.sha256(file).hexdigest() == digest, name
    return int(champion["version"])


def rollback(models: ModelDirectory) -> None:
    roll_back(models, reason="it was bad", published_by="me", smoke_test=lambda _: None)


def test_the_champion_is_copied_once_and_described(models: ModelDirectory, url: str) -> None:
    first, second = mirror(models.root, url), mirror(models.root, url)

    assert (first.version, first.files, first.uploaded) == (2, FILES, FILES)
    assert first.uploaded_bytes == sum(path.stat().st_size for path in (models.root / "2").rglob("*") if path.is_file())
    assert second == Mirrored(2, FILES, 0, 0)
    assert read_champion(url) == 2
    there = MirroredChampion.parse(Path(url.removeprefix("file://"), "champion.json").read_bytes())
    move = models.history()[-1]
    assert (there.time, there.reason, there.published_by) == (move.time, "run-2 is better", "run-2")
    assert mirror_problems(models.root, url) == []


def test_it_follows_a_rollback_a_retirement_and_its_end(models: ModelDirectory, url: str) -> None:
    mirror(models.root, url)
    rollback(models)
    assert mirror_problems(models.root, url) == [
        f"{url}/champion.json names version 2 as champion, but here it is version 3"
    ]
    assert (mirror(models.root, url).version, read_champion(url)) == (3, 3)

    retire(models, reason="all are bad", published_by="me")
    assert mirror(models.root, url) == Mirrored(None, 0, 0, 0)
    assert read_champion(url) is None
    assert mirror_problems(models.root, url) == []

    rollback(models)
    assert (mirror(models.root, url).version, read_champion(url)) == (4, 4)


def test_without_a_champion_there_is_nothing_to_do(tmp_path: Path, url: str) -> None:
    assert mirror(tmp_path / "models", url) == Mirrored(None, 0, 0, 0)
    assert mirror_problems(tmp_path / "models", url) == []


def test_only_what_is_missing_or_damaged_is_sent_again(models: ModelDirectory, url: str) -> None:
    mirror(models.root, url)
    there = Path(url.removeprefix("file://"), "2")
    (there / "model.keras").write_bytes(b"x" * (there / "model.keras").stat().st_size)
    (there / "golden.npz").write_bytes(b"")
    (there / "saved_model.pb").unlink()

    found = mirror_problems(models.root, url)

    assert [re.sub(r" .*", "", problem) for problem in found] == [
        f"{url}/2/{name}" for name in ("golden.npz", "model.keras", "saved_model.pb")
    ]
    assert mirror(models.root, url).uploaded == 3
    assert mirror_problems(models.root, url) == []


def test_versions_are_pruned_there_only_if_asked_for_and_only_those_pruned_here(
    models: ModelDirectory, url: str
) -> None:
    for number in (3, 4, 5):
        mirror(models.root, url)
        publish(models, f"run-{number}", number - 1)
    assert prune(models, 1) == [1, 2, 3]
    folder = Path(url.removeprefix("file://"))
    (folder / "77").mkdir()
    (folder / "77" / "metadata.json").write_text("{}")

    assert mirror(models.root, url).pruned == ()
    assert mirror(models.root, url, prune=True).pruned == (2, 3)
    assert {path.parent.name for path in folder.glob("*/metadata.json")} == {"4", "5", "77"}


def test_a_damaged_champion_is_not_copied(models: ModelDirectory, url: str) -> None:
    (models.root / "2" / "model.keras").write_bytes(b"damaged")

    with pytest.raises(ModelError, match=r"version 2 is damaged: .*model\.keras has SHA-256"):
        mirror(models.root, url)
    assert read_champion(url) is None


def test_a_lost_figure_stops_nothing(models: ModelDirectory, url: str) -> None:
    (models.root / "2" / "model_card.md").unlink()

    assert mirror(models.root, url).files == FILES - 1
    assert read_champion(url) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.csv", "1,2", "holds report.csv, which belongs to no mirror; name an empty folder in it"),
        ("champion.json", "{}", "champion.json is not what a mirror writes; name an empty folder in it, or remove"),
        ("champion.json", "<html>", "champion.json is not what a mirror writes; name an empty folder in it, or remove"),
    ],
)
def test_a_folder_that_holds_something_else_is_refused(
    models: ModelDirectory, url: str, name: str, content: str, words: str
) -> None:
    folder = Path(url.removeprefix("file://"))
    folder.mkdir()
    (folder / name).write_text(content)

    with pytest.raises(InputError, match=words):
        mirror(models.root, url)
    assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize("versions", [1, 2, 3])
def test_the_mirror_of_another_directory_is_refused(
    models: ModelDirectory, url: str, tmp_path: Path, versions: int
) -> None:
    other = published(ModelDirectory(tmp_path / "other"), versions, "other")
    mirror(other.root, url)

    with pytest.raises(
        InputError, match=f"holds a version {versions} that is not this model directory's; name another folder"
    ):
        mirror(models.root, url)
    assert read_champion(url) == versions


def test_a_version_of_another_directory_that_was_not_finished_is_refused(
    models: ModelDirectory, url: str, tmp_path: Path
) -> None:
    other = published(ModelDirectory(tmp_path / "other"), 2, "other")
    mirror(other.root, url)
    Path(url.removeprefix("file://"), "champion.json").unlink()

    with pytest.raises(InputError, match="holds a version 2 that is not this model directory's"):
        mirror(models.root, url)


def test_two_at_once_end_with_the_newer_champion(models: ModelDirectory, url: str) -> None:
    """A night publishes while the mirror of the night before is still at work, ten times."""
    for number in range(3, 13):
        threads = [threading.Thread(target=mirror, args=(models.root, url)) for _ in range(3)]
        threads[0].start()
        publish(models, f"run-{number}", number - 1)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(HANG_SECONDS)
        assert read_champion(url) == number


# With S3's protocol


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3(tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A proxy before the store. The environment names it, for a URL without a connection."""
    with faulty(server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fsspec.filesystem("s3").clear_instance_cache()
        yield proxy
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def bucket(proxy: Faulty, request: pytest.FixtureRequest) -> str:
    """The URL of a folder in a bucket of its own."""
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    fsspec.filesystem("s3").mkdir(name)
    proxy.requests.clear()
    return f"s3://{name}/nightly models"  # with a blank


def in_a_process(models: ModelDirectory, url: str) -> subprocess.Popen[str]:
    """Start the mirror in a process of its own, so that it can be killed."""
    program = "import sys; from pathlib import Path; from mnist_tasks.mirror import mirror; "
    program += "mirror(Path(sys.argv[1]), sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", program, str(models.root), url], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_object_leaves_a_whole_champion_and_the_next_call_finishes(
    models: ModelDirectory, proxy: Faulty, bucket: str, when: str
) -> None:
    """SIGKILL when the store gets an object, or when it has it and has not yet said so: at each of the 9 requests."""
    points = FILES + 1  # with champion.json
    for point in range(1, points + 1):
        url = f"{bucket}/{point}"
        models_now = ModelDirectory(models.root)
        before = mirror(models_now.root, url).version
        number = publish(models_now, f"run-{point}-{when}", before).number
        proxy.requests.clear()
        setattr(proxy, when, killing := Killing(point, lambda request: request.method == "PUT"))
        process = in_a_process(models_now, url)
        killing.process.put(process)
        assert process.wait(HANG_SECONDS) == -signal.SIGKILL, process.communicate()[1]
        proxy.before, proxy.after = (lambda _: None), (lambda _: None)

        assert read_champion(url) == (number if (point, when) == (points, "after") else before)
        done = mirror(models_now.root, url)
        assert (done.version, read_champion(url)) == (number, number)
        # What had arrived is not sent again.
        assert done.uploaded == FILES - min(FILES, point - (when == "before"))
        assert mirror_problems(models_now.root, url) == []
    COUNTS.append(f"mirror: killed {when} each of {points} objects")


def error(status: int, code: str) -> tuple[int, bytes]:
    """An answer of S3 that says no."""
    text = f"<Error><Code>{code}</Code><Message>SECRET {SECRET}</Message></Error>"
    return status, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


# What a store answers, and how that is explained.
ANSWERS = [
    (error(500, "InternalError"), ConnectionError, "cannot be .* now: the store answers 500; try again later"),
    (error(503, "SlowDown"), ConnectionError, "cannot be .* now: the store answers 503; try again later"),
    (error(503, "ServiceUnavailable"), ConnectionError, "cannot be .* now: the store answers 503; try again"),
    (error(403, "RequestTimeTooSkewed"), InputError, "RequestTimeTooSkewed: the clock of this machine is wrong"),
    (error(403, "AccessDenied"), InputError, "AccessDenied: the rights to list, read or write there are missing"),
    (error(403, "InvalidAccessKeyId"), InputError, "InvalidAccessKeyId: its key is not known there"),
    (error(403, "SignatureDoesNotMatch"), InputError, "SignatureDoesNotMatch: its secret key is wrong"),
    (error(404, "NoSuchBucket"), InputError, "NoSuchBucket: there is no such bucket; make it, or correct"),
]
HTML = ((200, b"<html>"), InputError, "champion.json is not what a mirror writes; name an empty folder in it")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "answer", "kind", "words"),
    [("GET", *HTML), *((method, *answer) for answer in ANSWERS for method in ("GET", "PUT"))],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else value if value in ("GET", "PUT") else "",
)
def test_a_store_that_says_no_is_explained_and_the_champion_there_stays(
    models: ModelDirectory,
    proxy: Faulty,
    bucket: str,
    method: str,
    answer: tuple[int, bytes],
    kind: type[Exception],
    words: str,
) -> None:
    mirror(models.root, bucket)
    publish(models, "run-3", 2)
    proxy.before = lambda request: answer if request.method == method else None

    with pytest.raises(kind, match=words) as refusal:
        mirror(models.root, bucket)

    assert str(refusal.value).startswith(bucket)
    assert SECRET not in str(refusal.value)
    proxy.before = lambda _: None
    assert read_champion(bucket) == 2
    assert (mirror(models.root, bucket).version, read_champion(bucket)) == (3, 3)


@pytest.mark.slow
def test_wrong_bytes_are_noticed_before_anybody_is_led_to_them(
    models: ModelDirectory, proxy: Faulty, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(models.root, bucket)
    publish(models, "run-3", 2)
    lost = "model.keras"
    proxy.before = lambda request: (200, b"") if (request.method, request.path[-len(lost) :]) == ("PUT", lost) else None
    with pytest.raises(ConnectionError, match=r"3/model\.keras does not hold what was sent: it is missing"):
        mirror(models.root, bucket)
    assert read_champion(bucket) == 2

    proxy.before = lambda _: None
    proxy.damage = lambda request, content: content.swapcase() if request.path.endswith(lost) else content
    # This store hands on the checksum of what was sent to it. One that does not is found out by the SHA-256.
    with pytest.raises(ConnectionError, match="cannot be read now: FlexibleChecksumError; check the connection"):
        mirror(models.root, bucket)
    assert read_champion(bucket) == 2
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(ConnectionError, match=r"3/model\.keras does not hold what was sent: its SHA-256 is "):
        mirror(models.root, bucket)
    assert read_champion(bucket) == 2

    proxy.damage = lambda _, content: content
    assert (mirror(models.root, bucket).version, read_champion(bucket)) == (3, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("proxy")
def test_a_store_that_cannot_be_reached_is_tried_again(
    models: ModelDirectory, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()

    with pytest.raises(ConnectionError, match=r"cannot be read now: .*; check the connection"):
        mirror(models.root, bucket)


@pytest.mark.slow
def test_a_slow_store_gets_everything(models: ModelDirectory, proxy: Faulty, bucket: str) -> None:
    def slow(_: Request) -> None:
        time.sleep(0.1)

    proxy.before = slow

    assert (mirror(models.root, bucket).version, read_champion(bucket)) == (2, 2)


@pytest.mark.slow
def test_a_connection_has_the_credentials_and_no_word_of_them_is_said(
    models: ModelDirectory, proxy: Faulty, bucket: str
) -> None:
    """Through the command line, which reads the connection from Airflow."""
    connection = {"conn_type": "aws", "login": "key", "password": SECRET, "extra": {"endpoint_url": proxy.url}}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AIRFLOW"))}
    environment |= {"MNIST_HOME": str(models.root.parent), "AIRFLOW_CONN_STORE": json.dumps(connection)}

    def call(store: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mnist_tasks", "mirror", *options]
        settings = {**environment, "MNIST_MIRROR": store}
        result = subprocess.run(command, cwd=PROJECT, env=settings, capture_output=True, text=True, check=False)
        assert SECRET not in result.stdout + result.stderr
        return result

    named = bucket.replace("s3://", "s3://store@")
    assert call(named, "--check").returncode == 1
    done = call(named, "--json")
    assert json.loads(done.stdout) == {
        "version": 2,
        "files": FILES,
        "uploaded": FILES,
        "pruned": [],
        "uploaded_bytes": sum(path.stat().st_size for path in (models.root / "2").rglob("*") if path.is_file()),
    }
    assert call(named, "--check").stdout == f"{named} is whole\n"
    assert read_champion(bucket) == 2

    unknown = call(named.replace("store@", "nobody@"))
    assert (unknown.returncode, unknown.stderr.partition(";")[0]) == (2, "failed: Airflow has no connection nobody")
    proxy.before = lambda _: error(403, "SignatureDoesNotMatch")
    wrong = call(named)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.match(
        f"failed: {re.escape(named)} cannot be read with the connection store: (SignatureDoesNotMatch|403): its ",
        wrong.stderr,
    )
    files = [path for path in models.root.parent.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.usefixtures("proxy")
def test_the_lines_of_the_documentation_read_it(models: ModelDirectory, bucket: str) -> None:
    page = (PROJECT / "docs" / "use-the-champion.md").read_text(encoding="utf-8")
    (program,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "champion.json" in code]
    mirror(models.root, bucket)
    found: dict[str, object] = {}

    exec(program.replace("bucket/models", bucket.removeprefix("s3://")), found)  # noqa: S102 - it is ours

    assert found["content"] == (models.root / "2" / "model.keras").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "/data/models",
            "'/data/models' is not the URL of a store: use s3, gs, file, memory; write it as",
        ),
        ("ftp://host/models", "'ftp' is not the URL of a store"),
        (
            "s3://key:PLANTED/s3cret@bucket/m",
            "s3://... holds credentials or a port; put them into an Airflow connection",
        ),
        ("s3://my conn@bucket/models", "'my conn' is not the id of an Airflow connection"),
        ("s3://", "s3:// names no bucket"),
        ("s3://conn@/models", "s3://conn@/models names no bucket"),
        ("s3://my bucket/models", "s3://my bucket/models names no bucket"),
        ("s3://bucket/a/../b", "s3://bucket/a/../b has a .. in its path"),
        ("s3://bucket/a?x=1", "'s3://bucket/a?x=1' has characters that a store's URL cannot have"),
        ("file://host/models", "file://host/models is not the path of a folder; write file:///path"),
        ("file://conn@/models", "file has no connections; write file:///models"),
        ("file:///", "file:/// is not the path of a folder"),
    ],
)
def test_a_url_that_is_none_of_a_store_is_refused_without_its_secrets(text: str, words: str) -> None:
    with pytest.raises(InputError) as refusal:
        StoreUrl.parse(text)

    assert str(refusal.value).startswith(words)
    assert "s3cret" not in str(refusal.value)


def test_a_package_that_is_missing_is_named(models: ModelDirectory) -> None:
    with pytest.raises(InputError, match=r"gs://bucket/models needs a package that is not installed: .*gcsfs"):
        mirror(models.root, "gs://bucket/models")


def test_it_keeps_what_it_knows_in_memory_too(models: ModelDirectory) -> None:
    assert mirror(models.root, "memory://bucket/models").version == 2
    assert read_champion("memory://bucket/models") == 2
