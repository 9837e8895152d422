"""Pictures without a plotting library: regions over pictures, maps as colours, rows and sheets.

One palette for everything: a region has the same colour in sliders, overlays and plots. Fast enough
to be drawn anew at every move of a slider; figures with axes are in `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
"""Region colours, told apart by colour-blind readers too (Okabe & Ito 2008); they repeat."""
AMOUNTS = "cividis"
"""The colour map of what is 0 or more: dark is little, bright is much."""
DIFFERENCES = "PuOr_r"
"""The colour map of what has a sign: purple is less, white nothing, orange more."""
BACKGROUND = "#444444"
"""The colour of the background's phrase, where it has one of its own."""
BARE = "#999999"
"""Where nothing was measured: always hatched."""


def region_colour(index: int) -> str:
    """The palette's colour of a region, as "#rrggbb"."""
    return PALETTE[index % len(PALETTE)]


def to_image(picture: Image.Image | Tensor) -> Image.Image:
    """A picture [3, H, W] in [0, 1] (or one that is an image already) as an RGB image."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


# ------------------------------------------------------------------------------ regions and maps
def overlay(
    image: Image.Image | Tensor, masks: Tensor, fill: float = 0.0, line: int = 2
) -> Image.Image:
    """The picture with the outline of each mask drawn, in the region's colour.

    Args:
        image: PIL, or [3, H, W] in [0, 1].
        masks: [R, H, W] in [0, 1], on the picture's own pixels (`layout.pixel_masks`).
        fill: opacity of the region's colour inside the mask.
        line: width of the outline in pixels; a white line as wide runs along its inside.
    """
    canvas = np.asarray(to_image(image)).astype(np.float32)
    if masks.shape[-2:] != canvas.shape[:2]:
        raise ValueError(
            f"masks are {tuple(masks.shape[-2:])}, the picture {canvas.shape[:2]}: "
            "draw them at its size with layout.pixel_masks(height, width)."
        )
    for index, mask in enumerate(masks >= 0.5):
        colour = np.array(_rgb(region_colour(index)), dtype=np.float32)
        canvas[mask] += fill * (colour - canvas[mask])
        inside = _shrunk(mask, line)
        canvas[inside & ~_shrunk(inside, line)] = 255
        canvas[mask & ~inside] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def heat(values: Tensor, low: float, high: float, colours: str = AMOUNTS) -> Image.Image:
    """A map [rows, columns] as colours, one pixel a value; those beyond the limits are cut."""
    scaled = (values.detach().float().cpu() - low) / max(high - low, 1e-12)
    painted = matplotlib.colormaps[colours](scaled.clamp(0, 1).numpy(), bytes=True)
    return Image.fromarray(painted[..., :3].copy())


def glow(picture: Image.Image | Tensor, values: Tensor, colour: str) -> Image.Image:
    """The picture faded to grey under a map [rows, columns]: from its minimum on, more colour."""
    faded = to_image(picture).convert("L").convert("RGB")
    faded = Image.blend(faded, Image.new("RGB", faded.size, "white"), 0.45)
    share = values.detach().float().cpu()
    share = (share - share.min()) / (share.max() - share.min()).clamp(min=1e-12)
    share = (share * 255).round().byte().numpy()
    opacity = Image.fromarray(share).resize(faded.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", faded.size, colour), faded, opacity)


# --------------------------------------------------------------------------- words, rows, sheets
def label(image: Image.Image, place: tuple[float, float], text: str, size: int = 12) -> None:
    """Write on the picture itself, centred at `place` (x, y) in pixels, black in a white rim."""
    pen = ImageDraw.Draw(image)
    pen.multiline_text(
        place, text, fill="black", font=_font(size), anchor="mm", align="center",
        stroke_width=2, stroke_fill="white",
    )  # fmt: skip


def caption(image: Image.Image, place: tuple[float, float], text: str, size: int = 12) -> None:
    """Write beside pictures, in black, from the upper left corner `place` (x, y) on."""
    ImageDraw.Draw(image).multiline_text(place, text, fill="black", font=_font(size))


def label_regions(image: Image.Image, masks: Tensor, names: Sequence[str], size: int = 12) -> None:
    """Write each region's name on the picture itself, at the middle of its mask [R, H, W]."""
    for name, mask in zip(names, masks, strict=True):
        if (mask >= 0.5).any():
            label(image, centre(mask), wrapped(name), size)


def side_by_side(panels: Mapping[str, Image.Image], side: int = 192) -> Image.Image:
    """Pictures side by side, each under its title, `side` pixels wide and in their own shape."""
    gap, head = 6, 4 + 15 * max(title.count("\n") + 1 for title in panels)
    heights = [side * panel.height // panel.width for panel in panels.values()]
    size = (len(panels) * (side + gap) + gap, max(heights) + head + gap)
    canvas = Image.new("RGB", size, "white")
    for i, (title, panel) in enumerate(panels.items()):
        left = gap + i * (side + gap)
        caption(canvas, (left, 2), title)
        # Enlarged tokens stay squares; pictures are only ever made smaller.
        filters = Image.Resampling
        scaling = filters.NEAREST if panel.width < side else filters.LANCZOS
        canvas.paste(panel.resize((side, heights[i]), scaling), (left, head))
    return canvas


def sheet(rows: Mapping[str, Sequence[Image.Image | Tensor]], side: int = 128) -> Image.Image:
    """A contact sheet: one labelled row of pictures for each name, `side` pixels a picture."""
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
    """The text in lines of about `width` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def centre(mask: Tensor) -> tuple[float, float]:
    """The middle (x, y) of a mask [H, W], in pixels."""
    y, x = (mask >= 0.5).nonzero().float().mean(dim=0).tolist()
    return x, y


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _shrunk(mask: Tensor, by: int) -> Tensor:
    """The mask without a rim `by` pixels wide; outside of the picture counts as outside."""
    outside = F.pad(1 - mask.float()[None], (by,) * 4, value=1.0)
    return F.max_pool2d(outside, 2 * by + 1, stride=1)[0] < 0.5
