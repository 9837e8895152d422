"""`Rule`: when and where a layout edits attention, in DenseDiffusion and in its baselines."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from densenb.layout.validation import check_indices, check_number, check_one_of
from densenb.modulation.plan import Plan, Step


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a layout edits attention. A subclass defines `probabilities`.

    Args:
        window: The share of the steps that is edited, from the first on: index < window * count.
        blocks: The transformer blocks that are edited; None for all.
        heads: The heads that are edited, in each of these blocks; None for all.
        encode_phrases_alone: Give each phrase the embedding it has when encoded alone (in all
            steps).
        pooled: The pooled text, which reaches every block: that of the "caption", or the mean over
            the "phrases", each encoded alone (in all steps).
        masks: When an image token is in a region: "area" (at least half of it is covered), "soft"
            (in proportion to the covered share, which overlapping regions divide), or "nearest" (as
            released: small regions may vanish).
        phrase_match: "all" (equal phrases take turns), or "first" (as released: all take the first
            occurrence).
        unassigned: Pixels in no region form one more region ("background") or belong to no region
            ("none"). With a background phrase, they always form its region.

    Raises:
        ValueError: For a value that is not allowed.
    """

    SHARES: ClassVar[tuple[str, ...]] = ("window",)  # numbers from 0 to 1; all others are from 0
    CHOICES: ClassVar[dict[str, tuple]] = {
        "encode_phrases_alone": (False, True),
        "pooled": ("caption", "phrases"),
        "masks": ("area", "soft", "nearest"),
        "phrase_match": ("all", "first"),
        "unassigned": ("background", "none"),
    }

    window: float = 0.3
    blocks: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    encode_phrases_alone: bool = False
    pooled: str = "caption"
    masks: str = "area"
    phrase_match: str = "all"
    unassigned: str = "background"

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            check_one_of(name, getattr(self, name), choices)
        for setting in fields(self):
            if setting.type in (float, "float"):
                self._number(setting.name)
        for name in ("blocks", "heads"):
            chosen = getattr(self, name)
            if chosen is not None:
                chosen = check_indices(name, chosen, instead=f"None for all {name}")
                object.__setattr__(self, name, chosen)

    def _number(self, name: str) -> None:
        """Check a number, and store it as a Python int or float."""
        high = 1 if name in self.SHARES else sys.float_info.max
        object.__setattr__(self, name, check_number(name, getattr(self, name), high))

    def active(self, step: Step, joint: bool) -> bool:
        """Whether this step is edited, in joint (True) or in image-only attention (False)."""
        return step.index < round(self.window * step.count, 9)  # in binary, 0.07 * 100 > 7

    def probabilities(self, scores: Tensor, plan: Plan, step: Step) -> Tensor:
        """Attention weights from scores, both `[B, H, N, N]` in float32, for the plan's rows."""
        raise NotImplementedError

    def edit_text(self, text: Tensor, plan: Plan, step: Step) -> Tensor:
        """The text tokens, `[B, L, C]`, of the plan's rows before a pass; unchanged by default."""
        return text

    def after_step(
        self, latents: Tensor, inside: Tensor, step: Step, generator: torch.Generator
    ) -> Tensor:
        """The latents, `[B, C, h, w]`, after a step; unchanged by default.

        inside: bool `[B, 1, h, w]`, in any region. generator: on the CPU, seeded with the step, so
        that no picture depends on its batch.
        """
        return latents
