"""The stages of the course: each makes one change to the one before (notebooks 03 to 05).

In all stages but one, text of no region (padding included) is assigned to the background; the
exception shows what that is worth. The strengths of the fixed bias are the best of a sweep on
`tune` scenes under that policy (docs/sweep.md). If such text is left alone, a stronger bias is
best, as in `DenseConfig.recommended`.
"""

from __future__ import annotations

from dataclasses import replace

from densenb.modulation.dense_config import DenseConfig

_one = DenseConfig(
    image_text=3.0,  # in logits, the best without image->image
    image_image=0.0,
    decay=0.0,
    area=0.0,
    value_range=None,
    special_tokens="background",
)
_two = replace(_one, image_text=2.0, image_image=1.0)  # in logits, the best together
_three = replace(_two, image_text=1.0, image_image=0.3, value_range="quadrant")
_four = replace(_three, area=1.0)
_five = replace(_four, decay=5.0)
_six = replace(_five, text_image=0.3)
_seven = replace(_six, text_text=0.3)

STAGES: dict[str, DenseConfig] = {
    "fixed-bias-image-text": _one,
    "fixed-bias-image-image": _two,
    "value-range": _three,
    "value-range-neutral": replace(_three, special_tokens="neutral"),
    "area": _four,
    "decay": _five,
    "text-image": _six,
    "text-text": _seven,
}
"""Name -> settings. "decay" is the paper's rule; "text-image" and "text-text" go beyond it."""

RECOMMENDED_RANGE = replace(_five, image_text=0.5, area=0.0)
"""The best setting with a value range (docs/sweep.md). It stays within the range of the scores, so
it cannot reach what a fixed bias can."""
