"""`DenseConfig`, the settings of DenseDiffusion, and `modulate`, which applies them to a joint row.

Shapes: B rows of a batch, H heads, Q queries, K keys, N tokens of a joint row (image first, then
text), R columns (the layout's regions, then the background). Scores are query . key / sqrt(head
size): logits, before the softmax. Source: Kim et al. 2023, "Dense Text-to-Image Generation with
Attention Modulation" (DenseDiffusion).
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from densenb.layout.validation import check_keys
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.formulas import (
    MAX_STRENGTH,
    area_weight,
    fixed_bias,
    push_pull,
    region_strength,
    same_region,
    schedule,
    value_range,
)
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


@dataclass(frozen=True, kw_only=True)
class DenseConfig(Rule):
    """DenseDiffusion on joint attention; by default the paper's values, special tokens neutral.

    Source: Kim et al. 2023, "Dense Text-to-Image Generation with Attention Modulation". Strengths
    are named query_key and are at least 0 (off).

    Args:
        image_text: Strength of the paper's cross attention (w_c).
        image_image: Strength of the paper's self attention (w_s), here in `attn` and in `attn2`.
        text_image: Strength of a path that only joint attention has; regions leak through it.
        text_text: Likewise.
        clock: How strengths fall over the steps: "sigma", "fraction" or "cosine" (`schedule`).
        decay: The power of that schedule; 0 keeps strengths constant.
        area: How much gentler large regions are modulated (mask-size adaptation), 0 to 1.
        value_range: Where the maximum and minimum of a query's scores are taken: in the
            "quadrant", or in the whole joint "row". None adds a fixed bias instead
            (`fixed_bias`), and strengths are logits.
        special_tokens: How pixels treat special tokens, padding and words of no region: "neutral"
            leaves their scores alone, "negative" (the paper) puts them outside of every pixel's
            region, and "background" assigns them to the background, so that only the pixels of
            regions turn away from them.
        overlap_area: How pixels in several regions count: "union" or "sum" (`area_weight`).
        backend: "explicit" computes every score, "fused" does the same without storing them, and
            "auto" chooses: fused for long sequences, from 512 x 512 pixels on.

    The other arguments are those of `Rule`.

    Raises:
        ValueError: For a value that is not allowed.
    """

    SHARES: ClassVar = (*Rule.SHARES, "area")
    CHOICES: ClassVar = Rule.CHOICES | {
        "value_range": ("quadrant", "row", None),
        "clock": ("sigma", "fraction", "cosine"),
        "special_tokens": ("neutral", "negative", "background"),
        "overlap_area": ("union", "sum"),
        "backend": ("explicit", "fused", "auto"),
    }

    image_text: float = 1.0
    image_image: float = 0.3
    text_image: float = 0.0
    text_text: float = 0.0
    clock: str = "sigma"
    decay: float = 5.0
    area: float = 1.0
    value_range: str | None = "quadrant"
    special_tokens: str = "neutral"
    overlap_area: str = "union"
    backend: str = "auto"

    @classmethod
    def published(cls) -> DenseConfig:
        """The released DenseDiffusion code with its quirks, except for the limit a <= 0.999."""
        return cls(
            special_tokens="negative",
            unassigned="none",
            overlap_area="sum",
            masks="nearest",
            phrase_match="first",
            encode_phrases_alone=True,
        )

    @classmethod
    def recommended(cls, pipe: Pipeline) -> Self:
        """The setting to start with: the best measured one, if the model has been measured.

        So far that is only the miniature. Any other model gets the candidate to try first, with a
        warning.
        """
        this = tier(pipe)
        if not this.measured:
            warnings.warn(
                f"no setting has been measured for {this.label}: this is the miniature's, the first"
                " candidate to try. DenseConfig() has the paper's values.",
                stacklevel=2,
            )
        return cls(**this.recommended)

    @classmethod
    def from_dict(cls, data: Any) -> DenseConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: For an unknown name, or a value that is not allowed.
            TypeError: If `data` is not a mapping.
        """
        check_keys("setting", data, required=[], optional=[f.name for f in fields(cls)])
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @property
    def quadrants(self) -> dict[tuple[str, str], float]:
        """Strength by (query, key)."""
        return {
            ("image", "text"): self.image_text,
            ("image", "image"): self.image_image,
            ("text", "image"): self.text_image,
            ("text", "text"): self.text_text,
        }

    def active(self, step: Step, joint: bool) -> bool:
        strongest = max(self.quadrants.values()) if joint else self.image_image
        return strongest > 0 and super().active(step, joint)

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        return modulate(scores, plan, self, step).softmax(dim=-1)


# ------------------------------------------------------------------------- the rule on a joint row
def query_weight(plan: Plan, config: DenseConfig, step: Step) -> Tensor:
    """The factor on all strengths of a query: area * its regions' own strength * schedule.

    `[B, N]`. Taught in notebook 05.
    """
    by_area = area_weight(plan.member, plan.pixels, config.area, config.overlap_area)
    left = schedule(step, config.clock, config.decay, config.window)
    return by_area * region_strength(plan.member, plan.strengths) * left


def modulate(scores: Tensor, plan: Plan, config: DenseConfig, step: Step) -> Tensor:
    """Modulate the scores of a joint row, quadrant by quadrant: `[B, H, N, N]` to the same shape.

    Image-only attention takes `plan.image_only()`. Works in and returns at least float32: the
    rounding error of half precision is as large as the change of the scores. Taught in notebook 05.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    spans = {"image": slice(0, plan.image), "text": slice(plan.image, plan.member.shape[1])}
    weight = query_weight(plan, config, step)
    modulated = scores.clone()
    for (query, key), quadrant in config.quadrants.items():
        rows, columns = spans[query], spans[key]
        block = scores[:, :, rows, columns]  # (B, H, Q, K)
        if quadrant == 0 or block.numel() == 0:
            continue
        key_regions, alone = plan.keys(query, config.special_tokens)
        alone = plan.unlabelled[:, rows, None] | alone[:, None, columns]
        same = same_region(plan.member[:, rows], key_regions[:, columns])  # (B, Q, K)
        strength = (quadrant * weight[:, rows, None]).masked_fill(alone, 0.0)
        if config.value_range is None:
            modulated[:, :, rows, columns] = fixed_bias(block, same, strength)
            continue
        # No lower limit: only overlap_area="sum" gets below 0, as in the released code.
        strength = strength.clamp(max=MAX_STRENGTH)
        limits = value_range(scores[:, :, rows] if config.value_range == "row" else block)
        modulated[:, :, rows, columns] = push_pull(block, same, strength, limits)
    return modulated
