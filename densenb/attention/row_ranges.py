"""The largest and the smallest score of every query, without keeping the scores.

Modulation moves scores towards these two. A matrix multiplication in blocks of rows finds them on
every device; on recent NVIDIA GPUs a Triton kernel does, which never writes a score to memory.
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

    query `[B, H, Q, D]`, key `[B, H, K, D]` -> two `[B, H, Q]`. There has to be at least one key.
    Products are summed in float32 also where the inputs are half precision.
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
        scores = torch.bmm(block, keys, out_dtype=exact) if accumulate else block @ keys
        for result, found in zip((low, high), scores.aminmax(dim=-1)):
            result[:, :, part] = found.unflatten(0, (batch, heads)) * size**-0.5
    return low, high


@once
def matmul_accumulates(device: torch.device) -> bool:
    """Whether this PyTorch multiplies half precision into float32 here (CUDA, 2.8 and later)."""
    try:
        half = torch.ones(1, 8, 8, dtype=torch.float16, device=device)
        return torch.bmm(half, half, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError):
        return False


def triton_kernels(query: Tensor) -> ModuleType | None:
    """`densenb.kernels` where they run: half precision, compute capability 8.0, Triton installed.

    And heads of at most 64, as in every SD 3.5: wider ones do not fit into a small GPU's memory.
    """
    suits = query.device.type == "cuda" and query.dtype in HALF and query.shape[-1] <= 64
    if not suits or not runs_triton(query.device):
        return None
    from densenb.attention import kernels

    return kernels


@once
def runs_triton(device: torch.device) -> bool:
    """Whether the Triton kernels run on this GPU; a warning where they should and do not."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    if find_spec("triton") is None:
        return False
    try:
        from densenb.attention import kernels

        if kernels.compute_correctly(device):
            return True
        reason = "they compute wrong values"
    except Exception as error:  # a compiler is missing, or this Triton is too old or too new
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"the Triton kernels do not run on {torch.cuda.get_device_name(device)} ({reason}): "
        "PyTorch's own operators are used instead, which is as exact, but slower.",
        stacklevel=2,
    )
    return False
