"""Explore recorded attention by slider: timestep, block and head, for one run or two side by side.

Everything is built from core ipywidgets, from what versions 7.7 and 8 share.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ipywidgets
import torch
import traitlets
from IPython.display import display
from PIL import Image
from torch import Tensor

from densenb.plots.charts import read_quadrants
from densenb.plots.maps import share_inside
from densenb.plots.pictures import (
    caption,
    glow,
    heat,
    label,
    overlay,
    region_colour,
    side_by_side,
    to_image,
)
from densenb.recording.record import Record

QUADRANTS = 252  # pixels per side of the quadrants' matrix
BACKGROUND = -1  # its phrase is the last, after those of the regions
MEAN = -1  # stands for the mean of all heads: for a widget, None means that nothing is chosen


class Shown:
    """An object that a notebook displays as the widgets in its `box`."""

    box: ipywidgets.Widget

    def _ipython_display_(self) -> None:
        display(self.box)


class StepBlockHead(Shown):
    """Explore the recorded maps of every phrase by step, block and head.

    The controls are `what` (the phrase), `step`, `block` and `head` (a value of -1 is the mean of
    all heads). `values [rows, columns]`, `image` (PIL) and `reading` (one line of text) show the
    map that is chosen. Taught in notebook 02.

    Args:
        record: from `record_attention`.
        picture: shown beside the map, and under it.
        direction: "image_text" (how much each image token attends to the phrase) or "text_image".
        number: which of the recorded pictures to explore.

    Raises ValueError for a number that was not recorded.
    """

    def __init__(
        self,
        record: Record,
        picture: Image.Image | Tensor | None = None,
        direction: str = "image_text",
        number: int = 0,
    ) -> None:
        axes = record.axes()
        if number not in range(len(axes.pictures)):
            raise ValueError(
                f"number is {number!r}, but 0 to {len(axes.pictures) - 1} were recorded."
            )
        _, row = axes.pictures[number]
        layout = next(e.layout for e in record.entries if e.conditional and e.picture == row)
        self._layout, self._picture = record.layouts[layout], picture
        self._maps = record.tensor(direction)[:, :, number]  # (S, L, K, P, rows, columns)
        places = [*range(len(self._layout.regions)), BACKGROUND]
        self._places = dict(zip(self._layout.phrases, places, strict=False))
        steps = zip(axes.steps, axes.sigmas, strict=True)
        self.step, self.block, self.head = (
            ipywidgets.SelectionSlider(
                options=options,
                description=name,
                layout={"width": "420px", "max_width": "100%"},  # fits "27 (sigma 0.03)"
            )
            for name, options in (
                ("step", _numbered(f"{step} (sigma {sigma:.2f})" for step, sigma in steps)),
                ("block", _numbered(axes.blocks)),
                ("head", [("mean", MEAN)] * (len(axes.heads) > 1) + _numbered(axes.heads)),
            )
        )
        self.what = ipywidgets.Dropdown(options=list(self._places), description="of")
        self._shown, self._reading = ipywidgets.Image(format="png"), ipywidgets.HTML()
        controls = (self.what, self.step, self.block, self.head)
        self.box = ipywidgets.VBox([ipywidgets.VBox(controls), self._shown, self._reading])
        self._update()
        for control in controls:
            control.observe(self._update, names="value")

    def _update(self, change: Any = None) -> None:
        name, head = self.what.value, self.head.value
        place = self._places[name]
        values = self._maps[self.step.value, self.block.value, :, place]  # (K, rows, columns)
        self.values = values.mean(dim=0) if head == MEAN else values[head]  # (rows, columns)
        self.image, self.reading = self._drawing(name, place), self._line(name, place)
        self._shown.value = png(self.image)
        self._reading.value = html.escape(self.reading)

    def _drawing(self, name: str, place: int) -> Image.Image:
        rows, columns = self.values.shape
        known = self.values.nan_to_num(0)
        zoom = max(1, 256 // columns)
        size = (columns * zoom, rows * zoom)
        colours = heat(known, 0, float(known.max()))
        panels = {f"{name}\n0 to {known.max():.3g}": colours.resize(size, Image.Resampling.NEAREST)}
        if self._picture is not None:
            picture = to_image(self._picture).resize(size, Image.Resampling.LANCZOS)
            panels["where, over the picture"] = glow(picture, known, region_colour(max(place, 0)))
            panels["picture"] = picture
        if place != BACKGROUND:
            masks = self._layout.pixel_masks(size[1], size[0])  # (R, height, width)
            masks[torch.arange(len(masks)) != place] = 0  # outline only this one, in its color
            panels = {title: overlay(panel, masks, line=1) for title, panel in panels.items()}
        return side_by_side(panels, side=256)

    def _line(self, name: str, place: int) -> str:
        head = "mean of the heads" if self.head.value == MEAN else f"head {self.head.label}"
        where = f"{name}, step {self.step.label}, block {self.block.label}, {head}"
        values = self.values.nan_to_num(0)
        if place == BACKGROUND:
            row, column = divmod(int(values.argmax()), values.shape[1])
            return f"{where}: highest {values.max():.3g} (row {row}, column {column})."
        mask = self._layout.token_masks(*values.shape)[place]  # (rows, columns)
        share, area = share_inside(values, mask), mask.float().mean()
        return f"{where}: {share:.0%} in its region ({area:.0%} of the picture)."


explore = StepBlockHead  # what a notebook calls it


class SideBySide(Shown):
    """Explore two recorded runs together, by the same step, block and head.

    It shows the maps of the chosen phrase, and below them all attention in its four quadrants.
    `walks[name]` is a `StepBlockHead`: move the sliders of either, and the other one follows.
    `quadrants[name] [G, G]` are the matrices, shown in `image` (PIL) and read in `reading`. Taught
    in notebook 11.

    Args:
        records: two of one layout, by name, e.g. "stock" and "dense".
        pictures: the pictures of the runs, under the same names.
        direction, number: as for `explore`.

    Raises ValueError when the records differ in steps, blocks, heads or groups.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        pictures: Mapping[str, Image.Image | Tensor] | None = None,
        direction: str = "image_text",
        number: int = 0,
    ) -> None:
        if len(records) != 2:
            raise ValueError(
                f"{len(records)} records were given, but two are compared: use explore() for one."
            )
        kinds = {(r.axes()[:1], *r.axes()[2:], r.groups) for r in records.values()}
        if len(kinds) > 1:
            raise ValueError(
                "the records differ in steps, blocks, pictures, heads or groups: record both with "
                "the same layout and arguments."
            )
        self.walks = {
            name: explore(record, (pictures or {}).get(name), direction, number)
            for name, record in records.items()
        }
        first, second = self.walks.values()
        for name in ("what", "step", "block", "head"):
            traitlets.link((getattr(first, name), "value"), (getattr(second, name), "value"))
        record = next(iter(records.values()))
        self._names = record.groups[0]
        self._sizes = record.sizes[0]
        self._mass = {  # (S, L, K, G, G) each
            name: record.tensor("mass")[:, :, number] for name, record in records.items()
        }
        self._shown, self._reading = ipywidgets.Image(format="png"), ipywidgets.HTML()
        rows = [
            ipywidgets.VBox(
                [ipywidgets.HTML(f"<b>{html.escape(name)}</b>"), *walk.box.children[1:]]
            )
            for name, walk in self.walks.items()
        ]
        self.box = ipywidgets.VBox([first.box.children[0], *rows, self._shown, self._reading])
        self._update()
        for control in (first.step, first.block, first.head):
            control.observe(self._update, names="value")

    def _update(self, change: Any = None) -> None:
        walk = next(iter(self.walks.values()))
        head = walk.head.value
        self.quadrants = {}
        for name, mass in self._mass.items():
            chosen = mass[walk.step.value, walk.block.value]  # (K, G, G)
            self.quadrants[name] = chosen.mean(dim=0) if head == MEAN else chosen[head]  # (G, G)
        split = self._names.index("pixels: background") + 1
        self.image = quadrant_picture(self.quadrants, self._names, split)
        line = read_quadrants(*self.quadrants.values(), self._names, split, self._sizes)
        self.reading = f"{', then '.join(self.quadrants)}: {line}"
        self._shown.value = png(self.image)
        self._reading.value = html.escape(self.reading)


def quadrant_picture(
    matrices: Mapping[str, Tensor], names: Sequence[str], split: int
) -> Image.Image:
    """Matrices [G, G] in percent, queries down and keys across; lines divide image from text.

    `names` are those of the G groups, of which the first `split` are image. A group without tokens
    (NaN) gets dashes. Unlike `plots.quadrants`, it is drawn fast enough to follow a slider.
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
        for row, percents in enumerate((100 * matrix).tolist()):
            label(canvas, (left + row * cell + cell // 2, 28), str(row + 1))
            for column, percent in enumerate(percents) if cell >= 24 else ():
                text = f"{percent:.0f}".replace("nan", "-")
                label(panel, ((column + 0.5) * cell, (row + 0.5) * cell), text)
        line = split * cell
        panel.paste("white", (0, line - 1, side, line + 1))
        panel.paste("white", (line - 1, 0, line + 1, side))
        canvas.paste(panel, (left, 38))
    return canvas


# ------------------------------------------------------------------------------------- small parts
def _numbered(names: Iterable[object]) -> list[tuple[str, int]]:
    """Options of a slider: each name, and its number as the value."""
    return [(str(name), i) for i, name in enumerate(names)]


def png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file, which widgets take."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)  # three times faster, and a little larger
    return file.getvalue()
