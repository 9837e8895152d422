"""From phrases to positions in the text that joint attention sees: CLIP's tokens, then T5's.

SD 3.5 reads the text twice. A phrase therefore has two spans, and either may be cut off: CLIP reads
77 tokens, T5 as many as `t5_length` says. Everything else (BOS, EOS, padding) is special.
Taught in notebook 06.
"""

from __future__ import annotations

import os.path
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from densenb.frugal import FrugalPipeline
from densenb.layout import Layout, find_phrase


@dataclass(frozen=True)
class Spans:
    """Where one phrase stands in each text sequence; 0 is the first token, CLIP's BOS included."""

    clip: tuple[int, ...]
    t5: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TextRegions:
    """Which text tokens speak for which region, in the order [CLIP, T5].

    `member`: bool `[L, R]`, one column per phrase of the layout. `special`: bool `[L]`, BOS, EOS
    and padding. Words of no phrase are in neither.
    """

    member: Tensor
    special: Tensor


def find_spans(pipe, text: str, phrase: str, t5_length: int, occurrence: int = 0) -> Spans:
    """The tokens of `phrase`, its `occurrence`-th in `text`, in CLIP and in T5.

    A phrase that is cut off in one encoder keeps what is left of it there (`()` if nothing), with a
    warning. ValueError when it is not in the text, has no tokens, or is cut off in both. Without T5
    (`pipe.tokenizer_3` is None) the T5 span is empty.
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
        # CLIP-G pads with "!" and so reads "!!" as two tokens, CLIP-L as one; they share positions.
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


def text_regions(
    pipe, layout: Layout, t5_length: int, first_match_only: bool = False
) -> TextRegions:
    """Region membership of all `L = pipe.tokenizer_max_length + t5_length` text tokens.

    `first_match_only` sends every phrase to its first occurrence, as DenseDiffusion was released.
    """
    clip_length = pipe.tokenizer_max_length
    member = torch.zeros(clip_length + t5_length, len(layout.phrases), dtype=torch.bool)
    for column, (_, spans) in enumerate(layout_spans(pipe, layout, t5_length, first_match_only)):
        member[list(spans.clip), column] = True
        member[[clip_length + i for i in spans.t5], column] = True
    special = torch.ones(clip_length + t5_length, dtype=torch.bool)
    for tokenizer in clip_tokenizers(pipe):
        special[:clip_length][text_positions(tokenizer, layout.text, clip_length)] = False
    for tokenizer in t5_tokenizers(pipe):
        special[clip_length:][text_positions(tokenizer, layout.text, t5_length)] = False
    return TextRegions(member, special)


@torch.no_grad()
def encode(
    pipe,
    layouts: Layout | Sequence[Layout],
    t5_length: int,
    phrases_alone: bool = False,
    first_match_only: bool = False,
    pooled: str = "caption",
) -> dict[str, Tensor]:
    """The text inputs of `pipe(...)` for a batch of layouts, each distinct text encoded once.

    Returns `prompt_embeds [B, L, D]`, `pooled_prompt_embeds [B, P]` and their negatives, of the
    empty text. With `phrases_alone` the tokens of a phrase are replaced by those of the phrase
    encoded by itself (`substitute`), in both encoders: words of one region then know nothing of the
    others. `pooled` is the pooled text: the "caption"'s, or the mean of the "phrases", the
    background's included.
    """
    layouts = [layouts] if isinstance(layouts, Layout) else list(layouts)
    if not isinstance(pipe, FrugalPipeline) and None in (pipe.text_encoder, pipe.text_encoder_2):
        raise ValueError("pipe has no CLIP text encoders: encode before you free them.")
    needed = phrases_alone or pooled == "phrases"
    phrases = [
        layout_spans(pipe, layout, t5_length, first_match_only) if needed else []
        for layout in layouts
    ]
    alone = [phrase for pairs in phrases for phrase, _ in pairs]
    texts = list(dict.fromkeys([*(layout.text for layout in layouts), "", *alone]))
    tokens, _, pools, _ = pipe.encode_prompt(
        prompt=texts,
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,  # the empty text is one of `texts`
        max_sequence_length=t5_length,
    )
    row = {text: i for i, text in enumerate(texts)}
    clip_length = pipe.tokenizer_max_length
    parts = {"clip": slice(0, clip_length), "t5": slice(clip_length, None)}
    rows, empty = [row[layout.text] for layout in layouts], [row[""]] * len(layouts)
    embeds, pooled_embeds = tokens[rows], pools[rows]  # copies
    for number, pairs in enumerate(phrases):
        if pooled == "phrases":
            pooled_embeds[number] = pools[[row[phrase] for phrase, _ in pairs]].mean(dim=0)
        for phrase, spans in pairs if phrases_alone else []:
            source = find_spans(pipe, phrase, phrase, t5_length)
            for name, part in parts.items():
                to, from_ = getattr(spans, name), getattr(source, name)
                if len(to) > len(from_):
                    warnings.warn(
                        f"{phrase!r} shares a token with its neighbours in {name}: its tokens there"
                        " stay as encoded in the caption. Put spaces around it.",
                        stacklevel=2,
                    )
                    continue
                embeds[number, part] = substitute(
                    embeds[number, part], tokens[row[phrase], part], to, from_
                )
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled_embeds,
        "negative_prompt_embeds": tokens[empty],
        "negative_pooled_prompt_embeds": pools[empty],
    }


def substitute(caption: Tensor, phrase: Tensor, to: Sequence[int], source: Sequence[int]) -> Tensor:
    """The tokens of a phrase encoded alone, put into a caption where the phrase stands.

    E_caption[j : j + n] = E_phrase[i : i + n] (DenseDiffusion, Kim et al. 2023), both `[L, D]`, of
    one encoder. `to` are the phrase's positions in the caption, of which the last may be cut off;
    `source` those when it stands alone, from 1 on in CLIP, after BOS, and from 0 on in T5. Taught
    in notebook 06.
    """
    replaced = caption.clone()
    replaced[list(to)] = phrase[list(source)[: len(to)]]
    return replaced


def layout_spans(
    pipe, layout: Layout, t5_length: int, first_match_only: bool = False
) -> list[tuple[str, Spans]]:
    """Each phrase of the layout, as its text writes it (T5 minds capitals), and its spans."""
    pairs = []
    for phrase, occurrence in zip(layout.phrases, layout.occurrences, strict=True):
        occurrence = 0 if first_match_only else occurrence
        start, end = find_phrase(layout.text, phrase)[occurrence]
        spans = find_spans(pipe, layout.text, phrase, t5_length, occurrence)
        pairs.append((layout.text[start:end], spans))
    return pairs


def token_span(tokenizer, text: str, start: int, end: int) -> range:
    """Positions of the tokens of `text[start:end]`, as if nothing were ever cut off.

    Offsets are not to be had from slow tokenizers, so the ids of what comes before the phrase, up
    to its end, and after it are compared with those of the whole text. A token that straddles the
    edge of the phrase ("cat," as one piece) counts as part of it.
    """
    ids, lead = token_ids(tokenizer, text)
    before, up_to, after = (
        token_ids(tokenizer, part)[0] for part in (text[:start], text[:end], text[end:])
    )
    first, last = common(ids, before), common(ids, up_to)
    clean_start, clean_end = first == len(before), last == len(up_to)
    if not clean_end:
        last = max(first, len(ids) - common(ids[::-1], after[::-1]))
    # A search by whole words may take too much: drop what the decoded phrase can do without.
    phrase = bare(text[start:end])
    while not clean_start and first < last and phrase in decoded(tokenizer, ids[first + 1 : last]):
        first += 1
    while not clean_end and first < last and phrase in decoded(tokenizer, ids[first : last - 1]):
        last -= 1
    return range(lead + first, lead + last)


def text_positions(tokenizer, text: str, length: int) -> list[int]:
    """Positions of the words of `text` in a sequence of `length` tokens, cut off before its EOS."""
    ids, lead = token_ids(tokenizer, text)
    return list(range(lead, min(lead + len(ids), length - 1)))


def token_ids(tokenizer, text: str) -> tuple[list[int], int]:
    """Ids without special tokens, and how many special tokens go before them (CLIP 1, T5 0)."""
    ids, lead = _token_ids(tokenizer, text)
    return list(ids), lead


@lru_cache(maxsize=4096)  # finding a phrase asks for the same few texts again and again
def _token_ids(tokenizer, text: str) -> tuple[tuple[int, ...], int]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    lead = tokenizer(text, verbose=False).input_ids.index(ids[0]) if ids else 0
    return tuple(ids), lead


def clip_tokenizers(pipe) -> list:
    return [t for t in (pipe.tokenizer, pipe.tokenizer_2) if t is not None]


def t5_tokenizers(pipe) -> list:
    return [t for t in (pipe.tokenizer_3,) if t is not None]


def common(left: list[int], right: list[int]) -> int:
    """Length of the common start of two lists."""
    return len(os.path.commonprefix([left, right]))


def bare(text: str) -> str:
    """Text without case, spaces and variants of letters, as tokenizers may change them."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def decoded(tokenizer, ids: list[int]) -> str:
    return bare(tokenizer.decode(ids))
