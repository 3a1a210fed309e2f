"""`python -m mnist_tasks reproduce` trains a version again and prints that it is identical or what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_tasks.data.dataset import Dataset
from mnist_tasks.promote import promote
from mnist_tasks.workspace import Workspace
from tests.helpers import LENIENT


@pytest.fixture
def published(workspace: Workspace, run: Path) -> Workspace:
    """A workspace with a champion, version 1."""
    promote(run, workspace.models, LENIENT)
    return workspace


def reproduce(workspace: Workspace, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnist_tasks", "reproduce", version],
        env={**os.environ, "MNIST_HOME": str(workspace.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def change_metadata(workspace: Workspace, **changes: object) -> None:
    (workspace.models / "history.jsonl").unlink()  # it holds the digest of the unchanged metadata
    path = workspace.models / "1" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("version", ["1", "champion"])
def test_a_version_is_reproduced_bit_for_bit(version: str, published: Workspace) -> None:
    result = reproduce(published, version)

    assert (result.returncode, result.stdout) == (0, "identical\n"), result.stderr
    assert "epoch 3/3" in result.stderr


@pytest.mark.parametrize("damage", ["deleted", "zeroed"])
def test_normalized_images_that_are_gone_or_changed_are_made_again(
    damage: str, published: Workspace, dataset: Path
) -> None:
    path = Dataset(dataset).normalized_path("train")
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))

    result = reproduce(published, "1")

    assert (result.returncode, result.stdout) == (0, "identical\n"), result.stderr
    assert path.read_bytes() == whole


def test_other_raw_images_than_the_version_was_trained_on_fail(published: Workspace, dataset: Path) -> None:
    content = bytearray((dataset / "x_train.npy").read_bytes())
    content[-400] ^= 1
    (dataset / "x_train.npy").write_bytes(content)

    result = reproduce(published, "1")

    assert result.returncode == 2
    assert "no longer has the content that it is named after" in result.stderr


def test_what_differs_is_said(published: Workspace) -> None:
    metadata = json.loads((published.models / "1" / "metadata.json").read_text())
    versions = {**metadata["library_versions"], "keras": "2.0"}
    change_metadata(
        published, config={**metadata["config"], "seed": 7}, library_versions=versions, weights_sha256="0" * 64
    )

    result = reproduce(published, "1")

    assert result.returncode == 1
    first, *others = result.stdout.splitlines()
    assert first.startswith("keras was 2.0, is 3.")
    assert any(" of 100,352 weights differ, by at most " in line for line in others)


@pytest.mark.parametrize(
    ("changes", "version", "words"),
    [
        ({}, "2", "failed: {models} has no version 2; it has 1"),
        ({"dataset": "0" * 64}, "1", "is not a dataset: "),
        ({"config": {"layers": 3}}, "1", "failed: layers: unknown parameter"),
    ],
)
def test_what_cannot_be_reproduced_fails(
    changes: dict[str, object], version: str, words: str, published: Workspace
) -> None:
    change_metadata(published, **changes)

    result = reproduce(published, version)

    assert result.returncode == 2
    assert words.format(models=published.models) in result.stderr
    assert "Traceback" not in result.stderr
