"""The formulas of DenseDiffusion's attention modulation.

Shapes: B rows of a batch, H heads, Q queries, K keys, N tokens of a joint row (image first, then
text), R columns (the layout's regions, then the background). Scores are query . key / sqrt(head
size): logits, before the softmax. Source: Kim et al. 2023, "Dense Text-to-Image Generation with
Attention Modulation" (DenseDiffusion).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from densenb.modulation.plan import Step

MAX_STRENGTH = 0.999  # at 1, all scores of a row collapse to its maximum and minimum


def same_region(query_regions: Tensor, key_regions: Tensor) -> Tensor:
    """How far query and key share a region, 0 to 1: `[B, Q, R]`, `[B, K, R]` -> `[B, Q, K]`.

    1 or 0 for hard regions (bool), however many regions a pair shares; in between for soft ones.
    Taught in notebook 03.
    """
    return (query_regions.float() @ key_regions.float().transpose(1, 2)).clamp(max=1)


def fixed_bias(scores: Tensor, same: Tensor, strength: Tensor) -> Tensor:
    """Add `strength` to the scores of pairs of the same region; subtract it from all others.

    scores `[B, H, Q, K]`, same `[B, Q, K]` from 0 to 1, strength `[B, Q, K]` in logits. Taught in
    notebook 03.
    """
    return scores + (strength * (2 * same - 1))[:, None]


def value_range(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest score of each query: `[B, H, Q, K]` -> two `[B, H, Q, 1]`.

    Taught in notebook 05.
    """
    return scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)


def push_pull(
    scores: Tensor, same: Tensor, strength: Tensor, limits: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Move pairs of the same region toward their query's maximum, others toward its minimum.

    s + a (max - s) for pairs of the same region, s - a (s - min) for the others: with 0 <= a < 1,
    every score stays within the model's own range (Kim et al. 2023). scores `[B, H, Q, K]`, same
    `[B, Q, K]` from 0 to 1, strength a `[B, Q, K]`; limits (min, max), each `[B, H, Q, 1]`, by
    default those of the keys given. Taught in notebook 05.
    """
    low, high = value_range(scores) if limits is None else limits
    target = torch.lerp(low, high, same[:, None].to(scores.dtype))
    return scores + strength[:, None] * (target - scores)


def area_weight(
    query_regions: Tensor, pixel_regions: Tensor, area: float = 1.0, overlap: str = "union"
) -> Tensor:
    """The larger a query's regions, the gentler its modulation: 1 - area * covered fraction.

    `[B, Q, R]`, `[B, P, R]` -> `[B, Q]`, where P are all image tokens. 1 for queries in no region.
    overlap "union" counts a pixel once, so that the weight stays in [0, 1]; "sum" counts it once
    for each shared region, as the released DenseDiffusion does, and may fall below 0. Taught in
    notebook 05.
    """
    shared = query_regions.float() @ pixel_regions.float().transpose(1, 2)  # [B, Q, P]
    covered = shared.clamp(max=1) if overlap == "union" else shared
    return 1 - area * covered.mean(dim=-1)


def region_strength(query_regions: Tensor, strengths: Tensor) -> Tensor:
    """The strength of a query's strongest region: `[B, Q, R]`, `[B, R]` -> `[B, Q]`; 1 in none.

    Taught in notebook 06.
    """
    inside = query_regions > 0
    strongest = torch.where(inside, strengths[:, None], 0.0).amax(dim=-1)
    return torch.where(inside.any(dim=-1), strongest, 1.0)


def schedule(step: Step, clock: str, decay: float, window: float) -> float:
    """The factor on strengths at a step: time ** decay, where time falls from 1 by a `clock`.

    "sigma": the noise level that the model gets. In DenseDiffusion that is t / 1000, with decay 5;
    with the timestep shift of SD 3.5, the same power stays high for longer.
    "fraction": the share of the steps that is left.
    "cosine": half a cosine, from 1 at the first step to 0 at the end of the window.
    Taught in notebook 05.
    """
    if clock == "sigma":
        return step.sigma**decay
    if clock == "fraction":
        return (1 - step.index / step.count) ** decay
    done = min(1.0, step.index / (window * step.count)) if window else 1.0
    return (0.5 + 0.5 * math.cos(math.pi * done)) ** decay
