"""What sliders show while they move: masks, the token grid and the change to attention.

Nothing is sampled: the strengths come from the functions that modulate attention, and pictures are
drawn without figures, so they follow the slider. A layout and its settings are also written here as
Python code.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.layout.masks import Pixels
from densenb.layout.validation import check_count
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.formulas import (
    MAX_STRENGTH,
    area_weight,
    region_strength,
    same_region,
    schedule,
)
from densenb.modulation.plan import Plan, Step
from densenb.plots import pictures
from densenb.sd3.token_regions import Plans

HIGHEST_BIAS = 10.0  # logits, where the sliders and the colors of a fixed bias end
PANEL = 176  # pixels


# ----------------------------------------------------------------------------- what it amounts to
def sampling_steps(pipe: Pipeline, count: int) -> list[Step]:
    """The steps of a sampling in `count` steps; the scheduler of `pipe` itself is not changed."""
    check_count("steps", count)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(count)
    sigmas = (scheduler.timesteps.float() / scheduler.config.num_train_timesteps).tolist()
    return [Step(index, count, sigma) for index, sigma in enumerate(sigmas)]


def layout_plan(
    pipe: Pipeline, layout: Layout, config: DenseConfig
) -> tuple[Plan, tuple[int, int]]:
    """The plan of the layout at the tier's size, and the grid (rows, columns) of its image."""
    this = tier(pipe)
    scale = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    grid = (this.height // scale, this.width // scale)
    text = pipe.tokenizer_max_length + this.t5_length
    return Plans(pipe, [layout], config).plan([0], grid, text), grid


def strength_left(config: DenseConfig, steps: Sequence[Step]) -> list[float]:
    """The factor on all strengths at each step: the schedule inside the window, 0 outside."""
    return [
        schedule(step, config.clock, config.decay, config.window)
        if config.active(step, joint=True)
        else 0.0
        for step in steps
    ]


def text_bias(plan: Plan, config: DenseConfig, step: Step, column: int) -> Tensor:
    """How far each image token moves toward (+) or away from (-) a region's words: `[image]`.

    The unit is the token's range of scores, or logits when `value_range` is None. `column` is the
    region's. A background without a phrase has no words, so nothing moves.
    """
    text = plan.member[:, plan.image :]  # (1, text, R)
    words = text[:, text[0, :, column] > 0][:, :1]  # (1, 1, R): all words of a phrase are alike
    if not words.shape[1]:
        return torch.zeros(plan.image)
    same = same_region(plan.pixels, words)[0, :, 0]  # (image,)
    return _moves(same, plan.pixels, config.image_text, plan, config, step)


def image_bias(plan: Plan, config: DenseConfig, step: Step, query: int) -> Tensor:
    """How far one image token moves toward (+) or away from (-) each of them: `[image]`."""
    queries = plan.pixels[:, query : query + 1]  # (1, 1, R)
    same = same_region(queries, plan.pixels)[0, 0]  # (image,)
    return _moves(same, queries, config.image_image, plan, config, step)


def _moves(
    same: Tensor, queries: Tensor, strength: float, plan: Plan, config: DenseConfig, step: Step
) -> Tensor:
    """How far queries `[1, Q, R]` move toward keys of the same region and away from others."""
    # There are thousands of image tokens, but few kinds: weighing each kind once is fast enough.
    kinds, kind = queries[0].unique(dim=0, return_inverse=True)  # (kinds, R), (Q,)
    by_area = area_weight(kinds[None], plan.pixels, config.area, config.overlap_area)  # (1, kinds)
    (left,) = strength_left(config, [step])
    weight = (by_area * region_strength(kinds[None], plan.strengths) * left)[0, kind]  # (Q,)
    moves = strength * weight
    if config.value_range is not None:
        moves = moves.clamp(max=MAX_STRENGTH)
    return moves * (2 * same.float() - 1)


# --------------------------------------------------------------------------------- how it is shown
def live_picture(
    layout: Layout,
    plan: Plan,
    grid: tuple[int, int],
    config: DenseConfig,
    steps: Sequence[Step],
    region: int = 0,
) -> Image.Image:
    """The regions, their image tokens, and what the first step does to one region's attention.

    There are four panels: the regions; the tokens they get; how far each image token moves toward
    or away from the phrase of `region`; and how far the token in the middle of that region moves
    toward or away from the other image tokens. Colors end at 1 of the range, or at `HIGHEST_BIAS`
    logits. Below are the strengths at each step.
    """
    rows, columns = grid
    zoom = max(1, 256 // columns)
    height, width = rows * zoom, columns * zoom
    phrases = [each.phrase for each in layout.regions]
    tokens = plan.pixels[0, :, : len(phrases)].T.float().reshape(-1, rows, columns)  # (R, ...)
    enlarged = tokens.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)  # (R, height, width)
    paper = torch.full((3, height, width), 0.94)

    masks = layout.pixel_masks(height, width)  # (R, height, width)
    painted = pictures.overlay(paper, masks, fill=0.5)
    pictures.label_regions(painted, masks, phrases)
    squares = pictures.overlay(paper, enlarged, fill=0.5, line=1)
    pen = ImageDraw.Draw(squares)
    for i in range(1, rows):
        pen.line((0, i * zoom, width, i * zoom), fill="white")
    for i in range(1, columns):
        pen.line((i * zoom, 0, i * zoom, height), fill="white")
    pictures.label_regions(squares, enlarged, [f"{mask.sum():.0f} tokens" for mask in tokens])

    y, x = _middle(tokens[region])
    words = text_bias(plan, config, steps[0], region)
    others = image_bias(plan, config, steps[0], y * columns + x)
    fixed = config.value_range is None
    reach, unit = (HIGHEST_BIAS, "logits") if fixed else (1.0, "of range")
    panels = {"regions": painted, f"{rows} x {columns} image tokens": squares}
    for name, bias in ((phrases[region], words), ("image, from x", others)):
        colours = pictures.heat(bias.view(rows, columns), -reach, reach, pictures.DIFFERENCES)
        title = f"image -> {name:.18}\n{bias.min() + 0:+.2f} to {bias.max() + 0:+.2f} {unit}"
        title += f"\ncolours end at {-reach:+g} and {reach:+g}"
        panels[title] = colours.resize((width, height), Image.Resampling.NEAREST)
    pictures.label(panels[title], ((x + 0.5) * zoom, (y + 0.5) * zoom), "x", size=16)
    top = pictures.side_by_side(panels, PANEL)
    bottom = _bars(strength_left(config, steps), top.width)
    canvas = ImageOps.expand(top, (0, 0, 0, bottom.height))
    canvas.paste(bottom, (0, top.height))
    return canvas


def _middle(mask: Tensor) -> tuple[int, int]:
    """The region's token (row, column) nearest to its middle; the grid's middle if it has none."""
    inside = mask.nonzero().float()  # (tokens, 2)
    if not len(inside):
        return mask.shape[0] // 2, mask.shape[1] // 2
    nearest = (inside - inside.mean(dim=0)).square().sum(dim=1).argmin()
    return tuple(inside[nearest].int().tolist())


def _bars(values: Sequence[float], width: int) -> Image.Image:
    """A bar for each step: the share of the strength that the schedule leaves."""
    head, full, gap = 18, 40, 6
    canvas = Image.new("RGB", (width, head + full + gap), "white")
    edited = [i for i, value in enumerate(values) if value > 0]
    which = f"{edited[0]} to {edited[-1]} of 0 to {len(values) - 1}" if edited else "none"
    pictures.caption(canvas, (gap, 2), f"share of the strength at each step; edited: {which}")
    pen = ImageDraw.Draw(canvas)
    step = (width - 2 * gap) / len(values)
    for i, value in enumerate(values):
        left, right = gap + i * step, gap + (i + 1) * step - 2
        pen.rectangle((left, head, right, head + full), fill="#EEEEEE")
        pen.rectangle((left, head + full * (1 - min(value, 1)), right, head + full), fill="#555555")
        if len(values) <= 16:
            pictures.label(canvas, ((left + right) / 2, head + full / 2), f"{value:.2f}")
    return canvas


# ---------------------------------------------------------------------------- the same in Python
def as_python(layout: Layout, config: DenseConfig, seed: int, steps: int) -> str:
    """The call that draws the same picture, given `dnb`, `pipe` and, for painted masks, `layout`.

    A painted mask would be too long: the code takes it from `layout`.
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
    """The layout as `dnb.Layout(...)`; `with_pixels` writes painted masks as PNG in base64."""
    regions = []
    for i, region in enumerate(layout.regions):
        mask = region.mask
        if not isinstance(mask, Pixels):  # Box(x0, ...) is made by box(x0, ...), and so on
            values = ", ".join(map(repr, dataclasses.astuple(mask)))
            code = f"dnb.{type(mask).__name__.lower()}({values})"
        elif with_pixels:
            code = f"dnb.layout.mask_from_base64({mask.to_dict()['mask_png']!r})"
        else:
            code = f"layout.regions[{i}].mask"
        parts = [repr(region.phrase), code]
        for name, neutral in (("strength", 1), ("negative", None)):
            if getattr(region, name) != neutral:
                parts.append(f"{name}={getattr(region, name)!r}")
        regions.append(f"    dnb.Region({', '.join(parts)}),\n")
    background = "" if layout.background is None else f", background={layout.background!r}"
    return f"dnb.Layout({layout.caption!r}, [\n{''.join(regions)}]{background})"
