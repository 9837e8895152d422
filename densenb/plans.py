"""What one pass of the transformer means to a rule: its step, and the region of every token.

Both are read from what the pass is given (timestep, latents, text), never counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from densenb.layout import Layout
from densenb.modulation import Plan, Rule, Step
from densenb.tokens import text_regions

SAME_TIMESTEP = 5.0  # of 1000: bfloat16 rounds a timestep by up to 2, samplers step further than 5


_fetched = WeakTensorKeyDictionary()  # schedule -> its timesteps as numbers


def find_step(timestep: Tensor, scheduler: Any) -> Step:
    """The step of a pass, by its timestep's position in the schedule; ValueError if it has none."""
    schedule, total = scheduler.timesteps, scheduler.config.num_train_timesteps
    if schedule not in _fetched:
        _fetched[schedule] = schedule.tolist()
    known = _fetched[schedule]
    place = place_in(schedule, timestep)
    if place is not None:
        return Step(place, len(known), known[place] / total)
    values = timestep.detach().flatten().tolist()
    if min(values) != max(values):
        raise ValueError(f"one pass has timesteps {values}: its rows have to share one. Split it.")
    gaps = [abs(other - values[0]) for other in known]
    index = gaps.index(min(gaps))
    if gaps[index] > SAME_TIMESTEP:
        raise ValueError(
            f"timestep {values[0]:g} is none of the scheduler's {len(gaps)}: call "
            "pipe.scheduler.set_timesteps(steps) and take the timesteps from it."
        )
    return Step(index, len(known), values[0] / total)


def place_in(schedule: Tensor, timestep: Tensor) -> int | None:
    """Which element of the schedule `timestep` is a view of, as pipelines pass it; None if of none.

    Nothing is read: to copy a number from a GPU is to wait until it has done all its work.
    """
    theirs, ours = (x.untyped_storage().data_ptr() for x in (schedule, timestep))
    if theirs != ours or schedule.stride() != (1,) or any(timestep.stride()):
        return None
    return timestep.storage_offset() - schedule.storage_offset()


def token_regions(
    pipe: Any, layout: Layout, rule: Rule, grid: tuple[int, int], t5_length: int, columns: int
) -> Tensor:
    """Which joint token is in which region: `[N, columns]`, image first, then CLIP, then T5.

    Columns are the layout's regions, empty ones up to `columns`, and last the background. `grid` is
    the image tokens' (rows, columns). Float for soft masks, else bool.
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
    """The plans of some layouts under one rule, made when first asked for and then kept."""

    def __init__(self, pipe: Any, layouts: Sequence[Layout], rule: Rule) -> None:
        self._pipe, self._layouts, self._rule = pipe, layouts, rule
        self._columns = max(len(layout.regions) for layout in layouts) + 1
        self._members: dict[tuple, Tensor] = {}
        self._plans: dict[tuple, Plan] = {}

    def plan(
        self, owners: Sequence[int], grid: tuple[int, int], text: int, device: Any = "cpu"
    ) -> Plan:
        """The plan for rows that follow layouts `owners`, on a grid of image and `text` tokens."""
        key, image = (tuple(owners), grid, text, str(device)), grid[0] * grid[1]
        if key not in self._plans:
            rows = [self._member(owner, grid, text) for owner in owners]
            strengths = torch.ones(len(owners), self._columns)
            for row, owner in enumerate(owners):
                for column, region in enumerate(self._layouts[owner].regions):
                    strengths[row, column] = region.strength
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
