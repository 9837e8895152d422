"""Figures of a layout: before and after, its masks, its token grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from densenb.layout.layout import LATENT_PIXELS, TOKEN_PIXELS, Layout, cover
from densenb.plots.pictures import (
    centre,
    overlay,
    region_colour,
    wrapped,
)


def before_after(
    stock: Sequence[Image.Image],
    dense: Sequence[Image.Image],
    layout: Layout,
    title: str,
    footer: str,
) -> Figure:
    """The layout, the stock picture and the steered one side by side, one row per seed.

    Args:
        stock, dense: pictures of one size, with the same seeds in the same order.
        layout: its regions are outlined on all pictures.
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
    """Draw a picture without ticks or frame."""
    axis.imshow(image)
    axis.set_axis_off()


def name_regions(axis: Axes, layout: Layout, masks: Tensor) -> None:
    """Draw regions as filled shapes with their phrases; the background's phrase is at the bottom.

    masks: [R, H, W], the layout's.
    """
    height, width = masks.shape[-2:]
    show(axis, overlay(torch.full((3, height, width), 0.94), masks, fill=0.5))
    for region, mask in zip(layout.regions, masks, strict=True):
        if (mask >= 0.5).any():
            axis.text(*centre(mask), wrapped(region.phrase), ha="center", va="center", fontsize=7)
    if layout.background is not None:
        place = width / 2, height * 0.98
        axis.text(*place, wrapped(layout.background, 36), ha="center", va="bottom", fontsize=7)


def token_grid(layout: Layout, rows: int, columns: int) -> Figure:
    """The regions as given, and as the model sees them on its grid of image tokens."""
    height, width = TOKEN_PIXELS * rows, TOKEN_PIXELS * columns
    figure = Figure(figsize=(7, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    name_regions(left, layout, layout.pixel_masks(height, width))
    left.set_title("regions", fontsize=10)
    tokens = layout.token_masks(rows, columns).float()  # (R, rows, columns)
    tokens = tokens.repeat_interleave(TOKEN_PIXELS, 1).repeat_interleave(TOKEN_PIXELS, 2)  # (R,H,W)
    name_regions(right, layout, tokens)
    right.set_title(f"{rows} x {columns} image tokens", fontsize=10)
    figure.suptitle(layout.text, fontsize=10, wrap=True)
    return figure


def mask_grids(layout: Layout, height: int, width: int) -> Figure:
    """The regions on their way to the model: on pixels, on latents and on image tokens.

    The more of a latent is covered, the deeper its color; a token is inside or outside. The
    outlines are those of the pixels. `height` and `width` are the picture's, multiples of
    `TOKEN_PIXELS`.
    """
    pixels = layout.pixel_masks(height, width)
    tokens = layout.token_masks(height // TOKEN_PIXELS, width // TOKEN_PIXELS).float()
    steps = {1: pixels, LATENT_PIXELS: cover(pixels, LATENT_PIXELS), TOKEN_PIXELS: tokens}
    figure = Figure(figsize=(8, 0.3 + 2.6 * height / width), layout="constrained")
    for axis, (side, masks), name in zip(
        figure.subplots(1, 3), steps.items(), ("pixels", "latents", "image tokens"), strict=True
    ):
        canvas = torch.full((3, *masks.shape[-2:]), 0.94)  # (3, rows, columns), light gray
        for index, mask in enumerate(masks):
            colour = torch.tensor(to_rgb(region_colour(index)))[:, None, None]  # (3, 1, 1)
            canvas = torch.lerp(canvas, colour.expand_as(canvas), 0.75 * mask)
        axis.imshow(
            canvas.permute(1, 2, 0).numpy(), extent=(0, width, height, 0), interpolation="nearest"
        )
        for index, mask in enumerate(pixels):
            axis.contour(mask.numpy(), [0.5], colors=[region_colour(index)], linewidths=1)
        if side > 1:
            axis.vlines(range(side, width, side), 0, height, color="white", linewidth=0.3)
            axis.hlines(range(side, height, side), 0, width, color="white", linewidth=0.3)
        axis.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
        axis.set_title(f"{masks.shape[1]} x {masks.shape[2]} {name}", fontsize=9)
    return figure
