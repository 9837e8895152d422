"""Tokenizers of the miniature, of the same two kinds as Stable Diffusion 3.5's.

CLIP's is a lower-casing byte-level BPE with an end-of-word mark; T5's a Unigram model. Both are
trained on the world's captions, so that its words are single tokens, and both fall back to bytes or
to letters, so that any English text tokenizes.
"""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from densenb.miniature import captions
from densenb.miniature.world import sample_scenes

CLIP_LENGTH = 40
T5_LENGTH = 256
_CLIP_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
_METASPACE = {"replacement": "\u2581", "prepend_scheme": "always"}


def corpus(size: int = 20_000) -> list[str]:
    """Training captions, and every word of the captions' vocabulary often enough to be kept."""
    rng, scenes = random.Random(0), sample_scenes(size, seed=7)
    words = sorted(captions.vocabulary())
    return [captions.varied(scenes, i, rng) for i in range(size)] + words * 60


def train_clip(lines: list[str], pad_token: str, vocab_size: int = 1792) -> CLIPTokenizer:
    """A CLIP tokenizer; SD 3.5's first pads with its end token, its second with '!'."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(_CLIP_WORDS, "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 512, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(lines, trainer)
    return clip_tokenizer(json.loads(bpe.to_str())["model"]["merges"], pad_token)


def clip_tokenizer(merges: Iterable[Sequence[str]], pad_token: str) -> CLIPTokenizer:
    """The tokenizer of given merges, best first, loaded from CLIP's two usual files."""
    merges = [tuple(pair) for pair in merges]
    # every byte, inside and at the end of a word, so that no text is out of vocabulary; '!' is id 0
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        rules = "\n".join(["#version: 0.2", *map(" ".join, merges), ""])
        Path(folder, "merges.txt").write_text(rules, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(
            folder, model_max_length=CLIP_LENGTH, pad_token=pad_token
        )


def train_t5(lines: list[str], subwords: int = 600, least: int = 50) -> T5TokenizerFast:
    """A T5 tokenizer: no start token, `</s>` at the end.

    The Unigram trainer prunes common short words of so regular a corpus, so every word seen
    `least` times is added to its pieces, scored by its log frequency as any Unigram piece is.
    """
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = _t5_words()
    trainer = trainers.UnigramTrainer(
        vocab_size=subwords,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    unigram.train_from_iterator(lines, trainer)
    pieces = {piece: score for piece, score in json.loads(unigram.to_str())["model"]["vocab"]}
    counts = Counter(word for line in lines for word in re.findall(r"\w+", line))
    whole = {"\u2581" + word: n for word, n in counts.items() if n >= least}
    pieces.update({word: math.log(n / counts.total()) for word, n in whole.items()})
    return t5_tokenizer(pieces)


def _t5_words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**_METASPACE),
    ])  # fmt: skip


def t5_tokenizer(scores: dict[str, float]) -> T5TokenizerFast:
    """The tokenizer of given pieces (`<pad>`, `</s>` and `<unk>` first) and of 256 characters.

    All of ASCII and Latin-1 tokenizes, with most of Latin Extended-A; other characters are `<unk>`,
    as in T5. No byte fallback: transformers 5 rebuilds a saved T5 tokenizer without it.
    """
    letters = [c for c in map(chr, range(0x21, 0x250)) if c.isprintable() and c not in scores]
    scores = scores | dict.fromkeys(letters[:256], -20.0)
    unigram = Tokenizer(models.Unigram(list(scores.items()), unk_id=2))
    unigram.pre_tokenizer = _t5_words()
    unigram.decoder = decoders.Metaspace(**_METASPACE)
    return T5TokenizerFast(tokenizer_object=unigram, extra_ids=0, model_max_length=T5_LENGTH)
