"""The setting MNIST_SOURCES decides which sources may be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnist_tasks import installation
from mnist_tasks.data.allowed_sources import DEFAULT, AllowedSources, check_public, parse
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError

STACK = "https://*"  # as docker-compose.yaml sets it


def allows(setting: str, source: str) -> bool:
    """Return whether a value of the setting allows a source."""
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
        "file://\udcff/x",
        "file://[::1/x",
        "https://a..example/x",
        f"https://{'a' * 64}.example/x",
        "https://a.example/\udcff",
        "s3://\udcff/x",
    ],
)
def test_other_schemes_chains_and_broken_urls_are_refused_whatever_is_allowed(source: str) -> None:
    with pytest.raises(InputError, match=r"chained|use https|not a URL|names the host") as error:
        parse("").source(source)
    str(error.value).encode()  # a message that cannot be encoded could not be logged


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
        ("https://a.example/digits", "https://a.example/x%2f../digits/x", False),
        ("https://a.example/digits", "https://a.example/x%5C..%2Fdigits/x", False),
        ("https://a.example", "https://a.example/x%2fy", True),
        ("https://a.example", "https://a%E3%80%82example/x", False),
        ("https://a.example", "https://a\u3002example/x", True),
        ("s3://bucket", "s3://bucket/x", True),
        ("s3://bucket", "s3://bucket2/x", False),
        ("s3://bucket/a", "s3://bucket/a/x", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket", "gs://bucket/x", False),
        ("s3://*", "s3://bucket/x", True),
        ("s3://*", "s3://conn@bucket/x", False),
        ("s3://bucket", "s3://conn@bucket/x", False),
        ("s3://conn@bucket", "s3://bucket/x", False),
        ("s3://conn@bucket", "s3://conn@bucket/x", True),
        ("s3://conn@bucket", "s3://other@bucket/x", False),
        ("s3://conn@bucket/a", "s3://conn@bucket/ab", False),
        ("s3://conn@*", "s3://conn@bucket/x", True),
        ("s3://conn@*", "gs://conn@bucket/x", False),
        (DEFAULT, "s3://conn@bucket/x", False),
    ],
)
def test_an_entry_allows_a_host_a_bucket_or_what_begins_so(setting: str, source: str, expected: bool) -> None:
    assert allows(setting, source) is expected


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.1.2.3", "10.1.2.3", "100.64.0.1", "169.254.169.254", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("::", "::1", "fe80::1%lo", "fc00::1", "fec0::1", "ff0e::1", "100::1", "5f00::1", "2001:db8::1"),
        # IPv6 forms of an IPv4 address: mapped, compatible, translated, NAT64 (well-known and local), 6to4, Teredo.
        *("::ffff:127.0.0.1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "168.63.129.16",  # Azure's platform services
    ],
)
def test_an_address_that_not_everybody_can_reach_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"name\.example has the address .* only read if MNIST_SOURCES lists name"):
        check_public("name.example", ["93.184.216.34", address])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_an_address_that_everybody_can_reach_is_read(address: str) -> None:
    check_public("name.example", [address])


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


@pytest.mark.parametrize(
    "setting", ["file://[x", "data", "https://", "ftp://a.example", "https://*, nowhere", "zip://::/x"]
)
def test_an_entry_that_cannot_be_understood_is_named(setting: str) -> None:
    with pytest.raises(InputError, match=r"^MNIST_SOURCES: (?!MNIST_SOURCES)"):
        installation.value("MNIST_SOURCES", {"MNIST_SOURCES": setting})


def test_the_home_may_always_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_SOURCES", STACK)
    monkeypatch.setenv("MNIST_HOME", str(tmp_path))

    assert AllowedSources.from_environment().path(tmp_path / "inbox") == tmp_path.resolve() / "inbox"
    with pytest.raises(InputError, match=r"may not be read: MNIST_SOURCES allows https://\* and MNIST_HOME"):
        AllowedSources.from_environment().path("/etc")


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
    with pytest.raises(InputError, match=r"is not a path"):
        parse("").source("nul\0byte")
