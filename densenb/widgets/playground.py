"""One widget for everything: paint, write, preview, generate, look and save.

    play = Playground(pipe, layout)
    play                                   # shows it
    play.generate(); play.wait()           # the button Generate, from Python
    play.pictures["dense"], play.layout, play.config, play.code

It is built from core ipywidgets (from what versions 7.7 and 8 share) and the painter. Pictures are
drawn in a thread, so that the controls stay responsive and Cancel works. Errors and warnings appear
in the widget.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ipywidgets
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.layout.png import read_png
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.plots.pictures import overlay, to_image
from densenb.sampling import generate
from densenb.sd3.preview import preview
from densenb.sd3.processors import stock_processors
from densenb.widgets.explorer import Shown, png
from densenb.widgets.layout_form import LayoutForm
from densenb.widgets.live_preview import as_python
from densenb.widgets.sliders import HIGHEST, LAST_SEED, SettingSliders, held, number_box, told
from densenb.widgets.worker import Cancelled, Job

MOST_STEPS = 1000
EVERY = 4  # steps from one intermediate picture to the next
WIDEST = 384  # pixels, the largest width of each of the two pictures on the page


@dataclass(frozen=True)
class Made:
    """How a picture was made; `model` is a line for people."""

    layout: Layout
    config: DenseConfig
    seed: int
    steps: int
    model: str


class Playground(Shown):
    """Set regions, phrases and settings; see the stock picture and the steered one side by side.

    From Python, set the `.value` of any control: those of `form` (a `LayoutForm` with caption,
    phrases and masks), `settings[name]`, `seed`, `steps` and `every`. Or call `set_layout` and
    `set_config`. These are always up to date: `layout`, `config`, `preview` (see
    `densenb.preview`), `code` (the same picture in plain Python), `status` and `message`.
    `pictures` has the last finished "stock" and "dense", and `made` tells how they were made.

    While a picture is drawn, the pipeline is busy: call `wait()` before you use it yourself. Taught
    in notebook 11.

    Args:
        pipe, layout: as for `generate`.
        config: where the settings start; settings without a slider keep its values.
        steps: where their control starts, 1 to 1000; by default the tier's steps.
        seed: where its control starts, 0 to 2**53 - 1.

    Raises ValueError or TypeError for a wrong layout, config or number.
    """

    def __init__(
        self,
        pipe: Pipeline,
        layout: Layout,
        config: DenseConfig = DenseConfig(),  # noqa: B008 (frozen)
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        this = tier(pipe)
        self.pipe = pipe
        self.pictures: dict[str, Image.Image] = {}
        self.made: Made | None = None
        self._job: Job | None = None
        self._stock: tuple[Any, Image.Image | None] = (None, None)  # what it depends on, and it

        self.form = LayoutForm(layout, this.height, this.width)
        self.steps = number_box("steps", this.steps if steps is None else steps, 1, MOST_STEPS)
        self.seed = number_box("seed", seed, 0, LAST_SEED)
        self.every = number_box("look every", EVERY, 0, MOST_STEPS)
        self.generate_button = _button("Generate", self._on_generate, "primary")
        self.cancel_button = _button("Cancel", self._on_cancel, "warning", disabled=True)
        self.path = ipywidgets.Text(value="picture.png", description="file")
        self.save_button = _button("Save", self._on_save)
        self.open_button = _button("Open", self._on_open)
        self._settings_box = ipywidgets.VBox()
        self._bar = ipywidgets.IntProgress(value=0, min=0, max=1)
        self._status, self._message, self._stale, self._preview, self._code = (
            ipywidgets.HTML() for _ in range(5)
        )
        blank = png(Image.new("RGB", (this.width, this.height), "#eeeeee"))
        width = min(this.width, WIDEST)
        self._panels = {
            name: ipywidgets.Image(value=blank, format="png", width=width)
            for name in ("stock", "dense")
        }
        self.box = self._arranged()
        self.set_config(config)  # raises errors of config and layout; later changes only show them
        self.form.on_change(self._on_change)
        for control in (self.seed, self.steps):
            control.observe(self._on_change, names="value")

    def _arranged(self) -> ipywidgets.Widget:
        row, column = ipywidgets.HBox, ipywidgets.VBox
        titles = {"stock": "stock: without the layout", "dense": "dense: with the layout"}
        panels = [column([ipywidgets.HTML(titles[n]), image]) for n, image in self._panels.items()]
        beside = column([
            self.form.words,
            self.seed,
            self.steps,
            self.every,
            row([self.generate_button, self.cancel_button]),
            row([self._bar, self._status]),
            self._message,
        ])  # fmt: skip
        return column([
            row([self.form.board.box, beside]),
            row(panels),
            self._stale,
            self._preview,
            self._settings_box,
            row([self.path, self.save_button, self.open_button]),
            self._code,
        ])  # fmt: skip

    # ---------------------------------------------------------------------- layout and settings
    def set_layout(self, layout: Layout) -> None:
        """Show another layout, in the text boxes and on the board."""
        self.form.set_layout(layout)
        self._update()

    def set_config(self, config: DenseConfig) -> None:
        """Set the sliders to the values of another config."""
        self._settings = SettingSliders(config, list(HIGHEST))
        self.settings = self._settings.sliders
        for slider in self.settings.values():
            slider.observe(self._on_change, names="value")
        unit = ipywidgets.HTML(f"settings; strengths are {self._settings.unit}")
        self._settings_box.children = [unit, *self.settings.values()]
        self._update()

    def _update(self) -> None:
        """Update everything that does not need sampling."""
        layout = self.form.layout
        self.preview = preview(layout, self.pipe)  # raises before anything has changed
        self.layout, self.config = layout, self._settings.config
        self.code = as_python(layout, self.config, self.seed.value, self.steps.value)
        self._preview.value = f"<pre>{html.escape(str(self.preview))}</pre>"
        self._code.value = (
            "the same in Python, where <code>layout = play.layout</code> has the painted masks:"
            f"<pre>{html.escape(self.code)}</pre>"
        )
        self._say_stale()

    def _now(self) -> Made:
        """How a picture would be made now."""
        steps, seed = self.steps.value, self.seed.value
        stamp = replace(tier(self.pipe), steps=steps).stamp([seed])
        return Made(self.layout, self.config, seed, steps, stamp)

    def _say_stale(self) -> None:
        if self.made is not None:
            note = "" if self.made == self._now() else " (drawn before the last change)"
            self._stale.value = html.escape(f"{self.made.model}{note}")

    # ---------------------------------------------------------------------------------- drawing
    def generate(self) -> None:
        """Start to draw with the current settings, and return; `wait()` gives the pictures.

        The stock picture is drawn once for each text, seed and number of steps. Every `every` steps
        (0: never; not after the first) an intermediate picture shows where the sampling leads: the
        predicted latents, decoded at half the size.

        Before anything is drawn, raises the ValueErrors of the preview, and RuntimeError while this
        pipeline is drawing or is inside `dense_attention` or `record_attention`.
        """
        if self._job is not None and self._job.running:
            raise RuntimeError("a picture is being drawn already: wait for it, or cancel it.")
        self._update()
        stock_processors(self.pipe.transformer)
        made = self._now()
        self._job = Job(self.pipe, lambda job: self._draw(made, job))

    def cancel(self) -> None:
        """Stop after the current step. The pictures before stay, and `wait()` returns them."""
        if self._job is not None:
            self._job.cancel()

    def wait(self, timeout: float | None = None) -> dict[str, Image.Image]:
        """Wait until nothing is being drawn, and return the last finished pictures.

        An interrupt of the kernel cancels the drawing. Raises the error of the drawing, if any,
        TimeoutError after `timeout` seconds, and RuntimeError when nothing was started.
        """
        if self._job is None:
            raise RuntimeError("nothing was started: call generate() first.")
        try:
            done = self._job.wait(timeout)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if not done:
            raise TimeoutError(f"still drawing after {timeout:g} s: wait longer, or cancel().")
        if self._job.error is not None and not isinstance(self._job.error, Cancelled):
            raise self._job.error
        return self.pictures

    # All below runs in the thread. It sets values of existing widgets, and makes no new ones.
    def _draw(self, made: Made, job: Job) -> None:
        against = made.layout.negative()
        key = (made.layout.text, None if against is None else against.text, made.seed, made.steps)
        kept = self._stock[1] if self._stock[0] == key else None
        self.generate_button.disabled, self.cancel_button.disabled = True, False
        self._bar.max = made.steps * (1 if kept else 2)
        self._bar.value, self._message.value = 0, ""
        self._tell("reading the text")
        try:
            stock = kept or self._picture("stock", None, made, job)
            self._stock = (key, stock)
            self._show("stock", stock, made.layout)
            dense = self._picture("dense", made.config, made, job)
            self._show("dense", dense, made.layout)
            self.pictures, self.made = {"stock": stock, "dense": dense}, made
            self._say_stale()
            self._tell("done")
        except BaseException as error:
            cancelled = isinstance(error, Cancelled)
            self._tell("cancelled" if cancelled else "failed")
            if not cancelled:
                text = html.escape(f"{type(error).__name__}: {error}")
                self._message.value = f"<b>!</b> {text}"
            for name, picture in self.pictures.items():
                self._show(name, picture, self.made.layout)
            raise
        finally:
            self.generate_button.disabled, self.cancel_button.disabled = False, True

    def _picture(self, name: str, rule: DenseConfig | None, made: Made, job: Job) -> Image.Image:
        before: Tensor | None = None

        def after_step(pipe: Pipeline, index: int, time: Any, state: dict) -> dict:
            nonlocal before
            latents, every, done = state["latents"], self.every.value, index + 1
            if every and before is not None and done % every == 0 and done < made.steps:
                ahead = foreseen(before, latents, *pipe.scheduler.sigmas[index : index + 2])
                self._show(name, half_size(pipe, ahead), made.layout)
            before = latents
            return state

        def after_step_told(done: int, total: int) -> None:
            self._bar.value += 1
            self._tell(f"{name}: step {done} of {total}")
            job.check()

        job.check()
        (picture,) = generate(
            self.pipe, made.layout, [made.seed], rule, steps=made.steps,
            progress=after_step_told, callback_on_step_end=after_step,
        )  # fmt: skip
        return picture

    def _show(self, name: str, picture: Image.Image, layout: Layout) -> None:
        masks = layout.pixel_masks(picture.height, picture.width)  # (R, H, W)
        self._panels[name].value = png(overlay(picture, masks))

    def _tell(self, status: str) -> None:
        self.status = status
        self._status.value = html.escape(status)

    # ----------------------------------------------------------------------------- save and open
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the layout (`.json`), or the last steered picture and how it was made (`.png`).

        Raises ValueError for another suffix, when no picture was drawn yet, and when the file
        exists, unless `overwrite`.
        """
        path = _checked(path)
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already: choose another name, or delete it first.")
        if path.suffix == ".json":
            self.form.layout.to_json(path)
        elif self.made is None:
            raise ValueError("nothing is drawn yet: generate first, or save the layout as .json.")
        else:
            about = {name: value for name, value in vars(self.made).items() if name != "layout"}
            self.made.layout.to_png(self.pictures["dense"], path, **about)

    def open(self, path: str | Path) -> None:
        """Load the layout of a `.json` or `.png` file, and a picture's settings with it.

        Raises the ValueErrors of `Layout.from_json` and `Layout.from_png`, and ValueError for a
        seed or steps outside the range of the controls. Nothing changes then.
        """
        path = _checked(path)
        if path.suffix == ".json":
            self.set_layout(Layout.from_json(path))
            return
        made, layout = read_png(path), Layout.from_png(path)
        config = None if made["config"] is None else DenseConfig.from_dict(made["config"])
        seed = self.seed.value if made["seed"] is None else held(self.seed, made["seed"])
        steps = self.steps.value if made["steps"] is None else held(self.steps, made["steps"])
        self.set_layout(layout)
        if config is not None:
            self.set_config(config)
        self.seed.value, self.steps.value = seed, steps

    # --------------------------------------------------------------------------- control events
    def _on_change(self, change: Any = None) -> None:
        with told(self._message):
            self._update()

    def _on_generate(self, button: Any) -> None:
        with told(self._message):
            self.generate()

    def _on_cancel(self, button: Any) -> None:
        self._tell("cancelling after this step")
        self.cancel()

    def _on_save(self, button: Any) -> None:
        with told(self._message):
            self.save(self.path.value)
            self._tell(f"saved {self.path.value}")

    def _on_open(self, button: Any) -> None:
        with told(self._message):
            self.open(self.path.value)
            self._tell(f"opened {self.path.value}")

    @property
    def message(self) -> str:
        """Errors and warnings of the last change or picture as HTML; empty if there are none."""
        return self._message.value


# ------------------------------------------------------------------------------------- small parts
def foreseen(before: Tensor, after: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Where latents would end if they went on straight from the step `sigma` to `next_sigma`.

    `before`, `after` and the result are [1, C, h, w]. Paths of flow matching are almost straight
    (Esser et al. 2024), so this predicts the final picture.
    """
    velocity = (before.float() - after.float()) / float(sigma - next_sigma)
    return after.float() - float(next_sigma) * velocity


@torch.no_grad()
def half_size(pipe: Pipeline, latents: Tensor) -> Image.Image:
    """Latents [1, C, h, w] decoded at half the picture's size."""
    vae = pipe.vae
    small = F.avg_pool2d(latents.float(), 2).to(vae.device, vae.dtype)  # (1, C, h / 2, w / 2)
    small = small / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    return to_image(vae.decode(small, return_dict=False)[0][0] / 2 + 0.5)


def _checked(path: str | Path) -> Path:
    """The path of a layout or a picture; ValueError for another suffix."""
    path = Path(path).expanduser()
    if path.suffix not in (".json", ".png"):
        raise ValueError(
            f"{str(path)!r} is neither a layout nor a picture with its layout: give a name that "
            "ends in .json or .png."
        )
    return path


def _button(name: str, click: Callable[[Any], None], style: str = "", **more: Any):
    button = ipywidgets.Button(description=name, button_style=style, **more)
    button.on_click(click)
    return button
