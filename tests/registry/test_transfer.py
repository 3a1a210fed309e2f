"""A version moves to another installation whole, or not at all."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_tasks.cli.main import main
from mnist_tasks.promote import promote
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.transfer import HISTORY_LINE, export_version, import_version
from mnist_tasks.registry.verification import problems
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT, publish


@pytest.fixture
def here(tmp_path: Path) -> ModelDirectory:
    models = ModelDirectory(tmp_path / "here" / "models")
    for number in (1, 2):
        publish(models, f"run-{number}", number - 1 or None)
    return models


@pytest.fixture
def there(tmp_path: Path) -> ModelDirectory:
    """Another installation with a champion."""
    models = ModelDirectory(tmp_path / "there" / "models")
    publish(models, "its own", None)
    return models


@pytest.fixture
def archive(here: ModelDirectory, tmp_path: Path) -> Path:
    export_version(here, here.version("champion"), tmp_path / "champion.tar")
    return tmp_path / "champion.tar"


def take(models: ModelDirectory, archive: Path, smoke_test: Callable[[Path], None] = lambda _: None) -> Version:
    return import_version(models, archive, reason="from dev", published_by="me", smoke_test=smoke_test)


def test_a_version_arrives_with_its_files_its_documents_and_where_it_came_from(
    here: ModelDirectory, there: ModelDirectory, archive: Path
) -> None:
    seen: list[set[str]] = []

    version = take(there, archive, lambda folder: seen.append({path.name for path in folder.iterdir()}))

    original = here.version("champion")
    assert there.champion() == version
    assert version.number == 2
    for name, digest in original.metadata().sha256.items():
        if name != "model_card.md":
            assert version.changed(name, digest) is None
    assert problems(there) == []
    assert {"model.keras", "saved_model.pb", "golden.npz"} < seen[0]
    metadata = version.metadata()
    assert (metadata.event, metadata.replaces, metadata.reason) == ("imported", 1, "from dev")
    assert metadata.imported_from
    assert (metadata.imported_from.version, metadata.imported_from.event) == (2, "promoted")
    assert metadata.weights_sha256 == original.metadata().weights_sha256
    event = there.history()[-1]
    assert (event.event, event.before, event.to, event.published_by) == ("imported", 1, 2, "me")
    assert "Imported from another installation, where it was version 2, promoted at" in version.card()
    assert not list(there.root.glob(".staging-*"))


def test_the_way_back_leads_to_the_champion_before(there: ModelDirectory, archive: Path) -> None:
    take(there, archive)

    back = roll_back(there, reason="it was bad", published_by="me", smoke_test=lambda _: None)

    assert (back.number, back.metadata().restores) == (3, 1)


def test_an_empty_directory_takes_it_too(archive: Path, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "new" / "models")

    assert take(models, archive).number == 1
    assert problems(models) == []


def test_the_same_version_gives_the_same_bytes(here: ModelDirectory, archive: Path, tmp_path: Path) -> None:
    export_version(here, here.version("2"), tmp_path / "again.tar")

    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_a_damaged_version_is_not_exported(here: ModelDirectory, tmp_path: Path) -> None:
    (here.root / "2" / "model.keras").write_text("other")

    with pytest.raises(ModelError, match=r"version 2 is damaged: .*model\.keras has SHA-256"):
        export_version(here, here.version("2"), tmp_path / "champion.tar")
    assert not (tmp_path / "champion.tar").exists()


def test_an_existing_file_or_a_missing_folder_is_named(here: ModelDirectory, archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(InputError, match=r"champion\.tar exists already; name a new file"):
        export_version(here, here.version("1"), archive)
    assert archive.read_bytes() == before
    with pytest.raises(InputError, match="none is not a folder; make it first"):
        export_version(here, here.version("1"), tmp_path / "none" / "a.tar")


def test_the_champion_itself_is_not_imported_again(here: ModelDirectory, archive: Path) -> None:
    with pytest.raises(InputError, match=r"version 2, the champion, is the same model"):
        take(here, archive)
    assert [version.number for version in here.versions()] == [1, 2]


def test_a_model_that_does_not_work_there_changes_nothing(there: ModelDirectory, archive: Path) -> None:
    def fail(folder: Path) -> None:
        raise ModelError(f"{folder} does not pass its smoke test")

    with pytest.raises(ModelError, match="does not pass its smoke test"):
        take(there, archive, fail)
    assert [version.number for version in there.versions()] == [1]
    assert not list(there.root.glob(".staging-*"))


def test_after_a_retirement_an_import_makes_a_champion(there: ModelDirectory, archive: Path) -> None:
    retire(there, "it was bad", "me")

    assert there.champion() is None
    assert take(there, archive) == there.champion()


def rewritten(
    archive: Path, change: Callable[[dict[str, bytes]], object], extra: tarfile.TarInfo | None = None
) -> None:
    with tarfile.open(archive) as file:
        content = {member.name: file.extractfile(member).read() for member in file}  # type: ignore[union-attr]
    change(content)
    with tarfile.open(archive, "w") as file:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        if extra:
            file.addfile(extra)


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, target
    return member


def metadata_without(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        document = json.loads(content["metadata.json"])
        del document["sha256"][name]
        content["metadata.json"] = json.dumps(document).encode()

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another file": (
        lambda path: rewritten(path, lambda c: c.update({"model.keras": b"x"})),
        "model.keras is missing, is",
    ),
    "a file less": (lambda path: rewritten(path, lambda c: c.pop("golden.npz")), "golden.npz is missing"),
    "a file more": (lambda path: rewritten(path, lambda c: c.update({"a.py": b"x"})), "a.py is missing, is not"),
    "a file not named": (lambda path: rewritten(path, metadata_without("golden.npz")), "golden.npz is missing, is not"),
    "no metadata": (
        lambda path: rewritten(path, lambda c: c.pop("metadata.json")),
        "metadata.json is missing or damaged",
    ),
    "no history line": (lambda path: rewritten(path, lambda c: c.pop(HISTORY_LINE)), "is no exported version"),
    "up": (lambda path: rewritten(path, lambda c: c.update({"../../a": b"x"})), "has an entry that is no plain file"),
    "root": (lambda path: rewritten(path, lambda c: c.update({"/etc/a": b"x"})), "has an entry that is no plain file"),
    "a link": (
        lambda path: rewritten(path, lambda _: None, link(tarfile.SYMTYPE, "/etc/passwd")),
        "has an entry that is no plain file",
    ),
    "a hard link": (
        lambda path: rewritten(path, lambda _: None, link(tarfile.LNKTYPE, "model.keras")),
        "has an entry that is no plain file",
    ),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is no exported version, or one cut short"),
    "empty": (lambda path: path.write_bytes(b""), "is no exported version, or one cut short"),
    "text": (lambda path: path.write_text("champion"), "is no exported version, or one cut short"),
    "missing": (Path.unlink, "is no exported version, or one cut short"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_is_no_whole_version_is_refused_and_changes_nothing(
    fault: str, there: ModelDirectory, archive: Path, tmp_path: Path
) -> None:
    spoil, words = BAD[fault]
    spoil(archive)
    before = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(InputError, match=rf"^{archive}.*{words}"):
        take(there, archive)

    assert {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_more_than_a_version_has_is_refused(
    there: ModelDirectory, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tasks.registry.transfer.MAX_BYTES", 1 << 10)

    with pytest.raises(InputError, match="which no version has"):
        take(there, archive)


def test_the_commands(
    here: ModelDirectory,
    there: ModelDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MNIST_HOME", str(here.root.parent))
    assert main(["export", "1", str(tmp_path / "one.tar")]) == 0
    assert "version 1 is in" in capsys.readouterr().out
    monkeypatch.setenv("MNIST_HOME", str(there.root.parent))

    # The stand-in for a model does not pass the real smoke test.
    assert main(["import", str(tmp_path / "one.tar"), "--reason", "a test"]) == 2
    assert "does not pass its smoke test" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none.tar"), "--reason", "a test"]) == 2
    assert main(["import", str(tmp_path / "one.tar"), "--reason", " "]) == 2
    assert [version.number for version in there.versions()] == [1]


def test_a_real_model_is_loaded_there_before_it_is_published(workspace: Workspace, run: Path, tmp_path: Path) -> None:
    promote(run, workspace.models, LENIENT)
    real_version = ModelDirectory(workspace.models)
    export_version(real_version, real_version.version("champion"), tmp_path / "real.tar")
    other = ModelDirectory(tmp_path / "other" / "models")

    version = import_version(other, tmp_path / "real.tar", reason="to production", published_by="me")

    assert other.champion() == version
    assert version.metadata().test_accuracy == real_version.version("champion").metadata().test_accuracy
