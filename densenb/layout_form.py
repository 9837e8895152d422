"""A layout by hand: its words in text boxes, its masks on a board.

The board is the painter, or sliders where there is no anywidget. All three classes have the same
few names: `layout`, `box`, `set_layout(layout)`, `on_change(callback)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets
import torch

from densenb import painter
from densenb.explorer import Shown, png
from densenb.layout import Layout, Region
from densenb.masks import Mask, box
from densenb.painter import Painter
from densenb.pictures import label_regions, overlay, region_colour
from densenb.widgets import RegionSliders, told

SIDE = 256  # pixels of the picture that sliders show, on its longer side
NEW_REGION = box(0.35, 0.35, 0.65, 0.65)


class SliderBoard(Shown):
    """Sliders for one region at a time, and a picture of them all. Taught in notebook 11.

    `regions[i].x` and so on are sliders (`RegionSliders`); `region` chooses which are shown.

    Args:
        layout: where the sliders start.
        height, width: of the picture, in pixels: only their ratio matters.
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
        """The layout with the masks as the sliders stand."""
        moved = [
            replace(region, mask=sliders.mask)
            for region, sliders in zip(self._given.regions, self.regions, strict=True)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caption is as it was, and so are its warnings
            return replace(self._given, regions=moved)

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
        if self.region.value is not None:  # on the way from old options to new ones
            self._moving.children = self.regions[self.region.value].controls

    def _on_moved(self, change: Any = None) -> None:
        layout = self.layout
        masks = layout.pixel_masks(*self._size)
        picture = overlay(torch.full((3, *self._size), 0.94), masks, fill=0.5)
        label_regions(picture, masks, [region.phrase for region in layout.regions])
        self._shown.value = png(picture)
        for callback in self._callbacks:
            callback()


@dataclass(frozen=True)
class Row:
    """The controls of one region."""

    given: Region  # the mask is the board's; what has no control here stays
    phrase: ipywidgets.Text
    strength: ipywidgets.FloatSlider
    remove: ipywidgets.Button
    box: ipywidgets.Widget


class LayoutForm(Shown):
    """Caption, background, and for each region its phrase, strength and mask.

    `caption`, `background`, `rows[i].phrase`, `rows[i].strength`: controls; `board`: the masks;
    `message`: what a button could not do. `words`: all of it but the board.
    Renaming, adding or removing a region starts the painter's undo anew; the masks stay. Taught in
    notebook 11.

    Args:
        layout: where everything starts.
        height, width: of the pictures, in pixels.
    """

    def __init__(self, layout: Layout, height: int, width: int) -> None:
        wide = ipywidgets.Layout(width="98%")
        self.caption = ipywidgets.Textarea(description="caption", rows=2, layout=wide)
        self.background = ipywidgets.Text(description="background", layout=wide)
        self.add = ipywidgets.Button(description="Add region")
        self.board = board(layout, height, width)
        self._rows = ipywidgets.VBox()
        self.message = ipywidgets.HTML()
        parts = [self.caption, self._rows, self.background, self.add, self.message]
        self.words = ipywidgets.VBox(parts)
        self.box = ipywidgets.HBox([self.board.box, self.words])
        self._callbacks: list[Callable[[], Any]] = []
        self.set_layout(layout)
        for control in (self.caption, self.background):
            control.continuous_update = False
            control.observe(self._on_change, names="value")
        self.board.on_change(self._on_change)
        self.add.on_click(lambda button: self._clicked(self.add_region, "a red fish"))

    @property
    def layout(self) -> Layout:
        """What the controls say; ValueError when that is no layout."""
        regions = [
            replace(row.given, phrase=row.phrase.value, mask=of.mask, strength=row.strength.value)
            for row, of in zip(self.rows, self.board.layout.regions, strict=True)
        ]
        return _layout(self.caption.value, regions, self.background.value)

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

    def add_region(self, phrase: str, mask: Mask = NEW_REGION) -> None:
        """One more region, in the middle unless you say where."""
        self._set_regions([*self.layout.regions, Region(phrase, mask)])

    def remove_region(self, index: int) -> None:
        """Take a region out, by its number from 0; ValueError for the only one."""
        regions = self.layout.regions
        if index not in range(len(regions)):
            raise ValueError(f"there is no region {index!r}: give 0 to {len(regions) - 1}.")
        self._set_regions([region for i, region in enumerate(regions) if i != index])

    def on_change(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` after every change; `layout` may raise there."""
        self._callbacks.append(callback)

    def _set_regions(self, regions: list[Region]) -> None:
        self.set_layout(_layout(self.caption.value, regions, self.background.value))

    def _row(self, index: int, region: Region) -> Row:
        phrase = ipywidgets.Text(
            value=region.phrase, description=f"region {index + 1}", layout=_wide("240px")
        )
        phrase.continuous_update = False
        strength = ipywidgets.FloatSlider(
            value=region.strength, min=0, max=max(2, region.strength), step=0.05,
            description="strength", style={"description_width": "60px"}, layout=_wide("240px"),
        )  # fmt: skip
        remove = ipywidgets.Button(description="Remove", layout=_wide("80px"))
        remove.on_click(lambda button: self._clicked(self.remove_region, index))
        phrase.observe(self._on_renamed, names="value")
        strength.observe(self._on_change, names="value")
        colour = ipywidgets.HTML(f'<b style="color:{region_colour(index)}">&#9632;</b>')
        wrapped = ipywidgets.Layout(flex_flow="row wrap")
        controls = ipywidgets.HBox([colour, phrase, strength, remove], layout=wrapped)
        return Row(region, phrase, strength, remove, controls)

    def _on_renamed(self, change: Any) -> None:
        self._quiet = True
        try:
            self.board.set_layout(self.layout)  # which writes the phrases on the regions
        except ValueError:
            pass  # who listens reads `layout`, and says what is wrong with it
        finally:
            self._quiet = False
        self._on_change()

    def _on_change(self, change: Any = None) -> None:
        if not self._quiet:
            for callback in self._callbacks:
                callback()

    def _clicked(self, action: Callable[..., None], *arguments: Any) -> None:
        with told(self.message):
            action(*arguments)


# ------------------------------------------------------------------------------------- small parts
def _wide(width: str) -> ipywidgets.Layout:
    """That wide: the boxes around it would press a slider to nothing."""
    return ipywidgets.Layout(width=width, flex="0 0 auto")


def board(layout: Layout, height: int, width: int) -> Painter | SliderBoard:
    """A painter where the package anywidget is installed, else sliders."""
    return (SliderBoard if painter.anywidget is None else Painter)(layout, height, width)


def _layout(caption: str, regions: list[Region], background: str) -> Layout:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the preview says them
        return Layout(caption, regions, background.strip() or None)
