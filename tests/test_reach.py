"""What may be read, by the setting MNIST_SOURCES."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnist_tasks import installation
from mnist_tasks.errors import InputError
from mnist_tasks.load import load
from mnist_tasks.reach import Reach, parse

STACK = "https://*"  # as docker-compose.yaml sets it


def allows(setting: str, source: str) -> bool:
    """Whether a source may be read by a value of the setting."""
    try:
        parse(setting).source(source)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    "source",
    [
        "simplecache::file:///etc/passwd",
        "reference://::data:application/json,{}",
        "zip://::https://example.com/x.zip",
        "zip://member::file:///tmp/x.zip",
        "S3://bucket::file:///etc/passwd",
        "webhdfs://host/x",
        "github://owner:repo@/x",
        "local:///etc/passwd",
        "memory://x",
        "ftp://example.com/x",
        "data://x",
        "https:///x",
        "https://exa mple.com/x",
        "https://host:99999/x",
        "http://[::1/x",
        "file://other.example/data/x",
    ],
)
def test_other_schemes_chains_and_broken_urls_are_refused_whatever_is_allowed(source: str) -> None:
    with pytest.raises(InputError, match=r"chained|use https|no URL|names the host"):
        parse("").source(source)


@pytest.mark.parametrize(
    "source",
    [
        "/etc/hostname",
        "file:///etc/hostname",
        "~/digits.npz",
        "https://a.example/x",
        "HTTPS://a.example/x",
        "http://a.example:8000/x",
        "s3://bucket/x",
        "gs://bucket/x",
    ],
)
def test_by_default_local_files_public_hosts_and_buckets_may_be_read(source: str) -> None:
    assert allows("", source)
    assert allows(" ", source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://a.example/x", True),
        ("https://a.example:8443/x", True),
        ("http://a.example/x", False),
        ("s3://bucket/x", False),
        ("/etc/hostname", False),
        ("file:///etc/hostname", False),
    ],
)
def test_the_stack_reads_https_and_its_home_alone(source: str, expected: bool) -> None:
    assert allows(STACK, source) is expected


@pytest.mark.parametrize(
    ("setting", "source", "expected"),
    [
        ("https://a.example", "https://a.example/x", True),
        ("https://a.example", "https://A.EXAMPLE./x", True),
        ("https://a.example", "https://b.a.example/x", False),
        ("https://a.example", "https://user@b.example/x", False),
        ("https://a.example", "https://a.example:8443/x", False),
        ("https://a.example:8443", "https://a.example:8443/x", True),
        ("https://a.example/digits", "https://a.example/digits/x", True),
        ("https://a.example/digits", "https://a.example/digits2/x", False),
        ("https://a.example/digits", "https://a.example/digits/../x", False),
        ("https://a.example/digits", "https://a.example/digits/%2e%2e/x", False),
        ("s3://bucket", "s3://bucket/x", True),
        ("s3://bucket", "s3://bucket2/x", False),
        ("s3://bucket/a", "s3://bucket/a/x", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket", "gs://bucket/x", False),
        ("s3://*", "s3://bucket/x", True),
    ],
)
def test_an_entry_allows_a_host_a_bucket_or_what_begins_so(setting: str, source: str, expected: bool) -> None:
    assert allows(setting, source) is expected


def test_a_folder_allows_what_lies_in_it_and_no_link_out_of_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "data2"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "x.npz").touch()
    (inside / "link.npz").symlink_to(outside / "x.npz")

    assert allows(str(inside), str(inside / "x.npz"))
    assert allows(inside.as_uri(), (inside / "x.npz").as_uri())
    assert not allows(str(inside), str(outside / "x.npz"))
    assert not allows(str(inside), str(inside / "link.npz"))
    assert not allows(str(inside), f"{inside}/../data2/x.npz")


@pytest.mark.parametrize("setting", ["data", "https://", "ftp://a.example", "https://*, nowhere", "zip://::/x"])
def test_an_entry_that_cannot_be_understood_is_named(setting: str) -> None:
    with pytest.raises(InputError, match=r"^MNIST_SOURCES: (?!MNIST_SOURCES)"):
        installation.value("MNIST_SOURCES", {"MNIST_SOURCES": setting})


def test_the_home_may_always_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_SOURCES", STACK)
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))

    assert Reach.from_environment().path(tmp_path / "inbox") == tmp_path.resolve() / "inbox"
    with pytest.raises(InputError, match=r"may not be read: MNIST_SOURCES allows https://\* and MNIST_HOME"):
        Reach.from_environment().path("/etc")


def test_an_inbox_elsewhere_is_refused_where_only_the_home_may_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_SOURCES", STACK)
    monkeypatch.setenv("MNIST_HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()

    with pytest.raises(InputError, match=r"elsewhere may not be read"):
        load("builtin", tmp_path / "home" / "datasets", inbox=tmp_path / "elsewhere")


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/stdin"])
def test_a_device_is_no_source(special: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is neither a file nor a folder|does not exist"):
        load(special, tmp_path)


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"is no path"):
        parse("").source("nul\0byte")
