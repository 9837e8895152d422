"""The region of every token: masks for image tokens, spans for text tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.models.pipeline import Pipeline
from densenb.modulation.plan import Plan
from densenb.modulation.rule import Rule
from densenb.sd3.spans import clip_tokenizers, layout_spans, t5_tokenizers, text_positions


def token_regions(
    pipe: Pipeline, layout: Layout, rule: Rule, grid: tuple[int, int], t5_length: int, columns: int
) -> Tensor:
    """Which joint token is in which region: `[N, columns]`, image first, then CLIP, then T5.

    The columns are the layout's regions, empty padding, and last the background. `grid` has the
    rows and columns of image tokens. Float for soft masks, else bool.
    """
    count = len(layout.regions)
    masks = layout.token_masks(*grid, method=rule.masks).flatten(1)  # [regions, image]
    first_match = rule.phrase_match == "first"
    text = text_regions(pipe, layout, t5_length, first_match).member  # [text, phrases]
    image = masks.shape[1]
    member = torch.zeros(image + len(text), columns, dtype=masks.dtype)
    member[:image, :count] = masks.T
    member[image:, :count] = text[:, :count]
    if layout.background is not None:
        member[image:, -1] = text[:, count]
    if layout.background is not None or rule.unassigned == "background":
        member[:image, -1] = 1 - masks.float().sum(dim=0).clamp(max=1)
    return member


class Plans:
    """The plans of some layouts under one rule, made on first use and then cached."""

    def __init__(self, pipe: Pipeline, layouts: Sequence[Layout], rule: Rule) -> None:
        self._pipe, self._layouts, self._rule = pipe, layouts, rule
        self._columns = max(len(layout.regions) for layout in layouts) + 1
        self._members: dict[tuple, Tensor] = {}
        self._plans: dict[tuple, Plan] = {}

    def plan(
        self, owners: Sequence[int], grid: tuple[int, int], text: int, device: Any = "cpu"
    ) -> Plan:
        """The plan for rows of layouts `owners`, with a grid of image and `text` text tokens."""
        key, image = (tuple(owners), grid, text, str(device)), grid[0] * grid[1]
        if key not in self._plans:
            rows = [self._member(owner, grid, text) for owner in owners]
            strengths = torch.ones(len(owners), self._columns)  # (B, R)
            for row, owner in enumerate(owners):
                for column, region in enumerate(self._layouts[owner].regions):
                    strengths[row, column] = region.strength
            # (B, N, R)
            member = torch.stack(rows) if rows else torch.zeros(0, image + text, self._columns)
            self._plans[key] = Plan(member.to(device), strengths.to(device), image)
        return self._plans[key]

    def _member(self, owner: int, grid: tuple[int, int], text: int) -> Tensor:
        key = (owner, grid, text)
        if key not in self._members:
            t5_length = text - self._pipe.tokenizer_max_length
            self._members[key] = token_regions(
                self._pipe, self._layouts[owner], self._rule, grid, t5_length, self._columns
            )
        return self._members[key]


@dataclass(frozen=True, eq=False)
class TextRegions:
    """Which text tokens belong to which region, in the order [CLIP, T5].

    `member`: bool `[L, R]`, one column per phrase of the layout. `special`: bool `[L]`, true for
    BOS, EOS and padding. Words of no phrase are in neither.
    """

    member: Tensor
    special: Tensor


def text_regions(
    pipe: Pipeline, layout: Layout, t5_length: int, first_match_only: bool = False
) -> TextRegions:
    """Region membership of all `L = pipe.tokenizer_max_length + t5_length` text tokens.

    With `first_match_only`, equal phrases all take the first occurrence, as in the released
    DenseDiffusion.
    """
    clip_length = pipe.tokenizer_max_length
    member = torch.zeros(clip_length + t5_length, len(layout.phrases), dtype=torch.bool)
    for column, (_, spans) in enumerate(layout_spans(pipe, layout, t5_length, first_match_only)):
        member[list(spans.clip), column] = True
        member[[clip_length + i for i in spans.t5], column] = True
    special = torch.ones(clip_length + t5_length, dtype=torch.bool)
    for tokenizer in clip_tokenizers(pipe):
        special[:clip_length][text_positions(tokenizer, layout.text, clip_length)] = False
    for tokenizer in t5_tokenizers(pipe):
        special[clip_length:][text_positions(tokenizer, layout.text, t5_length)] = False
    return TextRegions(member, special)


def token_grid(pipe: Pipeline, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of image tokens; ValueError if the picture (in pixels) does not divide."""
    scale = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    if height % scale or width % scale:
        up, across = (-(-side // scale) * scale for side in (height, width))
        raise ValueError(
            f"the picture is {height} x {width} pixels, but both have to be multiples of {scale}: "
            f"give e.g. height={up}, width={across}."
        )
    return height // scale, width // scale
