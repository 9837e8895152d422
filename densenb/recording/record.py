"""What `record_attention` keeps: pooled attention of every step, layer and picture.

Tokens are pooled into groups: the pixels of each region and of the background, the tokens of each
phrase, other words, special tokens (BOS, EOS, padding). A token of several groups counts in equal
parts in each, so that the groups share out every token exactly. Taught in notebook 02.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densenb.layout.layout import Layout
from densenb.layout.validation import check_one_of

QUADRANTS = (("image_image", "image_text"), ("text_image", "text_text"))
"""Names [query][key], as `DenseConfig` names its strengths."""
MAPS = ("image_text", "text_image")
TEXT_GROUPS = ("other words", "special tokens", "negative prompt")

Numbers = int | Iterable[int] | None
"""Step or block numbers; None means all that were recorded."""


@dataclass(frozen=True)
class Entry:
    """One attention layer in one pass, for one row of the batch.

    run: 0, or how often this step had been recorded before (a second call of the pipe).
    kind: "attn" (joint) or "attn2" (image only). picture: the row's number among the conditional
    rows, or among those of the negative prompt. skip: a pass of skip-layer guidance.
    values: the tensors, by name; K heads (1 when averaged), G groups, P phrases, see `Record`.
    """

    run: int
    step: int
    sigma: float
    block: int
    kind: str
    picture: int
    layout: int
    conditional: bool
    skip: bool
    values: dict[str, Tensor] = field(repr=False, compare=False)


class Axes(NamedTuple):
    """What the axes of `Record.tensor` stand for.

    pictures: (run, picture) pairs. heads: head numbers, or ("mean",).
    """

    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    blocks: tuple[int, ...]
    pictures: tuple[tuple[int, int], ...]
    heads: tuple[int | str, ...]


@dataclass
class Record:
    """Pooled attention. For each (step, layer, picture), with K heads, in float32 unless noted:

    mass `[K, G, G]`: attention that a query of group g gives to group h, mean over the queries; its
        rows sum to 1. NaN for groups without tokens.
    parts `[K, G, 3]`: the same to all image, CLIP and T5 tokens.
    score `[K, G, G]`: mean raw score (logit) of the pairs, before any rule.
    entropy `[K, G]`: mean entropy of a query's weights, in nats.
    same, other `[K, 2, 2]`: mean raw score that a query gives to keys of its own region, and to
        keys of other regions; [query, key] in (image, text), over the queries that have both.
        Tokens of no region, and a token as its own key, do not count.
    spread `[K, 2, 2]`: mean over queries of maximum - minimum of its raw scores in the quadrant.
    image_text `[K, P, rows, columns]` (float16; `attn` of conditional rows only): attention of each
        image token to the phrase, summed over the phrase's tokens.
    text_image, likewise: attention of the phrase to each image token, mean over its tokens.

    Weights (mass, parts, entropy, maps) are those that the layer really uses: the rule's where
    `dense_attention` is active. Scores are the model's own.

    groups[layout]: the names of the G groups; sizes `[layouts, G]`: how many tokens each has in
    conditional rows. heads: the heads kept, or ("mean",). scores `[H, N, N]`: the raw scores that
    were asked for, or None. Taught in notebook 02.
    """

    layouts: tuple[Layout, ...]
    groups: tuple[tuple[str, ...], ...]
    heads: tuple[int | str, ...]
    sizes: Tensor | None = None
    entries: list[Entry] = field(default_factory=list)
    scores: Tensor | None = None

    # ------------------------------------------------------------------------------- whole tensors
    @property
    def nbytes(self) -> int:
        """Bytes of memory that the record holds."""
        tensors = [value for entry in self.entries for value in entry.values.values()]
        tensors += [] if self.scores is None else [self.scores]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def layers(self) -> tuple[tuple[int, str], ...]:
        """The layers recorded, as (block, kind)."""
        return tuple(sorted({(entry.block, entry.kind) for entry in self.entries}))

    def axes(
        self,
        kind: str = "attn",
        steps: Numbers = None,
        blocks: Numbers = None,
        *,
        conditional: bool = True,
        skip: bool = False,
    ) -> Axes:
        """Steps, blocks and pictures that `tensor` gives for the same arguments.

        ValueError for steps or blocks that were not recorded, with those that were.
        """
        found = self._entries(kind, conditional, skip)
        if not found:
            raise ValueError(
                f"nothing was recorded of kind={kind!r}, conditional={conditional}, skip={skip}: "
                f"{self!r}."
            )
        sigmas = {entry.step: entry.sigma for entry in found}
        chosen = _chosen("steps", steps, sigmas)
        return Axes(
            steps=chosen,
            sigmas=tuple(sigmas[step] for step in chosen),
            blocks=_chosen("blocks", blocks, {entry.block for entry in found}),
            pictures=tuple(sorted({(entry.run, entry.picture) for entry in found})),
            heads=self.heads,
        )

    def tensor(
        self,
        name: str,
        kind: str = "attn",
        steps: Numbers = None,
        blocks: Numbers = None,
        *,
        conditional: bool = True,
        skip: bool = False,
    ) -> Tensor:
        """One quantity of this class's docstring: `[steps, blocks, pictures, K, ...]`, float32.

        `axes` of the same arguments says what the axes stand for. NaN where nothing was recorded
        (an interrupted run). ValueError for an unknown name.
        """
        axes = self.axes(kind, steps, blocks, conditional=conditional, skip=skip)
        found = self._entries(kind, conditional, skip)
        for entry in found:
            if name not in entry.values:
                raise ValueError(f"{name!r} was not recorded here: give one of {[*entry.values]}.")
        shape = (len(axes.steps), len(axes.blocks), len(axes.pictures))
        result = torch.full((*shape, *found[0].values[name].shape), torch.nan)  # (S, L, P, K, ...)
        for entry in found:
            if entry.step in axes.steps and entry.block in axes.blocks:
                step, block = axes.steps.index(entry.step), axes.blocks.index(entry.block)
                picture = axes.pictures.index((entry.run, entry.picture))
                result[step, block, picture] = entry.values[name]
        return result

    # ------------------------------------------------------------------------------------ summaries
    def text_mass(
        self, steps: Numbers = None, blocks: Numbers = None, encoder: str | None = None
    ) -> Tensor:
        """The share of image tokens' attention that goes to text: `[steps, blocks]`, 0 to 1.

        Mean over image tokens, pictures and heads; `encoder` "clip" or "t5" takes its part alone.
        """
        check_one_of("encoder", encoder, (None, "clip", "t5"))
        return self._mean(f"{encoder or 'text'}_mass", "attn", steps, blocks)

    def special_share(self, steps: Numbers = None, blocks: Numbers = None) -> Tensor:
        """The share of image tokens' attention that special tokens take: `[steps, blocks]`.

        A part of `text_mass`: BOS, EOS and padding of both encoders.
        """
        return self._mean("special_share", "attn", steps, blocks)

    def same_region_advantage(
        self, kind: str = "attn", steps: Numbers = None, blocks: Numbers = None
    ) -> dict[str, Tensor]:
        """How much higher pairs of one region score than other pairs, in units of the spread.

        (mean score of a query's same-region keys - that of other regions' keys) / mean (max - min)
        of a query's scores, for each quadrant `[steps, blocks]`, mean over pictures and heads. 0:
        the scores do not depend on the regions. DenseDiffusion (Kim et al. 2023) builds on the
        finding that it is positive. Give a layout of where the objects are in this picture, not of
        where they should be. In image_image, near tokens score higher whatever they show: compare
        with masks that were shifted. "attn2" has the quadrant image_image only.
        """
        names = ["image_image"] if kind == "attn2" else [*QUADRANTS[0], *QUADRANTS[1]]
        return {name: self._mean(f"advantage_{name}", kind, steps, blocks) for name in names}

    def phrase_map(
        self,
        phrase: str | int,
        step: Numbers = None,
        block: Numbers = None,
        direction: str = "image_text",
        picture: int | None = None,
    ) -> Tensor:
        """Where a phrase is: `[rows, columns]` over image tokens, mean over all other axes.

        `phrase` is one of the layout's, or its number; direction "image_text" (how much each image
        token looks at the phrase) or "text_image" (how the phrase spreads its look at the image).
        """
        check_one_of("direction", direction, MAPS)
        if not any(direction in entry.values for entry in self.entries):
            raise ValueError("no maps were recorded: use maps=True, and kinds with 'attn'.")
        maps = self.tensor(direction, "attn", step, block)
        owner = {(e.run, e.picture): e.layout for e in self._entries("attn")}
        layouts = [self.layouts[owner[picture]] for picture in sorted(owner)]
        numbers = [_phrase_number(phrase, layout) for layout in layouts]
        if picture is not None and picture not in range(len(numbers)):
            raise ValueError(f"picture is {picture!r}, but 0 to {len(numbers) - 1} were recorded.")
        chosen = [
            maps[:, :, i, :, number]
            for i, number in enumerate(numbers)
            if number is not None and picture in (None, i)
        ]
        if not chosen:
            known = list(dict.fromkeys(p for layout in self.layouts for p in layout.phrases))
            raise ValueError(f"phrase {phrase!r} is none of the recorded {known}.")
        return torch.stack(chosen).flatten(0, 3).nanmean(dim=0)

    def __repr__(self) -> str:
        steps = {entry.step for entry in self.entries}
        pictures = {(e.run, e.picture, e.conditional) for e in self.entries}
        heads = "heads averaged" if self.heads == ("mean",) else f"{len(self.heads)} heads"
        return (
            f"<record of {len(steps)} steps x {len(self.layers)} layers x {len(pictures)} rows, "
            f"{heads}, {self.nbytes / 1e6:.1f} MB>"
        )

    # ------------------------------------------------------------------------------------- helpers
    def _entries(self, kind: str, conditional: bool = True, skip: bool = False) -> list[Entry]:
        """The entries of one kind of layer, row and pass."""
        wanted = (kind, conditional, skip)
        return [e for e in self.entries if (e.kind, e.conditional, e.skip) == wanted]

    def _summary(self, entry: Entry) -> dict[str, Tensor]:
        """The scalars of an entry, each `[K]`; those of queries are means over image tokens."""
        groups, values = self.groups[entry.layout], entry.values
        weight = self.sizes[entry.layout].clone()  # (G,)
        weight[[name in TEXT_GROUPS or name.startswith("text: ") for name in groups]] = 0
        queries = weight > 0
        weight = weight[queries] / weight.sum()
        parts = weight @ values["parts"][:, queries]  # (K, 3)
        advantage = (values["same"] - values["other"]) / values["spread"]  # (K, 2, 2)
        special = values["mass"][:, queries, groups.index("special tokens")]
        return {
            "text_mass": parts[:, 1:].sum(dim=-1),
            "clip_mass": parts[:, 1],
            "t5_mass": parts[:, 2],
            "special_share": special @ weight,
        } | {
            f"advantage_{name}": advantage[:, i, j]
            for i, names in enumerate(QUADRANTS)
            for j, name in enumerate(names)
        }

    def _mean(self, name: str, kind: str, steps: Any, blocks: Any) -> Tensor:
        """One column of the summary, `[steps, blocks]`."""
        axes = self.axes(kind, steps, blocks)
        cells: dict[tuple[int, int], list[Tensor]] = {}
        for entry in self._entries(kind):
            cells.setdefault((entry.step, entry.block), []).append(self._summary(entry)[name])
        missing = [torch.tensor([torch.nan])]
        means = [
            torch.cat(cells.get((step, block), missing)).nanmean()
            for step in axes.steps
            for block in axes.blocks
        ]
        return torch.stack(means).view(len(axes.steps), len(axes.blocks))


class Columns(NamedTuple):
    """Which groups a record has, the same for all its layouts.

    regions: the most regions of a layout. background: whether one has a background phrase.
    negative: whether rows of the negative prompt are recorded, whose text is a group of its own.
    """

    regions: int
    background: bool
    negative: bool


def group_names(layout: Layout, columns: Columns) -> tuple[str, ...]:
    """The names of a layout's groups, in order; "-" for those that only other layouts have."""
    phrases = [region.phrase for region in layout.regions]
    missing = ["-"] * (columns.regions - len(phrases))
    pixels = [f"pixels: {phrase}" for phrase in phrases]
    texts = [f"text: {phrase}" for phrase in phrases]
    groups = [*pixels, *missing, "pixels: background", *texts, *missing]
    if columns.background:
        groups.append(f"text: {layout.background}" if layout.background else "-")
    return (*groups, *TEXT_GROUPS[: 3 if columns.negative else 2])


def _chosen(name: str, asked: int | Iterable[int] | None, known: Iterable[int]) -> tuple[int, ...]:
    known = sorted(known)
    if asked is None:
        return tuple(known)
    chosen = (asked,) if isinstance(asked, int) else tuple(asked)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"{name} is {asked!r}, but recorded were {known}: choose among them.")
    return chosen


def _phrase_number(phrase: str | int, layout: Layout) -> int | None:
    """The phrase's place on the axis P: the background's is the last, in every layout."""
    places = [i for i, each in enumerate(layout.phrases) if phrase in (i, each)]
    if len(places) > 1:
        raise ValueError(f"several regions are {phrase!r}: give a number of {places}.")
    if not places:
        return None
    return -1 if places[0] == len(layout.regions) else places[0]
