"""Other ways to steer attention by a layout: each is a `Rule`, as DenseDiffusion is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from densenb.modulation import Plan, Rule, Step, same_region


@dataclass(frozen=True, kw_only=True)
class HardMask(Rule):
    """Tokens of different regions do not see each other: the strong control of every comparison.

    In the chosen quadrants (query, key), by default all four, a query attends only to keys that
    share a region with it, by default for the first 30 % of the steps; pixels in no region form the
    background region. After Regional Prompting and InvokeAI (both for FLUX), but in all blocks and
    without their mixing of outputs. Settings as in `Rule`, and
    special_tokens: text of no region (special tokens, padding, unlabelled words) is seen by every
        pixel ("neutral"), or by the background's pixels alone ("background"). It sees everything,
        and phrases see it: cut off from it, they have no place to rest, and pictures fall apart.

    No row is ever left without keys, because a token in a region shares that region with itself.
    """

    special_tokens: str = "background"
    quadrants: tuple[tuple[str, str], ...] = (
        ("image", "text"),
        ("image", "image"),
        ("text", "image"),
        ("text", "text"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.special_tokens not in ("neutral", "background"):
            raise ValueError(
                f"special_tokens is {self.special_tokens!r}, but has to be 'neutral' or "
                "'background'."
            )
        unknown = [pair for pair in self.quadrants if pair not in HardMask.quadrants]
        if unknown or not self.quadrants:
            raise ValueError(
                f"quadrants is {self.quadrants!r}, but has to list some of {HardMask.quadrants}."
            )

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        spans = {"image": slice(0, plan.image), "text": slice(plan.image, scores.shape[-1])}
        seen = torch.ones_like(scores[:, 0], dtype=torch.bool)
        nowhere = ~(plan.member > 0).any(dim=-1)
        lost = nowhere & ~plan.unlabelled  # pixels in no region, where these form no region either
        for query, key in self.quadrants:
            rows, columns = spans[query], spans[key]
            key_regions, alone = plan.keys(query, self.special_tokens)
            same = same_region(plan.member[:, rows], key_regions[:, columns]) > 0
            seen[:, rows, columns] = (
                same | nowhere[:, rows, None] | (alone | lost)[:, None, columns]
            )
        return scores.masked_fill(~seen[:, None], float("-inf")).softmax(dim=-1)
