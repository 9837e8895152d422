"""Phrases to token spans, region membership, encoding phrases alone, and the preview."""

from __future__ import annotations

import copy
import unicodedata
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_random import CLIP_LENGTH

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.sd3.preview import preview
from densenb.sd3.prompts import call_inputs, encode, substitute
from densenb.sd3.spans import Spans, find_spans, token_span
from densenb.sd3.token_regions import text_regions

T5_LENGTH = 128  # the random T5 splits words into many pieces


def layout_of(caption, *phrases, background=None):
    regions = [Region(phrase, box(0, 0, 0.5, 0.5)) for phrase in phrases]
    return Layout(caption, regions, background)


def read(tokenizer, text, span):
    """The text of a span, without spaces and case."""
    ids = tokenizer(text).input_ids
    decoded = tokenizer.decode([ids[i] for i in span])
    return "".join(unicodedata.normalize("NFKC", decoded).casefold().split())


UNKNOWN = ("🐱", "<unk>")  # T5 knows no emoji
CASES = [
    ("a blue cat and an orange umbrella in a rose garden", "a blue cat"),
    ("a blue cat and an orange umbrella in a rose garden", "an orange umbrella"),
    ("a blue cat and an orange umbrella in a rose garden", "a rose garden"),
    ("A Blue Cat, asleep", "a blue cat"),
    ("asleep: a blue cat.", "a blue cat"),
    ('("cat")', "cat"),
    ("the cat's hat!", "the cat"),
    ("a well-known, snow-white rabbit; a hat", "snow-white rabbit"),
    ("a small café near the 🐱 castle", "café"),
    ("a small café near the 🐱 castle", "🐱 castle"),
    ("the Ünïcödé owl, 3 birds", "ünïcödé owl"),
    ("zyzzyva and qwx", "zyzzyva"),
    ("C++ and C# on a desk", "C#"),
    ("C#'s desk", "C#"),  # CLIP reads "#'" together, but "'s" when it stands alone
    ('two ("$5" bills)', "$5"),  # CLIP ends a word after '("' only when nothing follows
]


@pytest.mark.parametrize(("text", "phrase"), CASES)
def test_spans_decode_to_the_phrase(random_pipe, text, phrase):
    spans = find_spans(random_pipe, text, phrase, T5_LENGTH)
    expected = "".join(phrase.casefold().split())
    assert read(random_pipe.tokenizer, text, spans.clip) == expected
    assert read(random_pipe.tokenizer_3, text, spans.t5) == expected.replace(*UNKNOWN)


def test_positions_count_the_bos_of_clip_and_none_in_t5(random_pipe):
    spans = find_spans(random_pipe, "cat, cat", "cat", T5_LENGTH)
    assert spans == Spans(clip=(1,), t5=(0,))
    assert find_spans(random_pipe, "cat, cat", "cat", T5_LENGTH, occurrence=1).clip == (3,)


WORDS = ["cat", "Umbrella", "snow-white", "café", "🐱", "3", "rose", "zq", "it's"]
GAPS = [" ", ", ", "; ", " (", ") ", " - ", '" ', "! "]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), min_size=1, max_size=4))
def test_words_and_gaps_in_any_order_decode_to_themselves(random_pipe, parts):
    text = "a photo: " + "".join(word + gap for word, gap in parts) + "end"
    start = len("a photo: ")
    seen = {"clip": [], "t5": []}
    for word, gap in parts:
        expected = {"clip": word.casefold(), "t5": word.casefold().replace(*UNKNOWN)}
        for name, tokenizer in (("clip", random_pipe.tokenizer), ("t5", random_pipe.tokenizer_3)):
            span = token_span(tokenizer, text, start, start + len(word))
            assert read(tokenizer, text, span) == expected[name]
            seen[name] += span
        start += len(word) + len(gap)
    for positions in seen.values():  # words share no token and are in reading order
        assert positions == sorted(set(positions))


class Pieces:
    """A tokenizer of fixed pieces, longest first, some of which cross the edges of words."""

    def __init__(self, *pieces):
        self.pieces = sorted(pieces, key=len, reverse=True)

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids, text = [], text.replace(" ", "")
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids.append(piece)
            text = text[len(piece) :]
        return SimpleNamespace(input_ids=["<s>", *ids, "</s>"] if add_special_tokens else ids)

    def decode(self, ids):
        return "".join(ids)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["cat"], ["cat"]),
        (["at,"], ["c", "at,"]),
        (["(c", "at"], ["(c", "at"]),
        (["(c", "at,"], ["(c", "at,"]),
        (["(cat,"], ["(cat,"]),
        (["b(", "cat", ",d"], ["cat"]),
    ],
)
def test_a_token_across_the_edge_of_a_phrase_belongs_to_it(pieces, expected):
    tokenizer, text = Pieces(*pieces), "ab (cat, d)"
    span = token_span(tokenizer, text, 4, 7)
    assert [tokenizer(text).input_ids[i] for i in span] == expected


def test_clip_tokenizers_that_disagree_both_count():
    # As in SD 3.5: "!" is the padding of the second tokenizer, which therefore splits "!!".
    first, second = Pieces("!!", "cat"), Pieces("cat")
    pipe = SimpleNamespace(
        tokenizer=first, tokenizer_2=second, tokenizer_3=None, tokenizer_max_length=77
    )
    with pytest.warns(UserWarning, match="tokenizers place 'cat' differently"):
        assert find_spans(pipe, "a!! cat", "cat", 256).clip == (3, 4)


LONG = ", ".join(["a red squid and a purple octopus"] * 6)  # 41 CLIP tokens, then more


def test_a_phrase_cut_off_in_clip_lives_in_t5(random_pipe):
    text = LONG + " and a blue cat"
    with pytest.warns(UserWarning, match="CLIP reads only 0 of the 3 tokens of 'a blue cat'"):
        spans = find_spans(random_pipe, text, "a blue cat", 512)
    assert spans.clip == () and read(random_pipe.tokenizer_3, text, spans.t5) == "abluecat"


def test_a_phrase_cut_in_half_keeps_its_first_half(random_pipe):
    text = "cat " * (CLIP_LENGTH - 3) + "blue umbrella"  # BOS, 37 cats, blue, EOS
    with pytest.warns(UserWarning, match="CLIP reads only 1 of the 2 tokens"):
        spans = find_spans(random_pipe, text, "blue umbrella", 512)
    assert spans.clip == (CLIP_LENGTH - 2,)
    ids = random_pipe.tokenizer(text, truncation=True, max_length=CLIP_LENGTH).input_ids
    assert random_pipe.tokenizer.decode([ids[spans.clip[0]]]).strip() == "blue"


def test_a_phrase_cut_off_in_t5_lives_in_clip(random_pipe):
    with pytest.warns(UserWarning, match="T5 reads only 0"):
        spans = find_spans(random_pipe, "a red squid and a blue cat", "a blue cat", 4)
    assert len(spans.clip) == 3 and spans.t5 == ()


def test_phrases_without_a_place_are_refused(random_pipe):
    with pytest.raises(ValueError, match="'a blue cat' is cut off.*40.*16"):
        find_spans(random_pipe, LONG + " and a blue cat", "a blue cat", 16)
    with pytest.raises(ValueError, match="occurrence 0 of 'dog'.*has 0"):
        find_spans(random_pipe, "a cat", "dog", T5_LENGTH)
    with pytest.raises(ValueError, match="occurrence 1 of 'cat'.*has 1"):
        find_spans(random_pipe, "a cat", "cat", T5_LENGTH, occurrence=1)


def test_a_phrase_without_tokens_is_refused():
    blind = Pieces()
    blind_to = {"\u2060": ""}

    def tokenizer(text, **kwargs):
        return blind("".join(blind_to.get(letter, letter) for letter in text), **kwargs)

    tokenizer.decode = blind.decode
    pipe = SimpleNamespace(
        tokenizer=tokenizer, tokenizer_2=None, tokenizer_3=tokenizer, tokenizer_max_length=77
    )
    with pytest.raises(ValueError, match="has no tokens"):
        find_spans(pipe, "a \u2060 b", "\u2060", 256)


def without_t5(pipe):
    return SimpleNamespace(
        tokenizer=pipe.tokenizer,
        tokenizer_2=pipe.tokenizer_2,
        tokenizer_3=None,
        tokenizer_max_length=pipe.tokenizer_max_length,
    )


def test_without_t5_the_span_is_clips(random_pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_spans(without_t5(random_pipe), "a cat", "cat", 256) == Spans((2,), ())
    regions = text_regions(without_t5(random_pipe), layout_of("a cat", "a cat"), 20)
    assert regions.member.shape == (60, 1) and regions.member.nonzero()[:, 0].tolist() == [1, 2]
    assert regions.special[CLIP_LENGTH:].all()
    with pytest.raises(ValueError, match="is cut off"):
        find_spans(without_t5(random_pipe), LONG + " and a cat", "a cat", 256)


# Regions of text tokens


def test_text_regions_are_the_spans_and_special_is_the_rest(random_pipe):
    layout = layout_of("a cat and a red dog", "a red dog", "a cat", background="and")
    regions = text_regions(random_pipe, layout, 24)
    assert regions.member.shape == (CLIP_LENGTH + 24, 3) and regions.member.dtype == torch.bool
    for column, phrase in enumerate(layout.phrases):
        spans = find_spans(random_pipe, layout.text, phrase, 24)
        expected = [*spans.clip, *(CLIP_LENGTH + i for i in spans.t5)]
        assert regions.member[:, column].nonzero().flatten().tolist() == expected
    ids = random_pipe.tokenizer(layout.text).input_ids
    assert regions.special[:CLIP_LENGTH].tolist() == [
        not 0 < i < len(ids) - 1 for i in range(CLIP_LENGTH)
    ]
    count = len(random_pipe.tokenizer_3(layout.text).input_ids)
    assert regions.special[CLIP_LENGTH:].tolist() == [i >= count - 1 for i in range(24)]
    assert not (regions.member.any(dim=1) & regions.special).any()


def test_the_eos_of_a_text_that_is_cut_off_is_special(random_pipe):
    regions = text_regions(random_pipe, layout_of(LONG, "a red squid"), 16)
    assert regions.special.nonzero().flatten().tolist() == [0, CLIP_LENGTH - 1, CLIP_LENGTH + 15]


def test_equal_phrases_take_turns_unless_first_match_only(random_pipe):
    layout = layout_of("a cat and a cat", "a cat", "a cat")
    member = text_regions(random_pipe, layout, T5_LENGTH).member
    assert member[:CLIP_LENGTH].nonzero().tolist() == [[1, 0], [2, 0], [4, 1], [5, 1]]
    assert member[CLIP_LENGTH:].any(dim=0).all() and not member.all(dim=1).any()
    published = text_regions(random_pipe, layout, T5_LENGTH, first_match_only=True).member
    assert published[:, 0].equal(member[:, 0]) and published[:, 1].equal(member[:, 0])


def test_a_missing_phrase_is_found_where_it_was_appended(random_pipe):
    with pytest.warns(UserWarning, match="appended"):
        layout = layout_of("a cat", "a red dog")
    member = text_regions(random_pipe, layout, T5_LENGTH).member[:CLIP_LENGTH, 0]
    assert read(random_pipe.tokenizer, layout.text, member.nonzero().flatten()) == "areddog"


# Encoding

NAMES = {
    "prompt_embeds",
    "pooled_prompt_embeds",
    "negative_prompt_embeds",
    "negative_pooled_prompt_embeds",
}


def stock(pipe, text):
    with torch.no_grad():
        tokens, negative, pooled, negative_pooled = pipe.encode_prompt(
            prompt=text, prompt_2=None, prompt_3=None, max_sequence_length=T5_LENGTH
        )
    return {
        "prompt_embeds": tokens,
        "negative_prompt_embeds": negative,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": negative_pooled,
    }


def test_encode_equals_the_stock_pipeline_row_by_row(random_pipe):
    layouts = [layout_of("a cat and a dog", "a cat"), layout_of("a red squid", "squid")]
    inputs = encode(random_pipe, layouts, T5_LENGTH)
    assert set(inputs) == NAMES and not any(value.requires_grad for value in inputs.values())
    assert inputs["prompt_embeds"].shape == (2, CLIP_LENGTH + T5_LENGTH, 32)
    for i, layout in enumerate(layouts):
        for name, value in stock(random_pipe, layout.text).items():
            torch.testing.assert_close(inputs[name][i], value[0], atol=1e-5, rtol=1e-5)
    single = encode(random_pipe, layouts[0], T5_LENGTH)
    torch.testing.assert_close(
        single["prompt_embeds"][0], inputs["prompt_embeds"][0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "caption", ["A Blue Cat and an orange umbrella, at night", "x. a blue cat"]
)
def test_phrases_alone_replaces_exactly_their_spans(random_pipe, caption):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the umbrella is appended to the second caption
        layout = layout_of(caption, "a blue cat", "an orange umbrella")
    inputs = encode(random_pipe, [layout], T5_LENGTH, phrases_alone=True)
    full = stock(random_pipe, layout.text)
    expected = full["prompt_embeds"][0].clone()
    for phrase in ("A Blue Cat" if "Blue" in caption else "a blue cat", "an orange umbrella"):
        alone = stock(random_pipe, phrase)["prompt_embeds"][0]
        spans = find_spans(random_pipe, layout.text, phrase, T5_LENGTH)
        j, n = spans.clip[0], len(spans.clip)
        expected[j : j + n] = alone[1 : 1 + n]
        j, n = CLIP_LENGTH + spans.t5[0], len(spans.t5)
        expected[j : j + n] = alone[CLIP_LENGTH : CLIP_LENGTH + n]
    torch.testing.assert_close(inputs["prompt_embeds"][0], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, full["prompt_embeds"][0], atol=1e-3)
    for name in NAMES - {"prompt_embeds"}:
        torch.testing.assert_close(inputs[name], full[name], atol=1e-5, rtol=1e-5)


def test_phrases_alone_goes_to_the_first_match_as_published(random_pipe):
    layout = layout_of("a cat and a cat", "a cat", "a cat")
    both = encode(random_pipe, layout, T5_LENGTH, phrases_alone=True)["prompt_embeds"][0]
    first = encode(random_pipe, layout, T5_LENGTH, phrases_alone=True, first_match_only=True)
    plain = encode(random_pipe, layout, T5_LENGTH)["prompt_embeds"][0]
    assert both[1:3].equal(both[4:6])
    assert first["prompt_embeds"][0][1:3].equal(both[1:3])
    assert first["prompt_embeds"][0][4:6].equal(plain[4:6])


def test_pooled_text_is_the_captions_or_the_mean_of_the_phrases(random_pipe):
    layout = layout_of("A Cat and a red dog", "a cat", "a red dog", background="and")
    plain = encode(random_pipe, layout, T5_LENGTH)
    inputs = encode(random_pipe, layout, T5_LENGTH, pooled="phrases")
    each = [stock(random_pipe, phrase) for phrase in ("A Cat", "a red dog", "and")]
    mean = sum(each["pooled_prompt_embeds"] for each in each) / 3
    torch.testing.assert_close(inputs["pooled_prompt_embeds"], mean, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mean, plain["pooled_prompt_embeds"], atol=1e-3)
    for name in NAMES - {"pooled_prompt_embeds"}:
        torch.testing.assert_close(inputs[name], plain[name], atol=1e-5, rtol=1e-5)


def test_a_rule_chooses_the_pooled_text(random_pipe):
    layout = layout_of("a cat and a dog", "a cat", "a dog")
    expected = encode(random_pipe, layout, T5_LENGTH, pooled="phrases")
    inputs = call_inputs(
        random_pipe, layout, DenseConfig(pooled="phrases"), max_sequence_length=T5_LENGTH
    )
    for name in NAMES:
        torch.testing.assert_close(inputs[name], expected[name])
    assert "prompt" in call_inputs(random_pipe, layout, DenseConfig())


def test_substitute_keeps_what_is_not_the_phrase():
    caption, phrase = torch.zeros(6, 2), torch.arange(12.0).view(6, 2)
    replaced = substitute(caption, phrase, (3, 4), (1, 2, 3))
    assert replaced[[3, 4]].equal(phrase[[1, 2]]) and not replaced[[0, 1, 2, 5]].any()
    assert not caption.any() and substitute(caption, phrase, (), (1,)).equal(caption)


def test_each_text_is_encoded_once(random_pipe, monkeypatch):
    seen = []
    encode_prompt = random_pipe.encode_prompt

    def spy(**kwargs):
        seen.extend(kwargs["prompt"])
        return encode_prompt(**kwargs)

    monkeypatch.setattr(random_pipe, "encode_prompt", spy)
    layouts = [layout_of("a cat and a dog", "a cat", "a dog"), layout_of("a cat", "a cat")] * 2
    inputs = encode(random_pipe, layouts, T5_LENGTH, phrases_alone=True)
    assert sorted(seen) == ["", "a cat", "a cat and a dog", "a dog"]
    assert inputs["prompt_embeds"][0].equal(inputs["prompt_embeds"][2])
    assert all(len(value) == 4 for value in inputs.values())


def test_phrases_alone_leaves_what_is_cut_off(random_pipe):
    text = "cat " * (CLIP_LENGTH - 3) + "blue umbrella"
    with pytest.warns(UserWarning, match="CLIP reads only 1 of the 2"):
        inputs = encode(random_pipe, layout_of(text, "blue umbrella"), 256, phrases_alone=True)
    alone = encode(random_pipe, layout_of("blue umbrella", "blue umbrella"), 256)
    changed, source = inputs["prompt_embeds"][0], alone["prompt_embeds"][0]
    assert torch.allclose(changed[CLIP_LENGTH - 2], source[1], atol=1e-5)
    assert not torch.allclose(changed[CLIP_LENGTH - 1], source[2], atol=1e-2)  # EOS stays


def test_encode_needs_its_encoders(random_pipe):
    freed = copy.copy(random_pipe)  # a pipeline stays marked as lacking a part
    freed.text_encoder_2 = None
    with pytest.raises(ValueError, match="encode before you free them"):
        encode(freed, layout_of("a cat", "a cat"), T5_LENGTH)


def test_the_pipeline_takes_what_encode_gives(random_pipe):
    inputs = encode(random_pipe, layout_of("a cat", "a cat"), 24, phrases_alone=True)
    sizes = {"height": 128, "width": 256, "num_inference_steps": 1, "max_sequence_length": 24}
    latents = random_pipe(**inputs, **sizes, output_type="latent").images
    assert latents.shape == (1, 16, 16, 32) and latents.isfinite().all()


# Preview


def test_preview_shows_tokens_spans_and_warnings(random_pipe):
    regions = [Region("a cat", box(0, 0, 0.5, 1)), Region("dog", box(0.01, 0.01, 0.02, 0.02))]
    with pytest.warns(UserWarning, match="appended"):
        layout = Layout("a cat sat", regions, background="sat")
    shown = preview(layout, random_pipe, height=128, width=256, t5_length=T5_LENGTH)
    assert [region.tokens for region in shown.regions] == [64, 1, 64]
    assert shown.regions[0].area == 0.5 and shown.regions[2].area == 0.5
    assert [region.clip for region in shown.regions[:2]] == ["1-2 a|cat", "6-7 do|g"]
    text = str(shown)
    assert "8 x 16 tokens" in text and "a cat sat, dog" in text
    assert (
        "! the caption lacks some phrases" in text and '! region "dog" covers half of none' in text
    )


def test_preview_takes_its_sizes_from_the_tier(random_pipe):
    layout, sizes = layout_of("a cat", "a cat"), tier(random_pipe)
    expected = preview(layout, random_pipe, sizes.height, sizes.width, sizes.t5_length)
    assert preview(layout, random_pipe) == expected


def test_preview_names_phrases_that_share_words_and_a_background_without_phrase(random_pipe):
    layout = layout_of("a cat with a hat", "a cat with a hat", "a hat")
    shown = preview(layout, random_pipe, height=256, width=256, t5_length=T5_LENGTH)
    assert shown.warnings == ("'a cat with a hat' and 'a hat' share words: both regions get them",)
    assert shown.regions[-1].phrase is None and shown.regions[-1].clip == "-"
    assert "(background)" in str(shown)
