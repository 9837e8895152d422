"""The stock run and the steered one from the same noise, both recorded: what explorers compare."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any, NamedTuple

from PIL import Image

from densenb.attention import dense_attention
from densenb.layout import Layout, Region, find_phrase
from densenb.masks import box
from densenb.modulation import DenseConfig, Rule
from densenb.pipelines import call_inputs, generators
from densenb.recorder import record_attention
from densenb.records import Record
from densenb.worker import alone

WORD = re.compile(r"\w+(?:[-']\w+)*")


class Both(NamedTuple):
    """Pictures and records, each by name: "stock" and "dense"."""

    pictures: dict[str, Image.Image]
    records: dict[str, Record]


def record_both(
    pipe: Any,
    layout: Layout,
    config: Rule = DenseConfig(),  # noqa: B008 (frozen)
    seed: int = 0,
    steps: int | None = None,
    follow: Layout | None = None,
) -> Both:
    """Draw without and with the layout, and record every head's attention on the way.

    `follow` is whose phrases are recorded, by default the layout's; `by_word(layout)` for each
    word. Recording costs a few times the sampling. Raises what `dense_attention` and
    `record_attention` raise, and RuntimeError while a playground draws with the same pipeline.
    Taught in notebook 11.
    """
    call = {} if steps is None else {"num_inference_steps": steps}
    pictures, records = {}, {}
    with alone(pipe):
        for name, rule in (("stock", None), ("dense", config)):
            if rule is None:
                sampling = nullcontext(call_inputs(pipe, layout, None, **call))
            else:
                sampling = dense_attention(pipe, layout, rule, **call)
            with sampling as given:
                inputs = given if rule is None else given.inputs
                with record_attention(pipe, follow or layout, heads="each") as record:
                    (pictures[name],) = pipe(**inputs, generator=generators([seed])).images
            records[name] = record
    return Both(pictures, records)


def by_word(layout: Layout) -> Layout:
    """A layout with a region for each word that occurs once in the text: to be recorded.

    A word's region is that of the first phrase it stands in, or the whole picture. ValueError when
    every word occurs more than once. Taught in notebook 11.
    """
    text = layout.text
    spans = [
        find_phrase(text, phrase)[which]
        for phrase, which in zip(layout.phrases, layout.occurrences, strict=True)
    ][: len(layout.regions)]
    found = list(WORD.finditer(text))
    words = [match.group().lower() for match in found]
    regions = []
    for match, word in zip(found, words, strict=True):
        if words.count(word) == 1:
            inside = (
                region.mask
                for region, (start, end) in zip(layout.regions, spans, strict=True)
                if start <= match.start() and match.end() <= end
            )
            regions.append(Region(match.group(), next(inside, box(0, 0, 1, 1))))
    if not regions:
        raise ValueError(f"no word occurs once in {text!r}: give another caption.")
    return Layout(text, regions)
