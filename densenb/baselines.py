"""Other ways to steer attention by a layout: each is a `Rule`, as DenseDiffusion is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from densenb.modulation import Plan, Rule, Step, same_region


@dataclass(frozen=True, kw_only=True)
class HardMask(Rule):
    """Tokens of different regions do not see each other: the strong control of every comparison.

    In all four quadrants a query attends only to keys that share a region with it. Tokens in no
    region (special and unlabelled text, by default also the pixels outside every region) see
    everything and are seen by everything. No row is ever left without keys, because a token shares
    its own regions. Settings as in `Rule`.
    """

    unassigned: str = "none"

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        free = ~plan.member.any(dim=-1)
        allowed = same_region(plan.member, plan.member) | free[:, :, None] | free[:, None, :]
        return scores.masked_fill(~allowed[:, None], float("-inf")).softmax(dim=-1)
