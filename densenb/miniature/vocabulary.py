"""The words that the miniature was trained on; it tokenizes any other English word, too."""

from __future__ import annotations

import difflib
import re

from densenb.miniature.captions import vocabulary

FUNCTION_WORDS = frozenset(
    "a an the and or of in on at to by with from for over under into onto through between behind "
    "above below is are was be it its this that these those there here where which while as".split()
)
"""Words without meaning for a picture: nothing is missing when the model does not know them."""


def unknown_words(text: str) -> dict[str, list[str]]:
    """Words of `text` that no training caption has, each with up to three near ones that some do.

    "a red zeppelin and a catt" -> {"zeppelin": [], "catt": ["cat", ...]}
    """
    read = sorted(vocabulary())
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", text.lower()))
    return {
        word: difflib.get_close_matches(word, read, n=3, cutoff=0.65)
        for word in dict.fromkeys(words)
        if word not in FUNCTION_WORDS and word not in read
    }
