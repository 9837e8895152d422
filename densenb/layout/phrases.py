"""Find phrases in a caption as whole words. Taught in notebook 06."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def find_phrase(text: str, phrase: str) -> list[tuple[int, int]]:
    """Find `phrase` in `text` as whole words: (start, end) in characters, in reading order.

    Case and the width of gaps do not matter. "cat" is in "a Cat, asleep" and in "the cat's hat",
    but not in "catfish" or "cat-like". Taught in notebook 06.
    """
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    pattern = rf"(?<!\w)(?<!\w[-\u2010\u2011]){words}(?![-\u2010\u2011]?\w)"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if words else []


def place_phrases(text: str, phrases: Sequence[str]) -> tuple[int | None, ...]:
    """Which occurrence in `text` each phrase takes; None if there is none left for it.

    The longest phrases choose first: "cat" avoids the one in "a blue cat" while another is free.
    Taught in notebook 06.
    """
    places: list[int | None] = [None] * len(phrases)
    taken: list[tuple[int, int]] = []
    for i in sorted(range(len(phrases)), key=lambda i: -len(phrases[i])):
        spans = find_phrase(text, phrases[i])
        name = phrases[i].lower()
        twins = [places[j] for j, other in enumerate(phrases) if other.lower() == name]
        free = [k for k in range(len(spans)) if k not in twins]
        clear = [k for k in free if all(spans[k][1] <= a or b <= spans[k][0] for a, b in taken)]
        if free:
            places[i] = (clear or free)[0]
            taken.append(spans[places[i]])  # type: ignore[index]
    return tuple(places)


def append_phrases(caption: str, phrases: Sequence[str]) -> str:
    """The caption and the phrases, separated by commas."""
    for phrase in phrases:
        gap = "" if not caption else " " if caption[-1] in ".,;:!?" else ", "
        caption += gap + phrase
    return caption


def clean_phrase(name: str, phrase: str) -> str:
    """The phrase in NFC with single spaces; TypeError or ValueError unless it has words."""
    if not isinstance(phrase, str):
        raise TypeError(f"{name} must be a str, got {phrase!r}: give words of the caption.")
    words = unicodedata.normalize("NFC", phrase).split()
    if not words:
        raise ValueError(f"{name} is empty ({phrase!r}): give words, e.g. 'a blue cat'.")
    return " ".join(words)
