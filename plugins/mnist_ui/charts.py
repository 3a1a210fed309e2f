"""The line chart of the accuracy of all versions, as coordinates for an SVG in a template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 78, 16, 16, 48  # margins, for the axes' labels
TICKS = 5


@dataclass(frozen=True)
class Point:
    """A value to draw: its label, its interval, and whether it is highlighted."""

    label: int
    value: float
    low: float
    high: float
    chosen: bool


@dataclass(frozen=True)
class Mark:
    """A point with its coordinates."""

    x: float
    y: float
    low_y: float
    high_y: float
    point: Point


@dataclass(frozen=True)
class Chart:
    """A chart's lines and marks, in the units of an SVG of WIDTH by HEIGHT."""

    marks: list[Mark]
    line: str
    floor: str
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def line_chart(points: Sequence[Point], floors: Sequence[float | None]) -> Chart | None:
    """Lay out the points from left to right, and a stepped line for their floors; None if there are no points."""
    if not points:
        return None
    known_floors = [floor for floor in floors if floor is not None]
    lowest = min([point.low for point in points] + known_floors)
    highest = max([point.high for point in points] + known_floors)
    step = _round_step((highest - lowest or 0.01) / (TICKS - 1))
    first, last = math.floor(lowest / step), math.ceil(highest / step)

    def y(value: float) -> float:
        share = (value / step - first) / max(1, last - first)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def x(index: float) -> float:
        return round(LEFT + (index + 0.5) / len(points) * (WIDTH - LEFT - RIGHT), 1)

    marks = [Mark(x(i), y(p.value), y(p.low), y(p.high), p) for i, p in enumerate(points)]
    floor = " ".join(
        f"{x(i - 0.5)},{y(value)} {x(i + 0.5)},{y(value)}" for i, value in enumerate(floors) if value is not None
    )
    every = max(1, math.ceil(len(points) / 12))
    decimals = max(0, -math.floor(math.log10(step * 100)))
    return Chart(
        marks,
        line=" ".join(f"{mark.x},{mark.y}" for mark in marks),
        floor=floor,
        y_ticks=[(y(n * step), f"{n * step:.{decimals}%}") for n in range(first, last + 1)],
        x_ticks=[(mark.x, str(mark.point.label)) for mark in marks[::every]],
    )


def _round_step(minimum: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... times a power of ten that is not below `minimum`."""
    power: float = 10 ** math.floor(math.log10(minimum))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= minimum * (1 - 1e-9))
