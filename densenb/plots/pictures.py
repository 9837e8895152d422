"""Pictures without axes: regions drawn on pictures, maps as colors, rows and contact sheets.

There is one palette for everything, so a region has the same color in sliders, overlays and plots.
Drawing is fast enough to repeat at every move of a slider. Figures with axes are in `plots`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
"""Region colors that color-blind readers can tell apart (Okabe & Ito 2008); they repeat."""
AMOUNTS = "cividis"
"""The color map for values of 0 or more: dark is low, bright is high."""
DIFFERENCES = "PuOr_r"
"""The color map for values with a sign: purple is negative, white is 0, orange is positive."""
BARE = "#999999"
"""The hatching where nothing was measured."""


def region_colour(index: int) -> str:
    """The palette's color for a region, as "#rrggbb"."""
    return PALETTE[index % len(PALETTE)]


def to_image(picture: Image.Image | Tensor) -> Image.Image:
    """An RGB image of a tensor [3, H, W] in [0, 1], or of another image."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())  # (H, W, 3)


# ------------------------------------------------------------------------------ regions and maps
def overlay(
    image: Image.Image | Tensor, masks: Tensor, fill: float = 0.0, line: int = 2
) -> Image.Image:
    """Draw the outline of each mask on the picture, in the region's color.

    Args:
        image: a PIL image, or [3, H, W] in [0, 1].
        masks: [R, H, W] in [0, 1], on the picture's own pixels (`layout.pixel_masks`).
        fill: the opacity of the region's color inside the mask.
        line: the width of the outline in pixels. A white line of the same width runs inside it.
    """
    canvas = np.asarray(to_image(image)).astype(np.float32)  # (H, W, 3)
    if masks.shape[-2:] != canvas.shape[:2]:
        raise ValueError(
            f"masks are {tuple(masks.shape[-2:])}, but the picture is {canvas.shape[:2]}: "
            "draw them at its size with layout.pixel_masks(height, width)."
        )
    for index, mask in enumerate(masks >= 0.5):
        colour = np.array(ImageColor.getrgb(region_colour(index)), dtype=np.float32)
        canvas[mask] += fill * (colour - canvas[mask])
        inside = _shrunk(mask, line)
        canvas[inside & ~_shrunk(inside, line)] = 255
        canvas[mask & ~inside] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def heat(values: Tensor, low: float, high: float, colours: str = AMOUNTS) -> Image.Image:
    """A map [rows, columns] as colors, one pixel per value; values beyond the limits are cut."""
    scaled = (values.detach().float().cpu() - low) / max(high - low, 1e-12)
    painted = matplotlib.colormaps[colours](scaled.clamp(0, 1).numpy(), bytes=True)
    return Image.fromarray(painted[..., :3].copy())  # (rows, columns, 3)


def glow(picture: Image.Image | Tensor, values: Tensor, colour: str) -> Image.Image:
    """The picture faded to gray under a map [rows, columns]: the higher the value, the more color.

    The map's own minimum stays gray, and its maximum has the full color.
    """
    faded = to_image(picture).convert("L").convert("RGB")
    faded = Image.blend(faded, Image.new("RGB", faded.size, "white"), 0.45)
    share = values.detach().float().cpu()
    share = (share - share.min()) / (share.max() - share.min()).clamp(min=1e-12)
    share = (share * 255).round().byte().numpy()
    opacity = Image.fromarray(share).resize(faded.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", faded.size, colour), faded, opacity)


# --------------------------------------------------------------------------- words, rows, sheets
def label(image: Image.Image, place: tuple[float, float], text: str, size: int = 12) -> None:
    """Write on the picture, centered at `place` (x, y) in pixels, in black with a white rim."""
    pen = ImageDraw.Draw(image)
    pen.multiline_text(
        place, text, fill="black", font=ImageFont.load_default(size), anchor="mm", align="center",
        stroke_width=2, stroke_fill="white",
    )  # fmt: skip


def caption(image: Image.Image, place: tuple[float, float], text: str) -> None:
    """Write beside pictures in black; `place` (x, y) is the text's upper left corner."""
    pen = ImageDraw.Draw(image)
    pen.multiline_text(place, text, fill="black", font=ImageFont.load_default(12))


def label_regions(image: Image.Image, masks: Tensor, names: Sequence[str]) -> None:
    """Write each region's name on the picture, at the middle of its mask; masks [R, H, W]."""
    for name, mask in zip(names, masks, strict=True):
        if (mask >= 0.5).any():
            label(image, centre(mask), wrapped(name))


def side_by_side(panels: Mapping[str, Image.Image], side: int = 192) -> Image.Image:
    """Pictures side by side, each under its title, `side` pixels wide and as high as it takes."""
    gap, head = 6, 4 + 15 * max(title.count("\n") + 1 for title in panels)
    heights = [side * panel.height // panel.width for panel in panels.values()]
    size = (len(panels) * (side + gap) + gap, max(heights) + head + gap)
    canvas = Image.new("RGB", size, "white")
    for i, (title, panel) in enumerate(panels.items()):
        left = gap + i * (side + gap)
        caption(canvas, (left, 2), title)
        # Token grids are enlarged and keep square tokens; larger pictures are made smaller.
        scaling = Image.Resampling.NEAREST if panel.width < side else Image.Resampling.LANCZOS
        canvas.paste(panel.resize((side, heights[i]), scaling), (left, head))
    return canvas


def sheet(rows: Mapping[str, Sequence[Image.Image | Tensor]], side: int = 128) -> Image.Image:
    """A contact sheet: a labeled row of pictures for each name, each `side` pixels square."""
    margin, gap = 20, 4
    longest = max(len(pictures) for pictures in rows.values())
    size = (gap + longest * (side + gap), len(rows) * (side + margin) + gap)
    canvas = Image.new("RGB", size, "white")
    for row, (name, pictures) in enumerate(rows.items()):
        top = row * (side + margin)
        caption(canvas, (gap, top + 3), name)
        for column, picture in enumerate(pictures):
            small = to_image(picture).resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(small, (gap + column * (side + gap), top + margin))
    return canvas


def wrapped(text: str, width: int = 16) -> str:
    """The text in lines of at most `width` characters; only a longer word exceeds it."""
    words = " ".join(text.split())
    return textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False)


def centre(mask: Tensor) -> tuple[float, float]:
    """The middle (x, y) of a mask [H, W], in pixels."""
    y, x = (mask >= 0.5).nonzero().float().mean(dim=0).tolist()  # nonzero: (pixels, 2)
    return x, y


def _shrunk(mask: Tensor, by: int) -> Tensor:
    """The mask [H, W] without a rim `by` pixels wide; beyond the picture nothing is inside."""
    outside = F.pad(1 - mask.float()[None], (by,) * 4, value=1.0)  # (1, H + 2 by, W + 2 by)
    return F.max_pool2d(outside, 2 * by + 1, stride=1)[0] < 0.5  # (H, W)
