"""See joint attention while it runs: `record_attention` pools every layer's weights and scores.

It wraps the transformer's processors, computes the same queries and keys beside them, and leaves
their results alone: pictures stay bit-identical. Taught in notebook 02.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor

from densenb.layout.layout import Layout, check_layouts
from densenb.layout.validation import check_indices, check_one_of
from densenb.models.pipeline import Pipeline
from densenb.recording.pooling import Places, phrase_maps, pool, scores_of, token_places
from densenb.recording.record import MAPS, Columns, Entry, Record, group_names
from densenb.sd3.forward_pass import Owners, Reading, check_owners, read_pass, row_owners
from densenb.sd3.processors import (
    PROCESSOR_NAME,
    DenseJointAttnProcessor,
    block_number,
    exchanged,
    project,
)

KINDS = ("attn", "attn2")


class RecordingProcessor:
    """One attention layer's processor: records, then calls the processor that it wraps."""

    def __init__(self, name: str, inner: Any, recorder: Recorder) -> None:
        self.name = name
        self.inner = inner
        self.recorder = recorder
        self.block = block_number(name)
        self.kind = PROCESSOR_NAME.fullmatch(name)[2]
        self.expected = 0  # passes that were to be recorded here
        self.recorded = 0

    # diffusers passes on only those arguments that are named here, so the signature is the stock's.
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if self.recorder.now is not None:
            self.recorded += 1
            self.recorder.look(self, attn, hidden_states, encoder_hidden_states)
        return self.inner(
            attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
        )

    def weights(self, scores: Tensor, row: int, heads: Sequence[int]) -> Tensor:
        """The probabilities that this layer uses now for some heads of a batch row.

        Both are `[1, h, N, N]`.
        """
        if isinstance(self.inner, DenseJointAttnProcessor):
            return self.inner.weights(scores, row, heads, joint=self.kind == "attn")
        return scores.softmax(dim=-1)


class Row(NamedTuple):
    """A batch row to record: its index, an entry without layer and values, and its tokens."""

    index: int
    entry: Entry
    places: Places


class Now(NamedTuple):
    """The current pass, if it is recorded."""

    reading: Reading
    rows: list[Row]


class Recorder(Record):
    """The record while it is being made: what `record_attention` yields."""

    def __init__(
        self,
        pipe: Pipeline,
        layouts: Sequence[Layout],
        steps: Iterable[int] | None,
        blocks: Iterable[int] | None,
        heads: str | Iterable[int],
        kinds: Iterable[str],
        rows: str,
        maps: bool,
        scores: Sequence | None,
    ) -> None:
        count = pipe.transformer.config.num_attention_heads
        inner = recordable_processors(pipe.transformer)
        every = {block_number(name) for name in inner}
        self._steps = None if steps is None else check_indices("steps", steps)
        blocks = every if blocks is None else check_indices("blocks", blocks, max(every))
        self._averaged = isinstance(heads, str) and heads == "mean"
        if isinstance(heads, str) and heads in ("mean", "each"):
            self._kept_heads = list(range(count))
        else:
            self._kept_heads = list(check_indices("heads", heads, count - 1, "'mean' or 'each'"))
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        if not kinds or not all(kind in KINDS for kind in kinds):
            raise ValueError(f"kinds is {kinds!r}, but has to name some of {KINDS}.")
        check_one_of("rows", rows, ("conditional", "both"))
        self._maps = maps
        self.pipe = pipe
        self.now: Now | None = None
        self.ours = {
            name: RecordingProcessor(name, processor, self)
            for name, processor in inner.items()
            if block_number(name) in blocks and PROCESSOR_NAME.fullmatch(name)[2] in kinds
        }
        if not self.ours:
            raise ValueError(
                f"kinds {kinds} in blocks {sorted(blocks)} are no layers of this transformer."
            )
        self._scores_at = self._check_scores(scores)
        self._owners: Owners | None = None
        self._places: dict[tuple, Places] = {}
        self._size: tuple | None = None
        self._runs: Counter[tuple[int, bool]] = Counter()  # passes of each step

        self._columns = Columns(
            regions=max(len(layout.regions) for layout in layouts),
            background=any(layout.background is not None for layout in layouts),
            negative=rows == "both",
        )
        super().__init__(
            layouts=tuple(layouts),
            groups=tuple(group_names(layout, self._columns) for layout in layouts),
            heads=("mean",) if self._averaged else tuple(self._kept_heads),
        )

    def _check_scores(self, scores: Sequence | None) -> tuple[int, str, int] | None:
        """(block, kind, step) of the raw scores that are kept."""
        if scores is None:
            return None
        layers = {(ours.block, ours.kind) for ours in self.ours.values()}
        match tuple(scores) if isinstance(scores, Sequence) else ():
            case (block, int(step), *rest) if (block, *(rest or ["attn"])) in layers:
                if step >= 0 and (self._steps is None or step in self._steps):
                    return block, rest[0] if rest else "attn", step
        raise ValueError(
            f"scores is {scores!r}, but has to be (block, step) or (block, step, kind), among the "
            "blocks, steps and kinds that are recorded."
        )

    @contextmanager
    def rows(self, owners: Sequence[int | None]) -> Iterator[None]:
        """Say which layout each batch row follows, for calls of `pipe.transformer` outside `pipe`.

        As `dense.rows`, which it does not replace. ValueError for an unknown layout.
        """
        check_owners(tuple(owners), len(self.layouts))
        before, self._owners = self._owners, tuple(owners)
        try:
            yield
        finally:
            self._owners = before

    def verify(self) -> None:
        """Raise or warn if the record lacks something that was requested."""
        missed = [ours.name for ours in self.ours.values() if ours.expected and not ours.recorded]
        if missed:
            raise RuntimeError(
                f"{', '.join(missed)} ran unseen. Were processors exchanged, or projections fused, "
                "inside record_attention? Do that after it."
            )
        if not self.entries:
            warnings.warn(
                "nothing was recorded: no step of `steps` was sampled inside record_attention.",
                stacklevel=4,
            )
        elif self._scores_at is not None and self.scores is None:
            warnings.warn(
                f"no scores were kept: step {self._scores_at[2]} was not sampled.", stacklevel=4
            )

    # -------------------------------------------------------------------------------- every pass
    def before_pass(self, transformer: Any, args: tuple, kwargs: dict) -> None:
        reading = read_pass(self.pipe, args, kwargs)
        self.now = None
        if self._steps is not None and reading.step.index not in self._steps:
            return
        owners = row_owners(self.pipe, reading, len(self.layouts), self._owners, "record")
        if all(owner is None for owner in owners) and not self._columns.negative:
            return
        size = (reading.grid, reading.text)
        if self._size not in (None, size):
            raise ValueError(
                f"the record has image grid and text length {self._size}, but the next picture "
                f"{size}: use one record_attention for each size."
            )
        self._size = size
        self.now = Now(reading, list(self._rows_of(reading, owners)))
        for ours in self.ours.values():
            ours.expected += ours.block not in (reading.skipped or ())

    def _rows_of(self, reading: Reading, owners: Owners) -> Iterator[Row]:
        """The rows of a pass that are recorded; those of the negative prompt only when asked."""
        step, skip = reading.step, reading.skipped is not None
        run = self._runs[step.index, skip]
        self._runs[step.index, skip] += 1
        positive = [owner for owner in owners if owner is not None] or [0]
        seen = Counter()
        for index, owner in enumerate(owners):
            conditional = owner is not None
            picture = seen[conditional]
            seen[conditional] += 1
            if conditional or self._columns.negative:
                # A negative row is that of the picture with the same number.
                layout = owner if conditional else positive[picture % len(positive)]
                places = self._places_of(layout, conditional, reading)
                entry = Entry(
                    run, step.index, step.sigma, 0, "", picture, layout, conditional, skip, {}
                )
                yield Row(index, entry, places)

    @torch.no_grad()
    def look(
        self, layer: RecordingProcessor, attn: Any, image: Tensor, text: Tensor | None
    ) -> None:
        """Pool one layer of the current pass, row by row and some heads at a time."""
        rows = self.now.rows
        index = torch.tensor([row.index for row in rows], device=image.device)
        query, key, _ = project(attn, image[index], text[index] if text is not None else None)
        with torch.autocast(image.device.type, enabled=False):
            for i, row in enumerate(rows):
                self._look_at(row, layer, query[i], key[i])  # (H, N, D) each

    def _look_at(self, row: Row, layer: RecordingProcessor, query: Tensor, key: Tensor) -> None:
        """Make the entry of one row's queries and keys, `[H, N, D]`."""
        joint, entry = layer.kind == "attn", row.entry
        places = row.places if joint else row.places.image_only()
        pooled = []
        for heads, scores in scores_of(query, key, self._kept_heads):  # (h, N, N)
            weights = layer.weights(scores[None], row.index, heads)[0]  # (h, N, N)
            found = pool(scores, weights, places)
            if self._maps and joint and entry.conditional:
                found |= phrase_maps(weights, places, self.now.reading.grid)
            pooled.append(found)
        values = {}
        for name in pooled[0]:
            value = torch.cat([part[name] for part in pooled])  # (H, ...)
            value = value.mean(dim=0, keepdim=True) if self._averaged else value  # (K, ...)
            dtype = torch.float16 if name in MAPS else torch.float32
            values[name] = value.to("cpu", dtype).contiguous()
        self.entries.append(replace(entry, block=layer.block, kind=layer.kind, values=values))
        here = (layer.block, layer.kind, entry.step) == self._scores_at
        if here and self.scores is None and entry.conditional and not entry.skip:
            every = scores_of(query, key, range(len(query)))
            self.scores = torch.cat([scores.cpu() for _, scores in every])  # (H, N, N)

    def _places_of(self, layout: int, conditional: bool, reading: Reading) -> Places:
        key = (layout, conditional, str(reading.device))
        if key not in self._places:
            shape = (reading.grid, reading.text)
            owner = self.layouts[layout]
            places = token_places(self.pipe, owner, self._columns, *shape, conditional)
            if conditional:
                if self.sizes is None:
                    self.sizes = torch.zeros(len(self.layouts), places.share.shape[1])
                self.sizes[layout] = places.share.sum(dim=0)
            self._places[key] = places.to(reading.device)
        return self._places[key]


@contextmanager
def record_attention(
    pipe: Pipeline,
    layout: Layout | Sequence[Layout],
    *,
    steps: Iterable[int] | None = None,
    blocks: Iterable[int] | None = None,
    heads: str | Iterable[int] = "mean",
    kinds: Iterable[str] = KINDS,
    rows: str = "conditional",
    maps: bool = True,
    scores: Sequence | None = None,
) -> Iterator[Recorder]:
    """Record the attention of `pipe` inside the `with` block, pooled by a layout's regions.

        with record_attention(pipe, layout) as record:
            images = pipe(layout.text, generator=generators(1)).images
        record.text_mass()  # [steps, blocks]

    Pictures are bit-identical to those without it. Open it inside `dense_attention` to see the
    weights that the layout makes. `layout` is one, or one for each prompt.

    steps, blocks: numbers from 0 to record; None = all.
    heads: "mean" over all, "each" head for itself, or a list of head numbers, each for itself.
    kinds: "attn" (joint attention), "attn2" (image only, where the model has it).
    rows: "conditional", or "both" to record the rows of the negative prompt as well.
    maps: keep phrase maps.
    scores: (block, step) or (block, step, kind) whose raw scores `[H, N, N]` are kept, of the first
        conditional row: 1.9 GB for SD 3.5 medium at 1024 x 1024 pixels.

    Kept for each (step, layer, row): the few numbers that `Record` lists, and two maps for each
    phrase; never an N x N array, unless `scores` asks for one. While it records, it needs up to
    seven N x N arrays in float32: of all heads as long as one array stays under 64 MB, else of one
    head, half a gigabyte together at 1024 x 1024 pixels. On leaving, also by an error, the
    transformer is as it was before.

    Raises ValueError for settings that do not fit the model, and for fused or foreign attention
    processors; RuntimeError when nested in itself. Taught in notebook 02.
    """
    layouts = check_layouts(layout)
    record = Recorder(pipe, layouts, steps, blocks, heads, kinds, rows, maps, scores)
    with exchanged(pipe.transformer, record.ours, record.before_pass):
        try:
            yield record
        finally:
            record.now = None
    record.verify()


# ------------------------------------------------------------------------------------- small parts
def recordable_processors(transformer: Any) -> dict[str, Any]:
    """The transformer's processors by name; ValueError or RuntimeError unless all can be seen."""
    processors = dict(transformer.attn_processors)
    for name, processor in processors.items():
        kind = type(processor)
        if kind is RecordingProcessor:
            raise RuntimeError(
                "record_attention is already active on this transformer and cannot be nested: "
                "leave the outer `with` block first. One record can hold all steps and layers."
            )
        if kind.__name__ == "FusedJointAttnProcessor2_0":
            raise ValueError(
                "this transformer's projections are fused, so there are no separate queries and "
                "keys to see: call pipe.transformer.unfuse_qkv_projections() first."
            )
        known = kind in (JointAttnProcessor2_0, DenseJointAttnProcessor)
        if not known or not PROCESSOR_NAME.fullmatch(name):
            raise ValueError(
                f"{name} is a {kind.__name__}: record_attention sees stock SD 3.5 transformers "
                "only, whose processors are JointAttnProcessor2_0, with or without "
                "dense_attention. Unload adapters that replace them."
            )
    return processors
