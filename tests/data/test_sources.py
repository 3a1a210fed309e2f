"""Every form of a source gives the same digits; a bad source gives an error with the file and the fault."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_tasks.data import sources
from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.readers.idx import IDX_FILES
from mnist_tasks.data.sources import BUILTIN, MNIST_DIGEST, read_source
from mnist_tasks.system.errors import InputError
from tests.forms import idx
from tests.helpers import without_root

README = BUILTIN.parent / "README.md"


def write_idx_folder(folder: Path, digits: Digits) -> Path:
    folder.mkdir()
    for name, stem in IDX_FILES.items():
        (folder / stem).write_bytes(idx(getattr(digits, name)))
    return folder


def checked(source: Path | str) -> Digits:
    return read_source(source)


def test_builtin_is_the_original_mnist(mnist: Digits) -> None:
    published = dict(re.findall(r"\| (\S+-ubyte) \| ([0-9a-f]{64}) \|", README.read_text()))

    assert {
        stem: hashlib.sha256(idx(getattr(mnist, name))).hexdigest() for name, stem in IDX_FILES.items()
    } == published
    assert mnist.digest() == MNIST_DIGEST
    assert (mnist.x_train.shape, mnist.x_test.shape) == ((60000, 28, 28), (10000, 28, 28))


@pytest.mark.parametrize("form", ["idx", "idx.gz", "npz", "npz with int64 labels", "compressed npz"])
def test_the_same_digits_have_the_same_digest_from_any_form(form: str, digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "source"
    if form.startswith("idx"):
        write_idx_folder(path, digits)
        for file in path.iterdir() if form == "idx.gz" else ():
            file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    elif form == "compressed npz":
        np.savez_compressed(path := path.with_suffix(".npz"), **vars(digits))
    else:
        dtype = np.int64 if "int64" in form else np.uint8
        labels = {name: getattr(digits, name).astype(dtype) for name in ("y_train", "y_test")}
        np.savez(path := path.with_suffix(".npz"), **{**vars(digits), **labels})

    assert checked(path).digest() == digits.digest()


def test_one_changed_pixel_changes_the_digest(digits: Digits) -> None:
    changed = digits.x_train.copy()
    changed[1, 2, 3] ^= 1

    assert Digits(changed, digits.y_train, digits.x_test, digits.y_test).digest() != digits.digest()


def with_pixel(images: Any, value: float) -> Any:
    images[7, 3, 5] = value
    return images


# Changes that break an .npz file, by the expected error message.
BAD_ARRAYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    r"has no array y_test; it needs x_train, y_train, x_test, y_test and has": lambda a: a.pop("y_test"),
    r"x_train has shape \(2000, 14, 56\); images need shape \(n, 28, 28\)": lambda a: a.update(
        x_train=a["x_train"].reshape(-1, 14, 56)
    ),
    r"x_test has shape \(500, 28, 28, 2\)": lambda a: a.update(x_test=np.stack([a["x_test"]] * 2, axis=-1)),
    r"x_train has dtype complex128; pixels need dtype uint8": lambda a: a.update(x_train=a["x_train"] * 1j),
    r"x_train: image 7 has a pixel of 0\.3;": lambda a: a.update(x_train=with_pixel(a["x_train"] / 255, 0.3)),
    r"x_train: image 7 has a pixel of nan;": lambda a: a.update(x_train=with_pixel(a["x_train"] / 255, np.nan)),
    r"x_train: image 7 has a pixel of -1;": lambda a: a.update(x_train=with_pixel(a["x_train"].astype(int), -1)),
    r"x_train: image 7 has a pixel of 256;": lambda a: a.update(x_train=with_pixel(a["x_train"].astype(int), 256)),
    r"y_train has shape \(2000, 1\); labels need shape \(n,\): use labels\.ravel": lambda a: a.update(
        y_train=a["y_train"][:, None]
    ),
    r"y_train has shape \(2000, 10\); labels need shape \(n,\); numpy\.argmax": lambda a: a.update(
        y_train=np.eye(10)[a["y_train"]]
    ),
    r"y_train has dtype float32; labels need an integer": lambda a: a.update(y_train=a["y_train"].astype(np.float32)),
    r"y_train\[5\] is 10, but labels go from 0 to 9": lambda a: a["y_train"].__setitem__(5, 10),
    r"y_train\[0\] is -1, but labels": lambda a: a.update(y_train=np.full(2000, -1, np.int8)),
    r"x_train has 2,000 images but y_train has 1,999 labels": lambda a: a.update(y_train=a["y_train"][1:]),
    r"the test set is empty": lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]),
    r"y_test is a pickled array; pickles are never read": lambda a: a.update(y_test=a["y_test"].astype(object)),
}


@pytest.mark.parametrize("words", BAD_ARRAYS)
def test_bad_arrays_are_refused(words: str, digits: Digits, tmp_path: Path) -> None:
    arrays = {name: array.copy() for name, array in vars(digits).items()}
    BAD_ARRAYS[words](arrays)
    np.savez(tmp_path / "bad.npz", **arrays)

    with pytest.raises(InputError, match=words) as error:
        checked(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_a_pickle_is_never_opened(digits: Digits, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "boom"),)

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        for name, array in vars(digits).items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array)
            archive.writestr(f"{name}.npy", pickle.dumps(Bomb()) if name == "y_test" else content.getvalue())

    with pytest.raises(InputError, match=r"bomb\.npz"):
        checked(tmp_path / "bomb.npz")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1])
def test_a_truncated_npz_is_refused(keep: float, npz: Path, tmp_path: Path) -> None:
    whole = npz.read_bytes()
    kept = whole[: int(len(whole) * keep) if isinstance(keep, float) else keep]
    (tmp_path / "cut.npz").write_bytes(kept)

    with pytest.raises(InputError, match=r"cut\.npz is (not an \.npz file, or one cut short|corrupt or cut short)"):
        checked(tmp_path / "cut.npz")


def test_a_flipped_bit_in_an_npz_is_found(npz: Path, tmp_path: Path) -> None:
    content = bytearray(npz.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)

    with pytest.raises(InputError, match=r"flipped\.npz is corrupt or cut short: Bad CRC-32"):
        checked(tmp_path / "flipped.npz")


def test_an_npz_that_announces_more_than_it_can_hold_takes_no_memory(digits: Digits, tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = (10**12, 28, 28)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for name in vars(digits):
            archive.writestr(f"{name}.npy", header.getvalue())

    with pytest.raises(InputError, match=r"x_train announces 784,000,000,000,000 bytes"):
        checked(tmp_path / "huge.npz")


# Changes that break the training images of an IDX folder, by the expected error message.
BAD_IDX: dict[str, Callable[[bytes], bytes]] = {
    r"is cut short: 0 bytes, less than its header": lambda _: b"",
    r"is cut short: 7 bytes, less than its header": lambda content: content[:7],
    r"announces 1,568,000 bytes, but holds only 1,567,999: it is cut short": lambda content: content[:-1],
    r"announces 1,568,000 bytes, but goes on after them": lambda content: content + b"\0",
    r"starts with 0x00000801; an IDX file of images starts with 0x00000803": lambda content: (
        struct.pack(">I", 0x801) + content[4:]
    ),
    r"announces shape \(2000, 28, 29\); images need shape": lambda content: (
        content[:8] + struct.pack(">2I", 28, 29) + content[16:]
    ),
    r"announces 3,367,254,359,280 bytes, more than its": lambda content: content[:4] + b"\xff" * 4 + content[8:],
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("words", BAD_IDX)
def test_a_bad_idx_file_is_refused(words: str, zipped: bool, digits: Digits, tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "idx", digits)
    path = folder / IDX_FILES["x_train"]
    content = BAD_IDX[words](path.read_bytes())
    if zipped:
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
        content = gzip.compress(content)
    path.write_bytes(content)

    with pytest.raises(InputError, match=words) as error:
        checked(folder)
    assert str(path) in str(error.value)


def test_a_cut_or_corrupt_gzip_file_is_refused(digits: Digits, tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "idx", digits)
    plain = folder / IDX_FILES["x_train"]
    zipped = gzip.compress(plain.read_bytes())
    plain.unlink()

    for content in (zipped[:-100], zipped[:5000] + b"x" * 100 + zipped[5100:], b"no gzip"):
        plain.with_name(f"{plain.name}.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is corrupt or cut short"):
            checked(folder)


def test_a_missing_idx_file_is_named(digits: Digits, tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "idx", digits)
    (folder / IDX_FILES["y_test"]).unlink()

    with pytest.raises(InputError, match=r"has no t10k-labels-idx1-ubyte and no t10k-labels-idx1-ubyte\.gz"):
        checked(folder)


@pytest.mark.parametrize("source", ["/no/such/file.npz", "Builtin"])
def test_a_missing_source_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"does not exist on this worker; use builtin"):
        read_source(source)


def test_an_unreadable_source_is_refused(npz: Path, tmp_path: Path) -> None:
    """The test runs in a process without root rights, because root may read everything."""
    path = tmp_path / "secret.npz"
    path.write_bytes(npz.read_bytes())
    path.chmod(0)

    with pytest.raises(InputError, match=r"secret\.npz cannot be read: Permission denied"):
        without_root(partial(read_source, str(path)), tmp_path)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *_: object) -> None:
        """Do not log requests."""


@pytest.fixture
def server(npz: Path) -> Iterator[str]:
    """A stand-in for the host that Keras downloads from."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(npz.parent))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/digits.npz"
        httpd.shutdown()


def download(url: str, sha256: str, keras_home: Path) -> subprocess.CompletedProcess[str]:
    """Download with Keras in a separate process that has its own cache."""
    script = (
        "from mnist_tasks.data import sources\n"
        f"sources.KERAS_URL, sources.KERAS_SHA256 = {url!r}, {sha256!r}\n"
        "print(sources.read_source('keras').digest())"
    )
    environment = {**os.environ, "KERAS_HOME": str(keras_home)}
    return subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, check=False)


def test_keras_downloads_once_and_then_reads_its_cache(server: str, npz: Path, digits: Digits, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(npz.read_bytes()).hexdigest()

    first = download(server, sha256, tmp_path)
    second = download("http://127.0.0.1:9/gone.npz", sha256, tmp_path)

    assert first.stdout.splitlines()[-1:] == [digits.digest()], first.stderr
    assert second.stdout.splitlines()[-1:] == [digits.digest()], second.stderr


def test_a_download_with_another_checksum_is_refused(server: str, tmp_path: Path) -> None:
    result = download(server, "0" * 64, tmp_path)

    assert "InputError: Keras could not provide http://127.0.0.1" in result.stderr
    assert "hash" in result.stderr


def test_a_failed_download_is_refused_with_the_way_out(tmp_path: Path) -> None:
    result = download("http://127.0.0.1:9/mnist.npz", sources.KERAS_SHA256, tmp_path)

    assert "InputError: Keras could not provide http://127.0.0.1:9/mnist.npz" in result.stderr
    assert "use the source builtin" in result.stderr
