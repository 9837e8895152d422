"""The input of a rule for one pass: its step, and which token belongs to which region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """The sampling step of a pass: `index` (from 0) of `count`, at noise level `sigma`."""

    index: int
    count: int
    sigma: float


@dataclass(frozen=True)
class Plan:
    """Which token belongs to which region, for the rows of a batch that follow a layout.

    member: `[B, N, R]`: token n is in column r; the last column is the background. Bool, or float
        from 0 to 1 for soft masks (a pixel's sum is then at most 1).
    strengths: `[B, R]`: the strength of each column's region.
    image: How many of the N tokens are image tokens. They come first; the others are text.
    """

    member: Tensor
    strengths: Tensor
    image: int

    @property
    def pixels(self) -> Tensor:
        """The image tokens' part of `member`, `[B, image, R]`."""
        return self.member[:, : self.image]

    @property
    def unlabelled(self) -> Tensor:
        """Text of no region, special tokens and padding included: bool `[B, N]`."""
        text = torch.arange(self.member.shape[1], device=self.member.device) >= self.image
        return text & ~(self.member > 0).any(dim=-1)

    def keys(self, query: str, special_tokens: str) -> tuple[Tensor, Tensor]:
        """The regions of all tokens as keys, like `member`, and which keys keep their scores.

        query: "image" or "text". special_tokens: the policy for text of no region (`DenseConfig`).
        For text queries, such text keeps its scores under every policy: phrases need it as an
        attention sink.
        """
        free = self.unlabelled
        if query == "text" or special_tokens == "neutral":
            return self.member, free
        member = self.member
        if special_tokens == "background":
            behind = torch.where(free, torch.ones_like(member[..., -1]), member[..., -1])
            member = torch.cat([member[..., :-1], behind[..., None]], dim=-1)
        return member, torch.zeros_like(free)

    def image_only(self) -> Plan:
        """The plan of an attention that sees no text (`attn2` of SD 3.5-medium)."""
        return self._image_only

    @cached_property
    def _image_only(self) -> Plan:  # one object for all passes, since backends cache by plan
        return replace(self, member=self.pixels)
