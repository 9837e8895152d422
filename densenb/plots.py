"""One palette and one style for every figure: masks over pictures, before and after, sheets.

Figures are returned, never shown, and do not touch pyplot: they work on machines without a display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from densenb.layout import TOKEN_PIXELS, Layout

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
"""Region colours, told apart by colour-blind readers too (Okabe & Ito 2008); they repeat."""


def region_colour(index: int) -> str:
    """The palette's colour of a region, as "#rrggbb"."""
    return PALETTE[index % len(PALETTE)]


def to_image(picture: Image.Image | Tensor) -> Image.Image:
    """A picture [3, H, W] in [0, 1] (or one that is an image already) as an RGB image."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


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


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _shrunk(mask: Tensor, by: int) -> Tensor:
    """The mask without a rim `by` pixels wide; outside of the picture counts as outside."""
    outside = F.pad(1 - mask.float()[None], (by,) * 4, value=1.0)
    return F.max_pool2d(outside, 2 * by + 1, stride=1)[0] < 0.5


def before_after(
    stock: Sequence[Image.Image],
    dense: Sequence[Image.Image],
    layout: Layout,
    title: str,
    footer: str,
) -> Figure:
    """The layout, the stock picture and the steered one side by side, a row for each seed.

    Args:
        stock, dense: equally many pictures of one size, the same seeds in the same order.
        layout: its masks are drawn on all pictures, its phrases named in their colours.
        title: usually the caption; wrapped.
        footer: what made the pictures: model, size, steps, seeds, settings.
    """
    rows = len(stock)
    figure = Figure(figsize=(6.4, 2.15 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    width, height = stock[0].size
    masks = layout.pixel_masks(height, width)
    for row, pictures in enumerate(zip(stock, dense, strict=True)):
        name_regions(axes[row, 0], layout, masks)
        for axis, picture in zip(axes[row, 1:], pictures, strict=True):
            show(axis, overlay(picture, masks))
    for axis, head in zip(axes[0], ("layout", "stock", "dense"), strict=True):
        axis.set_title(head, fontsize=11)
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.supxlabel(footer, fontsize=8, color="#555555")
    return figure


def show(axis: Axes, image: Image.Image) -> None:
    """A picture without ticks or frame."""
    axis.imshow(image)
    axis.set_axis_off()


def name_regions(axis: Axes, layout: Layout, masks: Tensor) -> None:
    """The regions as filled shapes, each with its phrase; the background's phrase at the bottom."""
    height, width = masks.shape[-2:]
    show(axis, overlay(torch.full((3, height, width), 0.94), masks, fill=0.5))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for region, mask in zip(layout.regions, masks >= 0.5, strict=True):
        if mask.any():
            centre = x[mask].float().mean().item(), y[mask].float().mean().item()
            axis.text(*centre, _wrapped(region.phrase), ha="center", va="center", fontsize=7)
    if layout.background is not None:
        place = width / 2, height * 0.98
        axis.text(*place, _wrapped(layout.background, 36), ha="center", va="bottom", fontsize=7)


def _wrapped(text: str, width: int = 16) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def token_grid(layout: Layout, rows: int, columns: int) -> Figure:
    """The regions as asked for, and as the model sees them on its grid of image tokens."""
    height, width = TOKEN_PIXELS * rows, TOKEN_PIXELS * columns
    figure = Figure(figsize=(7, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    name_regions(left, layout, layout.pixel_masks(height, width))
    left.set_title("regions", fontsize=10)
    tokens = layout.token_masks(rows, columns).float()
    tokens = tokens.repeat_interleave(TOKEN_PIXELS, 1).repeat_interleave(TOKEN_PIXELS, 2)
    name_regions(right, layout, tokens)
    right.set_title(f"{rows} x {columns} image tokens", fontsize=10)
    figure.suptitle(layout.text, fontsize=10, wrap=True)
    return figure


def sheet(rows: Mapping[str, Sequence[Image.Image | Tensor]], side: int = 128) -> Image.Image:
    """A contact sheet: one labelled row of pictures for each name, `side` pixels a picture."""
    margin, gap = 20, 4
    longest = max(len(pictures) for pictures in rows.values())
    size = (gap + longest * (side + gap), len(rows) * (side + margin) + gap)
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for row, (name, pictures) in enumerate(rows.items()):
        top = row * (side + margin)
        pen.text((gap, top + 3), name, fill="black", font=font)
        for column, picture in enumerate(pictures):
            small = to_image(picture).resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(small, (gap + column * (side + gap), top + margin))
    return canvas
