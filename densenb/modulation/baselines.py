"""Other ways to steer attention by a layout: each is a `Rule`, as DenseDiffusion is.

Formulas are those of the published code; where joint attention leaves no choice but to depart from
it, the docstring says so. s: scores, p: attention weights, M: 1 where query and key share a region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from densenb.modulation.formulas import area_weight, same_region
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


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

    @classmethod
    def alternating(cls, pipe: Any) -> HardMask:
        """In every other block, from the first on, as InvokeAI does to keep the picture whole."""
        return cls(blocks=tuple(range(0, pipe.transformer.config.num_layers, 2)))


def phrase_mask(plan: Plan) -> Tensor:
    """1 where a pixel is in the region of a text token's phrase, else 0: `[B, P, L]`.

    Text of no region has zeros only.
    """
    return same_region(plan.pixels, plan.member[:, plan.image :])


@dataclass(frozen=True, kw_only=True)
class JointRule(Rule):
    """A rule about text: attention among pixels alone (`attn2`) stays as it is."""

    def active(self, step: Step, joint: bool) -> bool:
        return joint and super().active(step, joint)


@dataclass(frozen=True, kw_only=True)
class PaintWithWords(JointRule):
    """A phrase's logits are raised in its region: s + weight * log(1 + sigma) * max(s) * M.

    Source: Balaji et al. 2022, "eDiff-I", section 5; weight 0.4 as in cloneofsimo's implementation
    for Stable Diffusion. Image->text, in all steps; fading with the noise level. The maximum is
    that of all heads, pixels and text tokens of a picture. Their sigma is the ratio of noise to
    signal, here sigma / (1 - sigma). It is infinite at first, and so is cut at `most`, where Stable
    Diffusion 1.4 begins.
    """

    weight: float = 0.4
    most: float = 14.6
    window: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("weight")
        self._number("most")

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        ratio = step.sigma / (1 - step.sigma) if step.sigma < 1 else math.inf
        strength = self.weight * math.log(1 + min(ratio, self.most))
        toward = scores[:, :, : plan.image, plan.image :]
        raised = (
            toward
            + strength * toward.amax(dim=(1, 2, 3), keepdim=True) * (phrase_mask(plan)[:, None])
        )
        return with_quadrant(scores, raised, plan).softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class MultiplyWeights(Rule):
    """Weights are multiplied after the softmax: p * exp(size * w * t^decay * (M - p)), normalised.

    Source: Zhang et al. 2025, "Hierarchical and Step-Layer-Wise Tuning of Attention Specialty for
    Multi-Instance Synthesis in Diffusion Transformers" (arXiv 2504.10148), code for FLUX.
    text_text, image_text, image_image: w of a quadrant; text->image is untouched. t is the noise
    level. size is 1 - image_area * share of the picture that a pixel's regions cover, and
    1 - text_area * share of the text that a token's phrase has, though not below 0. M of a text
    token of no phrase is 1 for itself. Phrases are encoded alone; masks as in the released code.
    `for_model` leaves out the first 5 of 57 blocks, by proportion.

    Not taken over: adjectives, which it lets in later than nouns, block by block, and the last
    blocks, where it edits image->text alone.
    """

    text_text: float = 3.5
    image_text: float = 5.0
    image_image: float = 3.5
    decay: float = 3.0
    image_area: float = 1.0
    text_area: float = 4.0
    window: float = 0.5
    encode_phrases_alone: bool = True
    masks: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = ("text_text", "image_text", "image_image", "decay", "image_area", "text_area")
        for name in settings:
            self._number(name)

    @classmethod
    def for_model(cls, pipe: Any, **settings: Any) -> MultiplyWeights:
        depth = pipe.transformer.config.num_layers
        return cls(blocks=tuple(range(round(depth * 5 / 57), depth)), **settings)

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        image, text = slice(0, plan.image), slice(plan.image, scores.shape[-1])
        pixels, words = plan.pixels, plan.member[:, text]
        pixel_size = area_weight(pixels, pixels, self.image_area).clamp(min=0)
        word_size = area_weight(words, words, self.text_area).clamp(min=0)
        itself = torch.eye(words.shape[1], device=scores.device)
        weights = scores.softmax(dim=-1)
        edited = weights.clone()
        for rows, columns, size, same, strength in (
            (image, image, pixel_size, same_region(pixels, pixels), self.image_image),
            (image, text, pixel_size, phrase_mask(plan), self.image_text),
            (text, text, word_size, same_region(words, words).maximum(itself), self.text_text),
        ):
            part = weights[:, :, rows, columns]
            power = strength * step.sigma**self.decay * size[:, None, :, None]
            edited[:, :, rows, columns] = part * torch.exp(power * (same[:, None] - part))
        return edited / edited.sum(dim=-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class ScaleText(JointRule):
    """Image->text logits are multiplied by `scale`: more text for all, whatever the layout says.

    Source: Lv et al. 2025, "Rethinking Cross-Modal Interaction in Multimodal Diffusion
    Transformers" (TACA), without its LoRA: 1.2 in the first 10 % of the steps, all blocks. There
    both halves of a guided batch are scaled, here those rows that follow the layout.
    """

    scale: float = 1.2
    window: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("scale")

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        scaled = self.scale * scores[:, :, : plan.image, plan.image :]
        return with_quadrant(scores, scaled, plan).softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class ScaleByArea(JointRule):
    """Only a region's pixels see its phrase: s * (HW / area) there, -inf elsewhere.

    Source: lllyasviel/Omost, and densediffusion for ComfyUI after it. Image->text, in all steps; of
    a phrase's regions, `area` is the pixels of all. Text of no region keeps its scores.
    """

    window: float = 1.0

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        mask = phrase_mask(plan)
        told = ~plan.unlabelled[:, None, plan.image :]
        area = mask.sum(dim=1, keepdim=True)
        factor = torch.where(told & (area > 0), plan.image / area.clamp(min=1), 1.0)
        toward = scores[:, :, : plan.image, plan.image :] * factor[:, None]
        toward = toward.masked_fill((told & (mask == 0))[:, None], float("-inf"))
        return with_quadrant(scores, toward, plan).softmax(dim=-1)


def with_quadrant(scores: Tensor, image_text: Tensor, plan: Plan) -> Tensor:
    """Scores `[B, H, N, N]` with other image->text ones, `[B, H, P, L]`."""
    edited = scores.clone()
    edited[:, :, : plan.image, plan.image :] = image_text
    return edited
