"""The reference: the best of the last champions, which a slow slide is measured against."""

from __future__ import annotations

import logging

from mnist_tasks.registry.history import ChampionHistory
from mnist_tasks.registry.model_directory import ModelDirectory
from mnist_tasks.registry.version import Version
from mnist_tasks.system.errors import ModelError, is_transient

log = logging.getLogger(__name__)


def last_champions(history: ChampionHistory, number: int, last: int) -> list[int]:
    """The champions that led to this one, the newest first, each model once.

    A rollback leaves out what it went back from. A forced champion is the last of the list: with it a person has
    accepted a new level.

    Args:
        history: what the history says about each version.
        number: the champion.
        last: how many to give at most.
    """
    chain: list[int] = []
    following: int | None = number
    while following is not None and following not in chain and len(chain) < last:
        original = history.original(following)
        chain.append(original)
        move = history.moves.get(original)
        following = move.before if move and not move.forced else None
    return chain


def best_first(models: ModelDirectory, numbers: list[int]) -> list[Version]:
    """The versions of these that still exist, the one with the lowest published loss first.

    The published loss only says which one to measure tonight. A version that cannot be read is left out.
    """
    versions = {version.number: version for version in models.versions()}
    losses: dict[int, float] = {}
    for number in numbers:
        if number not in versions:
            continue
        try:
            loss = versions[number].figures().loss
        except ModelError as error:
            if is_transient(error):
                raise
            log.warning("no reference: %s", error)
            continue
        if loss is not None:
            losses[number] = loss
    return [versions[number] for number in sorted(losses, key=lambda each: losses[each])]
