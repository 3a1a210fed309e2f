"""Any picture of a digit becomes an image as MNIST has them and is still recognized as the same digit."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from mnist_tasks.data.dataset import Digits, UInt8, scaled
from mnist_tasks.data.image_files import prepare, read_digit
from mnist_tasks.system.errors import InputError
from mnist_tasks.workspace import Workspace

IMAGES = 100
EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def predict(trained: tuple[Workspace, str]) -> Callable[[list[UInt8]], UInt8]:
    """A function that predicts digits with the trained model from images of MNIST's form."""
    model = keras.saving.load_model(trained[0].run("first") / "model.keras", compile=False)
    return lambda images: np.asarray(model(scaled(np.stack(images)))).argmax(axis=1).astype(np.uint8)


def enlarged(pixels: UInt8, resampling: Image.Resampling = Image.Resampling.NEAREST) -> Image.Image:
    """Return a black digit, six times as large, away from the centre of a larger white page."""
    page = Image.new("L", (260, 240), "white")
    digit = Image.fromarray(255 - pixels).resize((168, 168), resampling)
    page.paste(digit, (83, 11))
    return page


def saved(image: Image.Image, form: str, **options: object) -> Image.Image:
    """Save an image in a format and open it again."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file)


def deep(image: Image.Image, factor: int) -> Image.Image:
    return Image.fromarray(np.asarray(image).astype(np.uint16) * np.uint16(factor))


def transparent(image: Image.Image, colour: str) -> Image.Image:
    """Return the digit in a colour on a transparent background."""
    ink = Image.new("RGBA", image.size, colour)
    ink.putalpha(Image.fromarray(255 - np.asarray(image)))
    return ink


def negative(image: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(image))


def on_grey(image: Image.Image) -> Image.Image:
    """Return the digit in dark grey on light grey."""
    return Image.fromarray(np.asarray(image) // 2 + np.uint8(70))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, 8, (image.height, image.width))
    return Image.fromarray(np.clip(np.asarray(image) * 0.9 + 10 + noise, 0, 255).astype(np.uint8))


def rotated_by_exif(image: Image.Image) -> Image.Image:
    """Return the image rotated, with an EXIF orientation that turns it upright, as telephones store it."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # a viewer turns it clockwise by 90 degrees
    return saved(image.transpose(Image.Transpose.ROTATE_90).convert("RGB"), "JPEG", quality=95, exif=exif)


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image,
    "white on black": negative,
    "RGB": lambda image: saved(image.convert("RGB"), "PNG"),
    "black on transparency": lambda image: saved(transparent(image, "black"), "PNG"),
    "white on transparency": lambda image: saved(transparent(image, "white"), "PNG"),
    "LA": lambda image: saved(transparent(image, "black").convert("LA"), "PNG"),
    "palette": lambda image: saved(image.convert("RGB").quantize(16), "PNG"),
    "GIF": lambda image: saved(image, "GIF"),
    "16 bits": lambda image: saved(deep(image, 257), "PNG"),
    "16 bits, white on black": lambda image: saved(deep(negative(image), 257), "PNG"),
    "12 of 16 bits": lambda image: saved(deep(image, 16), "TIFF"),
    "32 bits": lambda image: deep(image, 257).convert("I"),
    "float up to 1": lambda image: Image.fromarray(np.asarray(image, dtype=np.float32) / 255),
    "float up to 255": lambda image: image.convert("F"),
    "1 bit": lambda image: saved(image.convert("1", dither=Image.Dither.NONE), "PNG"),
    "JPEG": lambda image: saved(image.convert("RGB"), "JPEG", quality=60),
    "CMYK": lambda image: saved(image.convert("CMYK"), "JPEG"),
    "turned by EXIF": rotated_by_exif,
    "grey on grey": on_grey,
    "noisy": noisy,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_enlarged_digit_is_recognized_as_the_original(
    form: str, digits: Digits, predict: Callable[[list[UInt8]], UInt8]
) -> None:
    originals = list(digits.x_test[:IMAGES])

    prepared = [prepare(FORMS[form](enlarged(image))) for image in originals]

    # An image of one bit has no shades of grey, so it differs more from the original.
    assert np.mean(predict(prepared) == predict(originals)) >= (0.9 if form == "1 bit" else 0.95)
    mean_difference = np.mean([np.abs(a.astype(int) - b) for a, b in zip(prepared, originals, strict=True)])
    assert mean_difference < (10 if form in ("1 bit", "noisy") else 2)


def test_a_smoothly_enlarged_digit_is_recognized(digits: Digits, predict: Callable[[list[UInt8]], UInt8]) -> None:
    originals = list(digits.x_test)

    prepared = [prepare(enlarged(image, Image.Resampling.BICUBIC)) for image in originals]

    # Blurred edges change the stroke width, so fewer digits are recognized. A shift by a pixel would cost far more.
    assert np.mean(predict(prepared) == predict(originals)) >= 0.93


def test_the_digit_is_where_those_of_mnist_are(digits: Digits) -> None:
    rows, columns = np.indices((28, 28))
    for image in digits.x_test[:IMAGES]:
        prepared = prepare(enlarged(image))

        assert (str(prepared.dtype), prepared.shape, int(prepared.max())) == ("uint8", (28, 28), 255)
        inked = np.argwhere(prepared)
        assert (np.ptp(inked, axis=0) + 1).max() == 20
        total = prepared.sum(dtype=int)
        centre = np.array([(rows * prepared).sum() / total, (columns * prepared).sum() / total])
        # The centres of MNIST's images lie within half a pixel of pixel 14. Rounding to whole pixels may add a little.
        assert np.abs(centre - 14).max() <= 0.51


def test_mnists_own_images_come_back_bit_for_bit(digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    for image in digits.x_test[:IMAGES]:
        for picture in (
            Image.fromarray(image),
            Image.fromarray(255 - image),
            deep(Image.fromarray(image), 257),
            Image.fromarray(image).convert("RGB"),
        ):
            picture.save(path)
            assert np.array_equal(read_digit(path), image)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 3), (28, 27), (2000, 28)])
def test_odd_sizes_work(size: tuple[int, int]) -> None:
    image = Image.new("L", size, "white")
    image.paste("black", (0, 0, max(1, size[0] // 3), max(1, size[1] // 3)))

    prepared = prepare(image)

    assert (str(prepared.dtype), prepared.shape, int(prepared.max())) == ("uint8", (28, 28), 255)
    assert (np.ptp(np.argwhere(prepared), axis=0) + 1).max() == 20


def png(width: int, height: int) -> bytes:
    """Return the start of a PNG file whose header states this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def file_of(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(file_of(Image.new("L", (100, 100), "white")), "it shows nothing", id="white"),
        pytest.param(file_of(Image.new("L", (28, 28))), "it shows nothing", id="black, of MNIST's size"),
        pytest.param(file_of(Image.new("RGBA", (50, 50), (9, 9, 9, 0))), "it shows nothing", id="transparent"),
        pytest.param(file_of(Image.new("I;16", (50, 50), 40_000)), "it shows nothing", id="grey of 16 bits"),
        pytest.param(file_of(Image.new("L", (1, 1))), "it shows nothing", id="one pixel"),
        pytest.param(file_of(Image.new("F", (9, 9), float("nan")), "TIFF"), "some of its pixels are NaN", id="NaN"),
        pytest.param(b"", "cannot be read as an image", id="empty"),
        pytest.param(b"Dear Sir or Madam", "cannot be read as an image", id="text"),
        pytest.param(file_of(NOISE)[:2000], "cannot be read as an image: .*truncated", id="truncated"),
        pytest.param(file_of(NOISE).replace(b"IDAT", b"IDAX"), "cannot be read as an image", id="broken"),
        pytest.param(png(12_000, 12_000), r"cannot be read as an image: .*144000000 pixels", id="large"),
        pytest.param(png(50_000, 50_000), r"cannot be read as an image: .*2500000000 pixels", id="a bomb"),
    ],
)
def test_what_shows_no_digit_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)

    with pytest.raises(InputError, match=rf"{path}:? {words}"):
        read_digit(path)


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{tmp_path / 'none.png'} does not exist$"):
        read_digit(tmp_path / "none.png")
    with pytest.raises(InputError, match=rf"^{tmp_path} cannot be read as an image: Is a directory$"):
        read_digit(tmp_path)
