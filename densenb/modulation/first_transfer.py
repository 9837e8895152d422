"""The first transfer of DenseDiffusion to SD 3.5, equation by equation, and its repair.

Source: Y. Wu, "Transfer Dense Diffusion on SD 3.5", report of 2 January 2025, equations 1 to 4. It
found that the mask "had a limited impact" and that the picture was "unable to get rid of the
interference of noise". Its code is not public. Where an equation leaves something open, this module
takes the most favorable reading that its words allow; the setting's description says which.

`REPAIRS` leads from the report to this library's setting, one change at a time except in the last
step. `RELAPSES` undoes one change each. Taught in notebook 07.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor

from densenb.models.pipeline import Pipeline
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.formulas import area_weight, same_region
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


@dataclass(frozen=True, kw_only=True)
class Transfer(DenseConfig):
    """DenseDiffusion with the report's departures, each a switch; by default all are off.

    Besides the settings of `DenseConfig`:
    mask: "scores" modulates the scores, as DenseDiffusion does. "weights" (equations 2 and 3) sets
        a pixel's attention weights to other regions to 0 after the softmax; the rest sums to less
        than 1. "renormalised" also divides the rest by its sum. A token's region is that of its
        phrase; strengths are not used.
    layers: Where attention is edited: in "all" layers; "image-only", in `attn2`, the only
        self-attention layers; or "none", as when arguments do not reach the processors.
    temperature: An extra divisor of the scores. The report writes sqrt(d_model) where attention has
        sqrt(head size); the ratio is the square root of the number of heads.
    size_factor: Equation 1, which leaves its function of a segment's size open: a pixel's weights
        to a segment's tokens are multiplied by size_factor - the segment's share of the picture. 1
        is DenseDiffusion's own function of size; None turns it off.
    embedding: Equation 4. A vector for each segment is added to the tokens of its phrase. It was
        never trained, so it keeps its initial values: normal, with this standard deviation.
    renoise: Equation 1. In this share of the steps, from the first on, everything outside of all
        segments becomes new noise after the step.
    """

    SHARES: ClassVar = (*DenseConfig.SHARES, "renoise")
    CHOICES: ClassVar = DenseConfig.CHOICES | {
        "mask": ("scores", "weights", "renormalised"),
        "layers": ("all", "image-only", "none"),
        "backend": ("explicit",),
    }

    mask: str = "scores"
    layers: str = "all"
    temperature: float = 1.0
    size_factor: float | None = None
    embedding: float = 0.0
    renoise: float = 0.0
    backend: str = "explicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size_factor is not None:
            self._number("size_factor")
        if self.temperature == 0:
            raise ValueError("temperature is 0, but scores are divided by it: 1 leaves them alone.")

    @classmethod
    def reported(cls, pipe: Pipeline) -> Transfer:
        """Equations 1 to 4 as printed: attention in every step, latents in the first 30 %."""
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
            pixels = scores[:, :, : plan.image].softmax(dim=-1)  # (B, H, P, N)
            pixels = pixels * segment_mask(plan, self.special_tokens)[:, None]
            weights = torch.cat([pixels, scores[:, :, plan.image :].softmax(dim=-1)], dim=2)
        if self.size_factor is not None:
            factor = segment_factor(plan, self.size_factor)[:, None, None]  # (B, 1, 1, N)
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

    `special_tokens` is the policy for text of no segment. Pixels in no region see everything;
    otherwise they would see nothing. Taught in notebook 07.
    """
    keys, alone = plan.keys("image", special_tokens)
    nowhere = ~(plan.pixels > 0).any(dim=-1)
    everything = nowhere[:, :, None] | alone[:, None]
    return same_region(plan.pixels, keys).masked_fill(everything, 1.0)


def segment_factor(plan: Plan, most: float = 1.0) -> Tensor:
    """`most` - the share of the picture that a token's segments cover; 1 for tokens of no segment.

    The factor on attention weights in equation 1: `[B, N]`. Taught in notebook 07.
    """
    segments = plan.member[..., :-1]
    inside = (segments > 0).any(dim=-1)
    factor = most - 1 + area_weight(segments, segments[:, : plan.image])
    return factor.masked_fill(~inside, 1.0)


@torch.no_grad()
def leftover_noise(vae: Any, latents: Tensor) -> Tensor:
    """How much of the latents `[B, C, h, w]` is noise that no picture has, 0 to about 1: `[B]`.

    Decoding and encoding again restores a picture but not noise. The result is the norm of what is
    lost, divided by that of the latents. Taught in notebook 07.
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
"""What each repair changes; the earlier ones stay.

The last step makes all remaining changes of `DenseConfig.recommended` at once: only words are
modulated, but in both directions; a bias of logits replaces the range; no decay; other text is left
alone.
"""


def repaired(pipe: Pipeline, changes: Mapping[str, Any]) -> Transfer:
    """The report with something changed."""
    return replace(Transfer.reported(pipe), **changes)


def relapsed(pipe: Pipeline, **changes: Any) -> Transfer:
    """The library's setting with something of the report put back."""
    return replace(Transfer.recommended(pipe), **changes)


REPAIRS: dict[str, Callable[[Pipeline], Rule]] = {
    "report": Transfer.reported,
    **{
        name: partial(repaired, changes=changes)
        for name, changes in zip(
            CHANGES, accumulate(CHANGES.values(), lambda before, new: before | new), strict=True
        )
    },
    "repair-recommended": Transfer.recommended,
}
"""Name -> the rule for a pipeline: the report, each repair on top of the last, then the setting."""

READINGS: dict[str, Callable[[Pipeline], Rule]] = {
    "report-inert": lambda pipe: repaired(pipe, {"layers": "none"}),
    "report-image-only": lambda pipe: repaired(pipe, {"layers": "image-only"}),
    "report-larger": lambda pipe: repaired(pipe, {"size_factor": 2.0}),
}
"""Other readings of the report: its mask reaches no layer, or only `attn2`; a larger factor."""

RELAPSES: dict[str, Callable[[Pipeline], Rule]] = {
    "relapse-scale": lambda pipe: relapsed(pipe, temperature=Transfer.reported(pipe).temperature),
    "relapse-embedding": lambda pipe: relapsed(pipe, embedding=1.0),
    "relapse-renoise": lambda pipe: relapsed(pipe, renoise=0.3),
    "relapse-size": lambda pipe: relapsed(pipe, size_factor=1.0),
    "relapse-window": lambda pipe: relapsed(pipe, window=1.0),
    "relapse-sum": lambda pipe: relapsed(pipe, mask="weights"),
    "relapse-hard": lambda pipe: relapsed(pipe, mask="renormalised"),
}
"""The library's setting with one thing of the report put back.

"relapse-sum" and "relapse-hard" are "repair-window" and "repair-sum" without a mask in `attn2`,
which the library's setting does not edit.
"""
