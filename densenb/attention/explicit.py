"""The definition of modulated attention, with the whole score matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, rule: Rule, plan: Plan, step: Step
) -> Tensor:
    """Attention that materializes its scores: `[B, H, N, D]` three times -> `[B, H, N, D]`.

    Scores, and everything that the rule does to them, are at least float32, even under autocast.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.to(exact) @ key.to(exact).transpose(-1, -2) * query.shape[-1] ** -0.5
        probabilities = rule.probabilities(scores, plan, step)  # (B, H, N, N)
        return (probabilities @ value.to(exact)).to(value.dtype)  # (B, H, N, D)
