"""A file or folder that no reader takes is named, with its way out; nothing of it is opened."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from mnist_tasks.data.sources import read_source
from mnist_tasks.system.errors import InputError
from tests.forms import idx, png

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("boom",)


def archive(names: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in names.items():
            file.writestr(name, data)
    return content.getvalue()


def tar(mode: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{mode}") as file:  # type: ignore[call-overload]
        file.addfile(tarfile.TarInfo("3/a.png"))
    return content.getvalue()


def array() -> bytes:
    content = io.BytesIO()
    np.save(content, IMAGES)
    return content.getvalue()


def hdf5() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["images"] = IMAGES
    return content.getvalue()


PICKLE = "is a pickle, which can run any program .* numpy.savez"
FILES: dict[str, tuple[bytes, str]] = {
    "mnist.pkl.gz": (gzip.compress(pickle.dumps(Bomb(), 2)), PICKLE),
    "mnist.pkl": (pickle.dumps(Bomb()), PICKLE),
    "digits.csv": (pickle.dumps(Bomb()), PICKLE),
    "x_train.npy": (array(), r"is one array in an \.npy file"),
    "train-images-idx3-ubyte": (idx(IMAGES), "is one IDX file; name its folder"),
    "train-images-idx3-ubyte.gz": (gzip.compress(idx(IMAGES)), "is one IDX file; name its folder"),
    "mnist.mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128), r"is MATLAB's \.mat file.* scipy.io.loadmat"),
    "mnist73.mat": (hdf5(), "is an HDF5 file, such as .*h5py"),
    "three.png": (png(IMAGES[0]), "is one picture; put pictures into folders 0 to 9"),
    "pictures.zip": (archive({"3/a.png": png(IMAGES[0])}), "is a zip archive without arrays; unpack it"),
    "nested.zip": (archive({"digits.zip": archive({"a": b""})}), "is a zip archive without arrays; unpack it"),
    "digits.xlsx": (archive({"[Content_Types].xml": b"", "xl/a.xml": b""}), "is a document of an office program"),
    "digits.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is a document of an office program"),
    "training.pt": (archive({"training/data.pkl": b""}), "is a file of PyTorch"),
    "digits.tar": (tar(""), "is a tar archive; unpack it"),
    "digits.tar.gz": (tar("gz"), "is a tar archive; unpack it"),
    "digits.tar.xz": (tar("xz"), "is an archive; unpack it"),
    "digits.npz.gz": (gzip.compress(archive({"x_train.npy": array()})), "is an archive; unpack it"),
    "digits.arrow": (b"ARROW1\0\0" + bytes(100), "is an Arrow or Feather file"),
    "digits.db": (b"SQLite format 3\0" + bytes(100), "is a database"),
    "download": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is only a pointer of Git LFS"),
    "nothing": (b"", "is empty"),
    "passwd": (b"TOPSECRET:x:0:0\n" * 9, "is none of the forms that can be read: an .npz file"),
    "digits.json": (b'[{"TOPSECRET": 1}]', "is none of the forms that can be read: an .npz file"),
    "names.npz": (
        archive({"train_images.npy": array(), "TOPSECRET.npy": array()}),
        "save its train_images under these",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_no_reader_takes_is_named_with_its_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match=f"^{tmp_path / name}.*{words}") as error:
        read_source(tmp_path / name)
    assert "TOPSECRET" not in str(error.value)
    assert not (tmp_path / "boom").exists()


def test_idx_files_under_other_names_are_recognized(tmp_path: Path) -> None:
    (tmp_path / "emnist-digits-train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "emnist-digits-train-labels-idx1-ubyte.gz").write_bytes(b"")

    with pytest.raises(InputError, match="rename its IDX files to these; EMNIST's digits lie on their side"):
        read_source(tmp_path)
