"""Attention as maps over the picture; each figure has a companion that reads it in one line.

Figures take tensors and names, never a model. A name that is a phrase of the layout gets its
region's colour and outline. `plots` has all of them at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from densenb.layout import TOKEN_PIXELS, Layout
from densenb.pictures import AMOUNTS, BACKGROUND, glow, region_colour, to_image, wrapped

MOST = 12  # maps side by side: more cannot be told apart on a page


# --------------------------------------------------------------------------- maps over the picture
def attention_strip(
    maps: Tensor | Mapping[str, Tensor],
    titles: Sequence[str],
    layout: Layout | None = None,
    picture: Image.Image | Tensor | None = None,
    label: str = "attention",
) -> Figure:
    """How attention moves over the picture, e.g. from timestep to timestep.

    Args:
        maps: [S, rows, columns], or a row of the figure for each name. A row has one scale.
        titles: S of them, e.g. the timesteps.
        layout: outlines the region of each row whose name is one of its phrases.
        picture: stands before each row.
        label: what the maps measure.

    Raises ValueError for other shapes, and for more maps than can be told apart. Taught in
    notebook 02.
    """
    rows = _rows(maps, titles)
    first = 0 if picture is None else 1
    across = len(titles) + first
    side = min(7.2 / across, 2.0)
    size = (across * side + 0.8, len(rows) * (side + 0.12) + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), across, squeeze=False)
    for axis_row, (name, strip) in zip(axes, rows.items(), strict=True):
        index = phrase_index(layout, name)
        grid = strip.shape[1:]
        extent = (0, grid[1] * TOKEN_PIXELS, grid[0] * TOKEN_PIXELS, 0)
        if picture is not None:
            axis_row[0].imshow(to_image(picture), extent=extent)
        for axis, values in zip(axis_row[first:], strip, strict=True):
            drawn = axis.imshow(
                values.numpy(),
                AMOUNTS,
                vmin=0,
                vmax=strip.max(),
                extent=extent,
                interpolation="nearest",
            )
        for axis in axis_row:
            _bare(axis)
            if index is not None:
                _outline(axis, layout, index, grid, extent)
        axis_row[0].set_ylabel(wrapped(name, 12), fontsize=7)
        bar = figure.colorbar(drawn, ax=list(axis_row), pad=0.01, aspect=12, fraction=0.05)
        bar.ax.tick_params(labelsize=6)
        bar.set_label(label, fontsize=7)
    for axis, title in zip(axes[0, first:], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def read_strip(
    maps: Tensor | Mapping[str, Tensor], titles: Sequence[str], layout: Layout | None = None
) -> str:
    """The strip in a line: of each row, from first to last, the share that lies in its region.

    Rows of no region: how much of the attention the best tenth of the tokens gets.
    """
    parts = []
    for name, strip in _rows(maps, titles).items():
        index = phrase_index(layout, name)
        if index is None:
            tenth = max(1, strip[0].numel() // 10)
            best = strip.flatten(1).sort(descending=True).values[:, :tenth]
            share = best.sum(1) / strip.sum((1, 2)).clamp(min=1e-12)
            what = "on the best tenth of the tokens"
        else:
            mask = _mask(layout, index, strip.shape[1:])
            share = share_inside(strip, mask)
            what = f"in its region ({mask.float().mean():.0%} of the picture)"
        parts.append(
            f"{name + ': ' if name else ''}{share[0]:.0%} at {titles[0]}, "
            f"{share[-1]:.0%} at {titles[-1]} {what}"
        )
    return "; ".join(parts) + "."


def phrase_overlay(
    picture: Image.Image | Tensor, maps: Tensor, layout: Layout, label: str = "attention"
) -> Figure:
    """Where the picture attends to each phrase: a panel a phrase, glowing in its region's colour.

    maps [P, rows, columns], P = len(layout.phrases); every panel has its own scale. Outlines are
    the regions. Taught in notebook 02.
    """
    maps = _maps(maps, len(layout.phrases), "phrases in the layout")
    across = len(maps) + 1
    side = min(8 / across, 2.6)
    figure = Figure(figsize=(across * side, side + 0.55), layout="constrained")
    first, *axes = figure.subplots(1, across)
    picture = to_image(picture)
    extent = (0, picture.width, picture.height, 0)
    first.imshow(picture, extent=extent)
    first.set_title("picture", fontsize=9)
    for i, (axis, values) in enumerate(zip(axes, maps, strict=True)):
        axis.imshow(glow(picture, values, phrase_colour(layout, i)), extent=extent)
        _outline(axis, layout, i, values.shape, extent)
        axis.set_title(wrapped(layout.phrases[i], 22), fontsize=9)
    for axis in (first, *axes):
        _bare(axis)
    scale = "from the panel's own minimum (no colour) to its maximum (full colour)"
    figure.supxlabel(f"{label}, {scale}", fontsize=7)
    return figure


def read_phrases(maps: Tensor, layout: Layout) -> str:
    """The overlay in a line: of each phrase, the share that lies in its region, and its area."""
    maps = _maps(maps, len(layout.phrases), "phrases in the layout")
    parts = []
    for i, phrase in enumerate(layout.phrases):
        mask = _mask(layout, i, maps.shape[1:])
        share, area = share_inside(maps[i], mask), mask.float().mean()
        parts.append(f"{phrase}: {share:.0%} in its region ({area:.0%} of the picture)")
    return "; ".join(parts) + "."


def share_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Which share of a map lies in a mask: [..., rows, columns] and [rows, columns] -> [...]."""
    return (maps * mask).sum((-2, -1)) / maps.sum((-2, -1)).clamp(min=1e-12)


# ------------------------------------------------------------------------------------- small parts
def phrase_index(layout: Layout | None, name: str) -> int | None:
    """Which phrase of the layout is called so, if any."""
    return layout.phrases.index(name) if layout is not None and name in layout.phrases else None


def phrase_colour(layout: Layout, index: int) -> str:
    """A region's colour; dark grey for the background's phrase, the last one."""
    return region_colour(index) if index < len(layout.regions) else BACKGROUND


def _mask(layout: Layout, index: int, grid: Sequence[int]) -> Tensor:
    """A phrase's place on a grid of tokens; the last phrase may be the background's."""
    masks = layout.token_masks(*grid)
    return masks[index] if index < len(masks) else ~masks.any(dim=0)


def _outline(
    axis: Axes, layout: Layout, index: int, grid: Sequence[int], extent: tuple[float, ...]
) -> None:
    """The edge of a phrase's place in its colour, along the sides of its tokens, in a white rim."""
    padded = torch.zeros(grid[0] + 2, grid[1] + 2)
    padded[1:-1, 1:-1] = _mask(layout, index, grid)
    upright = [((x, y), (x, y + 1)) for y, x in padded[1:-1].diff(dim=1).nonzero().tolist()]
    level = [((x, y), (x + 1, y)) for y, x in padded[:, 1:-1].diff(dim=0).nonzero().tolist()]
    scale = torch.tensor([extent[1] / grid[1], extent[2] / grid[0]])
    sides = torch.tensor(upright + level).reshape(-1, 2, 2)  # none for a phrase without a place
    edges = (sides * scale).numpy()
    side = axis.get_position().width * axis.figure.get_figwidth()  # inches
    line = min(0.8 + 0.5 * side, 1.8)
    for width, colour in ((1.8 * line, "white"), (line, phrase_colour(layout, index))):
        rim = LineCollection(edges, colors=colour, linewidths=width, clip_on=False)
        axis.add_collection(rim)


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


# ------------------------------------------------------------------------------------------ checks
def _maps(maps: Tensor, count: int, what: str) -> Tensor:
    maps = torch.as_tensor(maps).detach().float().cpu()
    if maps.ndim != 3 or len(maps) != count:
        raise ValueError(
            f"maps have shape {list(maps.shape)}, but there are {count} {what}: give "
            f"[{count}, rows, columns]."
        )
    return maps


def _rows(maps: Tensor | Mapping[str, Tensor], titles: Sequence[str]) -> dict[str, Tensor]:
    if len(titles) > MOST:
        every = -(-len(titles) // MOST)
        raise ValueError(
            f"{len(titles)} maps are too many for one strip, which can show {MOST}: give fewer, "
            f"e.g. maps[::{every}] and titles[::{every}]."
        )
    named = maps if isinstance(maps, Mapping) else {"": maps}
    return {name: _maps(strip, len(titles), "titles") for name, strip in named.items()}
