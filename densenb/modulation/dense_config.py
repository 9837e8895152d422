"""DenseDiffusion's attention modulation as small tensor functions.

Shapes: B rows of a batch, H heads, Q queries, K keys, N tokens of a joint row (image first, then
text), R columns (the layout's regions, then the background). Scores are query . key / sqrt(head
size): logits, before the softmax. Source: Kim et al. 2023, "Dense Text-to-Image Generation with
Attention Modulation" (DenseDiffusion).
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from densenb.layout.validation import check_keys, check_one_of
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

# --------------------------------------------------------------------------- the rule, in pieces


# ------------------------------------------------------------------------------ what a rule is told


# -------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, kw_only=True)
class DenseConfig(Rule):
    """DenseDiffusion on joint attention; by default the paper's values, special tokens neutral.

    Strengths are named query_key. Besides the settings of `Rule`:
    image_text: the paper's cross attention (w_c).
    image_image: the paper's self attention (w_s), here in `attn` and in `attn2`.
    text_image, text_text: paths that only joint attention has; regions leak through them.
    clock, decay: strengths fall over the steps as `schedule` says.
    area: how much large regions are spared (mask-size adaptation), 0 to 1.
    value_range: where maximum and minimum are sought, the quadrant ("quadrant") or the whole joint
        row ("row"). None: no range but a fixed bias (`fixed_bias`), and strengths are logits.
    special_tokens: what pixels make of special tokens, padding and words of no region. "neutral":
        nothing. "negative" (the paper): they are foreign to every pixel. "background": they belong
        to the background, so that only the regions' pixels turn away from them.
    overlap_area: "union" or "sum", see `area_weight`.
    backend: "explicit" computes every score, "fused" the same without keeping them, and "auto"
        chooses: fused for long sequences, from 512 x 512 pixels on.
    """

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_text", "image_image", "text_image", "text_text", "decay"):
            self._number(name)
        self._number("area", high=1)
        check_one_of("value_range", self.value_range, ("quadrant", "row", None))
        check_one_of("clock", self.clock, ("sigma", "fraction", "cosine"))
        check_one_of("special_tokens", self.special_tokens, ("neutral", "negative", "background"))
        check_one_of("overlap_area", self.overlap_area, ("union", "sum"))
        check_one_of("backend", self.backend, ("explicit", "fused", "auto"))

    @classmethod
    def published(cls) -> DenseConfig:
        """The released DenseDiffusion code with its quirks, but for the limit a <= 0.999."""
        return cls(
            special_tokens="negative",
            unassigned="none",
            overlap_area="sum",
            masks="nearest",
            phrase_match="first",
            encode_phrases_alone=True,
        )

    @classmethod
    def recommended(cls, pipe: Pipeline) -> DenseConfig:
        """The setting to start with: the best measured one, where the model has been measured.

        So far only the miniature has. Any other model gets the candidate to try first, with a
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
        """The inverse of `to_dict`; ValueError or TypeError for an unknown name or value."""
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
    """What multiplies every strength of a query: area, its regions' own strength, schedule.

    `[B, N]`. Taught in notebook 05.
    """
    by_area = area_weight(plan.member, plan.pixels, config.area, config.overlap_area)
    left = schedule(step, config.clock, config.decay, config.window)
    return by_area * region_strength(plan.member, plan.strengths) * left


def modulate(scores: Tensor, plan: Plan, config: DenseConfig, step: Step) -> Tensor:
    """Modulate the scores of a joint row, quadrant by quadrant: `[B, H, N, N]` to the same shape.

    Image-only attention takes `plan.image_only()`. Works in, and returns, at least float32: half
    precision would round the range by as much as the scores move. Taught in notebook 05.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    spans = {"image": slice(0, plan.image), "text": slice(plan.image, plan.member.shape[1])}
    weight = query_weight(plan, config, step)
    modulated = scores.clone()
    for (query, key), quadrant in config.quadrants.items():
        rows, columns = spans[query], spans[key]
        block = scores[:, :, rows, columns]
        if quadrant == 0 or block.numel() == 0:
            continue
        key_regions, alone = plan.keys(query, config.special_tokens)
        alone = plan.unlabelled[:, rows, None] | alone[:, None, columns]
        same = same_region(plan.member[:, rows], key_regions[:, columns])
        strength = (quadrant * weight[:, rows, None]).masked_fill(alone, 0.0)
        if config.value_range is None:
            modulated[:, :, rows, columns] = fixed_bias(block, same, strength)
            continue
        # No lower limit: only overlap_area="sum" goes below 0, as the released code does.
        strength = strength.clamp(max=MAX_STRENGTH)
        limits = value_range(scores[:, :, rows] if config.value_range == "row" else block)
        modulated[:, :, rows, columns] = push_pull(block, same, strength, limits)
    return modulated


# ------------------------------------------------------------------------------------------- checks
