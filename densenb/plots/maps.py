"""Attention as maps over the picture, and a line of text that reads the same maps.

Figures take tensors and names, never a model. Import them from `plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from densenb.plots.pictures import AMOUNTS, to_image, wrapped

MOST = 12  # maps side by side; with more of them, none can be read on a page


def attention_strip(
    maps: Tensor | Mapping[str, Tensor],
    titles: Sequence[str],
    picture: Image.Image | Tensor | None = None,
    label: str = "attention",
) -> Figure:
    """How attention moves over the picture, e.g. from timestep to timestep.

    Args:
        maps: [S, rows, columns], or one such tensor by name for each row of the figure. All maps of
            a row share one scale.
        titles: S of them, e.g. the timesteps.
        picture: drawn before each row.
        label: what the maps measure.

    Raises ValueError for other shapes, and for more maps than fit on a page. Taught in notebook 02.
    """
    rows = _rows(maps, titles)
    first = 0 if picture is None else 1
    across = len(titles) + first
    side = min(7.2 / across, 2.0)
    size = (across * side + 0.8, len(rows) * (side + 0.12) + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), across, squeeze=False)
    for axis_row, (name, strip) in zip(axes, rows.items(), strict=True):
        if picture is not None:
            axis_row[0].imshow(to_image(picture))
        for axis, values in zip(axis_row[first:], strip, strict=True):
            drawn = axis.imshow(
                values.numpy(), AMOUNTS, vmin=0, vmax=strip.max(), interpolation="nearest"
            )
        for axis in axis_row:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axis_row[0].set_ylabel(wrapped(name, 12), fontsize=7)
        bar = figure.colorbar(drawn, ax=list(axis_row), pad=0.01, aspect=12, fraction=0.05)
        bar.ax.tick_params(labelsize=6)
        bar.set_label(label, fontsize=7)
    for axis, title in zip(axes[0, first:], titles, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def read_strip(maps: Tensor | Mapping[str, Tensor], titles: Sequence[str]) -> str:
    """The strip in a line: the share of the best tenth of the tokens, in the first and last map."""
    parts = []
    for name, strip in _rows(maps, titles).items():
        values = strip.flatten(1)  # (S, rows * columns)
        best = values.topk(max(1, values.shape[1] // 10)).values  # (S, a tenth of them)
        share = best.sum(1) / values.sum(1).clamp(min=1e-12)  # (S,)
        parts.append(
            f"{name + ': ' if name else ''}{share[0]:.0%} at {titles[0]}, "
            f"{share[-1]:.0%} at {titles[-1]} on the best tenth of the tokens"
        )
    return "; ".join(parts) + "."


def share_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """The share of each map that lies in a mask: [..., rows, columns], [rows, columns] -> [...]."""
    return (maps * mask).sum((-2, -1)) / maps.sum((-2, -1)).clamp(min=1e-12)


def _rows(maps: Tensor | Mapping[str, Tensor], titles: Sequence[str]) -> dict[str, Tensor]:
    """The maps by name, each [S, rows, columns]; ValueError for another shape."""
    if len(titles) > MOST:
        every = -(-len(titles) // MOST)
        raise ValueError(
            f"{len(titles)} maps are too many for one strip, which can show {MOST}: give fewer, "
            f"e.g. maps[::{every}] and titles[::{every}]."
        )
    named = maps if isinstance(maps, Mapping) else {"": maps}
    rows = {name: torch.as_tensor(strip).detach().float().cpu() for name, strip in named.items()}
    for strip in rows.values():
        if strip.ndim != 3 or len(strip) != len(titles):
            raise ValueError(
                f"maps have shape {list(strip.shape)}, but there are {len(titles)} titles: give "
                f"[{len(titles)}, rows, columns]."
            )
    return rows
