"""What DenseDiffusion and its baselines have in common: when and where a layout edits attention."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from densenb.layout.validation import check_indices, check_number, check_one_of
from densenb.modulation.plan import Plan, Step


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
        check_one_of("encode_phrases_alone", self.encode_phrases_alone, (False, True))
        check_one_of("pooled", self.pooled, ("caption", "phrases"))
        check_one_of("masks", self.masks, ("area", "soft", "nearest"))
        check_one_of("phrase_match", self.phrase_match, ("all", "first"))
        check_one_of("unassigned", self.unassigned, ("background", "none"))
        for name in ("blocks", "heads"):
            chosen = getattr(self, name)
            if chosen is not None:
                chosen = check_indices(name, chosen, instead=f"None for all {name}")
                object.__setattr__(self, name, chosen)

    def _number(self, name: str, high: float = sys.float_info.max) -> None:
        """Check a setting, and keep it as Python's own number."""
        object.__setattr__(self, name, check_number(name, getattr(self, name), high))

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
