"""Read a parquet file as Hugging Face has it: a column `image` with the bytes of image files, a column `label`.

It needs pyarrow, which is not installed by default.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tasks.data.arrays import CHUNK
from mnist_tasks.data.dataset import UInt8
from mnist_tasks.data.readers.common import (
    IMAGE_COMPRESSION_LIMIT,
    MAX_IMAGES,
    AnnouncedSplit,
    read_errors_named,
)
from mnist_tasks.data.readers.pixels import checked_labels
from mnist_tasks.system.errors import InputError
from mnist_tasks.system.files import printable


def announce(path: Path) -> AnnouncedSplit:
    """The images of one file, whose labels have been read.

    Raises:
        InputError: if pyarrow is missing, or the file has other columns, empty cells, or cells that hold no image.
    """
    what = printable(path)
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{what} is a parquet file, which pyarrow reads, and that is not installed here: "
            f"{sys.executable} -m pip install pyarrow"
        ) from error
    with read_errors_named(path):
        file = parquet.ParquetFile(path)
        count, schema = file.metadata.num_rows, file.schema_arrow
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
        stored = path.stat().st_size
    if count > MAX_IMAGES:
        raise InputError(f"{what} has {count:,} rows, more than {MAX_IMAGES:,}; split it")
    if size > stored * IMAGE_COMPRESSION_LIMIT:
        raise InputError(
            f"{what} announces {size:,} bytes, more than its {stored:,} stored bytes can hold, "
            f"{IMAGE_COMPRESSION_LIMIT} times as many; fetch it again"
        )
    image = _column(what, schema)
    labels: list[Any] = []
    with read_errors_named(path):
        for batch in file.iter_batches(CHUNK, columns=["label"]):
            labels += batch.column(0).to_pylist()
    if None in labels:
        raise InputError(f"{what}: row {labels.index(None):,} has no label; each image needs one")
    checked = checked_labels(np.array(labels, np.int64), f"{what}: label")
    return AnnouncedSplit(count, checked, _images(path, file, image))


def _column(what: str, schema: Any) -> str:
    """The path of the column with the bytes of the images."""
    import pyarrow

    # Of what may be somebody else's file, no other name is repeated.
    missing = [name for name in ("image", "label") if name not in schema.names]
    if missing:
        raise InputError(
            f"{what} has no column {', '.join(missing)}; it needs image, with the bytes of image files as Hugging Face "
            "has them, and label, with whole numbers from 0 to 9"
        )
    if not pyarrow.types.is_integer(kind := schema.field("label").type):
        raise InputError(f"{what}: the column label has type {kind}; labels are whole numbers from 0 to 9")
    kind = schema.field("image").type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind, name = kind.field("bytes").type, "image.bytes"
    else:
        name = "image"
    if not (pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)):
        raise InputError(
            f"{what}: the column {name} has no bytes of image files, as Hugging Face has them; save PNG images in it, "
            "or arrays in an .npz file"
        )
    return name


def _images(path: Path, file: Any, column: str) -> Iterator[UInt8]:
    # Imported here: only pictures need it.
    from mnist_tasks.data.image_files import read_digits

    what, read = printable(path), 0
    with read_errors_named(path):
        for batch in file.iter_batches(CHUNK, columns=[column]):
            cells = batch.column(0)
            contents = (cells.field("bytes") if column != "image" else cells).to_pylist()
            yield read_digits((f"{what}: row {read + row:,}", content or b"") for row, content in enumerate(contents))
            read += len(contents)
