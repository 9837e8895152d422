"""Walk through recorded attention by slider: timestep, block, head; one run, or two side by side.

Only core ipywidgets, and of those only what versions 7.7 and 8 share.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import torch
import traitlets
from IPython.display import display
from PIL import Image
from torch import Tensor

from densenb.attention_plots import share_inside
from densenb.charts import read_quadrants
from densenb.layout import Layout
from densenb.pictures import (
    AMOUNTS,
    caption,
    glow,
    heat,
    label,
    overlay,
    region_colour,
    side_by_side,
    to_image,
)
from densenb.records import Record

QUADRANTS = 252  # pixels a side of the quadrants' matrix
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
            pick(options=_numbered(names), value=0, description=name, layout=_wide())
            for name, names in zip(("step", "block"), self._names, strict=False)
        )
        mean = [("mean", MEAN)] if shape[2] > 1 else []
        options = [*mean, *_numbered(self._names[2])]
        self.head = pick(options=options, value=options[0][1], description="head", layout=_wide())
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


class SideBySide(Shown):
    """Walk through two recorded runs together, by the same step, block and head.

    Under each other: the maps of the chosen phrase, and all of attention in its four quadrants.
    Attributes: `walks[name]` (`StepBlockHead`; move the sliders of any, the others follow),
    `quadrants[name] [G, G]`, `image` (PIL) and `reading` of the quadrants. Taught in notebook 11.

    Args:
        records: two or more by name, e.g. "stock" and "dense", of one layout.
        pictures: likewise, as they came out.
        direction, number: as for `explore`.

    Raises ValueError for records of other steps, blocks, heads or groups.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        pictures: Mapping[str, Image.Image | Tensor] | None = None,
        direction: str = "image_text",
        number: int = 0,
    ) -> None:
        if len(records) < 2:
            raise ValueError(f"there are {len(records)} records, but two are compared: explore().")
        kinds = {(r.axes()[:1], *r.axes()[2:], r.groups) for r in records.values()}
        if len(kinds) > 1:
            raise ValueError(
                "the records differ in steps, blocks, pictures, heads or groups: record both with "
                "the same layout and arguments."
            )
        pictures = pictures or {}
        self.walks = {
            name: explore(record, pictures.get(name), direction, number)
            for name, record in records.items()
        }
        first, *others = self.walks.values()
        controls = ("what", "step", "block", "head")
        for other in others:
            for control in controls:
                pair = ((getattr(walk, control), "value") for walk in (first, other))
                traitlets.link(*pair)
        record = next(iter(records.values()))
        self._names = record.groups[0]
        self._sizes = record.sizes[0]
        self._mass = {n: r.tensor("mass")[:, :, number] for n, r in records.items()}
        self._shown, self._reading = ipywidgets.Image(format="png"), ipywidgets.HTML()
        rows = [
            ipywidgets.VBox(
                [ipywidgets.HTML(f"<b>{html.escape(name)}</b>"), *walk.box.children[1:]]
            )
            for name, walk in self.walks.items()
        ]
        self.box = ipywidgets.VBox([first.box.children[0], *rows, self._shown, self._reading])
        self._update()
        for control in controls[1:]:
            getattr(first, control).observe(self._update, names="value")

    def _update(self, change: Any = None) -> None:
        walk = next(iter(self.walks.values()))
        at = {name: mass[walk.step.value, walk.block.value] for name, mass in self._mass.items()}
        head = walk.head.value
        self.quadrants = {n: m.mean(dim=0) if head == MEAN else m[head] for n, m in at.items()}
        split = self._names.index("pixels: background") + 1
        self.image = quadrant_picture(self.quadrants, self._names, split)
        before, *_, after = self.quadrants.values()
        line = read_quadrants(before, after, self._names, split, self._sizes)
        self.reading = f"{', then '.join([*self.quadrants][:: len(self.quadrants) - 1])}: {line}"
        self._shown.value = png(self.image)
        self._reading.value = html.escape(self.reading)


def quadrant_picture(
    matrices: Mapping[str, Tensor], names: Sequence[str], split: int
) -> Image.Image:
    """Matrices [G, G], queries down and keys across, in percent; lines part image from text.

    names: of the G groups, of which the first `split` are image. NaN, a group without tokens, is a
    dash. As `plots.quadrants`, fast enough to follow a slider.
    """
    count, margin, gap = len(names), 190, 8
    cell = max(QUADRANTS // count, 14)
    side = cell * count
    high = max(float(matrix.nan_to_num(0).max()) for matrix in matrices.values())
    canvas = Image.new("RGB", (margin + len(matrices) * (side + gap), side + 38), "white")
    for row, name in enumerate(names):
        caption(canvas, (4, 38 + row * cell + cell // 2 - 7), f"{row + 1} {name:.26}")
    for i, (title, matrix) in enumerate(matrices.items()):
        left = margin + i * (side + gap)
        caption(canvas, (left, 2), f"{title}: queries down, keys across, %")
        panel = heat(matrix.nan_to_num(0), 0, high).resize((side, side), Image.Resampling.NEAREST)
        for row in range(count):
            place = left + row * cell + cell // 2, 28
            label(canvas, place, str(row + 1))
            for column in range(count):
                value = matrix[row, column]
                text = "-" if value.isnan() else f"{100 * value:.0f}"
                if cell >= 24:
                    label(panel, ((column + 0.5) * cell, (row + 0.5) * cell), text)
        for box in ((0, split * cell - 1, side, 2), (split * cell - 1, 0, 2, side)):
            panel.paste("white", (box[0], box[1], box[0] + box[2], box[1] + box[3]))
        canvas.paste(panel, (left, 38))
    return canvas


# ------------------------------------------------------------------------------------- small parts
def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, i) for i, name in enumerate(names)]


def _wide() -> ipywidgets.Layout:
    """Room for "27 (sigma 0.03)" at the slider's right."""
    return ipywidgets.Layout(width="420px", max_width="100%")


def png(image: Image.Image) -> bytes:
    """The file, as widgets take it."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)  # three times as fast, a little larger
    return file.getvalue()
