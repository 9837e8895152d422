"""The stages of the course, each one change after the last: notebooks 03 to 05, and their table.

The strengths of the fixed bias are the best of a sweep on `tune` scenes (docs/sweep.md) while text
of no region, padding too, is given to the background, as in all stages but the one that shows what
that is worth. With such text left alone a stronger one is best, as in `DenseConfig.recommended`.
"""

from __future__ import annotations

from dataclasses import replace

from densenb.modulation.dense_config import DenseConfig

FIXED_ALONE = 3.0  # image->text, in logits, while there is no image->image
FIXED_TOGETHER = 2.0, 1.0  # image->text and image->image, in logits

_one = DenseConfig(
    image_text=FIXED_ALONE,
    image_image=0.0,
    decay=0.0,
    area=0.0,
    value_range=None,
    special_tokens="background",
)
_two = replace(_one, image_text=FIXED_TOGETHER[0], image_image=FIXED_TOGETHER[1])
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
"""The value range at its best (docs/sweep.md). It stays within the range of the scores, and so it
does not reach what a fixed bias can."""
