"""Publish an approved model as the next version of the model directory, and make it champion."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist_tasks.documents import DecisionRecord, Evaluation, Metadata, Training
from mnist_tasks.registry.history import ChampionHistory, now
from mnist_tasks.registry.model_card import model_card
from mnist_tasks.registry.model_directory import NUMBER, ModelDirectory
from mnist_tasks.registry.version import (
    CARD,
    DAMAGED,
    DECISION,
    EVALUATION,
    METADATA,
    PRUNED,
    RETIRED,
    ROLLBACK,
    Version,
    version_name,
)
from mnist_tasks.system.errors import ModelError
from mnist_tasks.system.files import atomic_folder, sha256, to_json

# The system's errors where a file cannot have a second name: no hard links, too many of this file, another disk.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def publish(
    models: ModelDirectory,
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    *,
    published_by: str,
    replaces: int | None,
    training: Training,
    evaluation: Evaluation,
    decision: DecisionRecord,
) -> Version:
    """Publish a model as the next version and make it champion. The same weights of the same run give one version.

    Args:
        models: the model directory.
        files: the files to copy, by their path in the version.
        digests: their SHA-256 when they were evaluated, by the same paths.
        published_by: the run that publishes.
        replaces: the number of the champion that the candidate was compared with, or None for no champion.
        training: what `metadata.json` says about the training.
        evaluation: for `evaluation.json`.
        decision: for `decision.json`; why the candidate was approved and by whom also goes into `metadata.json`.

    Raises:
        ModelError: if a file is not the one that was evaluated, the champion is no longer `replaces`, or this model was
            published by an earlier try and has been retired since.
        OSError: if the directory cannot be written to or is full. If it is raised after the link has moved, the version
            is champion: `ModelDirectory.describe_champion` tells.
    """
    with models.writing() as history:
        version = published_version(models, history, published_by, training.weights_sha256)
        champion = models.champion()
        number = champion.number if champion else None
        move = history.moves.get(version.number) if version else None
        if version and move and (version == champion or move.before == replaces):
            # An earlier try of this task got to the end, or a later run has taken over since.
            if champion is None and version.retired:
                raise ModelError(
                    f"version {version.number}, which {published_by} published, was retired and there is no champion "
                    f"now; to make it champion again: {ROLLBACK} --to {version.number}"
                )
            return version
        if number != replaces:
            raise ModelError(
                f"the champion is {version_name(number)}, but the candidate was compared with "
                f"{version_name(replaces)}; clear the evaluate task to compare them again"
            )
        if version is None or not can_become_champion(models, history, version):
            metadata = _metadata(training, evaluation, decision, published_by, replaces)
            version = write_version(models, history, files, digests, metadata, evaluation, decision)
        models.set_champion(version)
        return version


def _metadata(
    training: Training, evaluation: Evaluation, decision: DecisionRecord, published_by: str, replaces: int | None
) -> Metadata:
    """What `metadata.json` says, before the version has a number and digests."""
    return Metadata.model_validate(
        {
            **training.to_json_value(),
            "run_id": decision.run_id,
            "signatures": evaluation.signatures,
            "test_accuracy": decision.candidate_accuracy,
            "forced": decision.forced,
            "approved_by": decision.approval.by if decision.approval else None,
            "event": "forced" if decision.forced else "promoted",
            "published_by": published_by,
            "replaces": replaces,
            "reason": decision.reason,
        }
    )


def write_version(
    models: ModelDirectory,
    history: ChampionHistory,
    files: Mapping[str, Path],
    digests: Mapping[str, str],
    metadata: Metadata,
    evaluation: Evaluation | None = None,
    decision: DecisionRecord | None = None,
) -> Version:
    """Write the next version: the files, the documents, the model card and the metadata. The caller is the only writer.

    Files are copied; without an evaluation and a decision they are hard links, and `files` has these two documents.
    """
    number = 1 + max(_used_numbers(models, history), default=0)
    link = decision is None
    with atomic_folder(models.root / str(number)) as staging:
        for name, path in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path, staging / name) if link else shutil.copyfile(path, staging / name)
            if (digest := sha256(staging / name)) != digests[name]:
                raise ModelError(
                    f"{path} has SHA-256 {digest}, but {digests[name]} was evaluated; clear the evaluate task"
                )
        new = Version(number, staging)
        written = [CARD]
        if evaluation and decision:
            _write(new, EVALUATION, evaluation.to_json_value())
            _write(new, DECISION, decision.model_copy(update={"version": number}).to_json_value())
            written += [EVALUATION, DECISION]
        metadata = metadata.model_copy(update={"version": number, "published": now()})
        (staging / CARD).write_text(model_card(metadata, new.evaluation(), new.decision()), encoding="utf-8")
        all_digests = {**digests, **{name: sha256(staging / name) for name in written}}
        metadata = metadata.model_copy(update={"sha256": dict(sorted(all_digests.items()))})
        _write(new, METADATA, metadata.to_json_value())
    return Version(number, models.root / str(number))


def published_version(
    models: ModelDirectory, history: ChampionHistory, name: str, weights_sha256: str | None = None
) -> Version | None:
    """The version that a run has published already, whether it became champion or not.

    Args:
        models: the model directory.
        history: what the history says.
        name: the run.
        weights_sha256: the digest of the model's weights; None for a version that a rollback has restored.
    """
    for version in reversed(models.versions()):
        # The history is enough for a version that was ever champion, even if its folder is damaged.
        origin = history.moves.get(version.number)
        source = origin if origin and origin.published_by else version.metadata()
        same = source.restores is not None if weights_sha256 is None else source.weights_sha256 == weights_sha256
        if source.published_by == name and same:
            return version
    return None


def can_become_champion(models: ModelDirectory, history: ChampionHistory, version: Version) -> bool:
    """Whether a version that a kill has left is the newest, whole, and was made to replace the present champion."""
    if version != models.versions()[-1] or version.retired or version.number in history.moves:
        return False
    return version.metadata().replaces == history.champion and not models.damage(version, history=history)


def _used_numbers(models: ModelDirectory, history: ChampionHistory) -> Iterator[int]:
    """Every number that a version has, or had."""
    for event in history.events:
        yield from (number for number in (event.before, event.to, event.version) if number)
    if number := models.linked_number():
        yield number
    # Should the history be lost: everything that has a version's name, was pruned or was moved aside.
    for folder in (models.root, models.root / PRUNED, models.root / RETIRED):
        for name in [path.name for path in folder.iterdir()] if folder.is_dir() else []:
            if NUMBER.fullmatch(name):
                yield int(name)
            elif name.startswith(DAMAGED) and (match := NUMBER.match(name.removeprefix(DAMAGED))):
                yield int(match[0])


def _write(version: Version, name: str, value: Any) -> None:
    (version.folder / name).write_text(to_json(value), encoding="utf-8")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        shutil.copyfile(source, target)
