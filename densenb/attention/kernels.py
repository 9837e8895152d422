"""Triton kernels for modulated attention: imported only where Triton is installed.

They compute what `fused` and `row_ranges` compute with stock operators, with fewer roundings and
launches. `TRITON_INTERPRET=1` runs them on a CPU, slowly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)


# ------------------------------------------------------------------------------------------- ranges
@triton.jit
def _range_kernel(
    query,
    key,
    low,
    high,
    queries,
    keys,
    heads,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    scale,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS queries of one head, against all keys, COLUMNS at a time."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head

    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    depth = tl.arange(0, WIDTH)
    inside = depth < SIZE
    block = tl.load(
        query + rows[:, None] * query_row + depth[None, :],
        mask=(rows < queries)[:, None] & inside[None, :],
        other=0.0,
    )
    # Elementwise over the tiles; the reduction over a tile's columns comes once, at the end.
    highest = tl.full([ROWS, COLUMNS], float("-inf"), tl.float32)
    lowest = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
    whole = keys // COLUMNS * COLUMNS
    for start in range(0, whole, COLUMNS):  # whole tiles need no mask
        tile = tl.load(
            key + (start + columns)[None, :] * key_row + depth[:, None],
            mask=inside[:, None],
            other=0.0,
        )
        scores = tl.dot(block, tile, input_precision="ieee")
        highest = tl.maximum(highest, scores)
        lowest = tl.minimum(lowest, scores)
    if whole < keys:
        present = whole + columns < keys
        tile = tl.load(
            key + (whole + columns)[None, :] * key_row + depth[:, None],
            mask=inside[:, None] & present[None, :],
            other=0.0,
        )
        scores = tl.dot(block, tile, input_precision="ieee")
        highest = tl.maximum(highest, tl.where(present[None, :], scores, float("-inf")))
        lowest = tl.minimum(lowest, tl.where(present[None, :], scores, float("inf")))

    place = tl.program_id(1).to(tl.int64) * queries + rows
    tl.store(low + place, tl.min(lowest, axis=1) * scale, mask=rows < queries)
    tl.store(high + place, tl.max(highest, axis=1) * scale, mask=rows < queries)


def row_range(
    query: Tensor, key: Tensor, tile: tuple[int, int] = (128, 64), warps: int = 4, stages: int = 3
) -> tuple[Tensor, Tensor]:
    """See `row_ranges.row_range`. tile: how many queries and keys a program holds at a time."""
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    batch, heads, queries, size = query.shape
    low, high = torch.empty(
        2, batch, heads, queries, dtype=torch.float32, device=query.device
    ).unbind()
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _range_kernel[triton.cdiv(queries, tile[0]), batch * heads](
            query,
            key,
            low,
            high,
            queries,
            key.shape[2],
            heads,
            *query.stride()[:3],
            *key.stride()[:3],
            size**-0.5,
            SIZE=size,
            WIDTH=max(16, triton.next_power_of_2(size)),
            ROWS=tile[0],
            COLUMNS=tile[1],
            num_warps=warps,
            num_stages=stages,
        )
    return low, high


# ---------------------------------------------------------------------------------------- attention
@triton.jit
def _tile(
    top,
    total,
    out,
    block,
    key,
    value,
    key_row,
    value_row,
    first,
    start,
    stop,
    keep,
    left,
    right,
    moved,
    plain,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    FACTORS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MOVE: tl.constexpr,
    SOME: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Flash attention's step over one tile of keys, with the scores moved."""
    columns = start + tl.arange(0, COLUMNS)
    depth = tl.arange(0, WIDTH)
    inside = depth < SIZE
    present = columns < stop
    if RAGGED:
        key_mask = inside[:, None] & present[None, :]
        value_mask = inside[None, :] & present[:, None]
    else:
        key_mask = inside[:, None]
        value_mask = inside[None, :]
    keys = tl.load(key + columns[None, :] * key_row + depth[:, None], mask=key_mask, other=0.0)
    scores = tl.dot(block, keys, input_precision="ieee")
    if MOVE:
        factor = tl.arange(0, FACTORS)
        if RAGGED:
            rights = tl.load(
                right + (columns - first)[None, :] * FACTORS + factor[:, None],
                mask=present[None, :],
                other=0.0,
            )
        else:
            rights = tl.load(right + (columns - first)[None, :] * FACTORS + factor[:, None])
        if SOME:
            movable = tl.load(moved + columns - first, mask=present, other=0) != 0
            scores = scores * tl.where(movable[None, :], keep[:, None], plain)
        else:
            scores = scores * keep[:, None]
        scores = tl.dot(left, rights, scores)
    else:
        scores = scores * plain
    if RAGGED:
        scores = tl.where(present[None, :], scores, float("-inf"))

    higher = tl.maximum(top, tl.max(scores, axis=1))
    weights = tl.exp2(scores - higher[:, None])
    fade = tl.exp2(top - higher)
    values = tl.load(
        value + columns[:, None] * value_row + depth[None, :], mask=value_mask, other=0.0
    )
    out = tl.dot(weights.to(values.dtype), values, out * fade[:, None], input_precision="ieee")
    return higher, total * fade + tl.sum(weights, axis=1), out


@triton.jit
def _sweep(
    top,
    total,
    out,
    block,
    key,
    value,
    key_row,
    value_row,
    first,
    stop,
    keep,
    left,
    right,
    moved,
    plain,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    FACTORS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MOVE: tl.constexpr,
    SOME: tl.constexpr,
):
    """Flash attention over keys first to stop: whole tiles without masks, then the rest."""
    whole = first + (stop - first) // COLUMNS * COLUMNS
    for start in range(first, whole, COLUMNS):
        top, total, out = _tile(
            top, total, out, block, key, value, key_row, value_row, first, start, stop,
            keep, left, right, moved, plain,
            SIZE, WIDTH, FACTORS, COLUMNS, MOVE, SOME, False,
        )  # fmt: skip
    if whole < stop:
        top, total, out = _tile(
            top, total, out, block, key, value, key_row, value_row, first, whole, stop,
            keep, left, right, moved, plain,
            SIZE, WIDTH, FACTORS, COLUMNS, MOVE, SOME, True,
        )  # fmt: skip
    return top, total, out


@triton.jit
def _rule(
    strength,
    low,
    high,
    left,
    strength_place,
    place,
    rows,
    real,
    offset_at,
    plain,
    FACTORS: tl.constexpr,
    FIXED: tl.constexpr,
):
    """How rows move x = `query . key`: keep x + left @ right, in powers of 2."""
    amount = tl.load(strength + strength_place, mask=real, other=0.0)
    if FIXED:
        keep = tl.zeros_like(amount) + plain
        offset = -amount
        gap = 2 * amount
    else:
        lowest = tl.load(low + place, mask=real, other=0.0)
        highest = tl.load(high + place, mask=real, other=0.0)
        keep = (1 - amount) * plain
        offset = amount * lowest
        gap = amount * (highest - lowest)
    # Factors come in pairs: the first is a product in half precision, the second the remainder.
    factor = tl.arange(0, FACTORS)
    lefts = tl.load(left + rows[:, None] * FACTORS + factor[None, :], mask=real[:, None], other=0.0)
    lefts *= tl.where((factor < offset_at)[None, :], gap[:, None], offset[:, None]) * LOG2_E
    rounded = lefts.to(tl.float16)
    rest = (lefts - rounded.to(tl.float32)).to(tl.float16)
    return keep, tl.where((factor % 2 == 0)[None, :], rounded, rest)


@triton.jit
def _attention_kernel(
    query,
    key,
    value,
    out,
    image_strength,
    image_low,
    image_high,
    image_left,
    image_right,
    image_offset_at,
    text_strength,
    text_low,
    text_high,
    text_left,
    text_right,
    text_offset_at,
    text_moved,
    queries,
    image,
    keys,
    heads,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    value_batch,
    value_head,
    value_row,
    out_batch,
    out_head,
    out_row,
    scale,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    IMAGE_FACTORS: tl.constexpr,
    TEXT_FACTORS: tl.constexpr,
    MOVE_IMAGE: tl.constexpr,
    MOVE_TEXT: tl.constexpr,
    SOME_TEXT: tl.constexpr,
    FIXED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS queries of one head against all keys, image first."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    out += batch * out_batch + head * out_head

    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = rows < queries
    depth = tl.arange(0, WIDTH)
    wanted = real[:, None] & (depth < SIZE)[None, :]
    block = tl.load(query + rows[:, None] * query_row + depth[None, :], mask=wanted, other=0.0)
    strength_place = batch * queries + rows
    place = (batch * heads + head) * queries + rows
    plain = scale * LOG2_E

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    state = tl.zeros([ROWS, WIDTH], tl.float32)
    keep = total
    left = tl.zeros([ROWS, IMAGE_FACTORS], tl.float16)
    if MOVE_IMAGE:
        keep, left = _rule(
            image_strength, image_low, image_high, image_left, strength_place, place, rows, real,
            image_offset_at, plain, IMAGE_FACTORS, FIXED,
        )  # fmt: skip
    top, total, state = _sweep(
        top, total, state, block, key, value, key_row, value_row, 0, image,
        keep, left, image_right, image_right, plain,
        SIZE, WIDTH, IMAGE_FACTORS, COLUMNS, MOVE_IMAGE, False,
    )  # fmt: skip
    left = tl.zeros([ROWS, TEXT_FACTORS], tl.float16)
    if MOVE_TEXT:
        keep, left = _rule(
            text_strength, text_low, text_high, text_left, strength_place, place, rows, real,
            text_offset_at, plain, TEXT_FACTORS, FIXED,
        )  # fmt: skip
    top, total, state = _sweep(
        top, total, state, block, key, value, key_row, value_row, image, keys,
        keep, left, text_right, text_moved, plain,
        SIZE, WIDTH, TEXT_FACTORS, COLUMNS, MOVE_TEXT, SOME_TEXT,
    )  # fmt: skip
    state = state / total[:, None]
    tl.store(
        out + rows[:, None] * out_row + depth[None, :], state.to(out.dtype.element_ty), mask=wanted
    )


class Shift(NamedTuple):
    """How the scores of some queries move, on one span of keys (image or text).

    strength `[B, Q]`; low and high `[B, H, Q]`, or None for a fixed bias of `strength`. left
    `[Q, F]` (float32) and right `[K, F]` (float16): see `fused.pair_factors`. moved `[K]` (uint8):
    which keys move at all; None for all. All contiguous.
    """

    strength: Tensor
    low: Tensor | None
    high: Tensor | None
    left: Tensor
    right: Tensor
    offset_at: int
    moved: Tensor | None


def moved_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    image: int,
    on_image: Shift | None,
    on_text: Shift | None,
    tile: tuple[int, int] = (128, 64),
    warps: int = 4,
    stages: int = 3,
) -> None:
    """Attention with moved scores into `out`: `[B, H, Q, D]`, `[B, H, K, D]` twice, `[B, H, Q, D]`.

    The first `image` keys are image tokens. A shift of None leaves the scores of its span alone.
    Scores and sums are float32.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    batch, heads, queries, size = query.shape
    arguments = []
    for shift in (on_image, on_text):
        if shift is None:
            arguments += [query] * 5 + [0]
        else:
            limits = [shift.strength if x is None else x for x in (shift.low, shift.high)]
            arguments += [shift.strength, *limits, *shift[3:6]]
    moved = None if on_text is None else on_text.moved
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _attention_kernel[triton.cdiv(queries, tile[0]), batch * heads](
            query,
            key,
            value,
            out,
            *arguments,
            query if moved is None else moved,
            queries,
            image,
            key.shape[2],
            heads,
            *query.stride()[:3],
            *key.stride()[:3],
            *value.stride()[:3],
            *out.stride()[:3],
            size**-0.5,
            SIZE=size,
            WIDTH=max(16, triton.next_power_of_2(size)),
            IMAGE_FACTORS=16 if on_image is None else on_image.left.shape[1],
            TEXT_FACTORS=16 if on_text is None else on_text.left.shape[1],
            MOVE_IMAGE=on_image is not None,
            MOVE_TEXT=on_text is not None,
            SOME_TEXT=moved is not None,
            FIXED=any(shift is not None and shift.low is None for shift in (on_image, on_text)),
            ROWS=tile[0],
            COLUMNS=tile[1],
            num_warps=warps,
            num_stages=stages,
        )


def compute_correctly(device: torch.device) -> bool:
    """Test both kernels on a small example, in which all keys move halfway to the maximum."""
    sample = torch.linspace(-1, 1, 64 * 64, device=device).view(1, 1, 64, 64).half()
    scores = sample.float() @ sample.float().mT / 8
    low, high = row_range(sample, sample)
    ranges = torch.stack([low, high]), torch.stack(scores.aminmax(dim=-1))
    strength = torch.full((1, 64), 0.5, device=device)
    left = torch.ones(64, 16, device=device)
    left[:, 4:] = 0  # a pair of "same region", a pair of ones
    shift = Shift(strength, low, high, left, left.half(), 2, None)
    out = torch.empty_like(sample)
    moved_attention(sample, sample, sample, out, 64, shift, None)
    expected = ((scores + high[..., None]) / 2).softmax(dim=-1) @ sample.float()
    return torch.allclose(*ranges, atol=1e-3) and torch.allclose(out.float(), expected, atol=1e-2)
