"""What sliders show while they move: masks, token grid, and what attention would get, in a blink.

Nothing is sampled: the strengths come from the functions that modulate attention, and the picture
is drawn without a plotting library. Also says a layout and a setting as the Python that makes them.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from densenb.layout import Layout
from densenb.masks import Box, Ellipse, Mask, Pixels, Polygon
from densenb.modulation import (
    MAX_STRENGTH,
    DenseConfig,
    Plan,
    Step,
    area_weight,
    region_strength,
    same_region,
    schedule,
)
from densenb.pictures import (
    DIFFERENCES,
    caption,
    heat,
    label,
    label_regions,
    overlay,
    side_by_side,
)
from densenb.pipelines import tier
from densenb.plans import Plans

HIGHEST_BIAS = 10.0  # logits: where the sliders and the colours of a fixed bias end
PANEL = 176  # pixels


# ------------------------------------------------------------------------------- what it comes to
def sampling_steps(pipe: Any, count: int) -> list[Step]:
    """The steps that `pipe` takes when it samples in `count`; its own scheduler stays untouched."""
    if count < 1:
        raise ValueError(f"steps is {count}, but has to be at least 1.")
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(count)
    sigmas = (scheduler.timesteps.float() / scheduler.config.num_train_timesteps).tolist()
    return [Step(index, count, sigma) for index, sigma in enumerate(sigmas)]


def layout_plan(pipe: Any, layout: Layout, config: DenseConfig) -> tuple[Plan, tuple[int, int]]:
    """The plan of the layout at the tier's size, and the grid (rows, columns) of its image."""
    this = tier(pipe)
    scale = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    grid = (this.height // scale, this.width // scale)
    text = pipe.tokenizer_max_length + this.t5_length
    return Plans(pipe, [layout], config).plan([0], grid, text), grid


def strength_left(config: DenseConfig, steps: Sequence[Step]) -> list[float]:
    """What multiplies all strengths at each step: the schedule inside the window, else 0."""
    return [
        schedule(step, config.clock, config.decay, config.window)
        if config.active(step, joint=True)
        else 0.0
        for step in steps
    ]


def text_bias(plan: Plan, config: DenseConfig, step: Step, column: int) -> Tensor:
    """How each image token is moved towards (+) or away from (-) a region's words: `[image]`.

    In shares of its range of scores, or in logits when `value_range` is None. `column` is the
    region's; the background without a phrase has no words, and moves nothing.
    """
    text = plan.member[:, plan.image :]
    words = text[:, text[0, :, column] > 0][:, :1]  # [1, 1, R]; all words of a phrase are alike
    if not words.shape[1]:
        return torch.zeros(plan.image)
    same = same_region(plan.pixels, words)[0, :, 0]
    weight = _weights(plan.pixels, plan, config, step)
    return _signed(same, config.image_text * weight, config, step)


def image_bias(plan: Plan, config: DenseConfig, step: Step, query: int) -> Tensor:
    """How one image token is moved towards (+) or away from (-) every other: `[image]`."""
    same = same_region(plan.pixels[:, query : query + 1], plan.pixels)[0, 0]
    weight = _weights(plan.pixels[:, query : query + 1], plan, config, step)
    return _signed(same, config.image_image * weight, config, step)


def _weights(queries: Tensor, plan: Plan, config: DenseConfig, step: Step) -> Tensor:
    """`query_weight` of some queries `[1, Q, R]` -> `[Q]`, computed once for each kind of query.

    Image tokens are thousands, but of few kinds: this is what lets the sliders follow the hand.
    """
    kinds, kind = queries[0].unique(dim=0, return_inverse=True)
    by_area = area_weight(kinds[None], plan.pixels, config.area, config.overlap_area)
    left = schedule(step, config.clock, config.decay, config.window)
    return (by_area * region_strength(kinds[None], plan.strengths) * left)[0, kind]


def _signed(same: Tensor, strength: Tensor, config: DenseConfig, step: Step) -> Tensor:
    if not config.active(step, joint=True):
        strength = torch.zeros_like(strength)
    if config.value_range is not None:
        strength = strength.clamp(max=MAX_STRENGTH)
    return strength * (2 * same.float() - 1)


# --------------------------------------------------------------------------------- how it is shown
def live_picture(
    layout: Layout,
    plan: Plan,
    grid: tuple[int, int],
    config: DenseConfig,
    steps: Sequence[Step],
    region: int = 0,
) -> Image.Image:
    """Regions, image tokens, and what the first step does to one region's attention.

    Four panels: the regions; the tokens they get; how strongly each image token is moved towards
    or away from the phrase of `region`; the same towards other image tokens, for the token in the
    region's middle. Full colour is 1 of the range, or `HIGHEST_BIAS` logits. Below, the strength at
    each step.
    """
    rows, columns = grid
    zoom = max(1, 256 // columns)
    height, width = rows * zoom, columns * zoom
    phrases = [each.phrase for each in layout.regions]
    tokens = plan.pixels[0, :, : len(phrases)].T.float().reshape(-1, rows, columns)
    enlarged = tokens.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    paper = torch.full((3, height, width), 0.94)

    painted = overlay(paper, layout.pixel_masks(height, width), fill=0.5)
    label_regions(painted, layout.pixel_masks(height, width), phrases)
    squares = overlay(paper, enlarged, fill=0.5, line=1)
    pen = ImageDraw.Draw(squares)
    for i in range(1, rows):
        pen.line((0, i * zoom, width, i * zoom), fill="white")
    for i in range(1, columns):
        pen.line((i * zoom, 0, i * zoom, height), fill="white")
    label_regions(squares, enlarged, [f"{mask.sum():.0f} tokens" for mask in tokens])

    y, x = _middle(tokens[region])
    words = text_bias(plan, config, steps[0], region)
    others = image_bias(plan, config, steps[0], y * columns + x)
    bounded = config.value_range is not None
    reach, unit = (1.0, "of range") if bounded else (HIGHEST_BIAS, "logits")
    panels = {"regions": painted, f"{rows} x {columns} image tokens": squares}
    for name, bias in ((phrases[region], words), ("image, from x", others)):
        colours = heat(bias.view(rows, columns), -reach, reach, DIFFERENCES)
        title = f"image -> {name:.18}\n{bias.min() + 0:+.2f} to {bias.max() + 0:+.2f} {unit}"
        title += f"\ncolours end at {-reach:+g} and {reach:+g}"
        panels[title] = colours.resize((width, height), Image.Resampling.NEAREST)
    label(panels[title], ((x + 0.5) * zoom, (y + 0.5) * zoom), "x", size=16)
    top = side_by_side(panels, PANEL)
    bottom = _bars(strength_left(config, steps), top.width)
    canvas = Image.new("RGB", (top.width, top.height + bottom.height), "white")
    canvas.paste(top, (0, 0))
    canvas.paste(bottom, (0, top.height))
    return canvas


def _middle(mask: Tensor) -> tuple[int, int]:
    """The token (row, column) of a region next to its middle; the grid's own if it has none."""
    inside = mask.nonzero().float()
    if not len(inside):
        return mask.shape[0] // 2, mask.shape[1] // 2
    nearest = (inside - inside.mean(dim=0)).square().sum(dim=1).argmin()
    return tuple(inside[nearest].int().tolist())


def _bars(values: Sequence[float], width: int) -> Image.Image:
    """A bar for each step, as high as the share of the strength that the schedule leaves."""
    head, full, gap = 18, 40, 6
    canvas = Image.new("RGB", (width, head + full + gap), "white")
    edited = [i for i, value in enumerate(values) if value > 0]
    which = f"{edited[0]} to {edited[-1]} of 0 to {len(values) - 1}" if edited else "none"
    caption(canvas, (gap, 2), f"share of the strength at each step; edited: {which}")
    pen = ImageDraw.Draw(canvas)
    step = (width - 2 * gap) / len(values)
    for i, value in enumerate(values):
        left, right = gap + i * step, gap + (i + 1) * step - 2
        pen.rectangle((left, head, right, head + full), fill="#EEEEEE")
        pen.rectangle((left, head + full * (1 - min(value, 1)), right, head + full), fill="#555555")
        if len(values) <= 16:
            label(canvas, ((left + right) / 2, head + full / 2), f"{value:.2f}")
    return canvas


# ---------------------------------------------------------------------------- the same in Python
def as_python(layout: Layout, config: DenseConfig, seed: int, steps: int) -> str:
    """The call that draws the same picture, given `dnb`, `pipe` and, for painted masks, `layout`.

    A painted mask is too long to write: it is taken from the `layout` that it came from.
    """
    default = type(config)()
    changed = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(default, field.name)
    ]
    return (
        "dnb.generate(\n"
        "    pipe,\n"
        f"{textwrap.indent(layout_as_python(layout), '    ')},\n"
        f"    seeds=[{seed}],\n"
        f"    config=dnb.DenseConfig({', '.join(changed)}),\n"
        f"    steps={steps},\n"
        ")[0]"
    )


def layout_as_python(layout: Layout, with_pixels: bool = False) -> str:
    """The layout as `dnb.Layout(...)`; painted masks from `layout`, or as PNG text with pixels."""
    regions = []
    for i, region in enumerate(layout.regions):
        parts = [repr(region.phrase), mask_as_python(region.mask, i)]
        if with_pixels and isinstance(region.mask, Pixels):
            parts[1] = f"dnb.masks.mask_from_base64({region.mask.to_dict()['mask_png']!r})"
        for name, neutral in (("strength", 1), ("negative", None)):
            if getattr(region, name) != neutral:
                parts.append(f"{name}={getattr(region, name)!r}")
        regions.append(f"    dnb.Region({', '.join(parts)}),\n")
    background = "" if layout.background is None else f", background={layout.background!r}"
    return f"dnb.Layout({layout.caption!r}, [\n{''.join(regions)}]{background})"


def mask_as_python(mask: Mask, index: int) -> str:
    """`dnb.box(...)` and its like; a painted mask as that of region `index` of `layout`."""
    if isinstance(mask, Box):
        return f"dnb.box({mask.x0!r}, {mask.y0!r}, {mask.x1!r}, {mask.y1!r})"
    if isinstance(mask, Ellipse):
        return f"dnb.ellipse({mask.cx!r}, {mask.cy!r}, {mask.rx!r}, {mask.ry!r})"
    if isinstance(mask, Polygon):
        return f"dnb.polygon({mask.points!r})"
    return f"layout.regions[{index}].mask"
