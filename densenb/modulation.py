"""DenseDiffusion's attention modulation as small tensor functions.

Shapes: B rows of a batch, H heads, Q queries, K keys, N tokens of a joint row (image first, then
text), R columns (the layout's regions, then the background). Scores are query . key / sqrt(head
size): logits, before the softmax. Source: Kim et al. 2023, "Dense Text-to-Image Generation with
Attention Modulation" (DenseDiffusion).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

MAX_STRENGTH = 0.999  # at 1 all of a row's scores collapse onto its maximum and minimum


# --------------------------------------------------------------------------- the rule, in pieces
def same_region(query_regions: Tensor, key_regions: Tensor) -> Tensor:
    """How far query and key share a region, 0 to 1: `[B, Q, R]`, `[B, K, R]` -> `[B, Q, K]`.

    1 or 0 for hard regions (bool), however many a pair shares; between them for soft ones. Taught
    in notebook 03.
    """
    return (query_regions.float() @ key_regions.float().transpose(1, 2)).clamp(max=1)


def fixed_bias(scores: Tensor, same: Tensor, strength: Tensor) -> Tensor:
    """Give pairs of the same region `strength` more logits, and all other pairs as many less.

    scores `[B, H, Q, K]`, same `[B, Q, K]` from 0 to 1, strength `[B, Q, K]` in logits. Taught in
    notebook 03.
    """
    return scores + (strength * (2 * same - 1))[:, None]


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
    score leaves the range that the model knows (Kim et al. 2023). scores `[B, H, Q, K]`, same
    `[B, Q, K]` from 0 to 1, strength a `[B, Q, K]`; limits (min, max), each `[B, H, Q, 1]`, by
    default those of the keys given. Taught in notebook 05.
    """
    low, high = value_range(scores) if limits is None else limits
    target = torch.lerp(low, high, same[:, None].to(scores.dtype))
    return scores + strength[:, None] * (target - scores)


def area_weight(
    query_regions: Tensor, pixel_regions: Tensor, area: float = 1.0, overlap: str = "union"
) -> Tensor:
    """The larger a query's regions, the gentler its modulation: 1 - area * covered fraction.

    `[B, Q, R]`, `[B, P, R]` -> `[B, Q]`, where P are all image tokens. In no region: 1. overlap
    "union" counts a pixel once, so that the weight stays in [0, 1]; "sum" counts it once for each
    region it shares, as the released DenseDiffusion does, and may fall below 0. Taught in notebook
    05.
    """
    shared = query_regions.float() @ pixel_regions.float().transpose(1, 2)  # [B, Q, P]
    covered = shared.clamp(max=1) if overlap == "union" else shared
    return 1 - area * covered.mean(dim=-1)


def region_strength(query_regions: Tensor, strengths: Tensor) -> Tensor:
    """The strongest of a query's regions: `[B, Q, R]`, `[B, R]` -> `[B, Q]`; in none: 1.

    Taught in notebook 06.
    """
    inside = query_regions > 0
    strongest = torch.where(inside, strengths[:, None], 0.0).amax(dim=-1)
    return torch.where(inside.any(dim=-1), strongest, 1.0)


def schedule(step: Step, clock: str, decay: float, window: float) -> float:
    """What is left of a strength at a step, time ** decay, where time falls from 1 by a `clock`.

    "sigma": the noise level, as the model is told it. For DenseDiffusion that was t / 1000 with
    decay 5; under the shift of SD 3.5 the same power stays higher for longer.
    "fraction": the share of the steps to go.
    "cosine": half a cosine, from 1 at the first step to 0 at the end of the window.
    Taught in notebook 05.
    """
    if clock == "sigma":
        return step.sigma**decay
    if clock == "fraction":
        return (1 - step.index / step.count) ** decay
    done = min(1.0, step.index / (window * step.count)) if window else 1.0
    return (0.5 + 0.5 * math.cos(math.pi * done)) ** decay


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

    member: `[B, N, R]`, token n is in column r; the last column is the background. Bool, or float
        from 0 to 1 for soft masks (a pixel's sum is then at most 1).
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
        return text & ~(self.member > 0).any(dim=-1)

    def keys(self, query: str, special_tokens: str) -> tuple[Tensor, Tensor]:
        """The regions of all tokens as keys, like `member`, and which of them are left alone.

        For "image" or "text" queries, and a policy for text of no region (`DenseConfig`). Text
        queries leave such text alone, whatever the policy: phrases need it as a place to rest.
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
    def _image_only(self) -> Plan:  # one object for all passes: backends prepare a plan only once
        return replace(self, member=self.pixels)


# -------------------------------------------------------------------------------------------- rules
@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a layout edits attention: what DenseDiffusion and the baselines have in common.

    A subclass defines `probabilities`. Settings, each checked (ValueError):
    window: the share of the steps that is edited, the earliest: those with index < window * count.
    blocks: the transformer blocks that are edited; None = all. heads: likewise, in every block.
    encode_phrases_alone: give each phrase the embedding it has when encoded by itself (all steps).
    masks: "area" (a token is in a region that covers half of it), "soft" (it belongs to a region
        as far as it is covered, and regions that overlap share it), or "nearest" (as released:
        small regions may vanish).
    phrase_match: "all" (equal phrases take turns), or "first" (as released: all take the first).
    pooled: the pooled text, which reaches every block: the "caption"'s, or the mean of those of the
        "phrases", each encoded by itself (all steps).
    unassigned: pixels in no region form one more region ("background"), or belong to no region
        ("none"). A layout's background phrase always gets them.
    """

    window: float = 0.3
    blocks: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    encode_phrases_alone: bool = False
    pooled: str = "caption"
    masks: str = "area"
    phrase_match: str = "all"
    unassigned: str = "background"

    def __post_init__(self) -> None:
        self._number("window", high=1)
        _one_of("encode_phrases_alone", self.encode_phrases_alone, (False, True))
        _one_of("pooled", self.pooled, ("caption", "phrases"))
        _one_of("masks", self.masks, ("area", "soft", "nearest"))
        _one_of("phrase_match", self.phrase_match, ("all", "first"))
        _one_of("unassigned", self.unassigned, ("background", "none"))
        for name in ("blocks", "heads"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))

    def _number(self, name: str, high: float = sys.float_info.max) -> None:
        """Check a number, and keep it as Python's own, whichever library it came from."""
        value = getattr(self, name)
        own = math.nan
        if isinstance(value, Real) and not isinstance(value, bool):
            own = int(value) if isinstance(value, Integral) else float(value)
        if not 0 <= own <= high:
            bound = "of at least 0" if high > 1 else f"from 0 to {high:g}"
            raise ValueError(f"{name} is {value!r:.40}, but has to be a finite number {bound}.")
        object.__setattr__(self, name, own)

    def active(self, step: Step, joint: bool) -> bool:
        """Whether this step is edited, in joint (True) or in image-only attention (False)."""
        return step.index < round(self.window * step.count, 9)  # as binary floats 0.07 * 100 > 7

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        """Attention weights from scores, both `[B, H, N, N]` in float32, for the plan's rows."""
        raise NotImplementedError

    def edit_text(self, text: Tensor, plan: Plan, step: Step) -> Tensor:
        """The text tokens, `[B, L, C]`, that the plan's rows take into a pass: as they are."""
        return text

    def after_step(
        self, latents: Tensor, inside: Tensor, step: Step, generator: torch.Generator
    ) -> Tensor:
        """The latents, `[B, C, h, w]`, from which to go on after a step: as they are.

        inside: bool `[B, 1, h, w]`, in any region. generator: on the CPU, seeded by the step, so
        that no picture depends on its batch.
        """
        return latents


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
        _one_of("value_range", self.value_range, ("quadrant", "row", None))
        _one_of("clock", self.clock, ("sigma", "fraction", "cosine"))
        _one_of("special_tokens", self.special_tokens, ("neutral", "negative", "background"))
        _one_of("overlap_area", self.overlap_area, ("union", "sum"))
        _one_of("backend", self.backend, ("explicit", "fused", "auto"))

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
def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of whichever library; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _one_of(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}, but has to be {allowed}.")


def _numbers(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    numbers = tuple(value) if isinstance(value, Iterable) else ()
    if not numbers or not all(is_whole(number) and number >= 0 for number in numbers):
        raise ValueError(
            f"{name} is {value!r}, but has to list {name[:-1]} numbers, counted from 0, or be None "
            f"for all {name}."
        )
    return tuple(map(int, numbers))
