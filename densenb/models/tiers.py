"""What differs between models, as plain data: sizes, steps, guidance, text lengths, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from densenb.models.pipeline import Pipeline

ATTRIBUTE = "densenb_tier"  # of the transformer


SIX_LOGITS = {
    "image_text": 6.0,
    "image_image": 0.0,
    "text_image": 1.0,
    "decay": 0.0,
    "area": 0.0,
    "value_range": None,
}
"""Six logits from pixels to their words and one back, early; all other text stays unchanged.

On the miniature this had the highest mIoU of the settings that keep presence and KID near stock's
(docs/sweep.md, 128 `tune` scenes); from 3 to 12 logits it hardly matters how many.
"""


@dataclass(frozen=True)
class Tier:
    """What differs from model to model; lessons read it instead of the model's name.

    label: for figures. height, width: pixels. steps, guidance: sampling steps and guidance scale.
    t5_length: tokens of T5 (`max_sequence_length`). recommended: fields of `DenseConfig` to start
    with. measured: whether these were the best of a measurement on this model.
    """

    name: str
    label: str
    height: int
    width: int
    steps: int
    guidance: float
    t5_length: int
    recommended: Mapping[str, Any] = field(default_factory=lambda: SIX_LOGITS)
    measured: bool = False

    def stamp(self, seeds: Iterable[int]) -> str:
        """One line for the foot of a figure: model, size, steps, guidance and seeds."""
        return (
            f"{self.label} · {self.width} x {self.height} · {self.steps} steps · guidance "
            f"{self.guidance:g} · seeds {', '.join(map(str, seeds))}"
        )


TINY = Tier("tiny", "miniature SD 3.5", 256, 256, 28, 4.0, 44, measured=True)
# Guidance as Stability recommends; a picture's size is the memory plan's.
TIERS = {
    "medium": Tier("medium", "SD 3.5 medium", 1024, 1024, 28, 5.0, 256),
    "large": Tier("large", "SD 3.5 large", 1024, 1024, 28, 4.5, 256),
}


def tier(pipe: Pipeline) -> Tier:
    """The tier of a pipeline's model, so that `from_pipe` keeps it.

    A model that `load` did not make gets diffusers' defaults for SD 3 at its size.
    """
    return getattr(pipe.transformer, ATTRIBUTE, None) or generic_tier(pipe, name="custom")


def set_tier(pipe: Pipeline, this: Tier) -> None:
    """Remember the tier on the model itself."""
    setattr(pipe.transformer, ATTRIBUTE, this)


def generic_tier(pipe: Pipeline, name: str) -> Tier:
    """diffusers' defaults for SD 3, at the model's own size."""
    side = pipe.transformer.config.sample_size * pipe.vae_scale_factor
    return Tier(name, name, side, side, 28, 7.0, 256)
