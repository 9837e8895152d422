"""The definition of modulated attention: every score in sight."""

from __future__ import annotations

import torch
from torch import Tensor

from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


def explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, rule: Rule, plan: Plan, step: Step
) -> Tensor:
    """Attention with every score in sight: `[B, H, N, D]` three times -> `[B, H, N, D]`.

    Scores, and all that the rule does to them, are at least float32, also under autocast.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.to(exact) @ key.to(exact).transpose(-1, -2) * query.shape[-1] ** -0.5
        probabilities = rule.probabilities(scores, plan, step)
        return (probabilities @ value.to(exact)).to(value.dtype)
