"""`preview`: the tokens, spans and warnings of a layout as text, before any sampling."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from densenb.layout.layout import TOKEN_PIXELS, Layout
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.sd3.spans import clip_tokenizers, layout_spans, t5_tokenizers
from densenb.sd3.token_regions import token_grid


@dataclass(frozen=True)
class RegionPreview:
    """One row of the table: a region, or the background (`phrase` None when it has none)."""

    phrase: str | None
    tokens: int  # image tokens on the grid
    area: float  # share of the picture, in [0, 1]
    clip: str  # "5-7 an|orange|umbrella"
    t5: str


@dataclass(frozen=True)
class Preview:
    """A layout as the model sees it; `print` it for a table."""

    text: str
    height: int  # pixels
    width: int
    regions: tuple[RegionPreview, ...]  # the last is the background
    warnings: tuple[str, ...]
    negative: str | None = None  # the text of the regions' negatives

    def __str__(self) -> str:
        rows, columns = self.height // TOKEN_PIXELS, self.width // TOKEN_PIXELS
        table = [("region", "tokens", "area", "CLIP", "T5")]
        for region in self.regions:
            name = "(background)" if region.phrase is None else region.phrase
            cells = (name, str(region.tokens), f"{region.area:.1%}", region.clip, region.t5)
            table.append(cells)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        align = ("<", ">", ">", "<", "<")
        lines = [
            "  ".join(f"{c:{a}{w}}" for c, a, w in zip(cells, align, widths, strict=True)).rstrip()
            for cells in table
        ]
        head = [
            f"text: {self.text}",
            *([] if self.negative is None else [f"not in its region: {self.negative}"]),
            f"grid: {rows} x {columns} tokens for {self.height} x {self.width} pixels",
        ]
        return "\n".join([*head, *lines, *(f"! {warning}" for warning in self.warnings)])


def preview(
    layout: Layout,
    pipe: Pipeline,
    height: int | None = None,
    width: int | None = None,
    t5_length: int | None = None,
) -> Preview:
    """Show masks on the token grid, the tokens of each phrase, and all warnings, before sampling.

    Taught in notebook 00.

    Args:
        layout: The layout.
        pipe: The pipeline; only its tokenizers are used, and its tier for sizes.
        height: Of the picture, in pixels; by default that of the model's tier.
        width: Likewise.
        t5_length: Length of the T5 sequence in tokens; by default that of the model's tier.

    Returns:
        A `Preview`; `print` it for a table.

    Raises:
        ValueError: As sampling would, for a size that leaves a rest of a token, and for a phrase
            that has no tokens or is cut off in both encoders.
    """
    if height is None or width is None or t5_length is None:
        default = tier(pipe)
        height, width = height or default.height, width or default.width
        t5_length = t5_length or default.t5_length
    grid = token_grid(pipe, height, width)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = layout.token_masks(*grid)
        spans = [spans for _, spans in layout_spans(pipe, layout, t5_length)]
        negative = layout.negative()
        if negative is not None:
            layout_spans(pipe, negative, t5_length)
    # Deprecation warnings of the notebook kernel are caught, too; they do not concern the layout.
    ours = [warning for warning in caught if issubclass(warning.category, UserWarning)]
    notes = list(dict.fromkeys(str(warning.message) for warning in ours))
    if layout.text != layout.caption:
        notes.insert(0, f"the caption lacks some phrases; appended: {layout.text!r}")
    words = [set(span.clip) | {("t5", i) for i in span.t5} for span in spans]
    for i, phrase in enumerate(layout.phrases):
        for j in range(i):
            if words[i] & words[j]:
                notes.append(
                    f"{layout.phrases[j]!r} and {phrase!r} share words: both regions get them"
                )
    pixels = layout.pixel_masks(height, width)  # (R, height, width)
    grids = [*masks, ~masks.any(dim=0)]
    areas = [*pixels.mean(dim=(1, 2)).tolist(), (1 - pixels.amax(dim=0)).mean().item()]
    names = [*(region.phrase for region in layout.regions), layout.background]
    regions = []
    for i, (name, grid, area) in enumerate(zip(names, grids, areas, strict=True)):
        clip = t5 = "-"
        if name is not None:
            clip = describe(clip_tokenizers(pipe)[:1], layout.text, spans[i].clip)
            t5 = describe(t5_tokenizers(pipe), layout.text, spans[i].t5)
        regions.append(RegionPreview(name, int(grid.sum()), area, clip, t5))
    against = None if negative is None else negative.text
    return Preview(layout.text, height, width, tuple(regions), tuple(notes), against)


def describe(tokenizers: list, text: str, span: tuple[int, ...]) -> str:
    """A span and its decoded tokens: "1-3 a|blue|cat"."""
    if not tokenizers or not span:
        return "-"
    ids = tokenizers[0](text, verbose=False).input_ids
    pieces = [tokenizers[0].decode([ids[i]]).strip() or "_" for i in span if i < len(ids)]
    return f"{span[0]}-{span[-1]} {'|'.join(pieces)}"
