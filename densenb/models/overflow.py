"""Numbers that are none any more: what becomes of a model whose precision is too small for it."""

from __future__ import annotations

import torch
from torch import Tensor

MORE_PRECISION = "Load the model with dtype=torch.float32, or torch.bfloat16 on a GPU that has it."


class Overflow(RuntimeError):
    """A model's numbers are not finite: nothing that follows from them means anything."""


def check_finite(tensor: Tensor, what: str, mend: str = MORE_PRECISION) -> None:
    """Overflow unless all numbers are finite; `what` (plural) and `mend` are for its message."""
    if not torch.isfinite(tensor).all():
        raise Overflow(f"{what} are not finite numbers: {tensor.dtype} overflowed. {mend}")
