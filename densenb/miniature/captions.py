"""Captions of the synthetic world: one plain form for measuring, many varied ones for training."""

from __future__ import annotations

import random
from typing import NamedTuple

from densenb.miniature.backgrounds import BACKGROUNDS, GARDENS
from densenb.miniature.world import BACKGROUNDS as BACKGROUND_NAMES
from densenb.miniature.world import COLOUR_NAMES, NOUNS, Scenes


class Caption(NamedTuple):
    """`text`, and the phrase of each object, verbatim in it, in slot order."""

    text: str
    phrases: tuple[str, ...]


# Words that change nothing in the picture: the model must learn to read past them.
ADJECTIVES = """magnificent lovely cute tiny big small charming elegant curious happy proud gentle
brave clever friendly majestic playful quiet sleepy shy wonderful beautiful splendid graceful grand
ancient modern simple fancy delightful cheerful noble mysterious peaceful handsome""".split()
SHADES = "deep vibrant bright pale soft rich vivid light dark shimmering glowing brilliant".split()
PLACES = "enchanting beautiful quiet peaceful sunny wide vast dreamy lovely magical calm".split()
VERBS = """glides floats rests stands sits wanders waits drifts sleeps plays poses dances relaxes
walks moves shines appears lingers travels hides""".split()
ADVERBS = """gracefully quietly happily slowly gently proudly calmly playfully softly alone
peacefully silently elegantly""".split()
LIGHTS = """sunlight moonlight daylight light glow sky shadows haze breeze mist warmth""".split()
LIGHT_ADJECTIVES = "soft warm dappled golden bright gentle pale cool dim hazy radiant clear".split()
STYLES = (
    "a picture of", "an image of", "a 3d render of", "an illustration of", "a photo of",
    "a view of", "a scene with", "there is", "here is",
)  # fmt: skip
FLOWER_VERBS = "radiate bloom glow shine blossom sway open".split()
# Stray words, dropped into some captions anywhere: text outside every template must do no harm.
STRAYS = """through around over behind along across toward within upon above below onto into while
as its their with of for by at from this that these his her our where when shades hues tones colors
shade color tone style scene picture view morning evening night day summer winter spring autumn
very quite so really almost air ground background foreground corner side center front back
full painted drawn covered surrounded made looking standing sitting flying swimming running
floating resting sleeping walking holding wearing carrying old new young little huge giant
perfect famous ordinary strange""".split()


def article(words: str) -> str:
    """'an orange umbrella', 'a blue cat', 'a unicorn'."""
    an = words[0] in "aeiou" and not words.startswith(("uni", "one", "eu"))
    return f"{'an' if an else 'a'} {words}"


def enumerate_words(words: list[str]) -> str:
    """'red', 'red and blue', 'red, blue and gold'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _colours(scenes: Scenes, i: int, slot: int) -> list[str]:
    pair = (int(scenes.colour[i, slot]), int(scenes.colour2[i, slot]))
    return [COLOUR_NAMES[c] for c in pair if c >= 0]


def _blossoms(scenes: Scenes, i: int) -> list[str]:
    return list(dict.fromkeys(COLOUR_NAMES[c] for c in scenes.blossom[i].tolist()))


def plain(scenes: Scenes, i: int) -> Caption:
    """'a blue cat and an orange umbrella in a rose garden': what every measurement prompts with."""
    phrases = [
        article(f"{' and '.join(_colours(scenes, i, slot))} {NOUNS[noun]}".strip())
        for slot, noun in enumerate(scenes.noun[i].tolist())
        if noun >= 0
    ]
    return Caption(f"{enumerate_words(phrases)} {_place(scenes, i)}", tuple(phrases))


def contradicting(scenes: Scenes, i: int) -> Caption:
    """As `plain`, but it says of every object that it is on the side where it is not.

    'a blue cat on the left in a meadow', of one that is on the right. For objects that are clearly
    on a side (see `_where`); the phrases are without the position.
    """
    phrases = plain(scenes, i).phrases
    centres = scenes.centre[i][scenes.noun[i] >= 0].tolist()
    placed = [f"{phrase} {_where(1 - x, y)}" for phrase, (x, y) in zip(phrases, centres)]
    return Caption(f"{enumerate_words(placed)} {_place(scenes, i)}", phrases)


def _place(scenes: Scenes, i: int) -> str:
    return BACKGROUNDS[BACKGROUND_NAMES[int(scenes.background[i])]][0]


def _where(x: float, y: float) -> str | None:
    """A position a person would name, for clear cases only."""
    side = "left" if x < 0.36 else "right" if x > 0.64 else ""
    level = "top" if y < 0.33 else "bottom" if y > 0.67 else ""
    if level:
        return f"at the {level} {side}".strip()
    if side:
        return f"on the {side}"
    return "in the middle" if abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1 else None


def _varied_phrase(noun: str, colours: list[str], rng: random.Random) -> str:
    """One of many ways to name an object."""
    shades = [f"{rng.choice(SHADES)} {c}" if rng.random() < 0.15 else c for c in colours]
    joint = rng.choice((" and ", " and ", ", "))
    words = [noun]
    form = rng.random()
    if shades and form < 0.8:
        words = [joint.join(shades), noun]
    if rng.random() < 0.15:
        words.insert(0, rng.choice(ADJECTIVES))
    text = " ".join(words)
    start = rng.random()
    if start < 0.82:
        text = article(text)
    elif start < 0.88:
        text = f"the {text}"
    if shades and form >= 0.8:
        tail = " and ".join(shades)
        text += rng.choice((f" in {tail}", f" colored {tail}", f", {rng.choice(SHADES)} {tail}"))
    return text


def _varied_place(name: str, blossoms: list[str], rng: random.Random) -> str:
    text = BACKGROUNDS[name][0]
    if rng.random() < 0.15:
        preposition, _, rest = text.partition(" a ") if " a " in text else text.partition(" the ")
        text = f"{preposition} {article(f'{rng.choice(PLACES)} {rest}')}"
    if name in GARDENS and rng.random() < 0.6:
        colours = enumerate_words(blossoms)
        flowers = rng.choice(("blossoms", "flowers", "blossoms"))
        text += rng.choice((
            f" with {colours} {flowers}",
            f" with {flowers} of {colours}",
            f" with {flowers} in {colours}",
            f" full of {colours} {flowers}",
            f" where {colours} {flowers} {rng.choice(FLOWER_VERBS)}",
        ))  # fmt: skip
    return text


def varied(scenes: Scenes, i: int, rng: random.Random) -> str:
    """A training caption: clauses shuffled, articles, fillers, positions and places varied."""
    objects = []
    for slot, noun in enumerate(scenes.noun[i].tolist()):
        if noun < 0:
            continue
        text = _varied_phrase(NOUNS[noun], _colours(scenes, i, slot), rng)
        if rng.random() < 0.2 and (place := _where(*scenes.centre[i, slot].tolist())):
            text += f" {place}"
        objects.append(text)
    rng.shuffle(objects)

    joints = (" and ", " with ", ", ", " next to ", " beside ", " near ", " together with ")
    text = objects[0]
    if rng.random() < 0.15:
        text += rng.choice(("", ",")) + f" {rng.choice(VERBS)}"
        text += f" {rng.choice(ADVERBS)}" if rng.random() < 0.5 else ""
    if len(objects) > 2 and rng.random() < 0.5:
        text = enumerate_words([text, *objects[1:]])
    else:
        for other in objects[1:]:
            text += rng.choice(joints) + other

    if rng.random() < 0.9:  # now and then the place is left to the model
        name = BACKGROUND_NAMES[int(scenes.background[i])]
        place = _varied_place(name, _blossoms(scenes, i), rng)
        early = rng.random() < 0.12
        text = f"{place}, {text}" if early else text + rng.choice((" ", " ", ", ")) + place
    if rng.random() < 0.1:
        text += f" under the {rng.choice(LIGHT_ADJECTIVES)} {rng.choice(LIGHTS)}"
    if rng.random() < 0.06:
        text = f"{rng.choice(STYLES)} {text}"
    if rng.random() < 0.1:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.15:
        words = text.split(" ")
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(STRAYS))
        text = " ".join(words)
    return text + ("." if rng.random() < 0.1 else "")


def vocabulary() -> set[str]:
    """Every lower-case word that a training caption may hold."""
    places = [text for text, _ in BACKGROUNDS.values()]
    lists = (NOUNS, COLOUR_NAMES, places, STYLES, ADJECTIVES, SHADES, PLACES, VERBS, ADVERBS)
    lists += (LIGHTS, LIGHT_ADJECTIVES, FLOWER_VERBS, STRAYS)
    glue = """a an the and with next to beside near together in colored on left right at top bottom
    middle flowers blossoms of full where under"""
    return {word.lower() for words in (*lists, (glue,)) for text in words for word in text.split()}
