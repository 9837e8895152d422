"""Other ways to control attention by a layout. Each is a `Rule`, as DenseDiffusion is.

Formulas follow the published code; where joint attention forces a difference, the docstring says
so. s: scores, p: attention weights, M: 1 where query and key share a region, else 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from densenb.models.pipeline import Pipeline
from densenb.modulation.formulas import area_weight, same_region
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule


@dataclass(frozen=True, kw_only=True)
class HardMask(Rule):
    """Tokens of different regions do not see each other: the strong baseline of every comparison.

    In the chosen quadrants, a query attends only to keys that share a region with it, by default in
    the first 30 % of the steps. Pixels in no region form the background region. After Regional
    Prompting and InvokeAI (both for FLUX), but in all blocks and without their mixing of outputs.
    No row is ever left without keys, because a token in a region shares that region with itself.

    Args:
        special_tokens: Which pixels see text of no region (special tokens, padding, words outside
            of all phrases): every pixel ("neutral"), or only those of the background
            ("background"). Such text sees everything, and phrases see it: without it as an
            attention sink, pictures fall apart.
        quadrants: The (query, key) pairs of "image" and "text" that are masked; by default all
            four.

    The other arguments are those of `Rule`.

    Raises:
        ValueError: For an unknown policy or quadrant, and for what `Rule` refuses.
    """

    CHOICES: ClassVar = Rule.CHOICES | {"special_tokens": ("neutral", "background")}

    special_tokens: str = "background"
    quadrants: tuple[tuple[str, str], ...] = (
        ("image", "text"),
        ("image", "image"),
        ("text", "image"),
        ("text", "text"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [pair for pair in self.quadrants if pair not in HardMask.quadrants]
        if unknown or not self.quadrants:
            raise ValueError(
                f"quadrants is {self.quadrants!r}, but has to list some of {HardMask.quadrants}."
            )

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        spans = {"image": slice(0, plan.image), "text": slice(plan.image, scores.shape[-1])}
        seen = torch.ones_like(scores[:, 0], dtype=torch.bool)
        nowhere = ~(plan.member > 0).any(dim=-1)  # (B, N)
        lost = nowhere & ~plan.unlabelled  # pixels that are not even in the background region
        for query, key in self.quadrants:
            rows, columns = spans[query], spans[key]
            key_regions, alone = plan.keys(query, self.special_tokens)
            same = same_region(plan.member[:, rows], key_regions[:, columns]) > 0  # (B, Q, K)
            seen[:, rows, columns] = (
                same | nowhere[:, rows, None] | (alone | lost)[:, None, columns]
            )
        return scores.masked_fill(~seen[:, None], float("-inf")).softmax(dim=-1)

    @classmethod
    def alternating(cls, pipe: Pipeline) -> HardMask:
        """In every other block, starting with the first, as InvokeAI does for coherent pictures."""
        return cls(blocks=tuple(range(0, pipe.transformer.config.num_layers, 2)))


def phrase_mask(plan: Plan) -> Tensor:
    """1 where a pixel is in the region of a text token's phrase, else 0: `[B, P, L]`.

    Text of no region has only zeros.
    """
    return same_region(plan.pixels, plan.member[:, plan.image :])


@dataclass(frozen=True, kw_only=True)
class JointRule(Rule):
    """A rule about text: image-only attention (`attn2`) stays as it is."""

    def active(self, step: Step, joint: bool) -> bool:
        return joint and super().active(step, joint)


@dataclass(frozen=True, kw_only=True)
class PaintWithWords(JointRule):
    """A phrase's logits are raised in its region: s + weight * log(1 + sigma) * max(s) * M.

    Source: Balaji et al. 2022, "eDiff-I", section 5; weight 0.4 as in cloneofsimo's implementation
    for Stable Diffusion. It edits image->text in all steps and fades with the noise level. The
    maximum is over all heads, pixels and text tokens of a picture. The paper's sigma is the ratio
    of noise to signal, here sigma / (1 - sigma). That is infinite at the first step, so it is
    clipped to `most`, where Stable Diffusion 1.4 starts.
    """

    weight: float = 0.4
    most: float = 14.6
    window: float = 1.0

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        ratio = step.sigma / (1 - step.sigma) if step.sigma < 1 else math.inf
        strength = self.weight * math.log(1 + min(ratio, self.most))
        toward = scores[:, :, : plan.image, plan.image :]  # (B, H, P, L)
        highest = toward.amax(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
        raised = toward + strength * highest * phrase_mask(plan)[:, None]
        return with_quadrant(scores, raised, plan).softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class MultiplyWeights(Rule):
    """Weights are multiplied after the softmax: p * exp(size * w * t^decay * (M - p)), normalized.

    Source: Zhang et al. 2025, "Hierarchical and Step-Layer-Wise Tuning of Attention Specialty for
    Multi-Instance Synthesis in Diffusion Transformers" (arXiv 2504.10148), code for FLUX.
    text_text, image_text and image_image are the w of a quadrant; text->image is not edited. t is
    the noise level. size is 1 - image_area * the share of the picture that a pixel's regions cover,
    and 1 - text_area * the share of the text that a token's phrase takes, at least 0. A text token
    of no phrase has M = 1 for itself only. Phrases are encoded alone; masks are those of the
    released code. `for_model` skips the first 5 of 57 blocks, in proportion to the depth.

    Not included: adjectives that enter later than nouns, block by block, and the last blocks, in
    which the original edits only image->text.
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

    @classmethod
    def for_model(cls, pipe: Pipeline, **settings: Any) -> MultiplyWeights:
        """The rule for the depth of the pipeline's transformer."""
        depth = pipe.transformer.config.num_layers
        return cls(blocks=tuple(range(round(depth * 5 / 57), depth)), **settings)

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        image, text = slice(0, plan.image), slice(plan.image, scores.shape[-1])
        pixels, words = plan.pixels, plan.member[:, text]
        pixel_size = area_weight(pixels, pixels, self.image_area).clamp(min=0)  # (B, P)
        word_size = area_weight(words, words, self.text_area).clamp(min=0)  # (B, L)
        itself = torch.eye(words.shape[1], device=scores.device)
        weights = scores.softmax(dim=-1)  # (B, H, N, N)
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
    """Image->text logits are multiplied by `scale`: more text everywhere, whatever the layout says.

    Source: Lv et al. 2025, "Rethinking Cross-Modal Interaction in Multimodal Diffusion
    Transformers" (TACA), without its LoRA: 1.2 in the first 10 % of the steps, in all blocks. The
    paper scales both halves of a guided batch; this rule scales the rows that follow the layout.
    """

    scale: float = 1.2
    window: float = 0.1

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        scaled = self.scale * scores[:, :, : plan.image, plan.image :]
        return with_quadrant(scores, scaled, plan).softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class ScaleByArea(JointRule):
    """Only a region's pixels see its phrase: s * (HW / area) there, -inf elsewhere.

    Source: lllyasviel/Omost, and densediffusion for ComfyUI, which follows it. It edits image->text
    in all steps. `area` counts the pixels of all of a phrase's regions. Text of no region keeps its
    scores.
    """

    window: float = 1.0

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        mask = phrase_mask(plan)  # (B, P, L)
        labelled = ~plan.unlabelled[:, None, plan.image :]  # (B, 1, L)
        area = mask.sum(dim=1, keepdim=True)  # (B, 1, L)
        factor = torch.where(labelled & (area > 0), plan.image / area.clamp(min=1), 1.0)
        toward = scores[:, :, : plan.image, plan.image :] * factor[:, None]  # (B, H, P, L)
        toward = toward.masked_fill((labelled & (mask == 0))[:, None], float("-inf"))
        return with_quadrant(scores, toward, plan).softmax(dim=-1)


def with_quadrant(scores: Tensor, image_text: Tensor, plan: Plan) -> Tensor:
    """Scores `[B, H, N, N]` with the image->text quadrant replaced by `[B, H, P, L]`."""
    edited = scores.clone()
    edited[:, :, : plan.image, plan.image :] = image_text
    return edited
