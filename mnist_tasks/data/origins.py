"""Where an image of a dataset comes from: the source or a batch of the inbox, and its position there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mnist_tasks.data.arrays import ArrayFile
from mnist_tasks.data.dataset import Dataset, Split


def origins(dataset: Dataset, split: Split, positions: Iterable[int]) -> list[tuple[str, int]]:
    """The name of the source or batch that has each image, and the image's position there, counted from 0.

    Args:
        dataset: the dataset.
        split: `train` or `test`.
        positions: positions in the dataset.

    Raises:
        InputError: if the dataset cannot be read.
    """
    description, files = dataset.description(), dataset.files(f"y_{split}")
    if isinstance(files, ArrayFile):
        return [(description.source, position) for position in positions]
    source = Dataset(dataset.folder.parent / str(description.base)).description().source
    names = {batch.content: batch.name for batch in description.batches}
    ends = np.cumsum([len(file) for file in files.others])
    found = []
    for position in positions:
        if position < len(files.first):
            found.append((source, position))
            continue
        through = int(files.order[position - len(files.first)])
        number = int(np.searchsorted(ends, through, side="right"))
        file = files.others[number]
        found.append((names.get(file.path.parent.name, ""), through - int(ends[number]) + len(file)))
    return found
