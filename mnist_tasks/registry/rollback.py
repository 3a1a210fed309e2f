"""Go back to an older model: publish its files again as a new version, and make that champion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.publishing import can_become_champion, published_version, write_version
from mnist_tasks.registry.retirement import bring_back, checked_reason, still_retired
from mnist_tasks.registry.smoke_test import smoke_test
from mnist_tasks.registry.version import CARD, Version, version_name
from mnist_tasks.system.errors import InputError


def roll_back(
    models: ModelDirectory,
    to: int | None = None,
    *,
    reason: str,
    published_by: str,
    once: bool = False,
    smoke_test: Callable[[Path], None] = smoke_test,
) -> Version:
    """Make an older model champion again: publish its files, as hard links, as a new version.

    Args:
        models: the model directory.
        to: the version to go back to, by default the one before the champion. After a rollback that is the one before
            the model that it went back to, so that each further rollback goes one further back. After the champion was
            retired it is that champion, so that the retirement is undone.
        reason: why, for the history and the model card.
        published_by: the run or person who does it.
        once: whether `published_by` names one attempt, such as a run id, of which a second call changes nothing.
        smoke_test: called with the version's folder; raises an error if the version cannot be used.

    Raises:
        InputError: if the reason is empty, there is no version to go back to, or it is champion already.
        ModelError: if the version is damaged or does not pass its smoke test, before anything has changed.
        OSError: if a file cannot be read or written now. If it is raised after the link has moved, the new version is
            champion: `ModelDirectory.describe_champion` tells.
    """
    reason = checked_reason(reason)
    with models.writing() as history:
        models.check_link()
        version = published_version(models, history, published_by) if once else None
        if not (version and version.number in history.moves):
            if version is None or not can_become_champion(models, history, version):
                version = publish_again(models, history, _target(models, history, to), reason, published_by, smoke_test)
            models.set_champion(version)
        bring_back(models, still_retired(models, models.champion_history()))
        return version


def publish_again(
    models: ModelDirectory,
    history: ChampionHistory,
    version: Version,
    reason: str,
    published_by: str,
    smoke_test: Callable[[Path], None],
) -> Version:
    """Write the files of a version again as a new one, the champion's successor. The caller is the only writer."""
    models.verify(version)
    smoke_test(version.folder)
    metadata = version.metadata()
    # The card is written anew. A lost figure does not stop the rollback.
    digests = {
        name: digest for name, digest in metadata.sha256.items() if name != CARD and not version.changed(name, digest)
    }
    metadata = metadata.model_copy(
        update={
            "event": "rolled back",
            "published_by": published_by,
            "replaces": history.champion,
            "restores": metadata.restores or version.number,
            "reason": reason,
        }
    )
    return write_version(models, history, {name: version.folder / name for name in digests}, digests, metadata)


def _target(models: ModelDirectory, history: ChampionHistory, to: int | None) -> Version:
    """The version to go back to."""
    champion = history.champion
    if champion is None:
        number = to or history.retired
        if number is None:
            former = [str(version.number) for version in models.versions() if version.number in history.moves]
            way_out = f"name one of {', '.join(former)} with --to" if former else "train one with mnist_training"
            raise InputError(f"{models.root} has no champion to go back from; {way_out}")
    else:
        number = history.champion_before(champion) if to is None else to
    if number is None:
        raise InputError(
            f"there is no version before the champion, {version_name(champion)}, to go back to; name another one"
        )
    if number == champion:
        raise InputError(f"version {number} is champion already; name another one")
    return models.version(str(number))
