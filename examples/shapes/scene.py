"""Draws one picture: a textured shape somewhere in clutter, badly lit, blurred and noisy.

NumPy alone, in float64, with signed distances, and no random numbers but the generator's raw doubles:
a seed gives the same pixels on every machine and with every version of NumPy.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
"""One number a pixel, (side, side)."""
Picture = npt.NDArray[np.float64]
"""(side, side, 3), 0 to 1 where nothing else is said."""
Texture = Callable[[Field, Field], Field]
"""Coordinates in periods -> a wave from -1 to 1 whose sign tells the two colours apart."""

# Corners, which are 1 from the centre, and how far the outline is from it halfway between two of them:
# cos(pi / n) in a regular polygon, less in a star.
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

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.generator.random())

    def below(self, count: float) -> int:
        return int(self.generator.random() * count)

    def angle(self) -> float:
        return self.between(0, 2 * math.pi)

    def colour(self) -> npt.NDArray[np.float64]:
        return self.generator.random(3)


def draw(shape: str, texture: str, side_px: int, dice: Dice) -> npt.NDArray[np.uint8]:
    """The picture, (side, side, 3) uint8."""
    middle = (np.arange(side_px) + 0.5) * 2 / side_px - 1
    x, y = np.meshgrid(middle, middle)
    mess = dice.between(0, 1)
    picture = _background(x, y, mess, dice)
    for _ in range(dice.below(1 + 7 * mess)):
        picture = _with_clutter(picture, x, y, dice, thickest=0.3)
    fill, outside = _subject(shape, texture, x, y, dice)
    picture = _pasted(picture, outside, fill)
    for _ in range(dice.below(1 + 3 * mess)):
        picture = _with_clutter(picture, x, y, dice, thickest=0.08)
    picture = _lit(picture, x, y, mess, dice)
    picture = _blurred(picture, sigma_px=dice.between(0.1, 0.1 + 0.016 * mess * side_px))
    noise = dice.between(0, 0.1) * mess * (dice.generator.random((3, *picture.shape)).sum(axis=0) - 1.5)
    pixels: npt.NDArray[np.uint8] = np.round(np.clip(picture + 2 * noise, 0, 1) * 255).astype(np.uint8)
    return pixels


def distance(shape: str, x: Field, y: Field) -> Field:
    """From the outline of a shape whose corners lie at 1 around the origin; negative inside."""
    radius = np.hypot(x, y)
    if shape == "circle":
        return radius - 1
    corners, inner = POLYGONS[shape]
    half = math.pi / corners
    # Each edge is one of 2n mirror images of that from the corner at angle 0 to the middle at `half`.
    angle = np.abs(np.mod(np.arctan2(y, x) + half, 2 * half) - half)
    edge_x, edge_y = inner * math.cos(half) - 1, inner * math.sin(half)
    across = (radius * np.cos(angle) - 1) * edge_y - radius * np.sin(angle) * edge_x
    return across / math.hypot(edge_x, edge_y)


def _subject(shape: str, texture: str, x: Field, y: Field, dice: Dice) -> tuple[Picture, Field]:
    """The textured plane, and the distance from the outline that is cut from it."""
    radius = dice.between(0.45, 0.85)
    room = 1.05 - radius
    u, v = _turned(x - dice.between(-room, room), y - dice.between(-room, room), dice.angle())
    u, v = u / radius, v / (radius * dice.between(0.75, 1.0))
    wave_u, wave_v = _turned(u * radius, v * radius, dice.angle())
    period = dice.between(0.22, 0.5)
    phase = dice.between(0, 1), dice.between(0, 1)
    wave = TEXTURES[texture](wave_u / period + phase[0], wave_v / period + phase[1])
    first = dice.colour()
    second = np.mod(first + 0.5 + dice.between(-0.35, 0.35), 1) * dice.between(0.6, 1)
    return _between(first, second, 0.5 + 4 * wave), distance(shape, u, v) * radius


def _with_clutter(picture: Picture, x: Field, y: Field, dice: Dice, *, thickest: float) -> Picture:
    """A bar or an ellipse, of one colour or striped."""
    u, v = _turned(x - dice.between(-1, 1), y - dice.between(-1, 1), dice.angle())
    thin, long = dice.between(0.03, thickest), dice.between(0.1, 0.8)
    if dice.below(2):
        outside = np.maximum(np.abs(u) - long, np.abs(v) - thin)
    else:
        outside = (np.hypot(u / long, v / thin) - 1) * thin
    wave = np.sin(2 * np.pi * u / dice.between(0.15, 0.6)) if dice.below(2) else np.zeros_like(u)
    return _pasted(picture, outside, _between(dice.colour(), dice.colour(), 0.5 + 4 * wave))


def _background(x: Field, y: Field, mess: float, dice: Dice) -> Picture:
    """Two colours, in waves that may be as fine as the subject's texture."""
    u, v = _turned(x, y, dice.angle())
    frequency = dice.between(0.5, 1 + 9 * mess)
    waves = 0.5 + 0.5 * np.sin(u * frequency + dice.angle() + dice.between(0, 2) * np.sin(3 * v))
    return _between(dice.colour(), dice.colour(), waves)


def _lit(picture: Picture, x: Field, y: Field, mess: float, dice: Dice) -> Picture:
    """Exposure, light from one side, haze, and one picture in twelve with a lamp in it."""
    u, v = _turned(x, y, dice.angle())
    light = dice.between(1 - 0.5 * mess, 1.2) * (1 + dice.between(0, 0.5) * mess * u)
    haze = dice.between(0, 0.35) * mess
    lamp = dice.between(0.5, 2) * np.exp(-((u - dice.between(-1, 1)) ** 2 + v**2) / 0.1)
    if dice.below(12):
        lamp = np.zeros_like(lamp)
    return picture * (light * (1 - haze))[..., None] + (haze * 0.7 + lamp)[..., None]


def _blurred(picture: Picture, *, sigma_px: float) -> Picture:
    """By a Gaussian, along each axis, with the border repeated."""
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


def _turned(x: Field, y: Field, angle: float) -> tuple[Field, Field]:
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _between(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], share: Field) -> Picture:
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def _pasted(picture: Picture, outside: Field, fill: Picture) -> Picture:
    """The fill where `outside`, a signed distance, is negative; the border is one pixel soft."""
    cover = np.clip(0.5 - outside * len(picture) / 2, 0, 1)[..., None]
    return picture * (1 - cover) + fill * cover
