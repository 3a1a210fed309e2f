"""Write labelled digits in each form that a source or a batch may have."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet as parquet  # type: ignore[import-untyped]
from PIL import Image

from mnist_tasks.data.dataset import UInt8
from mnist_tasks.data.readers.idx import IDX_FILES
from tests.helpers import Array


def idx(array: Array) -> bytes:
    """Return the bytes of an IDX file with an array of unsigned bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_npz(path: Path, images: UInt8, labels: UInt8, split: str = "train") -> Path:
    path = path.with_name(f"{path.name}.npz")
    arrays: dict[str, Any] = {f"x_{split}": images, f"y_{split}": labels}
    np.savez_compressed(path, **arrays)
    return path


def write_idx(path: Path, images: UInt8, labels: UInt8, split: str = "train") -> Path:
    path.mkdir(parents=True)
    (path / IDX_FILES[f"x_{split}"]).write_bytes(idx(images))
    (path / f"{IDX_FILES[f'y_{split}']}.gz").write_bytes(gzip.compress(idx(labels)))
    return path


def write_pngs(path: Path, images: UInt8, labels: UInt8, split: str = "train") -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / split / str(label) if split == "test" else path / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(images) - number}.png")
    return path


def csv_lines(images: UInt8, labels: UInt8) -> Iterator[str]:
    """Yield the lines of Kaggle's table, the one with the names first."""
    yield ",".join(["label", *(f"pixel{number}" for number in range(784))])
    for image, label in zip(images.reshape(-1, 784).tolist(), labels.tolist(), strict=True):
        yield ",".join(map(str, [label, *image]))


def write_csv(path: Path, images: UInt8, labels: UInt8, split: str = "train") -> Path:
    path = path.with_name(f"{path.name}-{split}.csv")
    path.write_text("\n".join(csv_lines(images, labels)) + "\n", encoding="utf-8")
    return path


def png(image: UInt8) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def write_parquet(path: Path, images: UInt8, labels: UInt8, split: str = "train") -> Path:
    """Write a table as Hugging Face has it."""
    path = path.with_name(f"{path.name}-{split}.parquet")
    cells = [{"bytes": png(image), "path": None} for image in images]
    parquet.write_table(pyarrow.table({"image": cells, "label": labels.astype(np.int64)}), path)
    return path


FORMS = {"npz": write_npz, "IDX": write_idx, "PNG": write_pngs, "CSV": write_csv, "parquet": write_parquet}


def done(batch: Path) -> Path:
    """Mark a batch as complete."""
    batch.with_name(f"{batch.name}.done").touch()
    return batch
