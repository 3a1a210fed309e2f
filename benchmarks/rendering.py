"""Pictures of digits as people take them, rendered from fonts: in uneven light, with shadows, tilted, on lined paper.

Everything is drawn at random from a seed: the colours of paper and ink, the sizes of picture and digit, and each fault.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mnist_tasks.data.dataset import Float32

Rng = np.random.Generator
Mask = Callable[[int], Image.Image]  # the ink of a digit of that height in pixels: a mask cut to its bounding box

KINDS = ("plain", "off-centre", "tilted", "noise", "gradient", "telephone", "shadow", "lined")
SIZES = (200, 3000)  # pixels of the longer side
USUAL, LARGE = 1000, 0.1  # more pixels take long to draw: so few pictures have them
INKS = ((20, 20, 25), (25, 40, 120), (60, 60, 65), (150, 30, 35), (20, 90, 50), (90, 90, 95))


def font_mask(digit: int, font: Path) -> Mask:
    """The digit as a font has it."""

    def mask(height: int) -> Image.Image:
        text = str(digit)
        left, top, right, bottom = _font(font, height).getbbox(text)
        image = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
        ImageDraw.Draw(image).text((2 - left, 2 - top), text, 255, _font(font, height))
        box = image.getbbox()
        if not box:
            raise ValueError(f"{font} has no {digit}")
        return image.crop(box)

    return mask


@functools.lru_cache(maxsize=64)
def _font(font: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font), size)


def picture(mask: Mask, kind: str, rng: Rng, longest: int = SIZES[1]) -> Image.Image:
    """A picture of a digit, one of `KINDS`, in RGB; its longer side has from 200 to `longest` pixels."""
    largest = longest if rng.random() < LARGE else min(longest, USUAL)
    size = round(math.exp(rng.uniform(math.log(SIZES[0]), math.log(largest))))
    width, height = ((size, size), (size, round(size * 0.75)), (round(size * 0.75), size))[rng.integers(3)]
    ink = _placed(mask, kind, (width, height), rng)
    paper = np.clip(rng.uniform(205, 252) + rng.normal(0, 5, 3), 180, 255).astype(np.float32)
    page: Float32 = np.broadcast_to(paper, (height, width, 3)).astype(np.float32)
    lines = rng.random() < 0.25 if kind == "telephone" else kind == "lined"
    if lines:
        page = _ruled(page, rng)
    colour = np.array(INKS[rng.integers(len(INKS))], np.float32) + rng.normal(0, 5, 3).astype(np.float32)
    strength = (np.asarray(ink, np.float32) / 255 * rng.uniform(0.85, 1))[..., None]
    page = (page * (1 - strength) + colour * strength).astype(np.float32)
    image = Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))
    if kind == "telephone":
        image = _perspective(image, rng)
    light = _light(kind, (height, width), rng)
    pixels = np.asarray(image, np.float32) * light[..., None]
    if kind == "telephone" or rng.random() < 0.3:
        pixels = _blurred(pixels, rng.uniform(0.5, 2.5) * size / 1000)
    noise = {"noise": rng.uniform(12, 40), "telephone": rng.uniform(2, 8)}.get(kind, rng.uniform(0, 2))
    pixels = pixels + rng.normal(0, noise, pixels.shape).astype(np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if kind == "telephone" or (kind != "plain" and rng.random() < 0.5):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(35, 90)))
        image = Image.open(file)
        image.load()
    return image


def _placed(mask: Mask, kind: str, size: tuple[int, int], rng: Rng) -> Image.Image:
    """The digit's mask on a page of that size."""
    tilt = rng.uniform(10, 20) * rng.choice((-1, 1)) if kind == "tilted" else rng.uniform(-4, 4)
    share = rng.uniform(0.2, 0.4) if kind == "off-centre" else rng.uniform(0.3, 0.75)
    digit = mask(max(12, round(share * min(size) * 1.2)))
    digit = digit.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    digit = digit.crop(digit.getbbox())
    limit = 0.85 * min(size) / max(digit.size)
    if limit < 1:
        digit = digit.resize([max(1, round(side * limit)) for side in digit.size], Image.Resampling.BOX)
    spread = 0.92 if kind == "off-centre" else 0.4
    left, top = (
        round((whole - part) * (0.5 + spread * rng.uniform(-0.5, 0.5)))
        for whole, part in zip(size, digit.size, strict=True)
    )
    page = Image.new("L", size)
    page.paste(digit, (left, top))
    return page


def _ruled(page: Float32, rng: Rng) -> Float32:
    """Ruled or squared paper: lines a little tilted, of a colour between the paper's and the ink's."""
    height, width = page.shape[:2]
    gap = rng.uniform(0.06, 0.22) * min(height, width)
    thickness = max(1.0, gap * rng.uniform(0.02, 0.06))
    tilt = math.radians(rng.uniform(-4, 4))
    rows, columns = np.indices((height, width), dtype=np.float32)
    colour = np.array(
        ((150, 175, 215), (120, 150, 200), (170, 170, 170), (215, 150, 160), (110, 110, 115))[rng.integers(5)]
    )
    strength = np.zeros((height, width), np.float32)
    for turn in (0.0, math.pi / 2)[: 1 + (rng.random() < 0.4)]:
        across = rows * math.cos(tilt + turn) + columns * math.sin(tilt + turn) + rng.uniform(0, gap)
        distance = np.abs((across % gap) - gap / 2)
        strength = np.maximum(strength, np.clip(thickness / 2 + 0.5 - distance, 0, 1))
    return (page * (1 - strength[..., None]) + colour * strength[..., None]).astype(np.float32)


def _perspective(image: Image.Image, rng: Rng) -> Image.Image:
    """The page seen at an angle: each corner of the picture looks at a point up to a tenth away from the page's."""
    width, height = image.size
    corners = np.array(((0, 0), (width, 0), (width, height), (0, height)), float)
    away = rng.uniform(-0.04, 0.1, (4, 2)) * (width, height)
    seen = corners + away * ((1, 1), (-1, 1), (-1, -1), (1, -1))
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, seen, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(values))
    table = tuple(int(c) for c in rng.integers(20, 150, 3)) if rng.random() < 0.5 else _corner(image)
    return image.transform(
        image.size, Image.Transform.PERSPECTIVE, tuple(coefficients), Image.Resampling.BILINEAR, fillcolor=table
    )


def _corner(image: Image.Image) -> tuple[int, ...]:
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


def _light(kind: str, shape: tuple[int, int], rng: Rng) -> Float32:
    """The share of the light that reaches each pixel."""
    rows, columns = np.indices(shape, dtype=np.float32)
    y, x = rows / shape[0] - 0.5, columns / shape[1] - 0.5
    light = np.ones(shape, np.float32) * np.float32(rng.uniform(0.85, 1))
    if kind in ("gradient", "telephone"):
        darkest = rng.uniform(0.2, 0.5) if kind == "gradient" else rng.uniform(0.35, 0.7)
        angle = rng.uniform(0, 2 * math.pi)
        along = x * math.cos(angle) + y * math.sin(angle)
        if rng.random() < 0.3:
            along = -np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5))
        share = (along - along.min()) / (along.max() - along.min())
        light *= (darkest + (1 - darkest) * share).astype(np.float32)
    if kind == "shadow" or (kind == "telephone" and rng.random() < 0.5):
        light *= _shadow(x, y, rng)
    return light


def _shadow(x: Float32, y: Float32, rng: Rng) -> Float32:
    """A hand's or a head's shadow with a soft edge: half of the plane, a disc, or a broad strip."""
    angle, soft = rng.uniform(0, 2 * math.pi), rng.uniform(0.01, 0.1)
    along = x * math.cos(angle) + y * math.sin(angle)
    shape = rng.integers(3)
    if shape == 0:
        distance = along - rng.uniform(-0.25, 0.25)
    elif shape == 1:
        distance = rng.uniform(0.3, 0.5) - np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5))
    else:
        distance = rng.uniform(0.15, 0.25) - np.abs(along - rng.uniform(-0.3, 0.3))
    darkness = rng.uniform(0.3, 0.65)
    return (1 - darkness / (1 + np.exp(np.clip(-distance / soft * 4, -50, 50)))).astype(np.float32)


def _blurred(pixels: Float32, radius: float) -> Float32:
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float32)
