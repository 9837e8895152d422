"""Other ways to steer attention by a layout: each is a `Rule`, as DenseDiffusion is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from densenb.modulation import Plan, Rule, Step, same_region


@dataclass(frozen=True, kw_only=True)
class HardMask(Rule):
    """Tokens of different regions do not see each other: the strong control of every comparison.

    In all four quadrants a query attends only to keys that share a region with it, by default for
    the first 30 % of the steps; pixels in no region form the background region. After Regional
    Prompting and InvokeAI (both for FLUX), but in all blocks and without their mixing of outputs.
    Settings as in `Rule`, and
    special_tokens: text of no region (special tokens, padding, unlabelled words) is seen by every
        pixel ("neutral") or by the background's pixels alone ("negative"). It sees everything.

    No row is ever left without keys, because a token in a region shares that region with itself.
    """

    special_tokens: str = "neutral"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.special_tokens not in ("neutral", "negative"):
            raise ValueError(
                f"special_tokens is {self.special_tokens!r}, but has to be 'neutral' or 'negative'."
            )

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        free = ~plan.member.any(dim=-1)
        sees_free = torch.ones_like(free)
        if self.special_tokens == "negative":
            sees_free = free | plan.member[..., -1]
        allowed = same_region(plan.member, plan.member)
        allowed |= free[:, :, None] | (sees_free[:, :, None] & free[:, None, :])
        return scores.masked_fill(~allowed[:, None], float("-inf")).softmax(dim=-1)
