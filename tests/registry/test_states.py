"""`repair` fixes the model directory after any sequence of publishing, rollbacks, retiring, pruning, damage and kills.

A hypothesis state machine tries such sequences with small files that stand in for models. It remembers what the
directory must contain: the files of each version, the former champions, and the retired versions.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mnist_tasks.registry.model_directory import ModelDirectory, is_for_people
from mnist_tasks.registry.repair import repair
from mnist_tasks.registry.retention import prune
from mnist_tasks.registry.retirement import retire
from mnist_tasks.registry.rollback import roll_back
from mnist_tasks.registry.verification import problems
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import InputError, ModelError
from mnist_tasks.system.files import fsync, sha256
from tests.helpers import publish

EXAMPLES, STEPS = 40, 12

ANY = st.integers(min_value=0, max_value=10_000)  # selects one of the existing items
NAMES = [
    "model.keras",
    "saved_model.pb",
    "variables/variables.index",
    "metadata.json",
    "decision.json",
    "model_card.md",
]


class Killed(BaseException):
    """Raised to stop a writer in the middle of its work."""


@contextmanager
def killed_at(step: int | None) -> Iterator[None]:
    """Stop the writer at fsync call number `step`, counted from 0; None for never."""
    left = step

    def counted(path: Path) -> None:
        nonlocal left
        if left is not None:
            if left == 0:
                raise Killed
            left -= 1
        fsync(path)

    modules = ("model_directory", "history", "retention", "retirement", "repair")
    places = ["mnist_tasks.system.files.fsync", *(f"mnist_tasks.registry.{name}.fsync" for name in modules)]
    patches = [mock.patch(place, counted) for place in places]
    for patch in patches:
        patch.start()
    try:
        with suppress(Killed):
            yield
    finally:
        for patch in patches:
            patch.stop()


def mend(models: ModelDirectory) -> list[str]:
    return list(repair(models, models.root.parent / "runs", "me", smoke_test=lambda _: None))


class Directory(RuleBasedStateMachine):
    """A model directory, the operations on it, and the damage that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="models-"))
        self.models = ModelDirectory(self.home / "models")
        self.runs = 0
        self.digests: dict[int, dict[str, str]] = {}
        self.former: set[int] = set()
        self.retired: set[int] = set()
        self.history_is_whole = True

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    # What the test knows

    def look(self) -> None:
        """Record the files of new versions and the current champion."""
        for version in self.models.versions():
            if version.number not in self.digests:
                files = [path for path in version.folder.rglob("*") if path.is_file()]
                self.digests[version.number] = {str(path.relative_to(version.folder)): sha256(path) for path in files}
        with suppress(ModelError):
            if champion := self.models.champion():
                self.former.add(champion.number)

    def whole(self, version: Version) -> bool:
        """Return whether the model files and documents of a version are unchanged."""
        return not any(
            version.changed(name, digest)
            for name, digest in self.digests[version.number].items()
            if not is_for_people(name)
        )

    def version(self, pick: int) -> Version | None:
        versions = self.models.versions()
        return versions[pick % len(versions)] if versions else None

    # What people and runs do

    @initialize(count=st.integers(min_value=1, max_value=3))
    def some_versions(self, count: int) -> None:
        for _ in range(count):
            self.publish(None)

    @rule(kill=st.none() | st.integers(min_value=0, max_value=30))
    def publish(self, kill: int | None) -> None:
        with suppress(ModelError), killed_at(kill):
            champion = self.models.champion()
            self.runs += 1
            publish(self.models, f"run-{self.runs}", champion.number if champion else None)
        self.look()

    @rule(run=ANY, pick=ANY)
    def retry_a_run(self, run: int, pick: int) -> None:
        version = self.version(pick)
        if self.runs:
            with suppress(ModelError):
                replaces = version.number if version and pick % 3 else None
                publish(self.models, f"run-{1 + run % self.runs}", replaces)
        self.look()

    @rule(to=st.none() | ANY, kill=st.none() | st.integers(min_value=0, max_value=20))
    def roll_back(self, to: int | None, kill: int | None) -> None:
        target = self.version(to) if to is not None else None
        number = target.number if target else None
        before = self.models.history()
        with suppress(ModelError, InputError), killed_at(kill):
            roll_back(self.models, number, reason="a test", published_by="me", smoke_test=lambda _: None)
        new = [event for event in self.models.history() if event not in before]
        if any(event.restores in self.retired for event in new):
            self.retired = set()
        self.look()

    @rule(keep=st.integers(min_value=1, max_value=3))
    def prune(self, keep: int) -> None:
        with suppress(ModelError):
            prune(self.models, keep)

    @rule(kill=st.none() | st.integers(min_value=0, max_value=6))
    def retire(self, kill: int | None) -> None:
        with suppress(ModelError, InputError), killed_at(kill):
            retire(self.models, "a test", "me")
        if self.models.history() and self.models.history()[-1].event == "retired":
            self.retired |= {version.number for version in self.models.versions()}

    @rule(kill=st.none() | st.integers(min_value=0, max_value=20))
    def repair(self, kill: int | None) -> None:
        with killed_at(kill):
            mend(self.models)
        self.look()

    # What happens to files

    @rule(pick=ANY, name=st.sampled_from(NAMES), how=st.sampled_from(["changed", "gone", "a folder"]))
    def damage(self, pick: int, name: str, how: str) -> None:
        if (version := self.version(pick)) and (path := version.folder / name).is_file():
            text = path.read_text()
            path.unlink()  # a change in place would also change its other hard links
            if how == "changed":
                path.write_text(text[:-1] + "x")
            elif how == "a folder":
                path.mkdir()

    @rule(pick=ANY)
    def damage_in_place(self, pick: int) -> None:
        """Change a file in place, as a bad disk does, so that all its hard links change as well."""
        if (version := self.version(pick)) and (path := version.folder / "model.keras").is_file():
            path.write_text("other")

    @rule(pick=ANY)
    def lose_a_version(self, pick: int) -> None:
        if version := self.version(pick):
            shutil.rmtree(version.folder)

    @rule(pick=ANY)
    def lose_a_run(self, pick: int) -> None:
        if folders := sorted((self.home / "runs").iterdir()):
            shutil.rmtree(folders[pick % len(folders)])

    @rule(how=st.sampled_from(["gone", "nowhere", "a folder", "a file"]))
    def break_the_link(self, how: str) -> None:
        link = self.models.link
        if link.is_symlink():
            link.unlink()
            if how == "nowhere":
                link.symlink_to("nowhere")
            elif how == "a folder":
                link.mkdir()
            elif how == "a file":
                link.write_text("1")

    @rule(pick=ANY)
    def move_the_link(self, pick: int) -> None:
        version = self.version(pick)
        if version and not version.retired and self.models.link.is_symlink():
            self.models.link.unlink()
            self.models.link.symlink_to(str(version.number))
            self.look()

    @rule(pick=ANY, how=st.sampled_from(["gone", "cut", "other"]))
    def break_a_line(self, pick: int, how: str) -> None:
        path = self.models.history_file.path
        if path.is_file() and (lines := path.read_text().splitlines(keepends=True)):
            number = pick % len(lines)
            if '"retired"' not in lines[number]:  # without this line, a retirement would be forgotten
                lines[number] = {"gone": "", "cut": lines[number][: pick % 50] + "\n", "other": "7\n"}[how]
                path.write_text("".join(lines))
                self.history_is_whole = False

    @rule()
    def lose_the_history(self) -> None:
        self.models.history_file.path.unlink(missing_ok=True)
        self.history_is_whole = False

    @rule(pick=ANY)
    def bring_back_what_was_moved_aside(self, pick: int) -> None:
        folders = sorted(self.models.root.glob(".damaged-[0-9]*"))
        if folders:
            folder = folders[pick % len(folders)]
            target = self.models.root / folder.name.removeprefix(".damaged-").split("-")[0]
            if not target.exists():
                folder.rename(target)

    # What must hold after each operation

    @invariant()
    def it_can_be_mended(self) -> None:
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("models", "runs"):
            if (self.home / name).exists():
                shutil.copytree(self.home / name, copy / name, symlinks=True)
        models = ModelDirectory(copy / "models")
        former, retired = set(self.former), set(self.retired)
        whole = {version.number for version in models.versions() if self.whole(version)}
        content = not problems(models)

        steps = mend(models)

        assert not (content and steps), f"verify found no problem, but repair did {steps}"
        assert problems(models) == [], f"after {steps}"
        assert mend(models) == [], f"a second repair changed something after {steps}"
        champion = models.champion()
        if champion is None:
            assert not (whole & former) - retired, f"no champion, although a whole former champion exists: {steps}"
            assert [version.number for version in models.served()] == []
        else:
            assert models.served()[-1] == champion
            models.verify(champion)
        used = {version.number for version in models.versions()}
        if self.history_is_whole:  # otherwise a version without a folder is unknown
            used |= set(self.digests)
        replaces = champion.number if champion else None
        assert publish(models, "the next run", replaces).number > max(used, default=0)
        assert problems(models) == []


Directory.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestDirectory: Callable[..., Any] = pytest.mark.slow(Directory.TestCase)


def test_a_history_that_has_become_empty_has_no_damaged_line() -> None:
    """Found at random: the only version, its run, the link and the only line of the history are lost."""
    state = Directory()
    state.some_versions(1)
    state.break_a_line(0, "gone")
    state.damage(0, "model.keras", "changed")
    state.break_the_link("gone")
    state.lose_a_run(0)

    state.it_can_be_mended()
    state.teardown()
