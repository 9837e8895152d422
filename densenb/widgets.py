"""Sliders over a layout, a setting, or a recorded tensor: what they do shows at once.

    sliders = MaskSliders(pipe, layout, settings=["image_text"])
    sliders                     # shows them; from Python, sliders.regions[0].x.value = 0.3
    sliders.layout, sliders.config, sliders.draw()

Only core ipywidgets, and of those only what versions 7.7 and 8 share. Everything works from Python
as it does by hand, and every picture says the plain call that makes it without any widget. Errors
and warnings of a slider or a button appear in the widget: a notebook would not show them.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets
from PIL import Image

from densenb.explorer import Shown, StepBlockHead, explore, png
from densenb.layout import Layout, Region
from densenb.live import HIGHEST_BIAS, as_python, layout_plan, live_picture, sampling_steps
from densenb.masks import Box, Ellipse, Mask, box, ellipse
from densenb.modulation import DenseConfig, is_whole
from densenb.pictures import overlay
from densenb.pipelines import generate, tier
from densenb.worker import alone

__all__ = [
    "ConfigSliders", "MaskSliders", "RegionSliders", "SettingSliders", "StepBlockHead", "explore",
]  # fmt: skip

PREVIEW_STEPS = 8
STRENGTHS = ("image_text", "image_image", "text_image", "text_text")
HIGHEST = dict.fromkeys(STRENGTHS, 1.0) | {"window": 1.0, "decay": 10.0, "area": 1.0}
FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LAST_SEED = 2**53 - 1  # beyond, browsers round whole numbers


# ---------------------------------------------------------------------------------- the controls
class RegionSliders:
    """Position, size and shape of one region; `.mask` is what they say now.

    `x`, `y` (the middle), `width`, `height`: fractions of the picture; `shape`: "box", "ellipse",
    or "as given" for a painted mask, which sliders cannot move. Sliders that stand where they stood
    give the mask that was given, exactly.
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
    """Some of the numbers of a `DenseConfig`; `.config` is what they say now.

    `.sliders[name]` are strengths per quadrant, `window`, `decay` or `area`. ValueError for a
    setting that is not a number of those.
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
        """What strengths are counted in."""
        return "logits" if self._config.value_range is None else "shares of the range of scores"


# ------------------------------------------------------------------------------ layout and setting
class ConfigSliders(Shown):
    """Sliders for chosen settings, a live preview, and a picture on a button.

    Attributes, always up to date: `layout`, `config`, `preview` (a PIL picture, see
    `live.live_picture`), `code` (the same picture in plain Python). `settings[name]` is a slider,
    `draw()` the button, `picture` what it drew last, or None. Taught in notebook 04.

    Args:
        pipe, layout: as for `generate`.
        settings: names of `DenseConfig` numbers, e.g. ["window", "decay", "area"].
        config: where the settings start, and all others stay.
        steps: of the picture: few, for it is a preview; so is the bar of strengths by step.
        seed: of the picture, where its own slider starts.
    """

    def __init__(
        self,
        pipe: Any,
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
        self.regions = self._region_sliders()
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
        self._update()  # what is wrong with the layout is raised here, not shown
        self.region.observe(self._choose_region, names="value")
        for control in self._watched():
            control.observe(self._on_change, names="value")
        self.button.on_click(self._on_click)

    def _region_sliders(self) -> list[RegionSliders]:
        return []

    def _watched(self) -> list[ipywidgets.Widget]:
        moving = [control for region in self.regions for control in region.controls]
        return [self.region, self.seed, *self.settings.values(), *moving]

    # ------------------------------------------------------------------------------- every change
    def _choose_region(self, change: Any = None) -> None:
        # Only here: widgets that are put anew while one drags them are lost to the hand.
        if self.regions:
            self._moving.children = self.regions[self.region.value].controls

    def _on_change(self, change: Any) -> None:
        with self._told():
            self._update()

    def _update(self) -> None:
        """Everything that does not need sampling."""
        layout = self._given
        if self.regions:
            moved = [
                replace(region, mask=sliders.mask)
                for region, sliders in zip(layout.regions, self.regions, strict=True)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the caption is as it was, and so are its warnings
                layout = Layout(layout.caption, moved, layout.background)
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
        with self._told():
            self.draw()

    def draw(self) -> Image.Image:
        """The picture of `layout`, `config` and `seed`: exactly what `code` gives. Shows it, too.

        Raises what `generate` raises, and RuntimeError while a playground draws with the same
        pipeline. The button is off meanwhile.
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

    def _told(self) -> AbstractContextManager[None]:
        return told(self._message)

    @property
    def message(self) -> str:
        """What the widget says to the last change: HTML, empty when all is well."""
        return self._message.value


class MaskSliders(ConfigSliders):
    """Sliders for position, size and shape of each region, and for chosen settings.

    As `ConfigSliders`, and `regions[i].x` and so on are sliders (`RegionSliders`); the drop-down
    says which region's are shown. Taught in notebook 03.
    """

    def _region_sliders(self) -> list[RegionSliders]:
        return [RegionSliders(region) for region in self._given.regions]


# ------------------------------------------------------------------------------------- small parts
@contextmanager
def told(message: ipywidgets.HTML) -> Iterator[None]:
    """Show warnings and errors in a widget, where nothing else would show them."""
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except Exception as error:
            notes.append(f"{type(error).__name__}: {error}")
    # Deprecations are for programmers, and old widgets on new kernels are full of them.
    heard = [each for each in caught if not issubclass(each.category, FOR_PROGRAMMERS)]
    notes += dict.fromkeys(str(warning.message) for warning in heard)
    message.value = "<br>".join(f"<b>!</b> {html.escape(note)}" for note in notes)


def number_box(name: str, value: int, low: int, high: int) -> ipywidgets.BoundedIntText:
    """A box that holds a whole number from `low` to `high`; ValueError for another value."""
    box = ipywidgets.BoundedIntText(value=low, min=low, max=high, description=name)
    box.value = held(box, value)
    return box


def held(box: ipywidgets.BoundedIntText, value: int) -> int:
    """The value, or a ValueError where the box would hold another one, the nearest, in silence."""
    if not is_whole(value) or not box.min <= value <= box.max:
        raise ValueError(
            f"{box.description} is {value!r:.40}, but has to be a whole number from {box.min} to "
            f"{box.max}."
        )
    return int(value)


def _slider(name: str, value: float, low: float, high: float) -> ipywidgets.FloatSlider:
    """A slider that can stand at `value`, wherever that is."""
    return ipywidgets.FloatSlider(
        value=value, min=min(low, value), max=max(high, value), step=0.01, description=name,
        style={"description_width": "90px"},  # "image_image" is the longest
    )  # fmt: skip


def _bounds(mask: Mask) -> tuple[str, tuple[float, float, float, float]]:
    """The shape's name, and the middle (x, y), width and height of what it covers."""
    if isinstance(mask, Ellipse):
        return "ellipse", (mask.cx, mask.cy, 2 * mask.rx, 2 * mask.ry)
    kind = "box" if isinstance(mask, Box) else "as given"
    if isinstance(mask, Box):
        x0, y0, x1, y1 = mask.x0, mask.y0, mask.x1, mask.y1
    else:
        side = 256
        raster = mask.raster(side, side)
        y, x = (raster >= raster.max() / 2).nonzero().T
        x0, y0, x1, y1 = (float(v) / side for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))
    return kind, tuple(map(_short, ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)))


def _short(value: float) -> float:
    """Without the tail that arithmetic leaves: the code is to be read."""
    return round(value, 4)
