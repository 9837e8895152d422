"""Procedural backgrounds of the synthetic world, drawn once into a bank and cropped ever after.

A background is six planes `[6, SIZE, SIZE]`: RGB, and for the blossoms of the gardens an alpha, a
luminance and a slot number (which of the scene's three blossom colors paints it).
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.miniature import sprites

SIZE = 288  # pixels a side; a picture shows a crop of it
VARIANTS = 16  # drawings of each background
SLOTS = 3  # blossom colors a garden may have

# name -> (how a caption says it, one or two dominant colors as RGB 0-255)
BACKGROUNDS: dict[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    "rose garden": ("in a rose garden", ((28, 88, 38),)),
    "tulip garden": ("in a tulip garden", ((60, 120, 45),)),
    "meadow": ("in a meadow", ((110, 185, 70), (150, 205, 240))),
    "beach": ("on a beach", ((238, 214, 160), (90, 190, 215))),
    "snowy field": ("in a snowy field", ((232, 240, 250), (190, 210, 232))),
    "desert": ("in a desert", ((215, 145, 75), (245, 222, 180))),
    "ocean": ("in the ocean", ((20, 85, 150),)),
    "forest": ("in a forest", ((45, 95, 60),)),
    "city": ("in a city", ((120, 130, 150), (198, 205, 215))),
    "night sky": ("in the night sky", ((18, 20, 58),)),
    "sunset sky": ("in a sunset sky", ((240, 130, 90), (120, 75, 140))),
    "studio": ("in a studio", ((176, 176, 182),)),
    "brick wall": ("in front of a brick wall", ((155, 75, 58),)),
    "wooden floor": ("on a wooden floor", ((178, 120, 68),)),
}
NAMES = tuple(BACKGROUNDS)
GARDENS = ("rose garden", "tulip garden", "meadow")  # backgrounds that carry blossoms


def _uniform(g: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=g).item()


def _noise(g: torch.Generator, cells: int, rows: int | None = None) -> Tensor:
    """Smooth noise in [0, 1], about `cells` bumps across and `rows` down: `[SIZE, SIZE]`."""
    grid = torch.rand(1, 1, rows or cells, cells, generator=g)
    return F.interpolate(grid, (SIZE, SIZE), mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)


def _axes() -> tuple[Tensor, Tensor]:
    line = torch.linspace(0, 1, SIZE)
    return line[:, None].expand(SIZE, SIZE), line[None, :].expand(SIZE, SIZE)


def _rgb(*colour: int) -> Tensor:
    return torch.tensor(colour).view(3, 1, 1) / 255


def _ramp(top: Tensor, bottom: Tensor, t: Tensor) -> Tensor:
    """Blend two colors (or pictures) by a plane of weights."""
    return top + (bottom - top) * t


def _shade(picture: Tensor, plane: Tensor, depth: float) -> Tensor:
    """Lighten and darken by a noise plane, +-depth."""
    return picture * (1 + depth * (2 * plane - 1))


def _edge(plane: Tensor, width: float = 0.008) -> Tensor:
    """A soft step at zero."""
    return torch.sigmoid(plane / width)


def _stamp(planes: Tensor, values: Tensor, alpha: Tensor, cx: float, cy: float, side: int) -> None:
    """Blend a square stamp `values [C, s, s]` with `alpha [s, s]` into `planes`, clipped."""
    values = F.interpolate(values[None], (side, side), mode="bilinear", antialias=True)[0]
    alpha = F.interpolate(alpha[None, None], (side, side), mode="bilinear", antialias=True)[0]
    left, top = round(cx * SIZE - side / 2), round(cy * SIZE - side / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, SIZE), min(top + side, SIZE)
    if x0 >= x1 or y0 >= y1:
        return
    window = planes[:, y0:y1, x0:x1]
    cut = (slice(None), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    window += (values[cut] - window) * alpha[cut]


def _blossoms(
    picture: Tensor, g: torch.Generator, flower: str, rows: tuple[float, ...], sides
) -> Tensor:
    """Plant rows of flowers: green stems into RGB, petals into the blossom planes."""
    planes = torch.cat([picture, torch.zeros(3, SIZE, SIZE)])  # (6, SIZE, SIZE)
    rgb, alpha = sprites.tile(flower).split([3, 1])
    petal = (rgb[:1] > rgb[1:2] + 0.05).float() * alpha  # the artwork's petals are red or pink
    luminance = (rgb.mean(0) * 0.85).clamp(0, 1)  # dimmer than any object, which stands in front
    art = torch.cat([rgb, petal / alpha.clamp_min(1e-3), luminance[None]])  # (5, TILE, TILE)
    for depth, row in enumerate(rows):
        side = round(sides[0] + (sides[1] - sides[0]) * depth / (len(rows) - 1))
        count = round(SIZE / side * 1.15)
        for i in range(count):
            cx = (i + _uniform(g, 0.1, 0.9)) / count
            cy = row + _uniform(g, -0.04, 0.04)
            slot = torch.randint(SLOTS, (), generator=g) * torch.ones_like(alpha)
            _stamp(planes, torch.cat([art, slot]), alpha[0], cx, cy, side)
            # slots are labels: where a stamp's edge blended two of them, round back
            planes[5].round_()
    return planes


def _leaves(g: torch.Generator, dark: Tensor, light: Tensor) -> Tensor:
    return _ramp(dark, light, 0.5 * _noise(g, 9) + 0.5 * _noise(g, 30))


def _rose_garden(g):
    leaves = _leaves(g, _rgb(10, 52, 22), _rgb(48, 122, 55))
    return _blossoms(leaves, g, "rose", (0.05, 0.2, 0.35, 0.5, 0.65, 0.81, 0.97), (36, 52))


def _tulip_garden(g):
    leaves = _leaves(g, _rgb(40, 96, 34), _rgb(92, 158, 62))
    return _blossoms(leaves, g, "tulip", (0.08, 0.28, 0.48, 0.7, 0.95), (42, 62))


def _sky(y: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    return _ramp(top, bottom, y.clamp(0, 1))


def _hill(g: torch.Generator, x: Tensor, level: float, height: float) -> Tensor:
    phase, waves = _uniform(g, 0, 6.28), _uniform(g, 0.5, 1.6)
    return level + height * torch.sin(2 * math.pi * waves * x + phase)


def _meadow(g):
    y, x = _axes()
    horizon = _hill(g, x, _uniform(g, 0.2, 0.34), 0.03)
    sky = _sky(y * 2.5, _rgb(110, 185, 240), _rgb(205, 232, 250))
    grass = _shade(_ramp(_rgb(130, 200, 85), _rgb(85, 165, 55), y), _noise(g, 36, 24), 0.12)
    return _blossoms(_ramp(sky, grass, _edge(y - horizon)), g, "tulip", (0.62, 0.9), (20, 30))


def _beach(g):
    y, x = _axes()
    sea, shore = _uniform(g, 0.18, 0.3), _hill(g, x, _uniform(g, 0.42, 0.56), 0.02)
    sky = _sky(y / sea, _rgb(120, 195, 245), _rgb(215, 238, 250))
    water = _ramp(_rgb(40, 150, 195), _rgb(125, 215, 215), (y - sea) * 3)
    water = _shade(water, _noise(g, 6, 40), 0.08)
    sand = _shade(_rgb(240, 216, 162), _noise(g, 40), 0.05)
    picture = _ramp(_ramp(sky, water, _edge(y - sea, 0.004)), sand, _edge(y - shore))
    foam = torch.exp(-(((y - shore) / 0.012) ** 2))
    return _ramp(picture, _rgb(250, 252, 252), 0.8 * foam)


def _snowy_field(g):
    y, x = _axes()
    far, near = _hill(g, x, _uniform(g, 0.3, 0.42), 0.05), _hill(g, x, _uniform(g, 0.55, 0.7), 0.04)
    sky = _sky(y * 2, _rgb(170, 195, 225), _rgb(222, 232, 245))
    back = _rgb(214, 227, 243) * (1 - 0.06 * y)
    front = _shade(_rgb(243, 248, 254), _noise(g, 14, 30), 0.025)
    picture = _ramp(_ramp(sky, back, _edge(y - far)), front, _edge(y - near))
    flakes = torch.rand(SIZE // 4, SIZE // 4, generator=g) > 0.992
    flakes = F.interpolate(flakes[None, None].float(), (SIZE, SIZE), mode="bilinear")[0, 0]
    return _ramp(picture, _rgb(255, 255, 255), 0.9 * flakes)


def _desert(g):
    y, x = _axes()
    sky = _sky(y * 2.4, _rgb(150, 205, 235), _rgb(250, 228, 188))
    far = _hill(g, x, _uniform(g, 0.32, 0.42), 0.05)
    near = _hill(g, x, _uniform(g, 0.55, 0.68), 0.06)
    back = _rgb(226, 166, 96) * (1.05 - 0.2 * y)
    ripple = 0.5 + 0.5 * torch.sin(2 * math.pi * (26 * y + 2 * _noise(g, 5)))
    front = _shade(_rgb(214, 142, 72), ripple, 0.05)
    return _ramp(_ramp(sky, back, _edge(y - far)), front, _edge(y - near))


def _ocean(g):
    y, x = _axes()
    water = _ramp(_rgb(45, 140, 200), _rgb(8, 45, 100), y)
    slant = _uniform(g, -0.6, 0.6)
    rays = (0.5 + 0.5 * torch.sin(2 * math.pi * (x + slant * y) * _uniform(g, 3, 6))) ** 3
    water = water + 0.12 * rays * (1 - y)
    return _shade(water, _noise(g, 5, 22), 0.1)


def _forest(g):
    y, _ = _axes()
    floor = _ramp(_rgb(120, 160, 135), _rgb(38, 78, 42), (y * 1.6).clamp(0, 1))
    floor = _shade(floor, _noise(g, 20), 0.1)
    art = sprites.tile("pine")
    for row, side, fade in ((0.22, 70, 0.45), (0.42, 96, 0.65), (0.68, 124, 0.8)):
        count = round(SIZE / side * 1.5)
        for i in range(count):
            mist = _ramp(_rgb(150, 180, 165), art[:3], torch.tensor(fade)) * (0.6 + 0.25 * fade)
            cx, cy = (i + _uniform(g, 0.1, 0.9)) / count, row + _uniform(g, -0.05, 0.05)
            _stamp(floor, mist, art[3], cx, cy, side)
    return floor


def _city(g):
    y, _ = _axes()
    picture = _sky(y, _rgb(165, 190, 220), _rgb(228, 226, 222)).clone()
    palette = ((105, 115, 140), (140, 128, 150), (125, 145, 160), (150, 140, 130), (95, 105, 125))
    left = 0
    while left < SIZE:
        width, top = int(_uniform(g, 34, 62)), int(_uniform(g, 0.18, 0.55) * SIZE)
        colour = _rgb(*palette[int(torch.randint(len(palette), (), generator=g))])
        picture[:, top:, left : left + width] = colour
        for wy in range(top + 8, SIZE - 6, 16):
            for wx in range(left + 6, min(left + width, SIZE) - 7, 13):
                lit = torch.rand((), generator=g) < 0.55
                picture[:, wy : wy + 8, wx : wx + 6] = _rgb(245, 225, 150) if lit else colour * 0.7
        left += width + int(_uniform(g, 0, 5))
    return picture


def _night_sky(g):
    y, x = _axes()
    sky = _shade(_ramp(_rgb(10, 10, 38), _rgb(34, 34, 88), y), _noise(g, 4), 0.15)
    for _ in range(70):
        cx, cy, radius = _uniform(g, 0, 1), _uniform(g, 0, 1), _uniform(g, 0.002, 0.006)
        star = torch.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2)))
        sky = _ramp(sky, _rgb(250, 248, 235), star)
    cx, cy, radius = _uniform(g, 0.1, 0.9), _uniform(g, 0.08, 0.25), _uniform(g, 0.04, 0.06)
    distance = ((x - cx) ** 2 + (y - cy) ** 2).sqrt()
    return _ramp(sky, _rgb(245, 238, 205), _edge(radius - distance, 0.004))


def _sunset_sky(g):
    y, x = _axes()
    sky = _ramp(_rgb(92, 62, 135), _rgb(242, 120, 92), (y * 1.7).clamp(0, 1))
    sky = _ramp(sky, _rgb(252, 200, 120), ((y - 0.55) * 2).clamp(0, 1))
    cx, cy = _uniform(g, 0.15, 0.85), _uniform(g, 0.5, 0.8)
    sun = _edge(_uniform(g, 0.07, 0.1) - ((x - cx) ** 2 + (y - cy) ** 2).sqrt(), 0.004)
    sky = _ramp(sky, _rgb(255, 236, 170), sun)
    clouds = ((_noise(g, 4, 14) - 0.6) * 4).clamp(0, 1)
    return _ramp(sky, _rgb(250, 178, 160), 0.5 * clouds)


def _studio(g):
    y, x = _axes()
    shade = _uniform(g, 0.6, 0.78)
    spot = torch.exp(-((x - _uniform(g, 0.3, 0.7)) ** 2 + (y - 0.4) ** 2) / 0.25)
    return (shade + 0.12 * (spot - 0.5)) * _rgb(250, 250, 255)


def _brick_wall(g):
    y, x = _axes()
    rows = int(_uniform(g, 10, 15))
    row = torch.floor(y * rows)
    column = x * rows / 2 + 0.5 * (row % 2)
    tone = torch.rand(rows, rows + 1, generator=g)[row.long().clamp(0, rows - 1), column.long()]
    brick = _ramp(_rgb(140, 62, 46), _rgb(176, 92, 70), tone)
    u, v = column - torch.floor(column), y * rows - row
    mortar = torch.minimum(torch.minimum(u, 1 - u) * 2, torch.minimum(v, 1 - v))
    return _ramp(brick, _rgb(205, 192, 180), _edge(0.07 - mortar, 0.02))


def _wooden_floor(g):
    y, x = _axes()
    planks = int(_uniform(g, 5, 8))
    row = torch.floor(y * planks)
    tone = torch.rand(planks + 1, generator=g)[row.long()]
    grain = 0.5 + 0.5 * torch.sin(2 * math.pi * (y * planks * 3 + 2.5 * _noise(g, 4, 16)))
    wood = _shade(_ramp(_rgb(165, 106, 58), _rgb(196, 138, 82), tone), grain, 0.06)
    v = y * planks - row
    return _ramp(wood, _rgb(92, 55, 28), _edge(0.03 - torch.minimum(v, 1 - v), 0.01))


@functools.cache
def draw(name: str, variant: int) -> Tensor:
    """One variant of a background: RGB, blossom alpha, luminance and slot: `[6, SIZE, SIZE]`."""
    g = torch.Generator().manual_seed(1_000_003 * NAMES.index(name) + variant)
    planes = globals()["_" + name.replace(" ", "_")](g)
    if planes.shape[0] == 3:
        planes = torch.cat([planes, torch.zeros(3, SIZE, SIZE)])
    planes[:5] = planes[:5].clamp(0, 1)
    return planes
