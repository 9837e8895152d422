"""The small tensor functions of `record_attention`: from a row's scores to means over groups.

Shapes: H heads, N tokens (image first, then text), G groups, R regions, P phrases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.models.pipeline import Pipeline
from densenb.modulation.formulas import same_region
from densenb.modulation.rule import Rule
from densenb.recording.record import MAPS, Columns
from densenb.sd3.token_regions import text_regions, token_regions

AT_ONCE = 2**24  # scores in one go, 64 MB: all heads of a small picture, one head of a large one


def scores_of(
    query: Tensor, key: Tensor, heads: Sequence[int]
) -> Iterator[tuple[list[int], Tensor]]:
    """Raw scores of a row's `heads`, some at a time: `[H, N, D]` twice -> (numbers, `[h, N, N]`).

    At least float32.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    count = max(1, AT_ONCE // query.shape[1] ** 2)
    for start in range(0, len(heads), count):
        some = list(heads[start : start + count])
        q, k = query[some].to(exact), key[some].to(exact)  # (h, N, D)
        yield some, q @ k.mT * query.shape[-1] ** -0.5  # (h, N, N)


class Places(NamedTuple):
    """What the N tokens of one row are.

    share `[N, G]`: how much of a token belongs to each group; rows sum to 1.
    member: bool `[N, R]`, in which regions it is; nowhere, if it is special or another word.
    phrase `[N, P]`: 1 for the tokens of a phrase. part `[N, 3]`: 1 for image, CLIP or T5.
    image: how many image tokens there are; they come first.
    """

    share: Tensor
    member: Tensor
    phrase: Tensor
    part: Tensor
    image: int

    def image_only(self) -> Places:
        return Places(*(tensor[: self.image] for tensor in self[:4]), self.image)

    def to(self, device: torch.device) -> Places:
        return Places(*(tensor.to(device) for tensor in self[:4]), self.image)


def pool(scores: Tensor, weights: Tensor, places: Places) -> dict[str, Tensor]:
    """The means that `Record` describes, of one row's scores and weights, both `[H, N, N]`.

    Taught in notebook 02.
    """
    mean = (places.share / places.share.sum(dim=0)).T  # (G, N): rows of NaN for empty groups
    labelled = places.member.any(dim=-1)
    pairs = labelled[:, None] & labelled  # (N, N)
    pairs.fill_diagonal_(False)
    together = same_region(places.member[None], places.member[None])[0] > 0
    same, other = pairs & together, pairs & ~together
    return {
        "mass": mean @ weights @ places.share,  # (H, G, G)
        "parts": mean @ (weights @ places.part),  # (H, G, 3)
        "score": mean @ scores @ mean.T,  # (H, G, G)
        "entropy": torch.special.entr(weights).sum(dim=-1) @ mean.T,  # (H, G)
        "same": pair_means(scores, same, other, places.image),
        "other": pair_means(scores, other, same, places.image),
        "spread": spread(scores, places.image),
    }


def phrase_maps(weights: Tensor, places: Places, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Image tokens' attention to each phrase, and back: weights `[H, N, N]` -> `[H, P, *grid]`.

    "image_text" sums over the phrase's tokens, "text_image" is their mean. Taught in notebook 02.
    """
    image = places.image
    looks_at = (weights[:, :image] @ places.phrase).mT  # (H, P, I)
    looks_from = places.phrase.T @ weights[:, :, :image]  # (H, P, I)
    looks_from = looks_from / places.phrase.sum(dim=0)[:, None]
    maps = zip(MAPS, (looks_at, looks_from), strict=True)
    return {name: value.unflatten(-1, grid) for name, value in maps}  # (H, P, rows, columns)


def pair_means(scores: Tensor, marked: Tensor, others: Tensor, image: int) -> Tensor:
    """Mean score that a query gives to its marked keys, in each quadrant: `[H, 2, 2]`.

    scores `[H, N, N]`; marked and others bool `[N, N]`. The mean over those queries that have keys
    of both sorts, so that the two means compare within queries: what a query adds to all of its
    scores leaves the softmax. NaN for a quadrant without such queries.
    """

    def mean(q: slice, k: slice) -> Tensor:
        queries = marked[q, k].any(dim=-1) & others[q, k].any(dim=-1)
        chosen = marked[q, k][queries].to(scores.dtype)
        return ((scores[:, q, k][:, queries] * chosen).sum(-1) / chosen.sum(-1)).mean(dim=-1)

    return by_quadrant(mean, image)


def spread(scores: Tensor, image: int) -> Tensor:
    """Mean over queries of maximum - minimum in each quadrant: `[H, N, N]` -> `[H, 2, 2]`.

    NaN for a quadrant that does not exist.
    """

    def mean(q: slice, k: slice) -> Tensor:
        block = scores[:, q, k]
        if block.numel() == 0:
            return scores.new_full((len(scores),), torch.nan)
        return (block.amax(dim=-1) - block.amin(dim=-1)).mean(dim=-1)

    return by_quadrant(mean, image)


def by_quadrant(value: Any, image: int) -> Tensor:
    """`value(queries, keys) -> [H]` of each quadrant, (image, text) each way: `[H, 2, 2]`."""
    spans = (slice(0, image), slice(image, None))
    return torch.stack([torch.stack([value(q, k) for k in spans], dim=-1) for q in spans], dim=-2)


def token_places(
    pipe: Pipeline,
    layout: Layout,
    columns: Columns,
    grid: tuple[int, int],
    text: int,
    conditional: bool,
) -> Places:
    """The places of a layout's row, or of the negative prompt's row beside it (not conditional).

    grid: the image tokens' (rows, columns); text: how many text tokens follow them.
    """
    clip, image = pipe.tokenizer_max_length, grid[0] * grid[1]
    t5 = text - clip
    member = token_regions(pipe, layout, Rule(), grid, t5, columns.regions + 1) > 0
    special = text_regions(pipe, layout, t5).special
    if not conditional:  # the negative prompt is another text, with no phrases of the layout
        member[image:] = False
    phrases = member[image:, : columns.regions + columns.background]
    free = ~phrases.any(dim=-1)
    rest = [free & ~special, free & special] if conditional else [~free, ~free]
    rest += [torch.full_like(free, not conditional)] if columns.negative else []
    texts = torch.cat([phrases, torch.stack(rest, dim=1)], dim=1)
    share = torch.block_diag(member[:image].float(), texts.float())
    return Places(
        share=share / share.sum(dim=1, keepdim=True),
        member=member,
        phrase=torch.block_diag(torch.zeros(image, 0), phrases.float()),
        part=torch.block_diag(*(torch.ones(length, 1) for length in (image, clip, t5))),
        image=image,
    )
