"""Draw one picture: a textured shape in clutter, badly lit, blurred and noisy.

The code uses only NumPy in float64, signed distances, and the generator's raw doubles, so that a seed
gives the same pixels on every machine and with every version of NumPy.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
"""One number per pixel, (side, side)."""
Picture = npt.NDArray[np.float64]
"""Colours, (side, side, 3), 0 to 1 unless stated otherwise."""
Texture = Callable[[Field, Field], Field]
"""Coordinates in periods to a wave from -1 to 1 whose sign selects one of two colours."""

# Number of corners, at distance 1 from the centre, and the outline's distance halfway between two corners:
# cos(pi / n) for a regular polygon, less for a star.
POLYGONS: Mapping[str, tuple[int, float]] = {
    "square": (4, math.cos(math.pi / 4)),
    "star": (5, 0.5),
    "triangle": (3, math.cos(math.pi / 3)),
}
SHAPES = ("circle", *POLYGONS)
TEXTURES: Mapping[str, Texture] = {
    "checks": lambda u, v: np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v),
    "dots": lambda u, v: (np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v) - 0.7) / 2.7,
    "stripes": lambda u, v: np.sin(2 * np.pi * u),
}


@dataclass(frozen=True, slots=True)
class Dice:
    """Random numbers, all from `Generator.random`."""

    generator: np.random.Generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.generator.random())

    def integer(self, count: float) -> int:
        return int(self.generator.random() * count)

    def angle(self) -> float:
        return self.uniform(0, 2 * math.pi)

    def colour(self) -> npt.NDArray[np.float64]:
        return self.generator.random(3)


def draw(shape: str, texture: str, side_px: int, dice: Dice) -> npt.NDArray[np.uint8]:
    """Draw a picture, (side, side, 3) uint8."""
    middle = (np.arange(side_px) + 0.5) * 2 / side_px - 1
    x, y = np.meshgrid(middle, middle)
    clutter = dice.uniform(0, 1)
    picture = _draw_background(x, y, clutter, dice)
    for _ in range(dice.integer(1 + 7 * clutter)):
        picture = _add_clutter(picture, x, y, dice, thickest=0.3)
    fill, outside = _draw_subject(shape, texture, x, y, dice)
    picture = _paste(picture, outside, fill)
    for _ in range(dice.integer(1 + 3 * clutter)):
        picture = _add_clutter(picture, x, y, dice, thickest=0.08)
    picture = _light(picture, x, y, clutter, dice)
    picture = _blur(picture, sigma_px=dice.uniform(0.1, 0.1 + 0.016 * clutter * side_px))
    noise = dice.uniform(0, 0.1) * clutter * (dice.generator.random((3, *picture.shape)).sum(axis=0) - 1.5)
    pixels: npt.NDArray[np.uint8] = np.round(np.clip(picture + 2 * noise, 0, 1) * 255).astype(np.uint8)
    return pixels


def distance(shape: str, x: Field, y: Field) -> Field:
    """Return the signed distance from the outline of a shape with corners at distance 1; negative inside."""
    radius = np.hypot(x, y)
    if shape == "circle":
        return radius - 1
    corners, inner = POLYGONS[shape]
    half = math.pi / corners
    # Each half edge mirrors the one from the corner at angle 0 to the edge's middle at `half`.
    angle = np.abs(np.mod(np.arctan2(y, x) + half, 2 * half) - half)
    edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)
    across = (radius * np.cos(angle) - 1) * edge_y - radius * np.sin(angle) * edge_x
    return across / math.hypot(edge_x, edge_y)


def _draw_subject(shape: str, texture: str, x: Field, y: Field, dice: Dice) -> tuple[Picture, Field]:
    """Draw a textured plane, and return it with the distance from the outline to cut from it."""
    radius = dice.uniform(0.45, 0.85)
    room = 1.05 - radius
    u, v = _rotate(x - dice.uniform(-room, room), y - dice.uniform(-room, room), dice.angle())
    u, v = u / radius, v / (radius * dice.uniform(0.75, 1.0))
    wave_u, wave_v = _rotate(u * radius, v * radius, dice.angle())
    period = dice.uniform(0.22, 0.5)
    phase = dice.uniform(0, 1), dice.uniform(0, 1)
    wave = TEXTURES[texture](wave_u / period + phase[0], wave_v / period + phase[1])
    first = dice.colour()
    second = np.mod(first + 0.5 + dice.uniform(-0.35, 0.35), 1) * dice.uniform(0.6, 1)
    return _blend(first, second, 0.5 + 4 * wave), distance(shape, u, v) * radius


def _add_clutter(picture: Picture, x: Field, y: Field, dice: Dice, *, thickest: float) -> Picture:
    """Add a bar or an ellipse, of one colour or striped."""
    u, v = _rotate(x - dice.uniform(-1, 1), y - dice.uniform(-1, 1), dice.angle())
    thin, long = dice.uniform(0.03, thickest), dice.uniform(0.1, 0.8)
    if dice.integer(2):
        outside = np.maximum(np.abs(u) - long, np.abs(v) - thin)
    else:
        outside = (np.hypot(u / long, v / thin) - 1) * thin
    wave = np.sin(2 * np.pi * u / dice.uniform(0.15, 0.6)) if dice.integer(2) else np.zeros_like(u)
    return _paste(picture, outside, _blend(dice.colour(), dice.colour(), 0.5 + 4 * wave))


def _draw_background(x: Field, y: Field, clutter: float, dice: Dice) -> Picture:
    """Draw two colours in waves that may be as fine as the subject's texture."""
    u, v = _rotate(x, y, dice.angle())
    frequency = dice.uniform(0.5, 1 + 9 * clutter)
    waves = 0.5 + 0.5 * np.sin(u * frequency + dice.angle() + dice.uniform(0, 2) * np.sin(3 * v))
    return _blend(dice.colour(), dice.colour(), waves)


def _light(picture: Picture, x: Field, y: Field, clutter: float, dice: Dice) -> Picture:
    """Apply exposure, light from one side and haze, and add a lamp to one picture in twelve."""
    u, v = _rotate(x, y, dice.angle())
    light = dice.uniform(1 - 0.5 * clutter, 1.2) * (1 + dice.uniform(0, 0.5) * clutter * u)
    haze = dice.uniform(0, 0.35) * clutter
    lamp = dice.uniform(0.5, 2) * np.exp(-((u - dice.uniform(-1, 1)) ** 2 + v**2) / 0.1)
    if dice.integer(12):
        lamp = np.zeros_like(lamp)
    return picture * (light * (1 - haze))[..., None] + (haze * 0.7 + lamp)[..., None]


def _blur(picture: Picture, *, sigma_px: float) -> Picture:
    """Blur with a Gaussian along each axis, repeating the border."""
    reach = math.ceil(3 * sigma_px)
    offsets = range(-reach, reach + 1)
    kernel = [math.exp(-0.5 * (offset / sigma_px) ** 2) for offset in offsets]
    total = sum(kernel)
    for axis in (0, 1):
        padding = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(np.clip(picture, 0, 1), padding, mode="edge")
        length = picture.shape[axis]
        slices = (padded.take(range(start, start + length), axis) for start in range(len(kernel)))
        picture = np.zeros_like(picture)
        for weight, each in zip(kernel, slices, strict=True):
            picture += weight / total * each
    return picture


def _rotate(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _blend(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], share: Field) -> Picture:
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def _paste(picture: Picture, outside: Field, fill: Picture) -> Picture:
    """Paste the fill where `outside`, a signed distance, is negative, with a border one pixel soft."""
    cover = np.clip(0.5 - outside * len(picture) / 2, 0, 1)[..., None]
    return picture * (1 - cover) + fill * cover
