"""Paint a layout's regions by hand: a canvas in the notebook, the masks of a `Layout` in Python.

    painter = Painter(layout)
    painter                     # shows it: brush, eraser, fill, box, ellipse, undo, PNG import
    painter.layout              # the layout with the masks as they are painted now

The canvas is `painter.js`. Masks travel as PNG in base64, one text a region, when a stroke is done.
A region that nobody painted on keeps the mask that it was given: a box stays a box, and so it does
when all strokes on it are undone. Needs anywidget; `region_painter` falls back to sliders.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from PIL import Image

from densenb.explorer import Shown
from densenb.layout import Layout
from densenb.live import layout_as_python
from densenb.masks import Mask, Pixels, check_size, mask_from_png
from densenb.pictures import region_colour
from densenb.pipelines import tier
from densenb.widgets import MaskSliders

try:
    import anywidget
except ImportError:  # everything but the canvas works without it
    anywidget = None

LARGEST = 2048  # pixels a side: what a browser still paints without delay

if anywidget is not None:

    class Canvas(anywidget.AnyWidget):
        """What Python and the page share; `masks` goes both ways, the rest to the page."""

        _esm = Path(__file__).with_name("painter.js").read_text(encoding="utf-8")
        _css = Path(__file__).with_name("painter.css").read_text(encoding="utf-8")

        height = traitlets.Int().tag(sync=True)
        width = traitlets.Int().tag(sync=True)
        regions = traitlets.List().tag(sync=True)  # {"phrase": ..., "colour": "#rrggbb"} each
        masks = traitlets.List().tag(sync=True)  # a PNG in base64 each
        loads = traitlets.Int().tag(sync=True)  # another layout was loaded: undo starts anew
        message = traitlets.Unicode().tag(sync=True)
        code = traitlets.Unicode().tag(sync=True)


class Painter(Shown):
    """Paint the regions of a layout; from Python, read `layout`, or follow it with `on_change`.

    Masks are `[height, width]` pixels, as fine as the picture at best; each region has its own, so
    regions may overlap. Errors appear in the widget: a notebook would not show them. Taught in
    notebook 11.

    Args:
        layout: what is painted on, and where undo ends.
        height, width: of the painted masks, in pixels.

    Raises ImportError without anywidget, TypeError and ValueError for another layout or size.
    """

    def __init__(self, layout: Layout, height: int = 256, width: int = 256) -> None:
        if anywidget is None:
            raise ImportError(
                "the painter needs anywidget: pip install anywidget, then restart the kernel and"
                " reload the page. Or use densenb.widgets.MaskSliders, which needs nothing more."
            )
        for name, value in (("height", height), ("width", width)):
            check_size(name, value)
            if value > LARGEST:
                raise ValueError(
                    f"{name} is {value}, but at most {LARGEST} pixels can be painted: masks have no"
                    " resolution, so a smaller one serves a larger picture."
                )
        self.canvas = Canvas(height=height, width=width)
        self.box = self.canvas
        self._callbacks: list[Callable[[], Any]] = []
        self.set_layout(layout)
        self.canvas.observe(self._on_painted, names="masks")

    # --------------------------------------------------------------------------- what is painted
    @property
    def layout(self) -> Layout:
        """The layout with the masks painted now. ValueError when a region has nothing painted."""
        regions = []
        for i, (region, mask) in enumerate(zip(self._given.regions, self._masks, strict=True)):
            if mask is None:
                raise ValueError(
                    f'region {i + 1}, "{region.phrase}", is empty: paint it, undo, or load a layout'
                    " without it."
                )
            regions.append(replace(region, mask=mask))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caption is as it was, and so are its warnings
            return replace(self._given, regions=regions)

    @property
    def code(self) -> str:
        """`layout` in plain Python, painted masks and all. ValueError as for `layout`."""
        return layout_as_python(self.layout, with_pixels=True)

    @property
    def message(self) -> str:
        """What the widget says to the last change, empty when all is well."""
        return self.canvas.message

    def on_change(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` after every change of the masks; its errors appear in the widget."""
        self._callbacks.append(callback)

    # ------------------------------------------------------------------------------- from Python
    def set_layout(self, layout: Layout) -> None:
        """Show another layout; the history of undo starts anew."""
        if not isinstance(layout, Layout):
            raise TypeError(f"layout is {layout!r}, but the painter needs one Layout.")
        masks = [region.mask for region in layout.regions]
        texts = [self._as_png(mask) for mask in masks]
        regions = [
            {"phrase": region.phrase, "colour": region_colour(i)}
            for i, region in enumerate(layout.regions)
        ]
        self._given = layout
        # Masks that came from Python, by region and PNG: undo brings them back as they were.
        self._exact = {(i, text): mask for i, (text, mask) in enumerate(zip(texts, masks))}
        with self.canvas.hold_sync():
            self.canvas.regions = regions
            self.canvas.loads += 1
            self._accept(texts, masks)
        self._report()

    def import_png(self, region: int | str, path: str | Path | bytes) -> None:
        """Give a region (its number from 0, or its phrase) the mask of a picture: white is in.

        Any size; `layout` has it as it is in the file. Can be undone. ValueError when there is no
        such region, or the picture is none or black all over.
        """
        phrases = [each.phrase for each in self._given.regions]
        index = phrases.index(region) if region in phrases else region
        if isinstance(index, bool) or index not in range(len(phrases)):
            raise ValueError(
                f"there is no region {region!r}: give 0 to {len(phrases) - 1}, or one of {phrases}."
            )
        mask = mask_from_png(path)
        text = self._as_png(mask)
        self._exact[index, text] = mask
        texts, masks = [*self._texts], [*self._masks]
        texts[index], masks[index] = text, mask
        self._accept(texts, masks)
        self._report()

    # ------------------------------------------------------------------------------ from the page
    def _on_painted(self, change: Any) -> None:
        texts = change["new"]
        if texts == self._texts:
            return  # from Python
        with self._told():
            try:
                masks = self._masks_of(texts)
            except ValueError:
                self.canvas.masks = self._texts  # the page shows again what Python has
                raise
            self._accept(texts, masks)
            self._report()

    def _masks_of(self, texts: list[str]) -> list[Mask | None]:
        if len(texts) != len(self._texts):
            raise ValueError(f"{len(texts)} masks were painted for {len(self._texts)} regions.")
        size = self.canvas.height, self.canvas.width
        return [
            self._exact.get((i, text)) or mask_of_canvas(text, *size)
            for i, text in enumerate(texts)
        ]

    def _accept(self, texts: list[str], masks: list[Mask | None]) -> None:
        self._texts, self._masks = texts, masks
        self.canvas.masks = texts

    def _as_png(self, mask: Mask) -> str:
        """The mask in base64, at the size of the canvas."""
        levels = mask.raster(self.canvas.height, self.canvas.width).mul(255).round().byte()
        return Pixels(levels.numpy()).to_dict()["mask_png"]

    # -------------------------------------------------------------------------------- what is said
    def _report(self) -> None:
        """Tell the page, then everybody who wants to know, that the masks changed."""
        try:
            self.canvas.code, self.canvas.message = self.code, ""
        except ValueError as empty:
            self.canvas.code, self.canvas.message = "", str(empty)
        for callback in self._callbacks:
            callback()

    @contextmanager
    def _told(self):
        """Show errors in the widget, where nothing else would show them."""
        try:
            yield
        except Exception as error:
            self.canvas.message = f"{type(error).__name__}: {error}"


def mask_of_canvas(text: str, height: int, width: int) -> Mask | None:
    """The mask that the page sent, None when nothing is painted; ValueError for anything else."""
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        with Image.open(file, formats=["PNG"]) as image:
            if image.size != (width, height):  # before its pixels are read
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            levels = np.array(image.convert("L"))
    except (ValueError, TypeError, OSError, SyntaxError) as error:
        raise ValueError(
            f"the page sent {text!r:.40}, which is not a PNG of {width} x {height} pixels"
            f" ({error}). The masks stay as they were: run the cell again."
        ) from error
    return Pixels(levels) if levels.any() else None


def region_painter(
    pipe: Any, layout: Layout, height: int | None = None, width: int | None = None
) -> Painter | MaskSliders:
    """A `Painter` at the size of the model's pictures; sliders, with a sentence, without anywidget.

    Taught in notebook 11.
    """
    if anywidget is None:
        print("Sliders in place of the painter, which needs the package anywidget.")
        return MaskSliders(pipe, layout)
    this = tier(pipe)
    return Painter(layout, height or this.height, width or this.width)
