"""Sliders over a layout, a setting or a recorded tensor, with a live preview.

    sliders = MaskSliders(pipe, layout, settings=["image_text"])
    sliders                     # shows them; from Python, sliders.regions[0].x.value = 0.3
    sliders.layout, sliders.config, sliders.draw()

Everything is built from core ipywidgets, from what versions 7.7 and 8 share. Everything works from
Python as it does by hand, and every picture comes with the plain call that makes it without a
widget. Errors and warnings of a slider or a button appear in the widget, because a notebook would
not show them.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets
from PIL import Image

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import Box, Ellipse, Mask, box, ellipse
from densenb.layout.validation import is_whole
from densenb.models.lock import alone
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.plots.pictures import overlay
from densenb.sampling import generate
from densenb.widgets.explorer import Shown, StepBlockHead, explore, png
from densenb.widgets.live_preview import (
    HIGHEST_BIAS,
    as_python,
    layout_plan,
    live_picture,
    sampling_steps,
)

__all__ = [
    "ConfigSliders", "MaskSliders", "RegionSliders", "SettingSliders", "StepBlockHead", "explore",
]  # fmt: skip

PREVIEW_STEPS = 8
STRENGTHS = ("image_text", "image_image", "text_image", "text_text")
HIGHEST = dict.fromkeys(STRENGTHS, 1.0) | {"window": 1.0, "decay": 10.0, "area": 1.0}
FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LAST_SEED = 2**53 - 1  # browsers round larger whole numbers


# ---------------------------------------------------------------------------------- the controls
class RegionSliders:
    """Sliders for the position, size and shape of one region; `.mask` is the resulting mask.

    `x`, `y` (the middle), `width` and `height` are fractions of the picture. `shape` is "box",
    "ellipse", or "as given" for a painted mask, which sliders cannot move. Sliders in their first
    positions give exactly the mask that was given.
    """

    def __init__(self, region: Region) -> None:
        self.given = region.mask
        kind, places = _bounds(region.mask)
        shapes = ["box", "ellipse", *(["as given"] if kind == "as given" else [])]
        self.shape = ipywidgets.Dropdown(options=shapes, value=kind, description="shape")
        names = ("x", "y", "width", "height")
        self.x, self.y, self.width, self.height = (
            _slider(name, value, 0.05 if name in names[2:] else 0.0, 1.0)
            for name, value in zip(names, places, strict=True)
        )
        self.controls = (self.shape, self.x, self.y, self.width, self.height)
        self._start = self._values()

    def _values(self) -> tuple[str | float, ...]:
        return tuple(control.value for control in self.controls)

    @property
    def mask(self) -> Mask:
        shape, x, y, width, height = values = self._values()
        if values == self._start or shape == "as given":
            return self.given
        if shape == "ellipse":
            return ellipse(*map(_short, (x, y, width / 2, height / 2)))
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return box(*(_short(min(max(corner, 0.0), 1.0)) for corner in corners))


class SettingSliders:
    """Sliders for some numbers of a `DenseConfig`; `.config` is the resulting config.

    `.sliders[name]` is a strength of a quadrant, `window`, `decay` or `area`. Raises ValueError for
    any other setting.
    """

    def __init__(self, config: DenseConfig, settings: Sequence[str]) -> None:
        if not isinstance(config, DenseConfig):
            raise ValueError(f"config is {config!r}, but sliders need a DenseConfig to change.")
        if isinstance(settings, str):
            raise ValueError(f"settings is {settings!r}: give a list of names, [{settings!r}].")
        self._config = config
        self.sliders = {}
        for name in settings:
            if name not in HIGHEST:
                raise ValueError(
                    f"there is no slider for {name!r}: give some of {', '.join(HIGHEST)}."
                )
            fixed_bias = config.value_range is None and name in STRENGTHS
            high = HIGHEST_BIAS if fixed_bias else HIGHEST[name]
            self.sliders[name] = _slider(name, getattr(config, name), 0.0, high)

    @property
    def config(self) -> DenseConfig:
        return replace(self._config, **{name: s.value for name, s in self.sliders.items()})

    @property
    def unit(self) -> str:
        """The unit of the strengths."""
        return "logits" if self._config.value_range is None else "shares of the range of scores"


# ------------------------------------------------------------------------------ layout and setting
class ConfigSliders(Shown):
    """Sliders for chosen settings, a live preview, and a picture on a button.

    These are always up to date: `layout`, `config`, `preview` (a PIL picture, see
    `live.live_picture`) and `code` (the same picture in plain Python). `settings[name]` is a
    slider. `draw()` does what the button does, and `picture` is what it drew last, or None. Taught
    in notebook 04.

    Args:
        pipe, layout: as for `generate`.
        settings: names of `DenseConfig` numbers, e.g. ["window", "decay", "area"].
        config: where the sliders start; settings without a slider keep its values.
        steps: of the picture and of the bars of strengths. A preview needs only a few.
        seed: of the picture, until its control changes.
    """

    masks_move = False

    def __init__(
        self,
        pipe: Pipeline,
        layout: Layout,
        settings: Sequence[str] = (),
        config: DenseConfig = DenseConfig(),  # noqa: B008 (frozen)
        steps: int = PREVIEW_STEPS,
        seed: int = 0,
    ) -> None:
        if not isinstance(layout, Layout):
            raise ValueError(f"layout is {layout!r}, but has to be one Layout.")
        self.pipe, self.steps = pipe, steps
        self._given = layout
        self._settings = SettingSliders(config, settings)
        self.settings = self._settings.sliders
        self.regions = [RegionSliders(each) for each in layout.regions if self.masks_move]
        self.picture: Image.Image | None = None
        self._sampling = sampling_steps(pipe, steps)

        names = [(f"{i + 1}: {region.phrase}", i) for i, region in enumerate(layout.regions)]
        self.region = ipywidgets.Dropdown(options=names, value=0, description="region")
        self.seed = number_box("seed", seed, 0, LAST_SEED)
        self.button = ipywidgets.Button(description=f"Draw ({steps} steps)")
        self._bar = ipywidgets.IntProgress(value=0, min=0, max=steps)
        self._live = ipywidgets.Image(format="png")
        self._drawn = ipywidgets.HBox()
        self._code, self._message = ipywidgets.HTML(), ipywidgets.HTML()
        self._moving = ipywidgets.VBox()
        settings_box = ipywidgets.VBox([*self.settings.values()])
        self.box = ipywidgets.VBox([
            ipywidgets.HBox([ipywidgets.VBox([self.region, self._moving]), settings_box]),
            self._live,
            ipywidgets.HBox([self.seed, self.button, self._bar]),
            self._message,
            self._drawn,
            self._code,
        ])  # fmt: skip

        self._choose_region()
        self._update()  # raises errors of the layout, where later changes only show them
        self.region.observe(self._choose_region, names="value")
        moving = [control for region in self.regions for control in region.controls]
        for control in (self.region, self.seed, *self.settings.values(), *moving):
            control.observe(self._on_change, names="value")
        self.button.on_click(self._on_click)

    # ------------------------------------------------------------------------------- every change
    def _choose_region(self, change: Any = None) -> None:
        # Nowhere else: replacing a slider while it's dragged would end the drag.
        if self.regions:
            self._moving.children = self.regions[self.region.value].controls

    def _on_change(self, change: Any) -> None:
        with told(self._message):
            self._update()

    def _update(self) -> None:
        """Update everything that does not need sampling."""
        layout = self._given
        if self.regions:
            layout = with_masks(layout, [sliders.mask for sliders in self.regions])
        config = self._settings.config
        plan, grid = layout_plan(self.pipe, layout, config)
        chosen = self.region.value
        self.preview = live_picture(layout, plan, grid, config, self._sampling, chosen)
        self.layout, self.config = layout, config
        self.code = as_python(layout, config, self.seed.value, self.steps)

        self._live.value = png(self.preview)
        self._code.value = f"the same in Python:<pre>{html.escape(self.code)}</pre>"
        if self._drawn.children:
            self._drawn.children[1].value = "drawn before the last change"

    # --------------------------------------------------------------------------------- the picture
    def _on_click(self, button: Any) -> None:
        with told(self._message):
            self.draw()

    def draw(self) -> Image.Image:
        """Draw and show the picture of `layout`, `config` and `seed`, exactly the one of `code`.

        The button is disabled meanwhile. Raises the errors of `generate`, and RuntimeError while a
        playground draws with the same pipeline.
        """
        self.button.disabled, self._bar.value = True, 0
        try:
            with alone(self.pipe):
                (self.picture,) = generate(
                    self.pipe,
                    self.layout,
                    [self.seed.value],
                    self.config,
                    steps=self.steps,
                    progress=self._on_step,
                )
        finally:
            self.button.disabled = False
        masks = self.layout.pixel_masks(self.picture.height, self.picture.width)
        outlined = ipywidgets.Image(value=png(overlay(self.picture, masks)), format="png")
        stamp = replace(tier(self.pipe), steps=self.steps).stamp([self.seed.value])
        note = f"a preview; {stamp}"
        self._drawn.children = (outlined, ipywidgets.HTML(html.escape(note)))
        return self.picture

    def _on_step(self, done: int, total: int) -> None:
        self._bar.value = done

    @property
    def message(self) -> str:
        """The errors and warnings of the last change as HTML; empty if there are none."""
        return self._message.value


class MaskSliders(ConfigSliders):
    """Sliders for position, size and shape of each region, and for chosen settings.

    Like `ConfigSliders`, but `regions[i]` (a `RegionSliders`) also has sliders, such as
    `regions[0].x`. The drop-down chooses the region whose sliders are shown. Taught in notebook 03.
    """

    masks_move = True


# ------------------------------------------------------------------------------------- small parts
def with_masks(layout: Layout, masks: Sequence[Mask]) -> Layout:
    """The layout with other masks, one per region."""
    regions = [replace(r, mask=mask) for r, mask in zip(layout.regions, masks, strict=True)]
    with warnings.catch_warnings(action="ignore"):  # about the caption, which did not change
        return replace(layout, regions=regions)


@contextmanager
def told(message: ipywidgets.HTML) -> Iterator[None]:
    """Show warnings and errors in a widget, because a notebook would not show them."""
    notes = []
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            yield
        except Exception as error:
            notes.append(f"{type(error).__name__}: {error}")
    # Deprecations are for programmers, and old widgets on new kernels raise many.
    shown = [each for each in caught if not issubclass(each.category, FOR_PROGRAMMERS)]
    notes += dict.fromkeys(str(warning.message) for warning in shown)
    message.value = "<br>".join(f"<b>!</b> {html.escape(note)}" for note in notes)


def number_box(name: str, value: int, low: int, high: int) -> ipywidgets.BoundedIntText:
    """A box for a whole number from `low` to `high`; ValueError for any other value."""
    box = ipywidgets.BoundedIntText(value=low, min=low, max=high, description=name)
    box.value = held(box, value)
    return box


def held(box: ipywidgets.BoundedIntText, value: int) -> int:
    """The value, or a ValueError where the box would silently take the nearest possible one."""
    if not is_whole(value) or not box.min <= value <= box.max:
        raise ValueError(
            f"{box.description} is {value!r:.40}, but has to be a whole number from {box.min} to "
            f"{box.max}."
        )
    return int(value)


def _slider(name: str, value: float, low: float, high: float) -> ipywidgets.FloatSlider:
    """A slider whose range includes `value`."""
    return ipywidgets.FloatSlider(
        value=value, min=min(low, value), max=max(high, value), step=0.01, description=name,
        style={"description_width": "90px"},  # "image_image" is the longest
    )  # fmt: skip


def _bounds(mask: Mask) -> tuple[str, tuple[float, float, float, float]]:
    """The shape's name, and the middle (x, y), width and height of the area it covers."""
    if isinstance(mask, Ellipse):
        return "ellipse", (mask.cx, mask.cy, 2 * mask.rx, 2 * mask.ry)
    if isinstance(mask, Box):
        kind, x0, y0, x1, y1 = "box", mask.x0, mask.y0, mask.x1, mask.y1
    else:
        kind, side = "as given", 256
        raster = mask.raster(side, side)
        y, x = (raster >= raster.max() / 2).nonzero().T  # (pixels,) each
        x0, y0, x1, y1 = (float(v) / side for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))
    return kind, tuple(map(_short, ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)))


def _short(value: float) -> float:
    """The value without the many digits that arithmetic leaves, for code that people read."""
    return round(value, 4)
