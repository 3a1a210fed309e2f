"""The model directory: whole versions, a link that always leads to one, and a history."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_tasks.errors import ModelError
from mnist_tasks.files import fsync, sha256
from mnist_tasks.registry import ModelDirectory, Version
from tests.helpers import small_disk, without_root


@pytest.fixture
def models(tmp_path: Path) -> ModelDirectory:
    return ModelDirectory(tmp_path / "models")


@pytest.fixture
def publish(models: ModelDirectory, tmp_path: Path) -> Callable[..., Version]:
    """Publish a stand-in for a model by the run of that name."""

    def publish(run_id: str, replaces: int | None, **options: Any) -> Version:
        model = tmp_path / f"{run_id}.keras"
        model.write_bytes(run_id.encode() * 1000)
        return models.publish(
            model,
            run_id=run_id,
            replaces=replaces,
            **{
                "model_sha256": sha256(model),
                "reason": "it is better",
                "metadata": {"weights_sha256": f"weights of {run_id}", "seed": 3},
                "documents": {"evaluation.json": {"accuracy": 0.9}},
                **options,
            },
        )

    return publish


def test_an_empty_directory_has_no_champion(models: ModelDirectory) -> None:
    assert models.champion() is None
    assert models.versions() == []
    assert models.history() == []


def test_a_version_is_complete_and_champion(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    version = publish("run-1", None)

    assert models.champion() == version == Version(1, models.root / "1")
    assert models.link.readlink() == Path("1")  # relative, so that the folder can be mounted elsewhere
    assert sorted(path.name for path in version.folder.iterdir()) == ["evaluation.json", "metadata.json", "model.keras"]
    metadata = version.metadata()
    assert (metadata["version"], metadata["run_id"], metadata["seed"]) == (1, "run-1", 3)
    assert set(metadata["sha256"]) == {"evaluation.json", "model.keras"}
    version.verify()


def test_each_promotion_is_a_line_of_the_history(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    publish("run-1", None)
    publish("run-2", 1)

    first, second = models.history()
    assert (first["from"], first["to"], first["run_id"]) == (None, 1, "run-1")
    assert (second["from"], second["to"], second["reason"]) == (1, 2, "it is better")
    assert first["time"] <= second["time"]


def test_the_same_run_is_published_once(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    first = publish("run-1", None)

    assert publish("run-1", None) == first
    assert [version.number for version in models.versions()] == [1]
    assert len(models.history()) == 1


def test_a_late_retry_does_not_take_the_champion_back(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    publish("run-1", None)
    publish("run-2", 1)

    publish("run-1", None)

    assert models.champion() == Version(2, models.root / "2")


@pytest.mark.parametrize("step", ["_record", "_point_at"])
def test_a_retry_finishes_what_a_crash_interrupted(
    step: str, models: ModelDirectory, publish: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("run-1", None)
    with monkeypatch.context() as patch:
        patch.setattr(ModelDirectory, step, lambda *_: (_ for _ in ()).throw(OSError("crash")))
        with pytest.raises(OSError, match="crash"):
            publish("run-2", 1)
        assert models.champion() == Version(1, models.root / "1")

    publish("run-2", 1)

    assert models.champion() == Version(2, models.root / "2")
    assert [event["to"] for event in models.history()] == [1, 2]


def test_a_champion_that_changed_since_the_comparison_is_not_replaced(
    models: ModelDirectory, publish: Callable[..., Version]
) -> None:
    publish("run-1", None)

    with pytest.raises(ModelError, match="the champion is version 1, but the candidate was compared with none"):
        publish("run-2", None)
    assert [version.number for version in models.versions()] == [1]


def test_a_file_that_changed_since_the_evaluation_is_not_published(
    models: ModelDirectory, publish: Callable[..., Version]
) -> None:
    with pytest.raises(ModelError, match=r"run-1\.keras has SHA-256 .*, but 0000 was evaluated"):
        publish("run-1", None, model_sha256="0000")
    assert models.versions() == []
    assert models.champion() is None
    assert not list(models.root.glob(".staging-*"))


def test_no_number_is_used_twice(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    publish("run-1", None)
    publish("run-2", 1)
    models.link.unlink()
    for version in models.versions():
        version.folder.rename(models.root.parent / f"away-{version.number}")

    assert publish("run-3", None).number == 3


def test_leftovers_of_a_killed_publish_are_removed(models: ModelDirectory, publish: Callable[..., Version]) -> None:
    (models.root / ".staging-1").mkdir(parents=True)
    (models.root / ".champion-next").symlink_to("1")

    publish("run-1", None)

    assert sorted(path.name for path in models.root.iterdir()) == [".lock", "1", "champion", "history.jsonl"]


@pytest.mark.parametrize("target", ["7", "../outside", "1/..", "nothing"])
def test_a_link_that_leads_to_no_version_is_named(
    target: str, models: ModelDirectory, publish: Callable[..., Version]
) -> None:
    publish("run-1", None)
    (models.root.parent / "outside").mkdir()
    models.link.unlink()
    models.link.symlink_to(target)

    with pytest.raises(ModelError, match=rf"leads to '{target}', which is no version in .*; restore .* at one of 1"):
        models.champion()


def test_a_folder_in_place_of_the_link_is_named(models: ModelDirectory) -> None:
    models.link.mkdir(parents=True)

    with pytest.raises(ModelError, match="champion is no link to a version"):
        models.champion()


def test_changed_and_missing_files_are_found(publish: Callable[..., Version]) -> None:
    version = publish("run-1", None)
    version.model.write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model\.keras has SHA-256 .*, but .* was published"):
        version.verify()
    version.model.unlink()
    with pytest.raises(ModelError, match=r"model\.keras cannot be read: No such file"):
        version.verify()
    (version.folder / "metadata.json").unlink()
    with pytest.raises(ModelError, match=r"version 1 is damaged: .*metadata\.json"):
        version.verify()


def test_a_history_line_that_a_crash_cut_short_costs_no_other(
    models: ModelDirectory, publish: Callable[..., Version], caplog: pytest.LogCaptureFixture
) -> None:
    publish("run-1", None)
    with (models.root / "history.jsonl").open("a") as file:
        file.write('{"time": "2026-')

    publish("run-2", 1)

    assert [event["to"] for event in models.history()] == [1, 2]
    assert "line 2 is damaged" in caplog.text


def test_a_full_disk_leaves_the_champion(tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "models")
    options: dict[str, Any] = {"reason": "", "documents": {}}
    with small_disk(models.root, "1M"):
        for run_id, size in (("small", 1000), ("large", 2_000_000)):
            (tmp_path / run_id).write_bytes(os.urandom(size))
        digests = {run_id: sha256(tmp_path / run_id) for run_id in ("small", "large")}

        def publish(run_id: str, replaces: int | None) -> Version:
            metadata = {"weights_sha256": digests[run_id]}
            return models.publish(
                tmp_path / run_id,
                run_id=run_id,
                model_sha256=digests[run_id],
                replaces=replaces,
                metadata=metadata,
                **options,
            )

        publish("small", None)
        with pytest.raises(OSError, match="No space left on device"):
            publish("large", 1)

        champion = models.champion()
        assert champion
        champion.verify()
        assert [version.number for version in models.versions()] == [1]
        assert not list(models.root.glob(".staging-*"))


def test_a_directory_that_is_not_writable_leaves_the_champion(
    models: ModelDirectory, publish: Callable[..., Version], tmp_path: Path
) -> None:
    publish("run-1", None)
    (tmp_path / "run-2.keras").touch(0o666)
    (tmp_path / "run-2.keras").chmod(0o666)
    models.root.chmod(0o555)
    (models.root / ".lock").chmod(0o444)

    with pytest.raises(PermissionError):
        without_root(lambda: publish("run-2", 1), tmp_path)
    models.root.chmod(0o755)
    assert models.champion() == Version(1, models.root / "1")


def test_a_reader_never_sees_a_version_without_its_files(
    models: ModelDirectory, publish: Callable[..., Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every file-system step of a publish, what `champion` leads to is complete."""
    publish("run-1", None)
    seen: list[int] = []

    def look_and_fsync(path: Path) -> None:
        champion = models.champion()
        assert champion
        champion.verify()
        seen.append(champion.number)
        fsync(path)

    for module in ("registry", "files"):
        monkeypatch.setattr(f"mnist_tasks.{module}.fsync", look_and_fsync)
    publish("run-2", 1)

    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (1, 2)
    assert json.loads((models.link / "metadata.json").read_text())["version"] == 2
