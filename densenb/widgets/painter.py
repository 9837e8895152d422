"""Paint a layout's regions by hand: a canvas in the notebook, the masks of a `Layout` in Python.

    painter = Painter(layout)
    painter                     # shows it: brush, eraser, fill, box, ellipse, undo, PNG import
    painter.layout              # the layout with the masks as they are painted now

The canvas is `painter.js`. Masks are sent as PNG in base64, one text per region, after each stroke.
A region that was not painted on keeps the mask it was given: a box stays a box, also when all
strokes on it are undone. The painter needs anywidget.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from PIL import Image

from densenb.layout.layout import Layout
from densenb.layout.masks import Mask, Pixels
from densenb.layout.validation import check_count
from densenb.plots.pictures import region_colour
from densenb.widgets.explorer import Shown
from densenb.widgets.live_preview import layout_as_python
from densenb.widgets.sliders import with_masks

try:
    import anywidget
except ImportError:  # everything but the canvas works without it
    anywidget = None

LARGEST = 2048  # pixels per side; a browser still paints these without delay

if anywidget is not None:

    class Canvas(anywidget.AnyWidget):
        """The values that Python and the page share; only `masks` is also set by the page."""

        _esm = Path(__file__).with_name("painter.js").read_text(encoding="utf-8")
        _css = Path(__file__).with_name("painter.css").read_text(encoding="utf-8")

        height = traitlets.Int().tag(sync=True)
        width = traitlets.Int().tag(sync=True)
        regions = traitlets.List().tag(sync=True)  # {"phrase": ..., "colour": "#rrggbb"} each
        masks = traitlets.List().tag(sync=True)  # a PNG in base64 each
        loads = traitlets.Int().tag(sync=True)  # counts the layouts loaded: each clears the undo
        message = traitlets.Unicode().tag(sync=True)
        code = traitlets.Unicode().tag(sync=True)


class Painter(Shown):
    """Paint the regions of a layout; read `layout` from Python, or follow it with `on_change`.

    Masks are `[height, width]` pixels. Each region has its own mask, so regions may overlap. Errors
    appear in the widget, because a notebook would not show them. Taught in notebook 11.

    Args:
        layout: where painting starts, and where undo ends.
        height, width: of the painted masks, in pixels; more than the picture has are no use.

    Raises ImportError without anywidget, and TypeError or ValueError for a wrong layout or size.
    """

    def __init__(self, layout: Layout, height: int = 256, width: int = 256) -> None:
        if anywidget is None:
            raise ImportError(
                "the painter needs anywidget: pip install anywidget, then restart the kernel and"
                " reload the page. Or use densenb.widgets.MaskSliders, which works without it."
            )
        for name, value in (("height", height), ("width", width)):
            check_count(name, value)
            if value > LARGEST:
                raise ValueError(
                    f"{name} is {value}, but at most {LARGEST} pixels can be painted: give a"
                    " smaller size. Masks are resized, so it also works for a larger picture."
                )
        self.canvas = Canvas(height=height, width=width)
        self.box = self.canvas
        self._callbacks: list[Callable[[], Any]] = []
        self.set_layout(layout)
        self.canvas.observe(self._on_painted, names="masks")

    # --------------------------------------------------------------------------- what is painted
    @property
    def layout(self) -> Layout:
        """The layout with the painted masks. Raises ValueError while a region is empty."""
        for i, (region, mask) in enumerate(zip(self._given.regions, self._masks, strict=True)):
            if mask is None:
                raise ValueError(
                    f'region {i + 1}, "{region.phrase}", is empty: paint it, undo, or load a layout'
                    " without it."
                )
        return with_masks(self._given, self._masks)

    @property
    def code(self) -> str:
        """`layout` in plain Python, with the painted masks. Raises ValueError as `layout` does."""
        return layout_as_python(self.layout, with_pixels=True)

    @property
    def message(self) -> str:
        """The error of the last change; empty if there is none."""
        return self.canvas.message

    def on_change(self, callback: Callable[[], Any]) -> None:
        """Call `callback()` after every change of the masks; its errors appear in the widget."""
        self._callbacks.append(callback)

    # ------------------------------------------------------------------------------- from Python
    def set_layout(self, layout: Layout) -> None:
        """Show another layout, with an empty undo history."""
        if not isinstance(layout, Layout):
            raise TypeError(f"layout is {layout!r}, but the painter needs one Layout.")
        masks = [region.mask for region in layout.regions]
        texts = [self._as_png(mask) for mask in masks]
        regions = [
            {"phrase": region.phrase, "colour": region_colour(i)}
            for i, region in enumerate(layout.regions)
        ]
        self._given = layout
        # Masks that came from Python, by region and PNG, so that undo restores them exactly.
        self._exact = {(i, text): mask for i, (text, mask) in enumerate(zip(texts, masks))}
        with self.canvas.hold_sync():
            self.canvas.regions = regions
            self.canvas.loads += 1
            self._accept(texts, masks)
        self._report()

    # ------------------------------------------------------------------------------ from the page
    def _on_painted(self, change: Any) -> None:
        texts = change["new"]
        if texts == self._texts:
            return  # set by Python
        try:
            if len(texts) != len(self._texts):
                raise ValueError(f"{len(texts)} masks were painted for {len(self._texts)} regions.")
            size = self.canvas.height, self.canvas.width
            masks = [
                self._exact.get((i, text)) or mask_of_canvas(text, *size)
                for i, text in enumerate(texts)
            ]
            self._accept(texts, masks)
            self._report()
        except Exception as error:
            self.canvas.masks = self._texts  # the page shows the last masks that Python accepted
            self.canvas.message = f"{type(error).__name__}: {error}"

    def _accept(self, texts: list[str], masks: list[Mask | None]) -> None:
        self._texts, self._masks = texts, masks
        self.canvas.masks = texts

    def _as_png(self, mask: Mask) -> str:
        """The mask in base64, at the size of the canvas."""
        levels = mask.raster(self.canvas.height, self.canvas.width).mul(255).round().byte()
        return Pixels(levels.numpy()).to_dict()["mask_png"]

    # ----------------------------------------------------------------------------- what is shown
    def _report(self) -> None:
        """Show the new masks' code in the page, then call the callbacks."""
        try:
            self.canvas.code, self.canvas.message = self.code, ""
        except ValueError as empty:
            self.canvas.code, self.canvas.message = "", str(empty)
        for callback in self._callbacks:
            callback()


def mask_of_canvas(text: str, height: int, width: int) -> Mask | None:
    """The mask that the page sent, None if it is empty; ValueError if it is no such PNG."""
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
