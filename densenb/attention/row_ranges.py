"""The largest and the smallest score of every query, without storing the scores.

Modulation moves scores toward these two. On every device, a matrix multiplication in blocks of
rows finds them. On recent NVIDIA GPUs, a Triton kernel does, which writes no score to memory.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from densenb.attention.partial_softmax import once

HALF = (torch.float16, torch.bfloat16)
CHUNK = 1 << 25  # bytes of float32 scores at a time: they stay in a large GPU's cache


def row_range(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest of query . key / sqrt(D) over all keys, in at least float32.

    query `[B, H, Q, D]`, key `[B, H, K, D]`, with K > 0 -> two `[B, H, Q]`. Products of half
    precision inputs are summed in float32.
    """
    kernels = triton_kernels(query)
    return chunked_range(query, key) if kernels is None else kernels.row_range(query, key)


def chunked_range(query: Tensor, key: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """`row_range` by matrix multiplication, `chunk` (`CHUNK`) bytes of scores at a time."""
    batch, heads, queries, size = query.shape
    exact = torch.promote_types(query.dtype, torch.float32)
    accumulate = query.dtype != exact and matmul_accumulates(query.device)
    if not accumulate:
        query, key = query.to(exact), key.to(exact)
    keys = key.flatten(0, 1).transpose(1, 2)
    low = query.new_empty(batch, heads, queries, dtype=exact)
    high = torch.empty_like(low)
    rows = max(1, (chunk or CHUNK) // (4 * batch * heads * key.shape[2]))
    for start in range(0, queries, rows):
        part = slice(start, start + rows)
        block = query[:, :, part].flatten(0, 1)
        # (B * H, rows, K)
        scores = torch.bmm(block, keys, out_dtype=exact) if accumulate else block @ keys
        for result, found in zip((low, high), scores.aminmax(dim=-1)):
            result[:, :, part] = found.unflatten(0, (batch, heads)) * size**-0.5
    return low, high


@once
def matmul_accumulates(device: torch.device) -> bool:
    """Whether this PyTorch can sum half precision products in float32 (CUDA, 2.8 and later)."""
    try:
        half = torch.ones(1, 8, 8, dtype=torch.float16, device=device)
        return torch.bmm(half, half, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError):
        return False


def triton_kernels(query: Tensor) -> ModuleType | None:
    """`densenb.attention.kernels` if they run here, else None.

    They need half precision, compute capability 8.0, Triton, and heads of at most 64 dimensions, as
    in every SD 3.5: wider heads do not fit the on-chip memory of small GPUs.
    """
    suits = query.device.type == "cuda" and query.dtype in HALF and query.shape[-1] <= 64
    if not suits or not runs_triton(query.device):
        return None
    from densenb.attention import kernels

    return kernels


@once
def runs_triton(device: torch.device) -> bool:
    """Whether the Triton kernels run on this GPU; warns if they should but do not."""
    recent = torch.version.cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    if not recent or find_spec("triton") is None:
        return False
    try:
        from densenb.attention import kernels

        if kernels.compute_correctly(device):
            return True
        reason = "they compute wrong values"
    except Exception as error:  # no compiler, or an unsuitable Triton
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"the Triton kernels do not run on {torch.cuda.get_device_name(device)} ({reason}): "
        "PyTorch's own operators are used instead. They are as exact, but slower.",
        stacklevel=2,
    )
    return False
