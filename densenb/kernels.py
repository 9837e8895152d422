"""Triton kernels for modulated attention: imported only where Triton is installed.

They compute what `fused` and `ranges` compute with stock operators, with fewer roundings and fewer
launches. `TRITON_INTERPRET=1` runs them on a CPU, slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
MIN_FACTORS = 16  # the narrowest matrix product that tensor cores take


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
    # Element by element over the tiles, and across a tile's columns only once, at the end.
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
    query: Tensor, key: Tensor, tile: tuple[int, int] = (128, 64), warps: int = 8, stages: int = 3
) -> tuple[Tensor, Tensor]:
    """See `ranges.row_range`. tile: queries and keys that a program holds at a time."""
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    batch, heads, queries, size = query.shape
    low = torch.empty(batch, heads, queries, dtype=torch.float32, device=query.device)
    high = torch.empty_like(low)
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
    state_top,
    state_sum,
    state_out,
    block,
    key,
    value,
    key_row,
    value_row,
    start,
    stop,
    keep,
    offset,
    gap,
    left,
    right,
    moved,
    first,
    scale,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    FACTORS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MOVE: tl.constexpr,
    SOME: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """Flash attention's step over one tile of keys, the scores modulated on the way."""
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
        rights = tl.load(
            right + (columns - first)[None, :] * FACTORS + factor[:, None],
            mask=present[None, :],
            other=0.0,
        )
        same = tl.dot(left, rights)
        target = scores * keep[:, None] + (gap[:, None] * same + offset[:, None])
        if SOME:
            movable = tl.load(moved + columns - first, mask=present, other=0) != 0
            scores = tl.where(movable[None, :], target, scores * scale)
        else:
            scores = target
    else:
        scores = scores * scale
    if RAGGED:
        scores = tl.where(present[None, :], scores, float("-inf"))

    top = tl.maximum(state_top, tl.max(scores, axis=1))
    weights = tl.exp2(scores - top[:, None])
    fade = tl.exp2(state_top - top)
    values = tl.load(
        value + columns[:, None] * value_row + depth[None, :], mask=value_mask, other=0.0
    )
    state_out = tl.dot(
        weights.to(values.dtype), values, state_out * fade[:, None], input_precision="ieee"
    )
    return top, state_sum * fade + tl.sum(weights, axis=1), state_out


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
    offset,
    gap,
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
            top, total, out, block, key, value, key_row, value_row, start, stop, keep, offset, gap,
            left, right, moved, first, plain,
            SIZE, WIDTH, FACTORS, COLUMNS, MOVE, SOME, False,
        )  # fmt: skip
    if whole < stop:
        top, total, out = _tile(
            top, total, out, block, key, value, key_row, value_row, whole, stop, keep, offset, gap,
            left, right, moved, first, plain,
            SIZE, WIDTH, FACTORS, COLUMNS, MOVE, SOME, True,
        )  # fmt: skip
    return top, total, out


@triton.jit
def _rule(strength, low, high, strength_place, place, mask, plain, FIXED: tl.constexpr):
    """What a row does to a score x of `query . key`: keep x + offset, + gap in the same region."""
    amount = tl.load(strength + strength_place, mask=mask, other=0.0)
    if FIXED:
        keep = tl.zeros_like(amount) + plain
        offset = -amount
        gap = 2 * amount
    else:
        lowest = tl.load(low + place, mask=mask, other=0.0)
        highest = tl.load(high + place, mask=mask, other=0.0)
        keep = (1 - amount) * plain
        offset = amount * lowest
        gap = amount * (highest - lowest)
    return keep, offset * LOG2_E, gap * LOG2_E


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
    text_strength,
    text_low,
    text_high,
    text_left,
    text_right,
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
    """One program: ROWS queries of one head against all keys, image first, in powers of 2."""
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
    left = tl.zeros([ROWS, IMAGE_FACTORS], tl.float16)
    keep, offset, gap = top, top, top
    if MOVE_IMAGE:
        factor = tl.arange(0, IMAGE_FACTORS)
        left = tl.load(
            image_left + rows[:, None] * IMAGE_FACTORS + factor[None, :],
            mask=real[:, None],
            other=0.0,
        )
        keep, offset, gap = _rule(
            image_strength, image_low, image_high, strength_place, place, real, plain, FIXED
        )
    top, total, state = _sweep(
        top, total, state, block, key, value, key_row, value_row, 0, image, keep, offset, gap,
        left, image_right, image_right, plain,
        SIZE, WIDTH, IMAGE_FACTORS, COLUMNS, MOVE_IMAGE, False,
    )  # fmt: skip
    left = tl.zeros([ROWS, TEXT_FACTORS], tl.float16)
    if MOVE_TEXT:
        factor = tl.arange(0, TEXT_FACTORS)
        left = tl.load(
            text_left + rows[:, None] * TEXT_FACTORS + factor[None, :],
            mask=real[:, None],
            other=0.0,
        )
        keep, offset, gap = _rule(
            text_strength, text_low, text_high, strength_place, place, real, plain, FIXED
        )
    top, total, state = _sweep(
        top, total, state, block, key, value, key_row, value_row, image, keys, keep, offset, gap,
        left, text_right, text_moved, plain,
        SIZE, WIDTH, TEXT_FACTORS, COLUMNS, MOVE_TEXT, SOME_TEXT,
    )  # fmt: skip
    state = state / total[:, None]
    tl.store(
        out + rows[:, None] * out_row + depth[None, :], state.to(out.dtype.element_ty), mask=wanted
    )


@dataclass(frozen=True)
class Shift:
    """How the scores of some queries move, on one span of keys (image or text).

    strength `[B, Q]`; low and high `[B, H, Q]`, or None for a fixed bias of `strength`; left
    `[Q, F]` and right `[K, F]`, float16, F a power of two: `left @ right.T` is "same region". moved
    `[K]` (uint8): which keys move at all; None for all.
    """

    strength: Tensor
    low: Tensor | None
    high: Tensor | None
    left: Tensor
    right: Tensor
    moved: Tensor | None = None


def moved_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    image: int,
    on_image: Shift | None,
    on_text: Shift | None,
    tile: tuple[int, int] = (128, 64),
    warps: int = 8,
    stages: int = 3,
) -> Tensor:
    """Attention with moved scores: `[B, H, Q, D]`, `[B, H, K, D]` twice -> `[B, H, Q, D]`.

    The first `image` keys are image tokens. None: scores on this span stay as they are. Scores and
    sums are float32; the tensors of both shifts are contiguous.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    batch, heads, queries, size = query.shape
    # Memory as diffusers wants it next, [B, Q, H, D].
    out = query.new_empty(batch, queries, heads, size).transpose(1, 2)
    shifts = []
    for shift in (on_image, on_text):
        if shift is None:
            shifts += [query] * 5
        else:
            limits = [shift.strength if x is None else x for x in (shift.low, shift.high)]
            shifts += [shift.strength, *limits, shift.left, shift.right]
    some = on_text is not None and on_text.moved is not None
    _attention_kernel[triton.cdiv(queries, tile[0]), batch * heads](
        query,
        key,
        value,
        out,
        *shifts,
        on_text.moved if some else query,
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
        IMAGE_FACTORS=MIN_FACTORS if on_image is None else on_image.left.shape[1],
        TEXT_FACTORS=MIN_FACTORS if on_text is None else on_text.left.shape[1],
        MOVE_IMAGE=on_image is not None,
        MOVE_TEXT=on_text is not None,
        SOME_TEXT=some,
        FIXED=any(shift is not None and shift.low is None for shift in (on_image, on_text)),
        ROWS=tile[0],
        COLUMNS=tile[1],
        num_warps=warps,
        num_stages=stages,
    )
    return out
