"""DenseDiffusion's attention modulation as small tensor functions.

Shapes: B rows of a batch, H heads, Q queries, K keys, N tokens of a joint row (image first, then
text), R columns (the layout's regions, then the background). Scores are query . key / sqrt(head
size): logits, before the softmax. Source: Kim et al. 2023, "Dense Text-to-Image Generation with
Attention Modulation" (DenseDiffusion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

MAX_STRENGTH = 0.999  # at 1 all of a row's scores collapse onto its maximum and minimum


# --------------------------------------------------------------------------- the rule, in pieces
def same_region(query_regions: Tensor, key_regions: Tensor) -> Tensor:
    """Which query-key pairs share a region: bool `[B, Q, R]`, `[B, K, R]` -> bool `[B, Q, K]`.

    Taught in notebook 03.
    """
    return query_regions.float() @ key_regions.float().transpose(1, 2) > 0


def fixed_bias(scores: Tensor, same: Tensor, strength: Tensor) -> Tensor:
    """Give pairs of the same region `strength` more logits, and all other pairs as many less.

    scores `[B, H, Q, K]`, same bool `[B, Q, K]`, strength `[B, Q, K]` in logits. Taught in
    notebook 03.
    """
    return scores + torch.where(same, strength, -strength)[:, None]


def value_range(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest score of each query: `[B, H, Q, K]` -> two `[B, H, Q, 1]`.

    Taught in notebook 05.
    """
    return scores.amin(dim=-1, keepdim=True), scores.amax(dim=-1, keepdim=True)


def push_pull(
    scores: Tensor, same: Tensor, strength: Tensor, limits: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Move pairs of the same region towards their query's maximum, others towards its minimum.

    s + a (max - s) for pairs of the same region, s - a (s - min) for the others: with 0 <= a < 1 no
    score leaves the range that the model knows (Kim et al. 2023). scores `[B, H, Q, K]`, same bool
    `[B, Q, K]`, strength a `[B, Q, K]`; limits (min, max), each `[B, H, Q, 1]`, by default those of
    the keys given. Taught in notebook 05.
    """
    low, high = value_range(scores) if limits is None else limits
    target = torch.where(same[:, None], high, low)
    return scores + strength[:, None] * (target - scores)


def area_weight(
    query_regions: Tensor, pixel_regions: Tensor, area: float = 1.0, overlap: str = "union"
) -> Tensor:
    """The larger a query's regions, the gentler its modulation: 1 - area * covered fraction.

    bool `[B, Q, R]`, `[B, P, R]` -> `[B, Q]`, where P are all image tokens. In no region: 1.
    overlap "union" counts a pixel once, so that the weight stays in [0, 1]; "sum" counts it once
    for each region it shares, as the released DenseDiffusion does, and may fall below 0. Taught in
    notebook 05.
    """
    shared = query_regions.float() @ pixel_regions.float().transpose(1, 2)  # [B, Q, P]
    covered = (shared > 0).float() if overlap == "union" else shared
    return 1 - area * covered.mean(dim=-1)


def region_strength(query_regions: Tensor, strengths: Tensor) -> Tensor:
    """The strongest of a query's regions: bool `[B, Q, R]`, `[B, R]` -> `[B, Q]`; in none: 1.

    Taught in notebook 06.
    """
    strongest = torch.where(query_regions, strengths[:, None], 0.0).amax(dim=-1)
    return torch.where(query_regions.any(dim=-1), strongest, 1.0)


def decayed(sigma: float, decay: float) -> float:
    """The schedule, sigma ** decay: from 1 on pure noise (sigma 1) to 0 on the finished picture.

    Taught in notebook 05.
    """
    return sigma**decay


# ------------------------------------------------------------------------------ what a rule is told
@dataclass(frozen=True)
class Step:
    """Where in the sampling a pass stands: step `index` of `count`, at noise level `sigma`."""

    index: int
    count: int
    sigma: float


@dataclass(frozen=True)
class Plan:
    """Which token belongs to which region, for the rows of a batch that follow a layout.

    member: bool `[B, N, R]`, token n is in column r; the last column is the background.
    strengths: `[B, R]`, each column's own factor.
    image: how many of the N tokens are image tokens; they come first, the others are text.
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
        return text & ~self.member.any(dim=-1)

    def image_only(self) -> Plan:
        """The plan of an attention that sees no text (`attn2` of SD 3.5-medium)."""
        return replace(self, member=self.pixels)


# -------------------------------------------------------------------------------------------- rules
@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a layout edits attention: what DenseDiffusion and the baselines have in common.

    A subclass defines `probabilities`. Settings, each checked (ValueError):
    window: the share of the steps that is edited, the earliest: those with index < window * count.
    blocks: the transformer blocks that are edited; None = all.
    encode_phrases_alone: give each phrase the embedding it has when encoded by itself (all steps).
    masks: "area" (a token is in a region that covers half of it), or "nearest" (as released: small
        regions may vanish).
    phrase_match: "all" (equal phrases take turns), or "first" (as released: all take the first).
    unassigned: pixels in no region form one more region ("background"), or belong to no region
        ("none"). A layout's background phrase always gets them.
    """

    window: float = 0.3
    blocks: tuple[int, ...] | None = None
    encode_phrases_alone: bool = False
    masks: str = "area"
    phrase_match: str = "all"
    unassigned: str = "background"

    def __post_init__(self) -> None:
        _number("window", self.window, high=1)
        _one_of("encode_phrases_alone", self.encode_phrases_alone, (False, True))
        _one_of("masks", self.masks, ("area", "nearest"))
        _one_of("phrase_match", self.phrase_match, ("all", "first"))
        _one_of("unassigned", self.unassigned, ("background", "none"))
        if self.blocks is not None:
            blocks = tuple(self.blocks) if isinstance(self.blocks, Sequence) else ()
            if not blocks or not all(type(block) is int and block >= 0 for block in blocks):
                raise ValueError(
                    f"blocks is {self.blocks!r}, but has to list block numbers, counted from 0, or "
                    "be None for all blocks."
                )
            object.__setattr__(self, "blocks", blocks)

    def active(self, step: Step, joint: bool) -> bool:
        """Whether this step is edited, in joint (True) or in image-only attention (False)."""
        return step.index < round(self.window * step.count, 9)  # as binary floats 0.07 * 100 > 7

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        """Attention weights from scores, both `[B, H, N, N]` in float32, for the plan's rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DenseConfig(Rule):
    """DenseDiffusion on joint attention; by default the paper's values, special tokens neutral.

    Strengths are named query_key. Besides the settings of `Rule`:
    image_text: the paper's cross attention (w_c).
    image_image: the paper's self attention (w_s), here in `attn` and in `attn2`.
    text_image, text_text: paths that only joint attention has; regions leak through them.
    decay: exponent of the schedule sigma ** decay. Its clock is the sampler's own, shifted sigma.
    area: how much large regions are spared (mask-size adaptation), 0 to 1.
    value_range: where maximum and minimum are sought, the quadrant ("quadrant") or the whole joint
        row ("row"). None: no range but a fixed bias (`fixed_bias`), and strengths are logits.
    special_tokens: "neutral" leaves pairs with special, padding or unlabelled text as they are;
        "negative" (the paper) counts such text as foreign to every pixel.
    overlap_area: "union" or "sum", see `area_weight`.
    backend: "explicit" computes every score.
    """

    image_text: float = 1.0
    image_image: float = 0.3
    text_image: float = 0.0
    text_text: float = 0.0
    decay: float = 5.0
    area: float = 1.0
    value_range: str | None = "quadrant"
    special_tokens: str = "neutral"
    overlap_area: str = "union"
    backend: str = "explicit"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_text", "image_image", "text_image", "text_text", "decay"):
            _number(name, getattr(self, name))
        _number("area", self.area, high=1)
        _one_of("value_range", self.value_range, ("quadrant", "row", None))
        _one_of("special_tokens", self.special_tokens, ("neutral", "negative"))
        _one_of("overlap_area", self.overlap_area, ("union", "sum"))
        _one_of("backend", self.backend, ("explicit",))

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
    def tuned(cls, pipe: Any) -> DenseConfig:
        """The best setting measured for the pipeline's model, on `tune` scenes.

        Raises ValueError for a model that nobody has measured: so far only the miniature is.
        """
        from densenb.pipelines import tier

        this = tier(pipe)
        if this.tuned is None:
            raise ValueError(
                f"no setting has been measured for {this.label}: use DenseConfig(), the paper's "
                "strengths, or choose your own with `densenb evaluate --suite tune`."
            )
        return cls(**this.tuned)

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
        return modulate(scores, plan, self, step.sigma).softmax(dim=-1)


# ------------------------------------------------------------------------- the rule on a joint row
def query_weight(plan: Plan, config: DenseConfig, sigma: float) -> Tensor:
    """What multiplies every strength of a query: area, its regions' own strength, schedule.

    `[B, N]`. Taught in notebook 05.
    """
    by_area = area_weight(plan.member, plan.pixels, config.area, config.overlap_area)
    return by_area * region_strength(plan.member, plan.strengths) * decayed(sigma, config.decay)


def modulate(scores: Tensor, plan: Plan, config: DenseConfig, sigma: float) -> Tensor:
    """Modulate the scores of a joint row, quadrant by quadrant: `[B, H, N, N]` to the same shape.

    Image-only attention takes `plan.image_only()`. Works in, and returns, at least float32: half
    precision would round the range by as much as the scores move. Taught in notebook 05.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    spans = {"image": slice(0, plan.image), "text": slice(plan.image, plan.member.shape[1])}
    weight = query_weight(plan, config, sigma)
    modulated = scores.clone()
    for (query, key), quadrant in config.quadrants.items():
        rows, columns = spans[query], spans[key]
        block = scores[:, :, rows, columns]
        if quadrant == 0 or block.numel() == 0:
            continue
        same = same_region(plan.member[:, rows], plan.member[:, columns])
        strength = (quadrant * weight[:, rows, None]).expand(same.shape)
        if config.special_tokens == "neutral":
            neutral = plan.unlabelled[:, rows, None] | plan.unlabelled[:, None, columns]
            strength = strength.masked_fill(neutral, 0.0)
        if config.value_range is None:
            modulated[:, :, rows, columns] = fixed_bias(block, same, strength)
            continue
        # No lower limit: only overlap_area="sum" goes below 0, as the released code does.
        strength = strength.clamp(max=MAX_STRENGTH)
        limits = value_range(scores[:, :, rows] if config.value_range == "row" else block)
        modulated[:, :, rows, columns] = push_pull(block, same, strength, limits)
    return modulated


# ------------------------------------------------------------------------------------------- checks
def _number(name: str, value: float, high: float = math.inf) -> None:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not math.isfinite(value) or not 0 <= value <= high:
        bound = "of at least 0" if high == math.inf else f"from 0 to {high:g}"
        raise ValueError(f"{name} is {value!r}, but has to be a finite number {bound}.")


def _one_of(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}, but has to be {allowed}.")
