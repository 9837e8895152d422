"""The first transfer of DenseDiffusion to SD 3.5, equation by equation, and its repair.

Source: Y. Wu, "Transfer Dense Diffusion on SD 3.5", report of 2 January 2025, equations 1 to 4. It
found that the mask "had a limited impact" and that the picture was "unable to get rid of the
interference of noise". Its code is not public. Where an equation leaves something open, the reading
taken here is the kindest that its words allow, and is said at the setting.

`REPAIRS` goes from the report to this library's setting, one change at a time but for the last
step; `RELAPSES` goes back from there by one change each. Taught in notebook 07.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from densenb.layout.validation import check_one_of
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.formulas import area_weight, same_region
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


@dataclass(frozen=True, kw_only=True)
class Transfer(DenseConfig):
    """DenseDiffusion with the departures of the report, each a switch; by default all are off.

    Besides the settings of `DenseConfig`:
    mask: "scores": the scores are modulated, as in DenseDiffusion. "weights" (equations 2 and 3):
        of a pixel's attention weights, those to other regions are set to 0 after the softmax, and
        what is left sums to less than 1. "renormalised": then divided by its sum. A token's region
        is that of its phrase; strengths are not used.
    layers: where attention is edited: "all"; "image-only", in `attn2` alone, the only layers that
        are self-attention; or "none", as when arguments do not reach the processors.
    temperature: scores are divided by it once more. The report writes sqrt(d_model) where attention
        has sqrt(head size); the ratio is the square root of the number of heads.
    size_factor: equation 1, whose function of a segment's size is left open: a pixel's weights to a
        segment's tokens are multiplied by size_factor - the segment's share of the picture. 1 is
        DenseDiffusion's own function of size; None multiplies by nothing.
    embedding: equation 4. A vector for each segment is added to the tokens of its phrase. Nobody
        trained it, so it is what it was at first: normal, with this standard deviation.
    renoise: equation 1. After each of this share of the steps, the earliest, what is outside of all
        segments becomes new noise.
    """

    mask: str = "scores"
    layers: str = "all"
    temperature: float = 1.0
    size_factor: float | None = None
    embedding: float = 0.0
    renoise: float = 0.0
    backend: str = "explicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("mask", self.mask, ("scores", "weights", "renormalised"))
        check_one_of("layers", self.layers, ("all", "image-only", "none"))
        check_one_of("backend", self.backend, ("explicit",))
        for name in ("temperature", "embedding"):
            self._number(name)
        if self.size_factor is not None:
            self._number("size_factor")
        self._number("renoise", high=1)
        if self.temperature == 0:
            raise ValueError("temperature is 0, but scores are divided by it: 1 leaves them alone.")

    @classmethod
    def reported(cls, pipe: Any) -> Transfer:
        """Equations 1 to 4 as printed: attention at every step, latents in the first 30 %."""
        return cls(
            window=1.0,
            mask="weights",
            temperature=pipe.transformer.config.num_attention_heads**0.5,
            size_factor=1.0,
            embedding=1.0,
            renoise=0.3,
        )

    def active(self, step: Step, joint: bool) -> bool:
        reached = self.layers == "all" or (self.layers == "image-only" and not joint)
        return reached and super().active(step, joint)

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        scores = scores / self.temperature
        if self.mask == "scores":
            weights = super().probabilities(scores, plan, step)
        else:
            pixels = scores[:, :, : plan.image].softmax(dim=-1)
            pixels = pixels * segment_mask(plan, self.special_tokens)[:, None]
            weights = torch.cat([pixels, scores[:, :, plan.image :].softmax(dim=-1)], dim=2)
        if self.size_factor is not None:
            factor = segment_factor(plan, self.size_factor)[:, None, None]
            pixels, text = weights.tensor_split([plan.image], dim=2)
            weights = torch.cat([pixels * factor, text], dim=2)
        if self.mask == "renormalised":
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights

    def edit_text(self, text: Tensor, plan: Plan, step: Step) -> Tensor:
        if not self.embedding:
            return text
        segments = plan.member[:, plan.image :, :-1].float()  # [B, L, segments]
        random = torch.Generator().manual_seed(0)
        vectors = torch.randn(segments.shape[-1], text.shape[-1], generator=random)
        return text + self.embedding * (segments @ vectors.to(segments.device)).to(text.dtype)

    def after_step(
        self, latents: Tensor, inside: Tensor, step: Step, generator: torch.Generator
    ) -> Tensor:
        if step.index >= round(self.renoise * step.count, 9):
            return latents
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents)
        return torch.where(inside, latents, noise)


def segment_mask(plan: Plan, special_tokens: str = "neutral") -> Tensor:
    """Equations 2 and 3: 1 where a pixel shares a segment with a key, else 0: `[B, P, N]`.

    Text of no segment as `special_tokens` says. Pixels in no region at all see everything, or they
    would see nothing. Taught in notebook 07.
    """
    keys, alone = plan.keys("image", special_tokens)
    nowhere = ~(plan.pixels > 0).any(dim=-1)
    everything = nowhere[:, :, None] | alone[:, None]
    return same_region(plan.pixels, keys).masked_fill(everything, 1.0)


def segment_factor(plan: Plan, most: float = 1.0) -> Tensor:
    """`most` - the share of the picture that a token's segments cover; 1 for tokens of none.

    Equation 1's factor of attention weights, `[B, N]`. Taught in notebook 07.
    """
    segments = plan.member[..., :-1]
    inside = (segments > 0).any(dim=-1)
    factor = most - 1 + area_weight(segments, segments[:, : plan.image])
    return factor.masked_fill(~inside, 1.0)


@torch.no_grad()
def leftover_noise(vae: Any, latents: Tensor) -> Tensor:
    """How much of sampled latents `[B, C, h, w]` is no picture, 0 to about 1: `[B]`.

    Decoded to a picture and encoded again, a picture comes back as it was, and noise does not: the
    norm of what is lost over that of the latents. Taught in notebook 07.
    """
    latents = latents / vae.config.scaling_factor + vae.config.shift_factor
    pixels = vae.decode(latents).sample.clamp(-1, 1)
    lost = vae.encode(pixels).latent_dist.mode() - latents
    return lost.flatten(1).norm(dim=1) / latents.flatten(1).norm(dim=1)


# ------------------------------------------------------------------------------- the way, and back
CHANGES: dict[str, dict[str, Any]] = {
    "repair-scale": {"temperature": 1.0},
    "repair-embedding": {"embedding": 0.0},
    "repair-renoise": {"renoise": 0.0},
    "repair-size": {"size_factor": None},
    "repair-window": {"window": 0.3},
    "repair-sum": {"mask": "renormalised"},
    "repair-text": {"special_tokens": "background"},
    "repair-soft": {"mask": "scores", "area": 0.0, "decay": 0.0},
    "repair-decay": {"decay": 5.0},
}
"""What each repair changes, the ones before it kept.

What `DenseConfig.recommended` changes beyond that comes last, in one step: words alone, but both ways, a
bias of logits instead of the range, no decay, other text left as it is.
"""


def repaired(pipe: Any, changes: Mapping[str, Any]) -> Transfer:
    return replace(Transfer.reported(pipe), **changes)


def relapsed(pipe: Any, **changes: Any) -> Transfer:
    """The library's setting with something of the report put back."""
    return replace(Transfer.recommended(pipe), **changes)


def _scale(pipe: Any) -> float:
    return Transfer.reported(pipe).temperature


REPAIRS: dict[str, Callable[[Any], Rule]] = {
    "report": Transfer.reported,
    **{
        name: lambda pipe, changes=changes: repaired(pipe, changes)
        for name, changes in zip(
            CHANGES, accumulate(CHANGES.values(), lambda before, new: before | new), strict=True
        )
    },
    "repair-recommended": Transfer.recommended,
}
"""Name -> the rule for a pipeline: the report, one repair after the other, `DenseConfig.recommended`."""

READINGS: dict[str, Callable[[Any], Rule]] = {
    "report-inert": lambda pipe: repaired(pipe, {"layers": "none"}),
    "report-image-only": lambda pipe: repaired(pipe, {"layers": "image-only"}),
    "report-larger": lambda pipe: repaired(pipe, {"size_factor": 2.0}),
}
"""The report read otherwise: its mask reaches no layer, or `attn2` alone; another size factor."""

RELAPSES: dict[str, Callable[[Any], Rule]] = {
    "relapse-scale": lambda pipe: relapsed(pipe, temperature=_scale(pipe)),
    "relapse-embedding": lambda pipe: relapsed(pipe, embedding=1.0),
    "relapse-renoise": lambda pipe: relapsed(pipe, renoise=0.3),
    "relapse-size": lambda pipe: relapsed(pipe, size_factor=1.0),
    "relapse-window": lambda pipe: relapsed(pipe, window=1.0),
    "relapse-sum": lambda pipe: relapsed(pipe, mask="weights"),
    "relapse-hard": lambda pipe: relapsed(pipe, mask="renormalised"),
}
"""The library's setting with one thing of the report put back.

"relapse-sum" and "relapse-hard" are "repair-window" and "repair-sum" without a mask in `attn2`: the
library's setting leaves that alone.
"""
