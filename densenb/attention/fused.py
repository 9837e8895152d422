"""Modulated attention without the N x N scores: `explicit.explicit_attention`, fast and exact.

For one query, one formula moves all keys of a kind (image, text of a region, other text):

    s' = s + a (target - s)  =  (1 - a) s  +  a min  +  a (max - min) same,

a scale, an offset, and a second offset where query and key share a region. Only the smallest and
the largest score of each query must be known beforehand (`row_ranges`).

On recent NVIDIA GPUs a Triton kernel applies the formula to scores that never leave the chip
(`kernels`). Everywhere else, stock attention computes it. The scale is applied to the query. The
first offset is the same for all keys of a kind: each kind has its own call of stock attention, and
the offset is added to its log denominator before the kinds are merged (`partial_softmax`). The
second offset is a product of a factor of the query and a factor of the key: it takes a few
dimensions in addition to those of the head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from densenb.attention.partial_softmax import Part, attention_part, merge, widen
from densenb.attention.row_ranges import HALF, row_range, triton_kernels
from densenb.modulation.dense_config import DenseConfig, query_weight
from densenb.modulation.formulas import MAX_STRENGTH, same_region
from densenb.modulation.plan import Plan, Step

Limits = tuple[Tensor, Tensor] | tuple[None, None]

WIDTH = 128  # of queries and keys in half precision: attention kernels exist for 64 and for 128
MAX_FACTORS = 64  # more do not fit beside the scores in the Triton kernel


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, config: DenseConfig, plan: Plan, step: Step
) -> Tensor:
    """`explicit_attention` without its scores: `[B, H, N, D]` three times -> `[B, H, N, D]`.

    Equal to it up to rounding for every `DenseConfig`. Ranges and everything that is added to a
    score are at least float32, whatever the inputs are.
    """
    groups = _groups(plan, config, step)
    with torch.autocast(query.device.type, enabled=False):
        if len(groups) == 1:
            return _attend(query, key, value, groups[0].blocks)
        attended = torch.empty_like(query)
        for group in groups:
            mine = (x[group.rows] for x in (query, key, value))
            attended[group.rows] = _attend(*mine, group.blocks)
        return attended


# ------------------------------------------------------------------------ layouts as instructions
@dataclass(frozen=True)
class Move:
    """How a block of queries moves the keys of one kind, "image" or "text".

    span: all keys of the kind. keys: those that are moved. limits: the keys over which the range is
    taken; None for a fixed bias. strength `[B, Q]`: of each query at this step. left `[Q, S]`,
    right `[K, S]`: their product, `left @ right.T`, is "same region". binary: `right` is 0 or 1.
    paired, moved: the same for all keys of the span, in the form of `kernels.Shift`.
    """

    kind: str
    span: slice
    keys: slice | Tensor
    limits: slice | None
    strength: Tensor
    left: Tensor
    right: Tensor
    binary: bool
    paired: tuple[Tensor, Tensor, int]
    moved: Tensor | None

    def weighted(self, weight: Tensor) -> Move:
        """The move at one step: its strength `[Q]` times the weights of the queries `[B, Q]`."""
        strength = weight * self.strength
        if self.limits is not None:  # no lower limit: see `modulate`
            strength = strength.clamp(max=MAX_STRENGTH)
        return replace(self, strength=strength)


@dataclass(frozen=True)
class Block:
    """Queries that treat keys alike, and the keys that they leave unchanged."""

    queries: slice
    still: slice | Tensor | None
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Group:
    """The batch rows that share a layout."""

    rows: Tensor
    blocks: tuple[Block, ...]


# Cached because all layers of a pass need the same, and so does the next picture. There is room for
# every step of two plans. Plans and configurations are immutable.
@torch.compiler.disable
@lru_cache(maxsize=128)
def _groups(plan: Plan, config: DenseConfig, step: Step) -> tuple[Group, ...]:
    """The groups of a batch, with the strengths of all queries at this step."""
    weight = query_weight(plan, config, step)  # (B, N)
    groups = []
    for group in _layouts(plan, config):
        blocks = []
        for block in group.blocks:
            mine = weight[group.rows][:, block.queries]
            moves = tuple(move.weighted(mine) for move in block.moves)
            blocks.append(replace(block, moves=moves))
        groups.append(replace(group, blocks=tuple(blocks)))
    return tuple(groups)


@lru_cache(maxsize=16)
def _layouts(plan: Plan, config: DenseConfig) -> tuple[Group, ...]:
    """Sort a batch by layouts, and the tokens of each layout into blocks and kinds.

    `Move.strength` `[Q]` is still that of the quadrant, and 0 for queries that move no key.
    """
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
    movable = ~plan.unlabelled[0].cpu()
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
            moved = ~alone[span]
            limits = slice(0, count) if config.value_range == "row" else span
            mine, theirs = plan.member[0, queries].float(), regions[span].float()
            left, right = same_region_factors(mine, theirs)  # (Q, S), (K, S)
            paired_left, paired_right, offset_at = pair_factors(left, right, moved)
            moves.append(
                Move(
                    kind=key,
                    span=span,
                    keys=_positions(moved, device, span.start),
                    limits=None if config.value_range is None else limits,
                    strength=(quadrant * movable[queries]).to(device),
                    left=left.to(device),
                    right=right[moved].to(device),
                    binary=bool(((right == 0) | (right == 1)).all()),
                    paired=(paired_left.to(device), paired_right.to(device), offset_at),
                    moved=None if moved.all() else moved.byte().to(device),
                )
            )
        positions = _positions(still, device) if still.any() else None
        blocks.append(Block(queries, positions, tuple(moves)))
    return tuple(blocks)


def same_region_factors(query_regions: Tensor, key_regions: Tensor) -> tuple[Tensor, Tensor]:
    """Two thin matrices whose product is `same_region`: `[Q, R]`, `[K, R]` -> `[Q, S]`, `[K, S]`.

    The regions themselves if no pair can share more than one; otherwise one column for each
    combination of regions that the keys have.
    """
    single = 1 + 1e-6
    if query_regions.sum(dim=-1).max() <= single or key_regions.sum(dim=-1).max() <= single:
        shared = (query_regions > 0).any(dim=0) & (key_regions > 0).any(dim=0)
        return query_regions[:, shared], key_regions[:, shared]
    combinations, which = key_regions.unique(dim=0, return_inverse=True)
    left = same_region(query_regions[None], combinations[None])[0].float()
    return left, F.one_hot(which, len(combinations)).float()


def pair_factors(left: Tensor, right: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, int]:
    """The factors in the form of the Triton kernel, and the position of two columns of ones.

    Every column appears twice, `[Q, F]` (float32) and `[K, F]` (float16), so that a pair can hold a
    product as two half precision numbers. The ones are for the offset that all moved keys (bool
    `[K]`) share. Zeros pad the width to a power of two.
    """
    rounded, rest = _split(right, torch.float16)
    if rest.any():
        left, rounded = torch.cat([left, left], dim=1), torch.cat([rounded, rest], dim=1)
    offset_at = 2 * left.shape[1]
    left, right = (F.pad(x, (0, 1), value=1.0) for x in (left, rounded))
    left, right = (x.repeat_interleave(2, dim=1) for x in (left, right * moved[:, None]))
    width = max(16, 1 << (offset_at + 1).bit_length())
    return widen(left, width), widen(right, width), offset_at


def _split(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` rounded to `dtype`, and the remainder, also rounded."""
    rounded = x.to(dtype)
    return rounded, (x - rounded).to(dtype)


def _positions(chosen: Tensor, device: torch.device, start: int = 0) -> slice | Tensor:
    """Where a bool vector is true, plus `start`: a slice if contiguous, else indices."""
    indices = chosen.nonzero()[:, 0] + start
    first, last = int(indices[0]), int(indices[-1]) + 1
    return slice(first, last) if last - first == len(indices) else indices.to(device)


# ---------------------------------------------------------------------------------- attention
def _attend(query: Tensor, key: Tensor, value: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """The batch rows of one layout."""
    # In memory `[B, N, H, D]`, as diffusers needs it next.
    batch, heads, count, size = value.shape
    attended = value.new_empty(batch, count, heads, size).transpose(1, 2)  # (B, H, N, D)
    kernels = triton_kernels(query)
    for block in blocks:
        rows, out = query[:, :, block.queries], attended[:, :, block.queries]
        if not block.moves:
            out.copy_(_still_part(rows, key, value, slice(None))[0])
            continue
        spans = {m.limits.start: m.limits for m in block.moves if m.limits is not None}
        ranges = {start: row_range(rows, key[:, :, span]) for start, span in spans.items()}
        limits: list[Limits] = [
            (None, None) if m.limits is None else ranges[m.limits.start] for m in block.moves
        ]
        moves = list(zip(block.moves, limits))
        if kernels is None or any(m.paired[0].shape[1] > MAX_FACTORS for m in block.moves):
            # One call of stock attention for each kind of keys, merged.
            parts = [] if block.still is None else [_still_part(rows, key, value, block.still)]
            parts += [_moved_part(rows, key, value, move, *found) for move, found in moves]
            out.copy_(merge(parts))
            continue
        # One pass of the Triton kernel over all keys.
        shifts = {
            move.kind: kernels.Shift(move.strength, *found, *move.paired, move.moved)
            for move, found in moves
        }
        first = block.moves[0]
        image = first.span.stop if first.kind == "image" else first.span.start
        kernels.moved_attention(
            rows, key, value, out, image, shifts.get("image"), shifts.get("text")
        )
    return attended


def _still_part(query: Tensor, key: Tensor, value: Tensor, still: slice | Tensor) -> Part:
    return attention_part(query, _take(key, still), _take(value, still), query.shape[-1] ** -0.5)


def _moved_part(
    query: Tensor, key: Tensor, value: Tensor, move: Move, low: Tensor | None, high: Tensor | None
) -> Part:
    """Attention over the keys of one kind, their scores moved. low, high `[B, H, Q]`."""
    size, dtype = query.shape[-1], query.dtype
    strength = move.strength[:, None]
    if low is None or high is None:  # a fixed bias, in logits
        exact, offset, gap = query, -strength, 2 * strength
    else:
        exact = query * (1 - strength[..., None])
        offset, gap = strength * low, strength * (high - low)
    scaled, scaled_rest = _split(exact, dtype)
    same = (gap[..., None] * (size**0.5 * move.left)).expand(*query.shape[:3], -1)  # (B, H, Q, S)
    same, same_rest = _split(same, dtype)
    key, value = _take(key, move.keys), _take(value, move.keys)
    right, right_rest = (x.expand(*key.shape[:2], -1, -1) for x in _split(move.right, dtype))

    queries, keys = [scaled, same], [key, right]
    if dtype in HALF:
        # The rounding errors get dimensions of their own. For the offset all of them: they are as
        # large as the change it makes. For the scaled query, as many as the kernel's width allows.
        queries, keys = [*queries, same_rest], [*keys, right]
        if not move.binary:
            queries, keys = [*queries, same], [*keys, right_rest]
        room = max(0, min(size, WIDTH - sum(x.shape[-1] for x in queries)))
        queries, keys = [*queries, scaled_rest[..., :room]], [*keys, key[..., :room]]
    width = -(-sum(x.shape[-1] for x in queries) // 8) * 8  # operators need multiples of 8
    query, key = (widen(torch.cat(x, dim=-1), width) for x in (queries, keys))
    attended, log_sum = attention_part(query, key, value, size**-0.5)
    return attended, log_sum + offset


def _take(x: Tensor, positions: slice | Tensor) -> Tensor:
    """Some of the tokens of `[B, H, N, D]`; without a copy if they are contiguous."""
    return x[:, :, positions] if isinstance(positions, slice) else x.index_select(2, positions)
