"""Attention over some of a query's keys, in parts that can be merged.

PyTorch's attention operators also compute, for each query, the logarithm of the softmax's
denominator. With it, parts over disjoint sets of keys merge exactly into the whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

CHUNK = 1 << 25  # bytes of float32 scores at a time, where no operator works
TOLERANCE = 0.02  # of an operator's trial: below any real error, above bfloat16's rounding

Part = tuple[Tensor, Tensor]  # the output, [B, H, Q, D], and the log denominator, [B, H, Q]
Operator = Callable[[Tensor, Tensor, Tensor, float], Part]


def attention_part(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    """softmax(query . key * scale) @ value, and the log of the softmax's denominator.

    query `[B, H, Q, D]`, key `[B, H, K, D]`, value `[B, H, K, E]`; multiples of 8 suit D and E.
    Uses the operator that PyTorch itself would choose. If there is none, scores are computed in
    chunks, with a warning on a GPU.
    """
    widths = query.shape[-1], value.shape[-1]
    name = operator_name(query.device, query.dtype, *widths, key.shape[2])
    attended, log_sum = OPERATORS[name](query, key, value, scale)
    return attended, log_sum.flatten(2)[
        ..., : query.shape[2]
    ]  # some operators pad it or add a dimension


def merge(parts: Sequence[Part]) -> Tensor:
    """Attention over all keys from the parts over disjoint sets of them: `[B, H, Q, D]`."""
    shares = torch.stack([log_sum for _, log_sum in parts]).softmax(dim=0)  # (parts, B, H, Q)
    return sum(share[..., None] * attended for share, (attended, _) in zip(shares, parts))


def widen(x: Tensor, width: int) -> Tensor:
    """Pad the last dimension with zeros, up to `width`."""
    return F.pad(x, (0, width - x.shape[-1])) if width > x.shape[-1] else x


# ------------------------------------------------------------------------------------- operators
def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    if query.device.type == "cpu":
        operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    else:
        operator = torch.ops.aten._scaled_dot_product_flash_attention
    attended, log_sum, *_ = operator(query, key, widen(value, query.shape[-1]), scale=scale)
    return attended[..., : value.shape[-1]], log_sum


def _efficient(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, True, scale=scale
    )[:2]


def _cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Part:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, scale=scale
    )[:2]


def chunked(query: Tensor, key: Tensor, value: Tensor, scale: float, chunk: int = CHUNK) -> Part:
    """The definition in at least float32, with `chunk` bytes of scores at a time."""
    exact = torch.promote_types(query.dtype, torch.float32)
    keys, values = key.to(exact).transpose(-1, -2), value.to(exact)
    rows = max(1, chunk // (4 * query.shape[0] * query.shape[1] * key.shape[2]))
    attended, log_sums = [], []
    for block in query.split(rows, dim=2):
        scores = (block.to(exact) * scale) @ keys  # (B, H, rows, K)
        attended.append((scores.softmax(dim=-1) @ values).to(value.dtype))
        log_sums.append(scores.logsumexp(dim=-1))
    return torch.cat(attended, dim=2), torch.cat(log_sums, dim=2)


OPERATORS: dict[str, Operator] = {
    "flash (CPU)": _flash,
    "flash": _flash,
    "cuDNN": _cudnn,
    "memory-efficient": _efficient,
    "chunked": chunked,
}
CHOICES = {  # PyTorch's name for its choice -> ours
    ("cpu", SDPBackend.FLASH_ATTENTION): "flash (CPU)",
    ("cuda", SDPBackend.FLASH_ATTENTION): "flash",
    ("cuda", SDPBackend.CUDNN_ATTENTION): "cuDNN",
    ("cuda", SDPBackend.EFFICIENT_ATTENTION): "memory-efficient",
}


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Cache a fact about the machine; for `torch.compile` it is a constant."""
    known = lru_cache(maxsize=256)(function)

    @torch.compiler.assume_constant_result
    @wraps(function)
    def answer(*args: Any) -> Any:
        return known(*args)

    answer.cache_clear = known.cache_clear
    return answer


@once
def operator_name(
    device: torch.device, dtype: torch.dtype, width: int, value_width: int, keys: int
) -> str:
    """Which of `OPERATORS` works here, for these widths of queries and values and so many keys.

    They are private to PyTorch, so each is tried on an example before it is used: first the one
    that PyTorch would choose, then the others.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 1, 64, width), (1, 1, keys, width), (1, 1, keys, value_width)]
    sample = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    names = [name for (kind, _), name in CHOICES.items() if kind == device.type]
    if names:
        query, key, _ = sample
        preferred = SDPBackend(torch._fused_sdp_choice(query, key, key))
        names.sort(key=lambda name: CHOICES.get((device.type, preferred)) != name)
    expected = chunked(*sample, width**-0.5)
    for name in names:
        try:
            attended, log_sum = OPERATORS[name](*sample, width**-0.5)
            found = attended, log_sum.flatten(2)[..., : sample[0].shape[2]]
            close = all((a - b).abs().max() < TOLERANCE for a, b in zip(found, expected))
        except (RuntimeError, AttributeError, TypeError):  # unsuited to these inputs, or changed
            continue
        if close:
            return name
    if device.type == "cuda":
        warnings.warn(
            f"PyTorch {torch.__version__} has no attention operator here for {dtype}, width "
            f"{width}, {keys} keys: scores are computed in chunks, which is exact but slow.",
            stacklevel=2,
        )
    return "chunked"
