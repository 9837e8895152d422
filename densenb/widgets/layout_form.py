"""A form for a layout: its words in text boxes, its masks on a board.

The board is the painter, or sliders where anywidget is not installed. The form and both boards have
`layout`, `set_layout(layout)` and `on_change(callback)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets
import torch

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.plots.pictures import label_regions, overlay, region_colour
from densenb.widgets import painter
from densenb.widgets.explorer import Shown, png
from densenb.widgets.painter import Painter
from densenb.widgets.sliders import RegionSliders, told, with_masks

SIDE = 256  # pixels on the longer side of the picture beside the sliders
NEW_REGION = box(0.35, 0.35, 0.65, 0.65)


class SliderBoard(Shown):
    """Sliders for one region at a time, and a picture of all regions. Taught in notebook 11.

    `regions[i]` is a `RegionSliders`; the drop-down `region` chooses the one that is shown.

    Args:
        layout: where the sliders start.
        height, width: of the picture, in pixels; only their ratio matters.
    """

    def __init__(self, layout: Layout, height: int = 256, width: int = 256) -> None:
        scale = SIDE / max(height, width)
        self._size = max(round(height * scale), 1), max(round(width * scale), 1)
        self._callbacks: list[Callable[[], Any]] = []
        self._shown = ipywidgets.Image(format="png")
        self._moving = ipywidgets.VBox()
        self.region = ipywidgets.Dropdown(options=[("", 0)], value=0, description="region")
        controls = ipywidgets.VBox([self.region, self._moving])
        self.box = ipywidgets.HBox([self._shown, controls])
        self.set_layout(layout)
        self.region.observe(self._choose, names="value")

    @property
    def layout(self) -> Layout:
        """The layout with the masks of the sliders."""
        return with_masks(self._given, [sliders.mask for sliders in self.regions])

    def on_change(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` after every change of the masks."""
        self._callbacks.append(callback)

    def set_layout(self, layout: Layout) -> None:
        """Show another layout."""
        self._given = layout
        self.regions = [RegionSliders(region) for region in layout.regions]
        for sliders in self.regions:
            for control in sliders.controls:
                control.observe(self._on_moved, names="value")
        chosen = min(self.region.value or 0, len(self.regions) - 1)
        self.region.options = [(f"{i + 1}: {r.phrase}", i) for i, r in enumerate(layout.regions)]
        self.region.value = chosen
        self._choose()
        self._on_moved()

    def _choose(self, change: Any = None) -> None:
        if self.region.value is not None:  # None between the old options and the new ones
            self._moving.children = self.regions[self.region.value].controls

    def _on_moved(self, change: Any = None) -> None:
        layout = self.layout
        masks = layout.pixel_masks(*self._size)  # (R, height, width)
        picture = overlay(torch.full((3, *self._size), 0.94), masks, fill=0.5)
        label_regions(picture, masks, [region.phrase for region in layout.regions])
        self._shown.value = png(picture)
        for callback in self._callbacks:
            callback()


@dataclass(frozen=True)
class Row:
    """The controls of one region."""

    given: Region  # fields without a control keep its values; the mask is the board's
    phrase: ipywidgets.Text
    strength: ipywidgets.FloatSlider
    remove: ipywidgets.Button
    box: ipywidgets.Widget


class LayoutForm:
    """Caption, background, and for each region its phrase, strength and mask.

    `caption`, `background`, `rows[i].phrase` and `rows[i].strength` are controls, and `board` holds
    the masks. `words` is everything except the board. `message` shows the errors of the buttons.
    Renaming, adding or removing a region clears the painter's undo history, and the masks stay.
    Taught in notebook 11.

    Args:
        layout: where the form starts.
        height, width: of the pictures, in pixels.
    """

    def __init__(self, layout: Layout, height: int, width: int) -> None:
        shared = {"layout": {"width": "98%"}, "continuous_update": False}
        self.caption = ipywidgets.Textarea(description="caption", rows=2, **shared)
        self.background = ipywidgets.Text(description="background", **shared)
        self.add = ipywidgets.Button(description="Add region")
        kind = SliderBoard if painter.anywidget is None else Painter
        self.board = kind(layout, height, width)
        self._rows = ipywidgets.VBox()
        self.message = ipywidgets.HTML()
        parts = [self.caption, self._rows, self.background, self.add, self.message]
        self.words = ipywidgets.VBox(parts)
        self._callbacks: list[Callable[[], Any]] = []
        self.set_layout(layout)
        for control in (self.caption, self.background):
            control.observe(self._on_change, names="value")
        self.board.on_change(self._on_change)
        self.add.on_click(lambda button: self._clicked(self.add_region, "a red fish"))

    @property
    def layout(self) -> Layout:
        """The layout that the controls describe; ValueError if they describe none."""
        return self._with([
            replace(row.given, phrase=row.phrase.value, mask=of.mask, strength=row.strength.value)
            for row, of in zip(self.rows, self.board.layout.regions, strict=True)
        ])  # fmt: skip

    def set_layout(self, layout: Layout) -> None:
        """Show another layout."""
        if not isinstance(layout, Layout):
            raise TypeError(f"layout is {layout!r}, but has to be one Layout.")
        self._quiet = True
        try:
            self.board.set_layout(layout)
            self.caption.value, self.background.value = layout.caption, layout.background or ""
            self.rows = [self._row(i, region) for i, region in enumerate(layout.regions)]
            self._rows.children = [row.box for row in self.rows]
        finally:
            self._quiet = False
        self._on_change()

    def add_region(self, phrase: str) -> None:
        """Add a region in the middle."""
        self.set_layout(self._with([*self.layout.regions, Region(phrase, NEW_REGION)]))

    def remove_region(self, index: int) -> None:
        """Remove the region with a number from 0; ValueError for the only region."""
        regions = self.layout.regions
        if index not in range(len(regions)):
            raise ValueError(f"there is no region {index!r}: give 0 to {len(regions) - 1}.")
        self.set_layout(self._with([each for i, each in enumerate(regions) if i != index]))

    def on_change(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` after every change. Reading `layout` in it may raise ValueError."""
        self._callbacks.append(callback)

    def _with(self, regions: list[Region]) -> Layout:
        """A layout of these regions with the caption and the background of the form."""
        with warnings.catch_warnings(action="ignore"):  # the preview shows them
            return Layout(self.caption.value, regions, self.background.value.strip() or None)

    def _row(self, index: int, region: Region) -> Row:
        wide = {"width": "240px", "flex": "0 0 auto"}  # without flex, boxes squeeze the slider
        phrase = ipywidgets.Text(
            value=region.phrase,
            description=f"region {index + 1}",
            continuous_update=False,
            layout=wide,
        )
        strength = ipywidgets.FloatSlider(
            value=region.strength, min=0, max=max(2, region.strength), step=0.05,
            description="strength", style={"description_width": "60px"}, layout=wide,
        )  # fmt: skip
        remove = ipywidgets.Button(description="Remove", layout=wide | {"width": "80px"})
        remove.on_click(lambda button: self._clicked(self.remove_region, index))
        phrase.observe(self._on_renamed, names="value")
        strength.observe(self._on_change, names="value")
        colour = ipywidgets.HTML(f'<b style="color:{region_colour(index)}">&#9632;</b>')
        parts = [colour, phrase, strength, remove]
        controls = ipywidgets.HBox(parts, layout={"flex_flow": "row wrap"})
        return Row(region, phrase, strength, remove, controls)

    def _on_renamed(self, change: Any) -> None:
        try:
            layout = self.layout
        except ValueError:
            self._on_change()  # the callbacks read `layout` and show the error
        else:
            self.board.set_layout(layout)  # shows the phrases on the regions, and calls back

    def _on_change(self, change: Any = None) -> None:
        if not self._quiet:
            for callback in self._callbacks:
                callback()

    def _clicked(self, action: Callable[..., None], *arguments: Any) -> None:
        with told(self.message):
            action(*arguments)
