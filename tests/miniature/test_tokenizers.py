"""The miniature's tokenizers: SD 3.5's two kinds, with the world's words as single tokens."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenb.miniature import captions
from densenb.miniature.tokenizers import CLIP_LENGTH, T5_LENGTH, corpus, train_clip, train_t5

SQUID = (
    "A magnificent squid, shimmering in shades of deep indigo and vibrant teal, glides gracefully "
    "through an enchanting rose garden where blossoms of crimson, blush, and gold radiate under "
    "the soft, dappled sunlight"
)
SHORT_T5 = 44  # what the miniature reads by default


@pytest.fixture(scope="module")
def lines():
    return corpus(1500)


@pytest.fixture(scope="module")
def clips(lines):
    """SD 3.5's first and second tokenizer."""
    return train_clip(lines, "<|endoftext|>"), train_clip(lines, "!")


@pytest.fixture(scope="module")
def t5(lines):
    return train_t5(lines)


def same_text(a: str, b: str) -> bool:
    """Equal but for white space."""
    return "".join(a.split()) == "".join(b.split())


def test_the_prompt_of_the_report_fits(clips, t5):
    for clip in clips:
        ids = clip(SQUID).input_ids
        assert len(ids) <= CLIP_LENGTH
        assert ids[0] == clip.bos_token_id and ids[-1] == clip.eos_token_id
        assert same_text(clip.decode(ids, skip_special_tokens=True), SQUID.lower())
    ids = t5(SQUID).input_ids
    assert len(ids) <= SHORT_T5 and ids[-1] == t5.eos_token_id
    assert t5.decode(ids, skip_special_tokens=True) == SQUID


def test_every_word_is_one_token(clips, t5):
    words = sorted(word for word in captions.vocabulary() if not re.search(r"\d", word))
    assert len(words) > 300
    for tokenizer, specials in ((clips[0], 2), (clips[1], 2), (t5, 1)):
        cut = [word for word in words if len(tokenizer(word).input_ids) != 1 + specials]
        assert not cut


def test_punctuation_does_not_change_words(clips, t5):
    words = "a blue cat, an orange umbrella."
    assert clips[0].tokenize(words) == [
        f"{piece}</w>" for piece in ("a", "blue", "cat", ",", "an", "orange", "umbrella", ".")
    ]
    pieces = ["▁a", "▁blue", "▁cat", ",", "▁an", "▁orange", "▁umbrella", "."]
    assert t5.tokenize(words) == pieces


def test_padding_and_limits_are_those_of_sd3(clips, t5):
    first, second = clips
    assert first.pad_token_id == first.eos_token_id
    assert second.pad_token == "!" and second.pad_token_id == 0
    one, two = (
        clip("a cat", padding="max_length", max_length=CLIP_LENGTH).input_ids for clip in clips
    )
    end = one.index(first.eos_token_id)
    assert len(one) == len(two) == CLIP_LENGTH
    assert one[: end + 1] == two[: end + 1]
    assert set(one[end + 1 :]) == {first.eos_token_id} and set(two[end + 1 :]) == {0}
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    padded = t5("a cat", padding="max_length", max_length=6).input_ids
    assert padded[3:] == [0, 0, 0] and padded[2] == t5.eos_token_id
    assert first.model_max_length == second.model_max_length == CLIP_LENGTH
    assert t5.model_max_length == T5_LENGTH
    for tokenizer, length in ((first, CLIP_LENGTH), (second, CLIP_LENGTH), (t5, SHORT_T5)):
        cut = tokenizer("cat " * 99, truncation=True, max_length=length).input_ids
        assert len(cut) == length and cut[-1] == tokenizer.eos_token_id


def test_both_clips_read_the_same_tokens(clips, lines):
    """Training re-pads the first tokenizer's ids for the second text encoder."""
    assert clips[0].get_vocab() == clips[1].get_vocab()
    assert clips[0](lines[:300]).input_ids == clips[1](lines[:300]).input_ids


LETTERS = st.characters(
    exclude_categories=("Cc", "Cs", "Cn", "Co"),
    exclude_characters="▁",  # T5's mark for a space
)
LATIN = st.characters(  # ASCII and Latin-1
    max_codepoint=0xFF, exclude_categories=("Cc",), exclude_characters="\xad"
)


@given(st.text(LETTERS, max_size=40))
def test_any_text_tokenises(clips, t5, text):
    for clip in clips:
        assert clip.unk_token_id not in clip(text).input_ids[1:-1]
    ids = t5(text).input_ids
    assert ids[-1] == t5.eos_token_id and max(ids) < len(t5)


@given(st.text(LATIN, max_size=40))
def test_t5_reads_latin_text_back(t5, text):
    ids = t5(text).input_ids
    assert t5.unk_token_id not in ids
    assert same_text(t5.decode(ids, skip_special_tokens=True), text)


def test_t5_knows_no_other_characters(t5):
    assert t5.tokenize("a 猫 cat 🐱 кот") == ["▁a", "▁", "猫", "▁cat", "▁", "🐱", "▁", "кот"]
    unknown = [i == t5.unk_token_id for i in t5("a 猫 cat 🐱 кот").input_ids]
    assert unknown == [False, False, True, False, False, True, False, True, False]


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return type(tokenizer).from_pretrained(folder)


def test_saved_tokenizers_read_captions_the_same(clips, t5, lines, tmp_path):
    texts = [*lines[:1500], SQUID, "cat with red umbrella", ""]
    for i, tokenizer in enumerate((*clips, t5)):
        again = saved(tokenizer, tmp_path / str(i))
        assert again(texts).input_ids == tokenizer(texts).input_ids
        assert again.model_max_length == tokenizer.model_max_length
        assert again.pad_token_id == tokenizer.pad_token_id


@pytest.fixture(scope="module")
def pairs(clips, t5, tmp_path_factory):
    """(tokenizer, the same one saved and loaded)."""
    return [(t, saved(t, tmp_path_factory.mktemp("saved"))) for t in (*clips, t5)]


@given(st.text(LETTERS, max_size=40))
def test_saved_tokenizers_read_any_text_the_same(pairs, text):
    for tokenizer, again in pairs:
        ids = tokenizer(text).input_ids
        assert again(text).input_ids == ids
        assert again.decode(ids) == tokenizer.decode(ids)
