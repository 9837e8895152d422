"""Walk through recorded attention by slider: timestep, block, head.

Only core ipywidgets, and of those only what versions 7.7 and 8 share.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import torch
from IPython.display import display
from PIL import Image
from torch import Tensor

from densenb.attention_plots import share_inside
from densenb.layout import Layout
from densenb.pictures import AMOUNTS, glow, heat, overlay, region_colour, side_by_side, to_image
from densenb.records import Record

MEAN = -1  # in place of a head's number: widgets take None for "nothing chosen"


class Shown:
    """An object that a notebook shows as the widgets in its `box`."""

    box: ipywidgets.Widget

    def _ipython_display_(self) -> None:
        display(self.box)


class StepBlockHead(Shown):
    """Walk through recorded maps by step, block and head.

    Attributes: `step`, `block`, `head`, `what` (sliders; `head.value` -1 is the mean of all),
    `values [rows, columns]`, `image` (PIL) and `reading` (one line) of what they say now. Taught in
    notebook 02.

    Args:
        maps: [S, L, H, rows, columns], or several of them by name.
        steps, blocks, heads: names of the S, L and H; by default their numbers.
        layout: outlines the region of a name that is one of its phrases.
        picture: stands beside the map, and under it.

    Raises ValueError for maps of another shape.
    """

    def __init__(
        self,
        maps: Tensor | Mapping[str, Tensor],
        steps: Sequence[object] | None = None,
        blocks: Sequence[object] | None = None,
        heads: Sequence[object] | None = None,
        layout: Layout | None = None,
        picture: Image.Image | Tensor | None = None,
    ) -> None:
        named = maps if isinstance(maps, Mapping) else {"attention": maps}
        self._maps = {name: torch.as_tensor(value) for name, value in named.items()}
        shape = next(iter(self._maps.values())).shape
        for name, value in self._maps.items():
            if value.ndim != 5 or value.shape != shape:
                raise ValueError(
                    f"{name!r} has shape {list(value.shape)}: give [steps, blocks, heads, rows, "
                    "columns], the same for each name."
                )
        self._layout, self._picture = layout, picture
        self._names = []
        for given, count, what in zip(
            (steps, blocks, heads), shape[:3], ("steps", "blocks", "heads"), strict=True
        ):
            names = [str(name) for name in (range(count) if given is None else given)]
            if len(names) != count:
                raise ValueError(f"{len(names)} names for {count} {what}: give one for each.")
            self._names.append(names)
        pick = ipywidgets.SelectionSlider
        self.step, self.block = (
            pick(options=_numbered(names), value=0, description=name)
            for name, names in zip(("step", "block"), self._names, strict=False)
        )
        mean = [("mean", MEAN)] if shape[2] > 1 else []
        options = [*mean, *_numbered(self._names[2])]
        self.head = pick(options=options, value=options[0][1], description="head")
        self.what = ipywidgets.Dropdown(options=list(self._maps), description="of")
        self._shown, self._reading = ipywidgets.Image(format="png"), ipywidgets.HTML()
        controls = (self.what, self.step, self.block, self.head)
        self.box = ipywidgets.VBox([ipywidgets.VBox(controls), self._shown, self._reading])
        self._update()
        for control in controls:
            control.observe(self._update, names="value")

    def _update(self, change: Any = None) -> None:
        name, step, block, head = (
            control.value for control in (self.what, self.step, self.block, self.head)
        )
        values = self._maps[name][step, block].float()
        self.values = values.mean(dim=0) if head == MEAN else values[head]
        self.image, self.reading = self._drawing(name), self._line(name)
        self._shown.value = png(self.image)
        self._reading.value = html.escape(self.reading)

    def _index(self, name: str) -> int | None:
        """Which region is called so, if any."""
        names = [] if self._layout is None else [r.phrase for r in self._layout.regions]
        return names.index(name) if name in names else None

    def _drawing(self, name: str) -> Image.Image:
        rows, columns = self.values.shape
        known = self.values.nan_to_num(0)
        zoom = max(1, 256 // columns)
        size = (columns * zoom, rows * zoom)
        colours = heat(known, 0, float(known.max()), AMOUNTS)
        panels = {f"{name}\n0 to {known.max():.3g}": colours.resize(size, Image.Resampling.NEAREST)}
        index = self._index(name)
        if self._picture is not None:
            picture = to_image(self._picture).resize(size, Image.Resampling.LANCZOS)
            panels["where, over the picture"] = glow(picture, known, region_colour(index or 0))
            panels["picture"] = picture
        if index is not None:
            masks = self._layout.pixel_masks(size[1], size[0])
            masks[[i for i in range(len(masks)) if i != index]] = 0
            panels = {title: overlay(panel, masks, line=1) for title, panel in panels.items()}
        return side_by_side(panels, side=256)

    def _line(self, name: str) -> str:
        steps, blocks, heads = self._names
        head = "mean of the heads" if self.head.value == MEAN else f"head {heads[self.head.value]}"
        where = f"{name}, step {steps[self.step.value]}, block {blocks[self.block.value]}, {head}"
        values, index = self.values.nan_to_num(0), self._index(name)
        if index is None:
            row, column = divmod(int(values.argmax()), values.shape[1])
            return f"{where}: highest {values.max():.3g} (row {row}, column {column})."
        mask = self._layout.token_masks(*values.shape)[index]
        share, area = share_inside(values, mask), mask.float().mean()
        return f"{where}: {share:.0%} in its region ({area:.0%} of the picture)."


def explore(
    record: Record,
    picture: Image.Image | Tensor | None = None,
    direction: str = "image_text",
    number: int = 0,
) -> StepBlockHead:
    """The recorded maps of every phrase, by step, block and head; `number` is the picture's.

    `record` is what `record_attention` gives; direction "image_text" (how much each image token
    looks at the phrase) or "text_image". Taught in notebook 02.
    """
    axes = record.axes()
    if number not in range(len(axes.pictures)):
        raise ValueError(f"number is {number!r}, but 0 to {len(axes.pictures) - 1} were recorded.")
    _, row = axes.pictures[number]
    layout = record.layouts[
        next(entry.layout for entry in record.entries if entry.conditional and entry.picture == row)
    ]
    maps = record.tensor(direction)[:, :, number]  # [S, L, K, P, rows, columns]
    places = [*range(len(layout.regions)), -1]  # the background's phrase is the last
    return StepBlockHead(
        {phrase: maps[..., i, :, :] for i, phrase in zip(places, layout.phrases, strict=False)},
        [
            f"{step} (sigma {sigma:.2f})"
            for step, sigma in zip(axes.steps, axes.sigmas, strict=True)
        ],
        axes.blocks,
        axes.heads,
        layout,
        picture,
    )


# ------------------------------------------------------------------------------------- small parts
def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, i) for i, name in enumerate(names)]


def png(image: Image.Image) -> bytes:
    """The file, as widgets take it."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)  # three times as fast, a little larger
    return file.getvalue()
