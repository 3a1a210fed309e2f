"""Any picture of a digit brought into the form that MNIST's images have.

MNIST's own preparation (http://yann.lecun.com/exdb/mnist): the digit is scaled to fit 20x20 pixels with its aspect
ratio kept, anti-aliased, and placed in 28x28 pixels so that its centre of mass is in the middle; ink is white on black.
A picture of 28x28 pixels is taken to be prepared already: its pixels stay as they are, but for being inverted if they
are dark on light. So MNIST's own images come back bit for bit from PNG files.

A clean scan is scaled as it is. A picture whose edge is not the same all round, in uneven light or on lined paper, is
evened and freed of what is not the digit first (`paper`).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_tasks.data.dataset import IMAGE_SHAPE, PIXEL_MAX, Float32, UInt8
from mnist_tasks.data.paper import digit_on_paper, digit_on_white
from mnist_tasks.system.errors import InputError, is_transient

BOX = 20  # pixels that the longer side of the digit gets
INK = 0.2  # share of the strongest ink from which a pixel counts when the digit is cut out; below it is paper or noise
MAX_PIXELS = 1 << 24  # 4096x4096; preparing takes some 20 bytes each
MAX_BYTES = 1 << 27  # as many pixels in the deepest colours, not compressed
LEAST_CONTRAST = 16  # of 255: a picture with less shows nothing
EVEN = 0.15  # of the strongest ink: how much the paper of a clean scan may differ along the edge
TWO_TONES = 0.05  # share of the pixels that may be neither paper nor ink in a drawing that has only these
PAGE = 0.7  # share of the pixels inside its box that something light has which is a sheet on a dark table
REDUCED = 1 << 22  # pixels: a larger picture is reduced before it is worked on


Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """An image as MNIST has them."""

    pixels: UInt8  # of shape (28, 28), white on black
    others: int = 0  # how many more digits the picture seems to show


SHOWS_NOTHING = "it shows nothing: all of its pixels look alike"


def read_digit(path: Path) -> UInt8:
    """The pixels alone of `read_picture`."""
    return read_picture(path).pixels


def read_picture(path: Path) -> Prepared:
    """Read an image file of any size and mode and prepare it as MNIST's.

    Raises:
        InputError: if the file is not an image that Pillow reads, or shows nothing.
        OSError: if it could only not be read now.
    """
    return _decoded(str(path), read_content(path), prepare_picture)


def read_content(path: Path) -> bytes:
    """Read an image file's bytes; raises as `read_picture`."""
    # Read whole before it is decoded: Pillow's decoders would take an error of the system for one of the picture.
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        if is_transient(error):
            raise
        text = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as an image: {text}") from error
    if size > MAX_BYTES:
        raise InputError(
            f"{path} cannot be read as an image: {size:,} bytes are more than {MAX_BYTES:,}; scale it down"
        )
    return content


def read_digits(files: Iterable[tuple[str, bytes]]) -> UInt8:
    """Prepare the contents of image files, each with its name for messages: uint8 of shape (n, 28, 28).

    As `read_digit`, but three times as fast for grey pictures of 28x28 pixels. Raises its `InputError`.
    """
    names, contents = zip(*files, strict=True)
    images = np.stack([_decoded(name, content, _pixels) for name, content in zip(names, contents, strict=True)])
    paper = np.median(np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1), axis=1)
    light = paper > PIXEL_MAX / 2
    contrast = np.where(light, paper - images.min(axis=(1, 2)), images.max(axis=(1, 2)) - paper)
    if (blank := np.flatnonzero(contrast < LEAST_CONTRAST)).size:
        raise InputError(f"{names[blank[0]]}: {SHOWS_NOTHING}")
    images[light] = PIXEL_MAX - images[light]
    return images


def _pixels(image: Image.Image) -> UInt8:
    """The pixels of a plain grey picture of 28x28, of any other what `prepare` makes of it."""
    if (image.mode, image.size, image.info) == ("L", IMAGE_SHAPE, {}):
        return np.asarray(image)
    return prepare(image)


def _decoded(name: str, content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of the image in a file's content; `name` is for messages."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of an image of 90 million pixels and refuses twice as many; both need gigabytes here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                _check_kind(image)
                return use(image)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} cannot be read as an image") from None
    except Exception as error:  # Pillow's decoders let through whatever they come upon, SyntaxError among it
        text = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read as an image: {text}") from error


def _check_kind(image: Image.Image) -> None:
    """Refuse, by the file's header alone, a picture that is too large, several at once, or a program."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise InputError(f"it cannot be read as an image: {pixels} pixels are more than {MAX_PIXELS}; scale it down")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a telephone's, whose first picture is the one
        raise InputError(f"it cannot be read as an image: it has {getattr(image, 'n_frames', 2)} frames; save one")
    if image.format == "EPS":
        raise InputError("it cannot be read as an image: PostScript would be run; save it as PNG")


def prepare(image: Image.Image) -> UInt8:
    """The pixels alone of `prepare_picture`."""
    return prepare_picture(image).pixels


def prepare_picture(image: Image.Image) -> Prepared:
    """Prepare an image as MNIST's. One of 28x28 pixels is taken to be prepared; only its colours may be inverted.

    What is transparent counts as white paper, or as black if nothing is seen on white. The paper is what most pixels
    along the edge look like.
    """
    image = ImageOps.exif_transpose(image)
    for page in ("white", "black"):
        pixels = _grey(image, page)
        paper = float(np.median(_edge(pixels)))
        dark_on_light = paper > PIXEL_MAX / 2
        if max(paper - pixels.min(), pixels.max() - paper) >= LEAST_CONTRAST:
            break
    else:
        raise InputError(SHOWS_NOTHING)
    if pixels.shape == IMAGE_SHAPE:
        return Prepared(np.round(PIXEL_MAX - pixels if dark_on_light else pixels).astype(np.uint8))
    ink = paper - pixels if dark_on_light else pixels - paper
    if ink.max() < LEAST_CONTRAST:  # such as grey paper in little light
        ink = -ink
    ink = np.clip(ink / ink.max(), 0, 1)
    digit = None
    if _edge(ink).max() > EVEN or (not dark_on_light and _shows_page(ink >= INK)):
        digit = digit_on_paper(pixels)
        if digit is None and ((ink > EVEN) & (ink < 1 - EVEN)).mean() > TWO_TONES:
            raise InputError("it shows no digit: nothing stands out from the paper")
    if digit is None:
        digit = digit_on_white(ink, INK)
    return Prepared(_in_field(digit.ink), digit.others)


def _edge(pixels: Float32) -> Float32:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _shows_page(light: npt.NDArray[np.bool_]) -> bool:
    """Whether what is light on dark is rather a sheet of paper: it fills half the picture each way, and its own box."""
    places = np.argwhere(light)
    box = np.ptp(places, axis=0) + 1
    return bool((box >= np.array(light.shape) / 2).all() and len(places) > PAGE * box.prod())


def _in_field(ink: Float32) -> UInt8:
    """The ink, from 0 to 1 and without margin, scaled and placed as MNIST's digits are."""
    digit = Image.fromarray(ink)
    scale = BOX / max(digit.size)
    small = np.asarray(
        digit.resize(
            [max(1, round(side * scale)) for side in digit.size],
            Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC,
        )
    ).clip(0, 1)
    field = np.zeros(IMAGE_SHAPE, np.float32)
    # MNIST's middle is pixel 14, counted from 0: its centres of mass lie between 13.5 and 14.5.
    top, left = (
        int(np.clip(round(side / 2 - centre), 0, side - length))
        for side, length, centre in zip(IMAGE_SHAPE, small.shape, _centre_of_mass(small), strict=True)
    )
    field[top : top + small.shape[0], left : left + small.shape[1]] = small
    prepared: UInt8 = np.round(field / field.max() * PIXEL_MAX).astype(np.uint8)
    return prepared


def _grey(image: Image.Image, page: str) -> Float32:
    """The image on a page of that colour, in grey from 0 to 255."""
    if image.mode.startswith(("I", "F")):  # deep grey, which Pillow would clip at 255; it has no transparency
        deep = np.asarray(image, dtype=np.float32)
        if not np.isfinite(deep).all():
            raise InputError("some of its pixels are NaN or infinite")
        # Its depth is not stored: the least number of bits, 8 or more, that hold its strongest pixel; a float may be 1.
        strongest = float(deep.max())
        full = 1 if image.mode == "F" and strongest <= 1 else 2 ** max(8, int(strongest).bit_length()) - 1
        return np.clip(deep / full * PIXEL_MAX, 0, PIXEL_MAX)
    image = image.convert("RGBA")
    if image.width * image.height > REDUCED:
        image = image.reduce(math.ceil(math.sqrt(image.width * image.height / REDUCED)))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, page), image).convert("L"), dtype=np.float32)


def _centre_of_mass(ink: Float32) -> tuple[float, float]:
    """Row and column, in pixels from the first."""
    rows, columns = np.indices(ink.shape)
    total = float(ink.sum())
    return float((rows * ink).sum()) / total, float((columns * ink).sum()) / total
