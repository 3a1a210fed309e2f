"""Whether small batches have too many wrong labels together, which none of them shows alone.

Batches of one origin are taken in their order, with what they have of images and of contradicted labels. Page's
cumulative sum (E. S. Page, "Continuous Inspection Schemes", Biometrika 41, 1954) adds the evidence, as a log-likelihood
ratio, that twice the share of `max_wrong_labels` is contradicted instead of half of it. It never falls below zero, so
that years of clean batches hide nothing. Where it reaches `ALARM`, the batches since it last was zero are left out.

Of 200 simulated years with 30 or 100 of MNIST's digits a day none has a false alarm; where 0.9 % of clean labels are
contradicted, 1 or 2 years in 1,000 have one. With 5 % wrong labels there is an alarm within 9 days (median) and 23 days
(99 %) at 30 images a day, within 4 and 9 days at 100 (`python -m benchmarks.data`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mnist_tasks.data.statistics import wilson_interval
from mnist_tasks.documents import OVERALL, Check

# From zero up to this the sum rises by chance once in 10,000 times at most (Ville's inequality).
ALARM = math.log(10_000)
NUMBER_AT_AN_END = re.compile(r"^\d[-_.:T \d]*|[-_. ]*\d[-_.:T \d]*$")


@dataclass(frozen=True)
class Labels:
    """A batch's name, its images and how many labels of them are contradicted."""

    name: str
    images: int
    contradicted: int


def origin(name: str) -> str:
    """A batch's name without the number or date at its beginning or end: `scanner-b_2026-11-27.csv` is `scanner-b`.

    It is empty for all batches whose names are only numbers or dates.
    """
    stem = re.sub(r"\.[A-Za-z].*$", "", name)
    return NUMBER_AT_AN_END.sub("", stem)


def doubted_together(batches: Iterable[Labels], max_wrong_labels: float) -> dict[str, Check]:
    """The failed check of each batch that belongs to a series with too many wrong labels, by the batch's name.

    Args:
        batches: in their order. One with too many wrong labels of its own is left out anyway: it adds a third of the
            evidence for an alarm at most, so that no single batch stops those before it.
        max_wrong_labels: the bound of a single batch. If twice of it is 1 or more, or it is 0, nothing is pooled.
    """
    usual, doubtful = max_wrong_labels / 2, 2 * max_wrong_labels
    if not 0 < usual < doubtful < 1:
        return {}
    of_contradicted, of_other = math.log(doubtful / usual), math.log((1 - doubtful) / (1 - usual))
    sums: dict[str, float] = {}
    series: dict[str, list[Labels]] = {}
    found: dict[str, Check] = {}
    for batch in batches:
        if not batch.images:
            continue
        where = origin(batch.name)
        evidence = batch.contradicted * of_contradicted + (batch.images - batch.contradicted) * of_other
        members = [*series.get(where, ()), batch]
        if wilson_interval(batch.contradicted, batch.images)[0] > max_wrong_labels:
            evidence = min(evidence, ALARM / 3)
        total = sums.get(where, 0.0) + evidence
        if total >= ALARM:
            check = _check(where, members, max_wrong_labels)
            found |= dict.fromkeys((member.name for member in members), check)
        if total <= 0 or total >= ALARM:
            total, members = 0.0, []
        sums[where], series[where] = total, members
    return found


def _check(where: str, members: list[Labels], bound: float) -> Check:
    images, contradicted = (sum(getattr(each, name) for each in members) for name in ("images", "contradicted"))
    share, names = contradicted / images, [member.name for member in members]
    which = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
    from_where = f" of the origin {where!r}" if where else ""
    message = (
        f"{contradicted:,} of {images:,} labels ({share:.2%}) of the {len(names)} batches {which}{from_where} together "
        f"are contradicted by all nearest images of the source; at an allowed {bound:.2%} that is no chance: correct "
        "them, or raise max_wrong_labels"
    )
    return Check("max_wrong_labels", "pooled share", OVERALL, share, bound, None, "failed", message)
