"""Modulated attention without the N x N scores: `attention.explicit_attention`, fast and exact.

For one query, keys of a kind (image, text of a region, other text) are all moved by one rule,

    s' = s + a (target - s)  =  (1 - a) s  +  a min  +  a (max - min) same,

a scale, an offset, and a second offset where query and key share a region. Only the smallest and
the largest score of every query have to be found beforehand (`ranges`).

On recent NVIDIA GPUs a Triton kernel applies the rule to scores that never leave the chip
(`kernels`). Everywhere else stock attention does. The scale goes into the query. The first offset
is common to all keys of the kind: each kind has its own call of stock attention, and the offset is
added to its log denominator before the kinds are merged (`partial`). The second is a product of
something of the query's and something of the key's: it travels in a few more dimensions beside the
head's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.modulation import MAX_STRENGTH, DenseConfig, Plan, Step, query_weight, same_region
from densenb.partial import Part, attention_part, merge, operator_name
from densenb.ranges import HALF, row_range, triton_kernels

Limits = tuple[Tensor, Tensor] | tuple[None, None]

WIDTH = 128  # of queries and keys in half precision: attention kernels come for 64 and for 128
MAX_FACTORS = 64  # more do not fit beside the scores in the Triton kernel


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, config: DenseConfig, plan: Plan, step: Step
) -> Tensor:
    """`explicit_attention` without its scores: `[B, H, N, D]` three times -> `[B, H, N, D]`.

    Equal to it up to rounding for every `DenseConfig`. Ranges and all that is added to a score are
    kept in at least float32, whatever the inputs are.
    """
    groups = _groups(plan, config)
    weight = _weight(plan, config, step)
    with torch.autocast(query.device.type, enabled=False):
        if len(groups) == 1:
            return _attend(query, key, value, weight, groups[0].blocks, config)
        attended = torch.empty_like(query)
        for group in groups:
            mine = (x[group.rows] for x in (query, key, value, weight))
            attended[group.rows] = _attend(*mine, group.blocks, config)
        return attended


def backend_name(query: Tensor) -> str:
    """What `fused_attention` runs on for queries like these: "Triton", or an SDPA operator's name.

    "chunked" means that PyTorch has no fast attention here.
    """
    if triton_kernels(query.device, query.dtype) is not None:
        return "Triton"
    width = WIDTH if query.dtype in HALF else query.shape[-1] + 8
    return operator_name(query.device, query.dtype, width, query.shape[2])


# ----------------------------------------------------------------------- what a layout asks for
@dataclass(frozen=True)
class Move:
    """How a block of queries moves the keys of one kind, "image" or "text".

    span: the kind's first key and last + 1. keys: those of them that are moved. limits: the keys
    among which the range is sought. quadrant: the strength. left `[Q, S]`, right `[K, S]`: their
    product, `left @ right.T`, is "same region". binary: `right` is 0 or 1. shift_left, shift_right
    and moved: the same for the Triton kernel and the whole span, see `kernels.Shift`.
    """

    kind: str
    span: slice
    keys: slice | Tensor
    limits: slice
    quadrant: float
    left: Tensor
    right: Tensor
    binary: bool
    shift_left: Tensor
    shift_right: Tensor
    moved: Tensor | None


@dataclass(frozen=True)
class Block:
    """Queries that treat keys alike, and the keys that they leave as they are.

    movable `[Q]`: 0 for the queries that leave all keys alone, otherwise 1.
    """

    queries: slice
    movable: Tensor
    still: slice | Tensor | None
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Group:
    """The batch rows that share a layout."""

    rows: Tensor
    blocks: tuple[Block, ...]


# Cached because all layers of a pass ask for the same; plans and configurations are immutable.
@torch.compiler.disable
@lru_cache(maxsize=16)
def _weight(plan: Plan, config: DenseConfig, step: Step) -> Tensor:
    return query_weight(plan, config, step)


@torch.compiler.disable
@lru_cache(maxsize=16)
def _groups(plan: Plan, config: DenseConfig) -> tuple[Group, ...]:
    """Sort a batch by layouts, and the tokens of each into blocks and kinds."""
    layouts, owner = plan.member.cpu().unique(dim=0, return_inverse=True)
    device = plan.member.device
    return tuple(
        Group(
            rows=(owner == number).nonzero()[:, 0].to(device),
            blocks=_blocks(replace(plan, member=member[None]), config, device),
        )
        for number, member in enumerate(layouts)
    )


def _blocks(plan: Plan, config: DenseConfig, device: torch.device) -> tuple[Block, ...]:
    """The image queries and the text queries of a plan with one row."""
    count = plan.member.shape[1]
    kinds = {"image": slice(0, plan.image), "text": slice(plan.image, count)}
    movable = ~plan.unlabelled[0]
    blocks = []
    for query, queries in kinds.items():
        if queries.start == queries.stop:
            continue
        regions, alone = (x[0] for x in plan.keys(query, config.special_tokens))
        moves, still = [], torch.ones(count, dtype=torch.bool)
        for key, span in kinds.items():
            quadrant = config.quadrants[query, key]
            if quadrant == 0 or not movable[queries].any() or alone[span].all():
                continue
            still[span] = alone[span]
            left, right = same_region_factors(
                plan.member[0, queries].float(), regions[span].float()
            )
            shift_left, shift_right = _half_factors(left, right)
            moves.append(
                Move(
                    kind=key,
                    span=span,
                    keys=_positions(~still[span], device, span.start),
                    limits=slice(0, count) if config.value_range == "row" else span,
                    quadrant=quadrant,
                    left=left.to(device),
                    right=right[~still[span]].to(device),
                    binary=bool(((right == 0) | (right == 1)).all()),
                    shift_left=shift_left.to(device),
                    shift_right=shift_right.to(device),
                    moved=(~still[span]).byte().to(device) if still[span].any() else None,
                )
            )
        blocks.append(
            Block(
                queries=queries,
                movable=movable[queries].float().to(device),
                still=_positions(still, device) if still.any() else None,
                moves=tuple(moves),
            )
        )
    return tuple(blocks)


def same_region_factors(query_regions: Tensor, key_regions: Tensor) -> tuple[Tensor, Tensor]:
    """Two thin matrices whose product is `same_region`: `[Q, R]`, `[K, R]` -> `[Q, S]`, `[K, S]`.

    The regions themselves if no pair can share more than one; else one column for each combination
    of regions that occurs among the keys.
    """
    single = 1 + 1e-6
    if query_regions.sum(dim=-1).max() <= single or key_regions.sum(dim=-1).max() <= single:
        shared = (query_regions > 0).any(dim=0) & (key_regions > 0).any(dim=0)
        return query_regions[:, shared], key_regions[:, shared]
    combinations, which = key_regions.unique(dim=0, return_inverse=True)
    left = same_region(query_regions[None], combinations[None])[0].float()
    return left, F.one_hot(which, len(combinations)).float()


def _half_factors(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The factors in float16, what rounding takes in columns of its own, padded for the kernel."""
    (left, left_rest), (right, right_rest) = (_split(x, torch.float16) for x in (left, right))
    if left_rest.any() or right_rest.any():
        left, right = (
            torch.cat([left, left_rest, left], dim=-1),
            torch.cat([right, right, right_rest], dim=-1),
        )
    width = max(16, 1 << (left.shape[-1] - 1).bit_length())
    return _widen(left, width), _widen(right, width)


def _split(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` rounded to `dtype`, and the rest, rounded too."""
    rounded = x.to(dtype)
    return rounded, (x - rounded).to(dtype)


def _positions(chosen: Tensor, device: torch.device, start: int = 0) -> slice | Tensor:
    """Where a bool vector is true, from `start` on: a slice if it is one stretch, else indices."""
    indices = chosen.nonzero()[:, 0] + start
    first, last = int(indices[0]), int(indices[-1]) + 1
    return slice(first, last) if last - first == len(indices) else indices.to(device)


# ------------------------------------------------------------------------------- and its attention
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor,
    blocks: tuple[Block, ...],
    config: DenseConfig,
) -> Tensor:
    """The batch rows of one layout; weight `[B, N]`."""
    attended = []
    for block in blocks:
        rows = query[:, :, block.queries]
        if not block.moves:
            attended.append(F.scaled_dot_product_attention(rows, key, value))
            continue
        ranges: dict[int, Limits] = {}
        moves = []
        for move in block.moves:
            strength = move.quadrant * weight[:, block.queries] * block.movable
            limits: Limits = (None, None)
            if config.value_range is not None:
                strength = strength.clamp(max=MAX_STRENGTH)
                if move.limits.start not in ranges:
                    ranges[move.limits.start] = row_range(rows, key[:, :, move.limits])
                limits = ranges[move.limits.start]
            moves.append((move, strength, limits))
        kernels = _kernels_for(rows, block)
        if kernels is None:
            attended.append(_by_parts(rows, key, value, block, moves))
        else:
            attended.append(_by_kernel(kernels, rows, key, value, moves))
    return torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]


def _kernels_for(query: Tensor, block: Block) -> ModuleType | None:
    small = max(move.shift_left.shape[1] for move in block.moves) <= MAX_FACTORS
    return triton_kernels(query.device, query.dtype) if small and query.shape[-1] <= 128 else None


def _by_kernel(
    kernels: ModuleType,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    moves: list[tuple[Move, Tensor, Limits]],
) -> Tensor:
    """One pass of the Triton kernel over all keys."""
    shifts = {
        move.kind: kernels.Shift(
            strength.contiguous(), *limits, move.shift_left, move.shift_right, move.moved
        )
        for move, strength, limits in moves
    }
    image = next(
        move.span.stop if move.kind == "image" else move.span.start for move, _, _ in moves
    )
    return kernels.moved_attention(
        query, key, value, image, shifts.get("image"), shifts.get("text")
    )


def _by_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: Block,
    moves: list[tuple[Move, Tensor, Limits]],
) -> Tensor:
    """One call of stock attention for each kind of keys, merged."""
    parts = [] if block.still is None else [_still_part(query, key, value, block.still)]
    parts += [_moved_part(query, key, value, *move) for move in moves]
    return merge(parts).to(value.dtype)


def _still_part(query: Tensor, key: Tensor, value: Tensor, still: slice | Tensor) -> Part:
    return attention_part(query, _take(key, still), _take(value, still), query.shape[-1] ** -0.5)


def _moved_part(
    query: Tensor, key: Tensor, value: Tensor, move: Move, strength: Tensor, limits: Limits
) -> Part:
    """Attention over the keys of one kind, their scores moved. strength `[B, Q]`."""
    size, dtype = query.shape[-1], query.dtype
    strength = strength[:, None]
    low, high = limits
    if low is None or high is None:  # a fixed bias, in logits
        exact, offset, gap = query, -strength, 2 * strength
    else:
        exact = query * (1 - strength[..., None])
        offset, gap = strength * low, strength * (high - low)
    scaled, scaled_rest = _split(exact, dtype)
    same = (gap[..., None] * (size**0.5 * move.left)).expand(*query.shape[:3], -1)
    same, same_rest = _split(same, dtype)
    key, value = _take(key, move.keys), _take(value, move.keys)
    right, right_rest = (x.expand(*key.shape[:2], -1, -1) for x in _split(move.right, dtype))

    queries, keys = [scaled, same], [key, right]
    if dtype in HALF:
        # What rounding takes goes into dimensions of its own: of the offset all, for it would be as
        # much as the offset moves; of the scaled query what the kernel's width has room for.
        queries, keys = [*queries, same_rest], [*keys, right]
        if not move.binary:
            queries, keys = [*queries, same], [*keys, right_rest]
        room = max(0, min(size, WIDTH - sum(x.shape[-1] for x in queries)))
        queries, keys = [*queries, scaled_rest[..., :room]], [*keys, key[..., :room]]
    query, key = (_widen(torch.cat(x, dim=-1)) for x in (queries, keys))
    # Values are as wide as keys, because not every operator takes another width.
    value = _widen(value, key.shape[-1])
    attended, log_sum = attention_part(query, key, value, size**-0.5)
    return attended[..., :size], log_sum + offset


def _widen(x: Tensor, width: int | None = None) -> Tensor:
    """Zeros at the end of the last dimension, up to `width` or to the next multiple of 8."""
    width = -(-x.shape[-1] // 8) * 8 if width is None else width
    return F.pad(x, (0, width - x.shape[-1])) if width > x.shape[-1] else x


def _take(x: Tensor, positions: slice | Tensor) -> Tensor:
    """Some of the tokens of `[B, H, N, D]`; without a copy if they are one stretch."""
    return x[:, :, positions] if isinstance(positions, slice) else x.index_select(2, positions)
