"""How well a few pictures follow one layout: the scores of an evaluation, for any pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densenb.evaluation import metrics
from densenb.evaluation.judges import OracleJudge
from densenb.layout.layout import Layout


def measure(
    images: Sequence[Image.Image] | Tensor, layout: Layout, oracle: Any = None
) -> dict[str, float]:
    """How well pictures follow one layout: means over all objects of all pictures, in percent.

    Keys and NaN as in `metrics.aggregate`: mIoU, in_mask, presence, colour_binding, leakage, ...
    The rest as in `score_layout`. Taught in notebook 00.
    """
    return metrics.aggregate(score_layout(images, layout, oracle))


def score_layout(
    images: Sequence[Image.Image] | Tensor, layout: Layout, oracle: Any = None
) -> metrics.ObjectScores:
    """Each region's object, scored by the oracle: scores [B, R] of B pictures of one layout.

    Args:
        images: PIL pictures of one size, or [B, 3, H, W] in [0, 1].
        layout: each region's phrase names one object of the synthetic world, see `named_object`.
        oracle: by default the bundled one.

    Raises:
        ValueError: for a phrase that the oracle cannot judge.
    """
    if not isinstance(images, Tensor):
        pixels = [torch.from_numpy(np.array(image.convert("RGB"))) for image in images]
        images = torch.stack(pixels).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    masks = layout.pixel_masks(*images.shape[-2:])  # (R, H, W)
    phrases = [[region.phrase for region in layout.regions]] * len(images)
    return OracleJudge(oracle).score(images, phrases, masks.expand(len(images), *masks.shape))
