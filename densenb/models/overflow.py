"""Detect NaN and infinity: the precision is too small for the model."""

from __future__ import annotations

import torch
from torch import Tensor

MORE_PRECISION = "Load the model with dtype=torch.float32, or torch.bfloat16 on a GPU that has it."


class Overflow(RuntimeError):
    """A model's numbers are not finite, so nothing computed from them is meaningful."""


def check_finite(tensor: Tensor, what: str, mend: str = MORE_PRECISION) -> None:
    """Raise Overflow unless all numbers are finite; its message has `what` (plural) and `mend`."""
    if not torch.isfinite(tensor).all():
        raise Overflow(f"{what} are not finite numbers: {tensor.dtype} overflowed. {mend}")
