"""Record the stock run and the steered run from the same noise, to compare them in `explorer`."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from PIL import Image

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.layout.phrases import find_phrase
from densenb.models.lock import alone
from densenb.models.pipeline import Pipeline
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.recording.record import Record
from densenb.recording.recorder import record_attention
from densenb.sampling import generators
from densenb.sd3.dense_attention import dense_attention

WORD = re.compile(r"\w+(?:[-']\w+)*")


class Both(NamedTuple):
    """Pictures and records, each under the names "stock" and "dense"."""

    pictures: dict[str, Image.Image]
    records: dict[str, Record]


def record_both(
    pipe: Pipeline,
    layout: Layout,
    config: Rule = DenseConfig(),  # noqa: B008 (frozen)
    seed: int = 0,
    steps: int | None = None,
    follow: Layout | None = None,
) -> Both:
    """Draw without and with the layout, and record the attention of every head.

    The phrases recorded are those of `follow`, by default the layout itself; `by_word(layout)`
    records each word. Recording takes a few times as long as sampling. Raises the errors of
    `dense_attention` and `record_attention`, and RuntimeError while a playground draws with the
    same pipeline. Taught in notebook 11.
    """
    call = {} if steps is None else {"num_inference_steps": steps}
    both = Both({}, {})

    with alone(pipe):
        for name, rule in (("stock", None), ("dense", config)):
            with (
                dense_attention(pipe, layout, rule, **call) as dense,
                record_attention(pipe, follow or layout, heads="each") as record,
            ):
                (both.pictures[name],) = pipe(**dense.inputs, generator=generators([seed])).images
            both.records[name] = record
    return both


def by_word(layout: Layout) -> Layout:
    """A layout with a region for each word that occurs once in the text, for recording.

    A word's region is that of the first phrase with it, or the whole picture. Raises ValueError
    when every word occurs more than once. Taught in notebook 11.
    """
    text = layout.text
    spans = [  # (start, end) of each region's phrase in the text
        find_phrase(text, region.phrase)[which]
        for region, which in zip(layout.regions, layout.occurrences, strict=False)
    ]
    words = list(WORD.finditer(text))
    counts = Counter(word.group().lower() for word in words)
    regions = []
    for word in words:
        if counts[word.group().lower()] == 1:
            masks = (
                region.mask
                for region, (start, end) in zip(layout.regions, spans, strict=True)
                if start <= word.start() and word.end() <= end
            )
            regions.append(Region(word.group(), next(masks, box(0, 0, 1, 1))))
    if not regions:
        raise ValueError(f"no word occurs once in {text!r}: give another caption.")
    return Layout(text, regions)
