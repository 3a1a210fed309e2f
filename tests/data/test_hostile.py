"""Hostile input of any kind gives an `InputError` with the file and the reason, and takes little memory.

While an input is read, the address space of the process may grow by 384 MB only. An alarm ends a test that hangs. The
test report shows how many inputs were tried.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_tasks.config import DataRules
from mnist_tasks.data import arrays
from mnist_tasks.data.dataset import Digits
from mnist_tasks.data.readers.idx import IDX_FILES
from mnist_tasks.data.sources import fetch
from mnist_tasks.load import load
from mnist_tasks.system.errors import InputError
from tests.forms import FORMS, done, idx, write_npz
from tests.helpers import COUNTS

MEMORY = 384 << 20
HANGS = 60  # seconds after which a test counts as hanging
IMAGES = 20
SPOILED = 150
X, Y = IDX_FILES["x_train"], IDX_FILES["y_train"]

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8)
PIXELS[:, 0] = PIXELS[:, -1] = PIXELS[:, :, 0] = PIXELS[:, :, -1] = 0  # so pictures of them are white on black
LABELS = np.arange(IMAGES, dtype=np.uint8) % 10

Builder = Callable[[Path], Path]
CORPUS: dict[str, tuple[Builder, str]] = {}


def case(name: str, words: str, build: Builder) -> None:
    assert name not in CORPUS
    CORPUS[name] = (build, words)


@contextmanager
def bounds() -> Iterator[None]:
    """Limit the memory and the time of a block."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("the test hangs"))
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def file(content: bytes, root: Path, name: str = "batch.npz") -> Path:
    (root / name).write_bytes(content)
    return root / name


def folder(files: dict[str, bytes], root: Path) -> Path:
    for name, content in files.items():
        path = root / "batch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "batch"


def npz_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_header(descr: str, shape: Any, fortran_order: bool = False) -> bytes:
    content = io.BytesIO()
    header = {"descr": descr, "fortran_order": fortran_order, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue()


def png(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


NPZ = npz_of({"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS)})
CORRUPT = r"is not an \.npz file, or one cut short|is corrupt or cut short"
for keep in range(60):
    case(f"npz cut at {keep}/60", CORRUPT, partial(file, NPZ[: len(NPZ) * keep // 60]))
for bad_magic in (
    b"",
    b"\0",
    b"PK",
    b"PK\3\4",
    b"\x93NUMPY",
    b"GIF89a",
    b"%PDF-1.7",
    b"\x1f\x8b",
    b"SQLite format 3\0",
    b"<html>",
):
    case(f"no npz: {bad_magic!r}", r"is not an \.npz file, or one cut short", partial(file, bad_magic * 1))
for descr, shape, words in (
    ("|u1", (10**12, 28, 28), "announces 784,000,000,000,000 bytes, more than"),
    ("|u1", (2**62, 28, 28), "announces .* bytes, more than"),
    ("|u1", (2**31, 2**31, 2**31), "images need shape"),
    ("|u1", (-1, 28, 28), "is corrupt or cut short: bad header of an array: shape"),
    ("|u1", (IMAGES, 785), "images need shape"),
    ("|u1", (IMAGES, 784), "announces 15,680 bytes, more than"),
    ("|u1", (), "images need shape"),
    ("<f8", (IMAGES, 28, 28), "announces 125,440 bytes, more than"),
    ("<c16", (IMAGES, 28, 28), "pixels need dtype uint8"),
    ("|O", (IMAGES, 28, 28), "is a pickled array"),
    ("<U9", (IMAGES, 28, 28), "pixels need dtype uint8"),
    ("<M8[s]", (IMAGES, 28, 28), "pixels need dtype uint8"),
    ("|V1", (IMAGES, 28, 28), "pixels need dtype uint8"),
):
    members = {"x_train.npy": npy_header(descr, shape) + b"\1" * 999, "y_train.npy": npy(LABELS)}
    case(f"npz of {descr} {shape}", words, partial(file, npz_of(members)))
for name, members, words in (
    ("no arrays", {}, "has no array x_train"),
    ("other names", {"images.npy": npy(PIXELS)}, "has no array x_train, y_train, x_test, y_test"),
    ("labels missing", {"x_train.npy": npy(PIXELS)}, "has no array y_train"),
    ("test labels missing", {"x_test.npy": npy(PIXELS)}, "has no array y_test"),
    ("names without .npy", {"x_train": npy(PIXELS), "y_train": npy(LABELS)}, "is corrupt or cut short"),
    ("a climbing name", {"../x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS)}, "has no array x_train"),
    (
        "column after column",
        {"x_train.npy": npy(np.asfortranarray(PIXELS)), "y_train.npy": npy(LABELS)},
        "column after",
    ),
    ("pickle", {"x_train.npy": pickle.dumps([1]), "y_train.npy": npy(LABELS)}, "is corrupt or cut short"),
    (
        "pickled labels",
        {"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS.astype(object))},
        "pickles are never read",
    ),
    ("no header", {"x_train.npy": b"", "y_train.npy": npy(LABELS)}, "is corrupt or cut short"),
    ("bad header", {"x_train.npy": b"\x93NUMPY\1\0\x10\0" + b"{" * 16, "y_train.npy": npy(LABELS)}, "is corrupt"),
    ("deep header", {"x_train.npy": b"\x93NUMPY\1\0\0\x20" + b"(" * 8192, "y_train.npy": npy(LABELS)}, "is corrupt"),
    ("version 9", {"x_train.npy": b"\x93NUMPY\x09\0\0\1" + b" " * 256, "y_train.npy": npy(LABELS)}, "is corrupt"),
    (
        "one label fewer",
        {"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS[1:])},
        "has 20 images but y_train has 19",
    ),
    ("one byte fewer", {"x_train.npy": npy(PIXELS)[:-1], "y_train.npy": npy(LABELS)}, "it is cut short"),
    ("one byte more", {"x_train.npy": npy(PIXELS) + b"\0", "y_train.npy": npy(LABELS)}, "goes on after them"),
    ("one label byte more", {"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS) + b"\0"}, "goes on after them"),
    ("nothing in it", {"x_train.npy": npy(PIXELS[:0]), "y_train.npy": npy(LABELS[:0])}, "the train set is empty"),
    ("float labels", {"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS / 3)}, "labels need an integer dtype"),
    ("NaN labels", {"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS * np.nan)}, "labels need an integer dtype"),
    ("one-hot labels", {"x_train.npy": npy(PIXELS), "y_train.npy": npy(np.eye(10))}, r"labels need shape \(n,\)"),
):
    case(f"npz: {name}", words, partial(file, npz_of(members)))
for value in (-(2**63), -1, 10, 255, 2**62):
    labels = LABELS.astype(np.int64)
    labels[3] = value
    members = {"x_train.npy": npy(PIXELS), "y_train.npy": npy(labels)}
    case(f"npz: label {value}", rf"y_train\[3\] is {value}, but labels go from 0 to 9", partial(file, npz_of(members)))
case(
    "npz encrypted",
    "is corrupt or cut short",
    partial(file, NPZ.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")),
)
case(
    "npz with an unknown compression",
    "is corrupt or cut short",
    partial(file, re.sub(b"(PK\1\2.{6})\x08\0", b"\\1\x63\0", NPZ, flags=re.DOTALL)),
)


def bomb(root: Path) -> Path:
    """Write an archive of a megabyte that holds a million blank images, 784 MB."""
    with zipfile.ZipFile(root / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x_train.npy", "w") as member:
            member.write(npy_header("|u1", (1_000_000, 28, 28)))
            for _ in range(1000):
                member.write(bytes(784_000))
        archive.writestr("y_train.npy", npy(np.zeros(1_000_000, np.uint8)))
    return root / "bomb.npz"


case("npz bomb", r"announces 784,000,000 bytes, more than its \d{3},\d{3} stored bytes can hold", bomb)

IDX_X, IDX_Y = idx(PIXELS), idx(LABELS)
for which, good, cut in ((X, IDX_X, 784), (Y, IDX_Y, 1)):
    for zipped in (False, True):
        kind = f"{'images' if which == X else 'labels'}{', gzipped' if zipped else ''}"
        pack = gzip.compress if zipped else bytes
        suffix = ".gz" if zipped else ""

        def idx_case(name: str, words: str, content: bytes) -> None:
            files = {X: IDX_X, Y: IDX_Y}
            del files[which]  # noqa: B023 - called within the loop
            case(f"IDX {kind}: {name}", words, partial(folder, {**files, which + suffix: pack(content)}))  # noqa: B023

        for keep in (0, 1, 3, 4, 7, 8, 9, 15, len(good) // 2, len(good) - cut):
            if keep < len(good):
                idx_case(f"cut at {keep}", "is cut short|announces", good[:keep])
        idx_case("a byte more", "goes on after them", good + b"\0")
        idx_case("twice", "goes on after them", good + good)
        for number in (0, 1, 0xFFFFFFFF, 0x803 if which == Y else 0x801, 0x03080000, 0x1F8B0800):
            idx_case(f"magic {number:x}", "starts with 0x", struct.pack(">I", number) + good[4:])
        for number in (0, 1, IMAGES - 1, IMAGES + 1, 4_000_001, 2**31, 2**32 - 1):
            idx_case(
                f"{number} items",
                "announces|has .* images but|set is empty",
                good[:4] + struct.pack(">I", number) + good[8:],
            )
        if zipped:
            for position in range(12, len(pack(good)), max(1, len(pack(good)) // 6)):
                broken = bytearray(pack(good))
                broken[position] ^= 0xFF
                files = {X: IDX_X, Y: IDX_Y}
                del files[which]
                name = f"IDX {kind}: flipped at {position}"
                words = "is corrupt or cut short|announces|starts with|but labels go|is cut short"
                case(name, words, partial(folder, {**files, which + suffix: bytes(broken)}))
for shape in ((28, 27), (0, 0), (2**32 - 1, 2**32 - 1), (1, 784)):
    content = IDX_X[:8] + struct.pack(">2I", *shape) + IDX_X[16:]
    case(f"IDX of {shape}", r"images need shape \(n, 28, 28\)", partial(folder, {X: content, Y: IDX_Y}))
for value in (10, 99, 255):
    case(
        f"IDX label {value}", f"is {value}, but labels go", partial(folder, {X: IDX_X, Y: IDX_Y[:-1] + bytes([value])})
    )
case("IDX without labels", f"has no {Y}", partial(folder, {X: IDX_X}))
case("IDX without images", f"has no {X}", partial(folder, {Y: IDX_Y}))

SEVEN = Image.fromarray(PIXELS[7])
LARGE = SEVEN.resize((300, 300))
FRAMES = {"save_all": True, "append_images": [LARGE.transpose(Image.Transpose.ROTATE_90)]}
PICTURES: dict[str, tuple[bytes, str]] = {
    "1x1": (png(Image.new("L", (1, 1), 255)), "it shows nothing"),
    "1x10000": (png(Image.new("L", (1, 10_000))), "it shows nothing"),
    "10000x10000": (png(Image.new("1", (10_000, 10_000))), "100000000 pixels"),
    "5000x5000": (png(Image.new("1", (5_000, 5_000))), "25000000 pixels are more than 16777216; scale it down"),
    "white": (png(Image.new("L", (28, 28), 255)), "it shows nothing"),
    "transparent": (png(Image.new("RGBA", (28, 28))), "it shows nothing"),
    "animated GIF": (png(LARGE, "GIF", **FRAMES), "it has 2 frames; save one"),
    "animated PNG": (png(LARGE, "PNG", **FRAMES), "it has 2 frames; save one"),
    "animated WebP": (png(LARGE, "WEBP", **FRAMES), "it has 2 frames; save one"),
    "TIFF of two pages": (png(LARGE, "TIFF", **FRAMES), "it has 2 frames; save one"),
    "CMYK, cut": (png(LARGE.convert("CMYK"), "JPEG")[:3000], "truncated"),
    "CMYK, nothing on it": (png(Image.new("CMYK", (50, 50)), "JPEG"), "it shows nothing"),
    "PostScript": (png(LARGE, "EPS"), "PostScript would be run"),
    "empty": (b"", "cannot be read as an image"),
    "text": (b"seven", "cannot be read as an image"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read as an image"),
    "npz": (NPZ, "cannot be read as an image"),
    "pickle": (pickle.dumps(PIXELS), "cannot be read as an image"),
    "NaN": (png(Image.new("F", (28, 28), float("nan")), "TIFF"), "NaN or infinite"),
    "PNG without pixels": (png(LARGE).replace(b"IDAT", b"IDAX"), "cannot be read as an image"),
    "PNG of -1 by -1": (
        png(LARGE).replace(struct.pack(">2I", 300, 300), b"\xff" * 8),
        "cannot be read as an image",
    ),
    "PNG of 0 by 0": (png(LARGE).replace(struct.pack(">2I", 300, 300), bytes(8)), "cannot be read as an image"),
}
for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
    whole = png(LARGE, form)
    for share in (0.05, 0.3, 0.7):
        PICTURES[f"{form} cut at {share:.0%}"] = (whole[: int(len(whole) * share)], "cannot be read as an image")
for name, (content, words) in PICTURES.items():
    case(f"picture: {name}", words, partial(folder, {"3/good.png": png(SEVEN), "7/bad.png": content}))
for known, unknown in (
    *(("3/a.png", unknown) for unknown in ("10/a.png", "a/a.png", "a.png", "7/a/a.png", "07/a.png", "-1/a.png")),
    *(("train/3/a.png", unknown) for unknown in ("train/10/a.png", "train/a.png", "train/7/a/a.png", "valid/7/a.png")),
):
    words = "is not expected there|is not a file"
    case(f"picture in {unknown}", words, partial(folder, {known: png(SEVEN), unknown: b""}))
case(
    "pictures twice",
    "is not expected there|has train and folders",
    partial(folder, {"3/a.png": png(SEVEN), "train/3/a.png": png(SEVEN)}),
)
case("a folder of documents", "none of the forms", partial(folder, {"readme.txt": b"", "thesis.doc": b""}))


def with_link(root: Path, name: str, target: str) -> Path:
    folder({"3/a.png": png(SEVEN), "7/b.png": png(SEVEN)} if "." in name else {Y: IDX_Y}, root)
    secret = root / "secret"
    secret.write_bytes(png(SEVEN) if "." in name else IDX_X)
    (root / "batch" / name).symlink_to(target.format(secret=secret, root=root))
    return root / "batch"


def made(make: Callable[[Path], Any], root: Path) -> Path:
    make(root / "batch")
    return root / "batch"


def special(root: Path, name: str) -> Path:
    folder({"3/a.png": png(SEVEN)} if "/" in name else {Y: IDX_Y}, root)
    (root / "batch" / name).parent.mkdir(exist_ok=True)
    os.mkfifo(root / "batch" / name)
    return root / "batch"


case(
    "link to a picture elsewhere", "is a link that leads out", partial(with_link, name="7/link.png", target="{secret}")
)
case("link to IDX elsewhere", "is a link that leads out", partial(with_link, name=X, target="{secret}"))
case("relative link", "is a link that leads out", partial(with_link, name="7/link.png", target="../../secret"))
case("link to nothing", "is not a file", partial(with_link, name="7/link.png", target="gone"))
case("link to itself", "is not a file|corrupt|link", partial(with_link, name="7/link.png", target="link.png"))
case("link to a device", "is a link that leads out", partial(with_link, name="7/link.png", target="/dev/zero"))
case("link to a folder around", "is not a file|leads out", partial(with_link, name="7/link.png", target="{root}/batch"))
case("pipe among the pictures", "is not a file", partial(special, name="7/pipe.png"))
case("pipe for images", f"has no {X}", partial(special, name=X))
case(
    "name that is not UTF-8",
    r"\\udcff\.png has a name that is not UTF-8; rename it",
    lambda root: folder({"7/\udcff.png": png(SEVEN)}, root),
)
case(
    "folder that is not UTF-8",
    r"\\udcff has a name that is not UTF-8; rename it",
    lambda root: folder({"7/a.png": png(SEVEN), "\udcff/a": b""}, root),
)
case("an empty folder", "none of the forms", partial(made, Path.mkdir))
case(
    "a folder of empty folders", "the train set is empty", partial(made, lambda path: (path / "7").mkdir(parents=True))
)
case("pipe", "is neither a file nor a folder", partial(made, os.mkfifo))
case("nothing", "does not exist", partial(made, str))
case("link to nowhere", "does not exist", partial(made, lambda path: path.symlink_to("gone")))
case("link in a circle", "does not exist|corrupt", partial(made, lambda path: path.symlink_to("batch")))


@pytest.fixture(scope="module", autouse=True)
def count() -> None:
    COUNTS.append(f"hostile inputs: {len(CORPUS)} in a fixed corpus, {2 * EXAMPLES} made by hypothesis")


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_input_is_refused_by_name_with_its_reason(name: str, tmp_path: Path) -> None:
    build, words = CORPUS[name]
    path = build(tmp_path)
    (tmp_path / "out").mkdir()

    with bounds(), pytest.raises(InputError, match=f"(?s)({words})") as error:
        fetch(path, tmp_path / "out")

    assert str(path) in str(error.value)
    str(error.value).encode()  # a message that cannot be encoded could not be logged
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 2 * (PIXELS.size + 1000)


SECRET = b"TOPSECRET"
STRUCTURED = np.zeros((IMAGES, 28, 28), [(SECRET.decode(), "u1")])


def header(content: bytes) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(content)) + content


@pytest.mark.parametrize(
    "files",
    [
        {"batch.npz": SECRET * 9},
        {"batch.npz": npz_of({SECRET.decode(): b"", "x_train.npy": npy(PIXELS)})},
        {"batch.npz": NPZ.replace(b"x_train.npy", SECRET + b"__", 1)},
        {"batch.npz": npz_of({"x_train.npy": npy(STRUCTURED), "y_train.npy": npy(LABELS)})},
        {"batch.npz": npz_of({"x_train.npy": npy(PIXELS), "y_train.npy": npy(STRUCTURED[:, 0, 0])})},
        *(
            {"batch.npz": npz_of({"x_train.npy": content, "y_train.npy": npy(LABELS)})}
            for content in (
                SECRET,
                header(SECRET),
                header(b"{'%s': 1}" % SECRET),
                header(b"{'descr': '%s', 'fortran_order': False, 'shape': (1,)}" % SECRET),
                header(b"{'descr': '|u1', 'fortran_order': '%s', 'shape': (1,)}" % SECRET),
                header(b"{'descr': '|u1', 'fortran_order': False, 'shape': '%s'}" % SECRET),
            )
        ),
        {f"batch/{X}": SECRET * 9, f"batch/{Y}": SECRET * 9},
        {f"batch/{X}.gz": SECRET * 9, f"batch/{Y}.gz": SECRET * 9},
        {f"batch/{X}.gz": gzip.compress(SECRET * 9), f"batch/{Y}": IDX_Y},
        {"batch/3/a.png": SECRET * 9},
        {f"batch/{SECRET.decode()}": b"", "batch/readme.txt": SECRET},
    ],
)
def test_nothing_is_repeated_of_a_file_that_is_no_data_set(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out").mkdir()

    with pytest.raises(InputError) as error:
        fetch(tmp_path / next(iter(files)).split("/")[0], tmp_path / "out")

    for part in (SECRET, SECRET[:4], SECRET[:2]):  # also as hexadecimal numbers, because IDX files begin with a number
        assert part.decode() not in str(error.value)
        assert part.hex() not in str(error.value)


EXAMPLES = 150


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    form=st.sampled_from(["npz", "npz, stored", "images", "labels", "images.gz", "PNG", "GIF", "JPEG", "TIFF", "WEBP"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=4),
)
def test_a_mutated_file_is_read_as_digits_or_refused(
    form: str, changes: list[tuple[float, bytes, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("mutated")
    (root / "out").mkdir()
    content = bytearray(
        {"npz": NPZ, "images": IDX_X, "labels": IDX_Y, "images.gz": gzip.compress(IDX_X, mtime=0)}.get(form)
        or (
            npz_of({"x_train.npy": npy(PIXELS), "y_train.npy": npy(LABELS)}, zipfile.ZIP_STORED)
            if "npz" in form
            else png(LARGE, form)
        )
    )
    for place, inserted, removed in changes:
        position = int(place * len(content))
        content[position : position + removed] = inserted
    files = {
        "images": {X: bytes(content), Y: IDX_Y},
        "labels": {X: IDX_X, Y: bytes(content)},
        "images.gz": {f"{X}.gz": bytes(content), Y: IDX_Y},
    }.get(form, {"7/bad": bytes(content)})
    path = file(bytes(content), root) if "npz" in form else folder(files, root)

    try:
        with bounds():
            fetch(path, root / "out")
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - either is well
    else:
        images, labels = np.load(root / "out" / "x_train.npy"), np.load(root / "out" / "y_train.npy")
        assert (images.dtype, images.shape[1:], labels.dtype) == (np.uint8, (28, 28), np.uint8)
        assert len(images) == len(labels)
        assert labels.max() <= 9


# NumPy reads a header as a Python literal, and Python warns about invalid escape sequences.
@pytest.mark.filterwarnings(
    "ignore:invalid escape sequence:DeprecationWarning", "ignore:invalid escape sequence:SyntaxWarning"
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    header=st.one_of(
        st.text(st.sampled_from("{}()[],:'\"|u1<f8O-0928 \n#\\deshapfortn_"), max_size=200),
        st.tuples(
            st.sampled_from(["|u1", "|O", "<f4", "|V0", "u1,u1", ""]), st.lists(st.integers(-9, 2**70), max_size=4)
        ).map(lambda pair: repr({"descr": pair[0], "fortran_order": False, "shape": tuple(pair[1])})),
    )
)
def test_any_header_of_an_array_is_refused_or_read(header: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("header")
    (root / "out").mkdir()
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
    path = file(npz_of({"x_train.npy": content, "y_train.npy": npy(LABELS)}), root)

    with bounds(), pytest.raises(InputError, match=re.escape(str(path))):
        fetch(path, root / "out")


@pytest.mark.parametrize("form", FORMS)
def test_a_source_that_changes_while_it_is_read_is_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FORMS[form](tmp_path / "batch", PIXELS, LABELS)
    (tmp_path / "out").mkdir()
    first = next(file for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file())
    write_array = arrays.write_array

    def meanwhile(*arguments: Any) -> None:
        write_array(*arguments)
        os.utime(first, ns=(1, 1))

    monkeypatch.setattr("mnist_tasks.data.sources.write_array", meanwhile)

    with pytest.raises(InputError, match=rf"^{path} changed while it was being read; leave it alone"):
        fetch(path, tmp_path / "out")


def test_hostile_batches_are_quarantined_and_the_good_one_goes_in(digits: Digits, npz: Path, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number, name in enumerate(list(CORPUS)[::6]):
        root = tmp_path / f"built {number}"
        root.mkdir()
        built = CORPUS[name][0](root)
        if built.is_file() or built.is_dir():
            done(built.rename(inbox / f"{number}"))
    (inbox / "\udcfe").write_bytes(NPZ)
    done(inbox / "\udcfe")
    (inbox / "link").symlink_to(npz)
    done(inbox / "link")
    done(write_npz(inbox / "good", digits.x_train[:100].copy(), digits.y_train[:100]))
    dropped = len([path for path in inbox.iterdir() if not path.name.endswith(".done")])

    # The good batch is a part of the source, so duplicates must be allowed here.
    loaded = load(str(npz), tmp_path / "datasets", inbox=inbox, rules=DataRules(max_duplicates=1), run=tmp_path / "run")

    assert (loaded.batches, loaded.quarantined) == (1, dropped - 1)
    assert (tmp_path / "run" / "data" / "validation.json").read_text(encoding="utf-8")


def spoiled(path: Path, rng: np.random.Generator) -> None:
    """Spoil a file of a batch in one of the ways in which copying, unpacking, renaming and broken disks do."""
    content = bytearray(path.read_bytes())
    kind = rng.integers(9)
    place = int(rng.integers(len(content)))
    if kind < 4:
        for at in rng.integers(0, len(content), 1 + 3 * kind):
            content[at] = rng.integers(256)
    elif kind == 4:
        del content[place:]
    elif kind == 5:
        content[place:place] = rng.bytes(8)
    path.unlink()
    if kind == 6:  # as when Kaggle's archive is unpacked
        path.mkdir()
        (path / path.name).write_bytes(content)
    elif kind == 7:
        path.symlink_to(path)
    elif kind == 8:
        path.with_name(path.name[::-1]).write_bytes(content)
    else:
        path.write_bytes(content)


def test_no_batch_ends_load_whatever_was_done_to_it(digits: Digits, npz: Path, tmp_path: Path) -> None:
    """One load reads many batches, which are good except for some spoiled files in each."""
    inbox, rng = tmp_path / "inbox", np.random.default_rng(0)
    inbox.mkdir()
    forms = list(FORMS)
    for number in range(SPOILED):
        images, labels = digits.x_train[number * 10 :][:10], digits.y_train[number * 10 :][:10]
        split = ("train", "test")[number % 2]
        batch = FORMS[forms[number % len(forms)]](inbox / f"{number}", images, labels, split)
        done(batch)
        files = [path for path in ([batch] if batch.is_file() else sorted(batch.rglob("*"))) if path.is_file()]
        for path in rng.choice(np.array(files, object), 1 + number % 2):
            if path.is_file():
                spoiled(path, rng)

    rules = DataRules(max_duplicates=1, max_test_share=1)
    loaded = load(str(npz), tmp_path / "datasets", inbox=inbox, rules=rules, run=tmp_path / "run")

    report = json.loads((tmp_path / "run" / "data" / "validation.json").read_text(encoding="utf-8"))
    assert {batch["verdict"] for batch in report["batches"]} <= {"merged", "quarantined", "waiting"}
    assert loaded.quarantined > SPOILED / 2
    assert not [batch for batch in report["batches"] if "nobody thought of" in batch["reason"]]
    COUNTS.append(f"batches spoiled in one load: {SPOILED}, {loaded.quarantined} of them quarantined")
