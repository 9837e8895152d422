"""Masks without a resolution: shapes and painted pixels, rasterized on demand.

Coordinates are fractions of the picture: x to the right, y down, (0, 0) the top left corner.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densenb.layout.validation import check_count, check_numbers


class Mask:
    """Where a region is, at any resolution."""

    def raster(self, height: int, width: int) -> Tensor:
        """The share of each pixel that is in the region: float `[height, width]`, never all 0."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The mask as one JSON entry, `{kind: values}`."""
        raise NotImplementedError


class Shape(Mask):
    """A mask given by a formula: a pixel is inside if its center is."""

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        """Bool `[H, W]` for columns `x [1, W]` and rows `y [H, 1]`."""
        raise NotImplementedError

    def anchor(self) -> tuple[float, float]:
        """A point (x, y) of the shape, for shapes that fall between pixel centers."""
        raise NotImplementedError

    def raster(self, height: int, width: int) -> Tensor:
        check_count("height", height)
        check_count("width", width)
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
        mask = self.inside(x[None, :], y[:, None])  # (1, W), (H, 1) -> (H, W)
        if not mask.any():
            left, top = self.anchor()
            mask[min(int(top * height), height - 1), min(int(left * width), width - 1)] = True
        return mask.float()


@dataclass(frozen=True)
class Box(Shape):
    x0: float
    y0: float
    x1: float
    y1: float

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        # Half open: boxes that share an edge never share a pixel.
        return (self.x0 <= x) & (x < self.x1) & (self.y0 <= y) & (y < self.y1)

    def anchor(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def to_dict(self) -> dict[str, Any]:
        return {"box": [self.x0, self.y0, self.x1, self.y1]}


@dataclass(frozen=True)
class Ellipse(Shape):
    cx: float
    cy: float
    rx: float
    ry: float

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x - self.cx) / self.rx) ** 2 + ((y - self.cy) / self.ry) ** 2 <= 1

    def anchor(self) -> tuple[float, float]:
        return min(max(self.cx, 0.0), 1.0), min(max(self.cy, 0.0), 1.0)

    def to_dict(self) -> dict[str, Any]:
        return {"ellipse": [self.cx, self.cy, self.rx, self.ry]}


@dataclass(frozen=True)
class Polygon(Shape):
    points: tuple[tuple[float, float], ...]

    def inside(self, x: Tensor, y: Tensor) -> Tensor:
        # Even-odd rule: inside if a ray to the right crosses an odd number of edges.
        mask = torch.zeros(y.shape[0], x.shape[1], dtype=torch.bool)
        for (x0, y0), (x1, y1) in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            if y0 != y1:
                crossing = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                mask ^= ((y0 <= y) != (y1 <= y)) & (x < crossing)
        return mask

    def anchor(self) -> tuple[float, float]:
        return self.points[0]

    def to_dict(self) -> dict[str, Any]:
        return {"polygon": [list(point) for point in self.points]}


class Pixels(Mask):
    """Painted pixels in 255 steps, so that a mask equals its PNG."""

    def __init__(self, levels: np.ndarray) -> None:
        self._levels = levels  # uint8 [height, width]

    def raster(self, height: int, width: int) -> Tensor:
        check_count("height", height)
        check_count("width", width)
        mask = torch.from_numpy(self._levels).double() / 255
        if mask.shape == (height, width):
            return mask.float()
        rows, columns = (resize_weights(*n) for n in zip(mask.shape, (height, width), strict=True))
        return (rows @ mask @ columns.T).clamp(0, 1).float()  # (height, width)

    def to_dict(self) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(self._levels).save(file, format="PNG")
        return {"mask_png": base64.b64encode(file.getvalue()).decode("ascii")}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and np.array_equal(self._levels, other._levels)

    def __hash__(self) -> int:
        return hash((self._levels.shape, self._levels.tobytes()))

    def __repr__(self) -> str:
        height, width = self._levels.shape
        return f"<mask of {width} x {height} pixels>"


def box(x0: float, y0: float, x1: float, y1: float) -> Mask:
    """A box by its top left and bottom right corners.

    Args:
        x0, y0, x1, y1: Fractions of the picture: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1.

    Raises:
        ValueError: For an empty box, or one that leaves the picture.
        TypeError: For anything but numbers.
    """
    x0, y0, x1, y1 = check_numbers("box", [x0, y0, x1, y1])
    check_inside(f"box({x0}, {y0}, {x1}, {y1})", [x0, y0, x1, y1])
    for low, high, axis in ((x0, x1, "x"), (y0, y1, "y")):
        if low >= high:
            raise ValueError(
                f"box({x0}, {y0}, {x1}, {y1}) has {axis}0 >= {axis}1: give the top left and then"
                " the bottom right corner (not a corner and a size)."
            )
    return Box(x0, y0, x1, y1)


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Mask:
    """An ellipse by center and radii. It may extend beyond the border.

    Args:
        cx, cy: The center, in fractions of the picture.
        rx, ry: The radii, in fractions of the width and of the height: equal radii make a circle
            only in a square picture.

    Raises:
        ValueError: For radii that are not above 0, or an ellipse outside of the picture.
        TypeError: For anything but numbers.
    """
    cx, cy, rx, ry = check_numbers("ellipse", [cx, cy, rx, ry])
    if rx <= 0 or ry <= 0:
        raise ValueError(
            f"ellipse({cx}, {cy}, {rx}, {ry}): radii must be above 0. Give center x, center y,"
            " radius x, radius y."
        )
    near_x, near_y = Ellipse(cx, cy, rx, ry).anchor()
    if ((near_x - cx) / rx) ** 2 + ((near_y - cy) / ry) ** 2 >= 1:
        raise ValueError(
            f"ellipse({cx}, {cy}, {rx}, {ry}) lies outside the picture, which is [0, 1] x [0, 1]:"
            " it may extend beyond the border but must overlap the picture. Move it, or divide"
            " pixel positions by the picture's size."
        )
    return Ellipse(cx, cy, rx, ry)


def polygon(points: Sequence[Sequence[float]]) -> Mask:
    """A polygon by its corners, filled by the even-odd rule.

    Args:
        points: At least three (x, y) in [0, 1]; the last is joined to the first.

    Raises:
        ValueError: For too few points, points outside of the picture, or all on one line.
        TypeError: For anything but numbers.
    """
    if not isinstance(points, Iterable):
        raise TypeError(f"polygon needs points, got {points!r}: give [(x, y), (x, y), ...].")
    corners = tuple(pair(point) for point in points)
    if len(corners) < 3:
        raise ValueError(f"polygon has {len(corners)} points: give at least 3 (x, y) pairs.")
    edges = np.array(corners[1:]) - corners[0]
    if np.linalg.matrix_rank(edges, tol=1e-9) < 2:
        raise ValueError(f"polygon {corners} has all points on one line: add a point off the line.")
    return Polygon(corners)


def mask_from_array(array: Any) -> Mask:
    """A mask from an array or tensor, stored in steps of 1/255.

    Args:
        array: `[height, width]`, bools or numbers in [0, 1].

    Raises:
        ValueError: For another shape, values that are not in [0, 1], or a mask that is all 0.
        TypeError: For anything that is not an array of numbers.
    """
    if array is None or isinstance(array, (str, Path)):
        raise TypeError(
            f"{array!r} is not a mask: give box(...), ellipse(...), polygon(...), an array, or a"
            " picture as mask_from_png(path)."
        )
    if isinstance(array, Tensor):
        array = array.detach().float().cpu().numpy()
    try:
        values = np.asarray(array).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a {type(array).__name__} is not a mask: give box(...), ellipse(...), polygon(...) or"
            " an array [height, width] with values in [0, 1]."
        ) from error
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"mask has shape {list(values.shape)}: it must be [height, width]. Take one channel,"
            " e.g. mask[..., 0]."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "mask holds NaN or infinity: values must be in [0, 1]. Replace them with 0."
        )
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"mask values run from {values.min():g} to {values.max():g}: they must be in [0, 1]."
            " Divide 8-bit masks by 255."
        )
    levels = np.rint(values * 255).astype(np.uint8)
    if not levels.any():
        raise ValueError("mask is empty (all zero): a region needs a pixel. Paint it, or drop it.")
    return Pixels(levels)


@lru_cache(maxsize=64)  # the masks of a layout, and of a suite, have few sizes
def resize_weights(source: int, target: int) -> Tensor:
    """Weights `[target, source]` that resize one axis: area average down, linear up."""
    if target < source:
        edges = torch.arange(target + 1, dtype=torch.float64)[:, None] * source / target
        cells = torch.arange(source, dtype=torch.float64)
        overlap = edges[1:].clamp(max=cells + 1) - edges[:-1].clamp(min=cells)
        return overlap.clamp(min=0) * target / source
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5
    distance = (centres.clamp(0, source - 1)[:, None] - torch.arange(source)).abs()
    return (1 - distance).clamp(min=0)


def check_inside(name: str, coordinates: Sequence[float]) -> None:
    """ValueError unless all coordinates are in the picture."""
    if not all(0 <= each <= 1 for each in coordinates):
        raise ValueError(
            f"{name} leaves the picture: coordinates must be in [0, 1], as fractions of its width"
            " and height. Clip them, or divide pixel positions by the picture's size."
        )


def pair(point: Sequence[float]) -> tuple[float, float]:
    """A polygon's point as two floats."""
    if isinstance(point, str) or not hasattr(point, "__len__") or len(point) != 2:
        raise ValueError(f"polygon point {point!r} is not a pair: give [(x, y), (x, y), ...].")
    x, y = check_numbers("polygon", list(point))
    check_inside(f"polygon point ({x}, {y})", [x, y])
    return x, y
