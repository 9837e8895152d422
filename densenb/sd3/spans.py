"""The positions of phrases in the text that joint attention sees: CLIP's tokens, then T5's.

SD 3.5 encodes the text twice. A phrase therefore has two spans, and either may be cut off: CLIP
reads 77 tokens, and T5 reads `t5_length`. BOS, EOS and padding are special tokens. Taught in
notebook 06.
"""

from __future__ import annotations

import os.path
import unicodedata
import warnings
from dataclasses import dataclass
from functools import lru_cache

from densenb.layout.layout import Layout
from densenb.layout.phrases import find_phrase
from densenb.models.pipeline import Pipeline


@dataclass(frozen=True)
class Spans:
    """The positions of a phrase in each text sequence, counted from 0; in CLIP, BOS is 0."""

    clip: tuple[int, ...]
    t5: tuple[int, ...]


def find_spans(
    pipe: Pipeline, text: str, phrase: str, t5_length: int, occurrence: int = 0
) -> Spans:
    """The tokens of an occurrence (counted from 0) of `phrase` in `text`, in CLIP and in T5.

    If one encoder cuts off the phrase, the span there has only what is left (`()` if nothing), with
    a warning. ValueError if the phrase is not in the text, has no tokens, or is cut off in both.
    Without T5 (`pipe.tokenizer_3` is None) the T5 span is empty.
    """
    places = find_phrase(text, phrase)
    if not 0 <= occurrence < len(places):
        raise ValueError(
            f"occurrence {occurrence} of {phrase!r} is not in the text {text!r}, which has"
            f" {len(places)} (counted from 0): use words of the text, or Layout.text."
        )
    start, end = places[occurrence]
    clip_spans = [token_span(t, text, start, end) for t in clip_tokenizers(pipe)]
    if len(set(clip_spans)) > 1:
        # CLIP-G pads with "!", so "!!" is two tokens there and one in CLIP-L; positions are shared.
        warnings.warn(
            f"the two CLIP tokenizers place {phrase!r} differently: tokens of both places count."
            ' Write "!" instead of "!!".',
            stacklevel=2,
        )
    full_clip = sorted({i for span in clip_spans for i in span})
    full_t5 = [i for t in t5_tokenizers(pipe) for i in token_span(t, text, start, end)]
    if not full_clip and not full_t5:
        raise ValueError(f"phrase {phrase!r} has no tokens: use words that can be read aloud.")
    clip = tuple(i for i in full_clip if i < pipe.tokenizer_max_length - 1)  # the last one is EOS
    t5 = tuple(i for i in full_t5 if i < t5_length - 1)
    if not clip and not t5:
        raise ValueError(
            f"phrase {phrase!r} is cut off: the text has more than the {pipe.tokenizer_max_length}"
            f" tokens of CLIP and the {t5_length if full_t5 else 0} of T5. Move the phrase forward,"
            " or shorten the caption."
        )
    for name, left, full in (("CLIP", clip, full_clip), ("T5", t5, full_t5)):
        if len(left) < len(full):
            warnings.warn(
                f"{name} reads only {len(left)} of the {len(full)} tokens of {phrase!r}: the text"
                " is too long for it. Move the phrase forward, or shorten the caption.",
                stacklevel=2,
            )
    return Spans(clip, t5)


def layout_spans(
    pipe: Pipeline, layout: Layout, t5_length: int, first_match_only: bool = False
) -> list[tuple[str, Spans]]:
    """Each phrase as it is written in the layout's text (T5 is case-sensitive), and its spans."""
    pairs = []
    for phrase, occurrence in zip(layout.phrases, layout.occurrences, strict=True):
        occurrence = 0 if first_match_only else occurrence
        start, end = find_phrase(layout.text, phrase)[occurrence]
        spans = find_spans(pipe, layout.text, phrase, t5_length, occurrence)
        pairs.append((layout.text[start:end], spans))
    return pairs


def token_span(tokenizer, text: str, start: int, end: int) -> range:
    """Positions of the tokens of `text[start:end]`, as if the length were unlimited.

    Slow tokenizers give no offsets. So the ids of the text before the phrase, up to its end, and
    after it are compared with those of the whole text. A token that straddles the edge of the
    phrase ("cat," as one piece) belongs to it.
    """
    ids, lead = token_ids(tokenizer, text)
    before, up_to, after = (
        token_ids(tokenizer, part)[0] for part in (text[:start], text[:end], text[end:])
    )
    first, last = common(ids, before), common(ids, up_to)
    clean_start, clean_end = first == len(before), last == len(up_to)
    if not clean_end:
        last = max(first, len(ids) - common(ids[::-1], after[::-1]))
    # Such edges may include too much: drop tokens that the decoded phrase does not need.
    phrase = bare(text[start:end])
    while not clean_start and first < last and phrase in decoded(tokenizer, ids[first + 1 : last]):
        first += 1
    while not clean_end and first < last and phrase in decoded(tokenizer, ids[first : last - 1]):
        last -= 1
    return range(lead + first, lead + last)


def text_positions(tokenizer, text: str, length: int) -> list[int]:
    """Positions of the words of `text` in a sequence of `length` tokens, without its EOS."""
    ids, lead = token_ids(tokenizer, text)
    return list(range(lead, min(lead + len(ids), length - 1)))


def token_ids(tokenizer, text: str) -> tuple[list[int], int]:
    """Ids without special tokens, and the number of special tokens before them (CLIP 1, T5 0)."""
    ids, lead = _token_ids(tokenizer, text)
    return list(ids), lead


@lru_cache(maxsize=4096)  # finding a phrase needs the same few texts repeatedly
def _token_ids(tokenizer, text: str) -> tuple[tuple[int, ...], int]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    lead = tokenizer(text, verbose=False).input_ids.index(ids[0]) if ids else 0
    return tuple(ids), lead


def clip_tokenizers(pipe: Pipeline) -> list:
    return [t for t in (pipe.tokenizer, pipe.tokenizer_2) if t is not None]


def t5_tokenizers(pipe: Pipeline) -> list:
    return [t for t in (pipe.tokenizer_3,) if t is not None]


def common(left: list[int], right: list[int]) -> int:
    """Length of the common prefix of two lists."""
    return len(os.path.commonprefix([left, right]))


def bare(text: str) -> str:
    """Text without case, spaces and variants of letters, as tokenizers may change them."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def decoded(tokenizer, ids: list[int]) -> str:
    return bare(tokenizer.decode(ids))
