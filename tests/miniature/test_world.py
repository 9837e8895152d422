"""The synthetic world: what is drawn, what is labelled, and what the captions say about it."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
import torch
import torch.nn.functional as F

from densenb.miniature import captions, world
from densenb.miniature.backgrounds import BACKGROUNDS, GARDENS
from densenb.miniature.vocabulary import unknown_words
from densenb.miniature.world import COLOUR_NAMES, NOUNS, World, lab, sample_scenes

pytestmark = pytest.mark.usefixtures("few_backgrounds")


@pytest.fixture(scope="module")
def renderer(few_backgrounds):
    return World()


@pytest.fixture(scope="module")
def drawn(renderer):
    """(scenes, their render) of the `test` split, small pictures."""
    scenes = sample_scenes(120, "test", seed=11, two_colour=0.3)
    return scenes, renderer.render(scenes, 128, 128)


def gallery(colour: str | None, background: str, size: float = 0.6) -> world.Scenes:
    """One scene a noun: alone in the middle, upright."""
    scenes = sample_scenes(len(NOUNS), "test", max_objects=1)
    first = torch.tensor([True, False, False, False])

    def only(values: torch.Tensor | int) -> torch.Tensor:
        return torch.where(first, values, torch.tensor(-1)).expand(len(NOUNS), 4)

    return dataclasses.replace(
        scenes,
        noun=only(torch.arange(len(NOUNS))[:, None]),
        colour=only(COLOUR_NAMES.index(colour) if colour else -1),
        colour2=torch.full_like(scenes.colour2, -1),
        centre=torch.full_like(scenes.centre, 0.5),
        size=torch.full_like(scenes.size, size),
        angle=torch.zeros_like(scenes.angle),
        background=torch.full_like(scenes.background, world.BACKGROUNDS.index(background)),
    )


def fields(scenes):
    return [getattr(scenes, field.name) for field in dataclasses.fields(scenes)]


# Descriptions


def test_the_same_arguments_give_the_same_scenes():
    once, again = sample_scenes(50, "tune", seed=3), sample_scenes(50, "tune", seed=3)
    assert all(a.equal(b) for a, b in zip(fields(once), fields(again)))
    assert not once.centre.equal(sample_scenes(50, "tune", seed=4).centre)


def test_splits_share_no_scene():
    seen = {}
    for split in world.SPLITS:
        for seed in range(4):
            scenes = sample_scenes(200, split, seed)
            rows = zip(scenes.background.tolist(), scenes.noun.tolist(), scenes.centre.tolist())
            for row in rows:
                assert seen.setdefault(str(row), (split, seed)) == (split, seed)
    assert len(seen) == 3 * 4 * 200


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="split 'valid' is not one of train, tune, test"):
        sample_scenes(1, "valid")
    for low, high in ((0, 2), (3, 2), (1, 5)):
        with pytest.raises(ValueError, match=f"objects {low}..{high} must"):
            sample_scenes(1, min_objects=low, max_objects=high)


def test_scenes_index_like_a_tensor():
    scenes = sample_scenes(10)
    assert len(scenes) == 10 and len(scenes[2:5]) == 3
    assert scenes[torch.tensor([7])].noun.equal(scenes.noun[7:8])


@pytest.mark.parametrize(("low", "high"), [(1, 4), (1, 1), (2, 3), (4, 4)])
def test_object_limits(low, high):
    scenes = sample_scenes(300, min_objects=low, max_objects=high)
    there = scenes.noun >= 0
    numbers = there.sum(1)
    assert set(numbers.tolist()) == set(range(low, high + 1))
    assert there.equal(torch.arange(4) < numbers[:, None])  # the first slots, no gaps
    for row in scenes.noun.tolist():  # never two of a kind
        nouns = [noun for noun in row if noun >= 0]
        assert len(set(nouns)) == len(nouns)
    assert (scenes.colour[~there] == -1).all() and (scenes.colour2[~there] == -1).all()
    assert scenes.noun.max() < len(NOUNS) and scenes.background.max() < len(BACKGROUNDS)
    assert scenes.size.min() >= 0.26 and scenes.size.max() <= 0.75
    half = scenes.size[..., None] / 2
    assert (scenes.centre >= half - 1e-6).all() and (scenes.centre <= 1 - half + 1e-6).all()


def test_shares_of_colours():
    scenes = sample_scenes(4000, coloured=0.5, two_colour=0.2)
    there, painted = scenes.noun >= 0, scenes.colour >= 0
    assert 0.5 <= painted[there].float().mean() < 0.65  # pale objects on snow must be painted
    assert (scenes.colour2[~painted] == -1).all()
    twice = scenes.colour2 >= 0
    assert 0.15 < twice[painted].float().mean() < 0.2  # some draw the same colour twice
    assert (scenes.colour2 != scenes.colour)[twice].all()
    every = sample_scenes(500, coloured=1.0)
    assert (every.colour[every.noun >= 0] >= 0).all()


def test_colours_stand_off_the_background_and_blossoms_off_the_objects():
    scenes = sample_scenes(3000)
    colours = lab(world.palette())
    for name in BACKGROUNDS:
        rows = scenes.background == world.BACKGROUNDS.index(name)
        tones = lab(torch.tensor(BACKGROUNDS[name][1]) / 255)
        worn = torch.cat([scenes.colour[rows].unique(), scenes.colour2[rows].unique()])
        worn = worn[worn >= 0]
        assert torch.cdist(colours[worn], tones).min() >= world.CONTRAST
        assert len(worn.unique()) >= 6  # and still leave a choice
    gardens = [world.BACKGROUNDS.index(name) for name in GARDENS]
    rows = torch.isin(scenes.background, torch.tensor(gardens))
    apart = torch.cdist(colours[scenes.blossom[rows]], colours[scenes.colour[rows].clamp_min(0)])
    assert apart[(scenes.colour[rows] >= 0)[:, None].expand_as(apart)].min() >= world.CONTRAST


# Pictures


def test_the_renderer_is_deterministic(drawn, renderer):
    scenes, whole = drawn
    part = renderer.render(scenes[5:9], 128, 128)
    for name in ("masks", "nouns", "colours"):
        assert getattr(part, name).equal(getattr(whole, name)[5:9])
    torch.testing.assert_close(part.images, whole.images[5:9], atol=1e-6, rtol=0)
    again = World().render(scenes[5:9], 128, 128)
    assert again.images.equal(part.images)


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (50, 131)])
def test_sizes(renderer, size):
    scenes = sample_scenes(6, "tune", min_objects=2)
    rendered = renderer.render(scenes, *size)
    assert rendered.images.shape == (6, 3, *size) and rendered.images.dtype == torch.float32
    assert rendered.masks.shape == (6, 4, *size) and rendered.masks.dtype == torch.bool
    assert rendered.nouns.shape == rendered.colours.shape == (6, *size)
    # the objects keep their proportions: centres are fractions of the sides, sizes of the shorter
    alone = gallery(None, "studio")[:1]
    mask = renderer.render(alone, *size).masks[0, 0].nonzero()
    square = renderer.render(alone, min(size), min(size)).masks[0, 0].nonzero()
    extent, expected = (m.amax(0) - m.amin(0) for m in (mask, square))
    assert (extent - expected).abs().max() <= 1
    middle = (mask.amax(0) + mask.amin(0) + 1) / 2
    assert (middle - torch.tensor(size) / 2).abs().max() <= 2


def test_values_lie_between_zero_and_one(drawn):
    images = drawn[1].images
    assert images.isfinite().all() and images.min() >= 0 and images.max() <= 1
    assert images.std() > 0.15


def test_masks_are_disjoint_and_equal_to_the_labels(drawn):
    scenes, rendered = drawn
    assert (rendered.masks.sum(1) <= 1).all()
    there = scenes.noun >= 0
    assert not rendered.masks[~there].any() and rendered.masks[there].any((1, 2)).all()
    values = (scenes.noun + 1)[..., None, None] * rendered.masks
    assert rendered.nouns.equal(values.sum(1))
    assert (rendered.colours == 0).equal(rendered.nouns == 0)


def test_colour_labels_are_the_colours_of_the_scene(drawn):
    scenes, rendered = drawn
    both = 0
    for i, slot in (scenes.noun >= 0).nonzero().tolist():
        mask = rendered.masks[i, slot]
        first, second = scenes.colour[i, slot].item(), scenes.colour2[i, slot].item()
        labels = rendered.colours[i][mask].unique().tolist()
        if second < 0:
            assert labels == [first + 2]  # natural colours, -1, are label 1
            continue
        assert set(labels) <= {first + 2, second + 2}
        if len(labels) == 2:
            both += 1
            above, below = (
                (mask & (rendered.colours[i] == c + 2)).nonzero()[:, 0].float().mean()
                for c in (first, second)
            )
            assert above < below
    twice = (scenes.colour2 >= 0).sum().item()
    assert twice > 20 and both > 0.9 * twice  # an object in front may hide a half


def test_objects_in_front_hide_those_behind(renderer):
    scenes = sample_scenes(1, "test", min_objects=2, max_objects=2)
    scenes = dataclasses.replace(scenes, centre=torch.full_like(scenes.centre, 0.5))
    first = torch.tensor([True, False, False, False])
    front = dataclasses.replace(scenes, noun=scenes.noun.masked_fill(first, -1))
    both, alone = renderer.render(scenes, 64, 64), renderer.render(front, 64, 64)
    assert both.masks[:, 1].equal(alone.masks[:, 1]) and both.masks[:, 0].any()


def test_every_noun_is_visible(renderer):
    size = 0.6
    masks = renderer.render(gallery(None, "studio", size), 128, 128).masks[:, 0]
    share = masks.float().mean((1, 2)) / size**2
    assert share.min() > 0.2, NOUNS[share.argmin()]
    # the longer side of the artwork fills its tile
    longer = torch.maximum(masks.any(1).sum(1), masks.any(2).sum(1))
    assert longer.min() >= 0.9 * size * 128, NOUNS[longer.argmin()]


def surroundings(mask: torch.Tensor, objects: torch.Tensor, width: int) -> torch.Tensor:
    """The background within `width` pixels of a mask `[H, W]`."""
    grown = F.max_pool2d(mask[None, None].float(), 2 * width + 1, 1, width)[0, 0] > 0
    return grown & ~objects


def test_tinted_objects_stand_out_from_what_surrounds_them(drawn):
    """Measured on the picture, not on the palette: Lab distance of the mean colours of a painted
    part and of the ring of background around it, for 95 % at least 20. (2.3 is just noticeable.)"""
    scenes, rendered = drawn
    distances = []
    for i, slot in (scenes.colour >= 0).nonzero().tolist():
        for colour in {scenes.colour[i, slot].item(), scenes.colour2[i, slot].item()} - {-1}:
            part = rendered.masks[i, slot] & (rendered.colours[i] == colour + 2)
            ring = surroundings(part, rendered.masks[i].any(0), 8)
            if part.sum() >= 50 and ring.sum() >= 50:
                means = [rendered.images[i][:, where].mean(1) for where in (part, ring)]
                distances.append((lab(means[0]) - lab(means[1])).norm())
    distances = torch.stack(distances)
    assert len(distances) > 200
    assert distances.min() >= 5
    assert (distances >= 20).float().mean() >= 0.95
    assert distances.median() >= 50


@pytest.mark.parametrize("colour", ["black", "white"])
def test_features_show_inside_every_tint(renderer, colour):
    """The lightness L* of a tinted object, edges left out, has a standard deviation of 8 for 95 %
    of the nouns, and of 5 for all."""
    rendered = renderer.render(gallery(colour, "studio"), 128, 128)
    masks = rendered.masks[:, :1].float()
    inner = -F.max_pool2d(-masks, 5, 1, 2)[:, 0] > 0
    lightness = lab(rendered.images.movedim(1, -1))[..., 0]
    spread = torch.stack([plane[where].std() for plane, where in zip(lightness, inner)])
    assert (spread >= 8).float().mean() >= 0.95
    assert spread.min() >= 5, NOUNS[spread.argmin()]


# Captions


def several(count, seed=21, **options):
    """(scenes, varied captions)"""
    rng, scenes = random.Random(seed), sample_scenes(count, seed=seed, **options)
    return scenes, [captions.varied(scenes, i, rng) for i in range(count)]


def bad_articles(text: str) -> list[str]:
    """Uses of 'a' before a vowel sound and of 'an' before a consonant."""
    pairs = re.findall(r"\b(an?) (\w+)", text.casefold())
    return [f"{a} {w}" for a, w in pairs if (a == "an") != (w[0] in "aeiou" and w[:3] != "uni")]


def bad_places(text: str) -> list[str]:
    return re.findall(r"\bin an? (?:\w+ )?beach|\bon an? (?:\w+ )?(?:city|desert|garden)", text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("orange", "an orange"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("indigo hat", "an indigo hat"),
        ("blue cat", "a blue cat"),
    ],
)
def test_article(words, expected):
    assert captions.article(words) == expected and not bad_articles(expected)


def test_plain_captions_hold_their_phrases():
    scenes = sample_scenes(500, "test", seed=2)
    for i in range(len(scenes)):
        text, phrases = captions.plain(scenes, i)
        assert len(phrases) == len(set(phrases)) == (scenes.noun[i] >= 0).sum()
        assert not bad_articles(text) and not bad_places(text)
        places = [text.index(phrase) for phrase in phrases]
        assert places == sorted(places)  # in slot order
        for slot, phrase in enumerate(phrases):
            colours = [c for c in (scenes.colour[i, slot], scenes.colour2[i, slot]) if c >= 0]
            words = [" and ".join(COLOUR_NAMES[c] for c in colours), NOUNS[scenes.noun[i, slot]]]
            assert phrase.split(" ", 1)[1] == " ".join(filter(None, words))
        place = BACKGROUNDS[world.BACKGROUNDS[scenes.background[i]]][0]
        assert text.endswith(f"{phrases[-1]} {place}")


def test_varied_captions_are_grammatical_but_for_stray_words(monkeypatch):
    monkeypatch.setattr(captions, "STRAYS", ["STRAY"])
    for text in several(4000)[1]:
        text = " ".join(word for word in text.split(" ") if word != "STRAY")
        assert not bad_articles(text), text
        assert not bad_places(text), text
        assert not re.search(r"\s\s|\s[,.]|,,|^\s|\s$", text), text
        assert set(re.findall(r"\b(\w+) \1\b", text)) <= set(captions.SHADES), text


def test_varied_captions_name_every_object_and_colour():
    scenes, texts = several(500)
    for i, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        named = [NOUNS[n] for n in scenes.noun[i].tolist() if n >= 0]
        for colour in (*scenes.colour[i].tolist(), *scenes.colour2[i].tolist()):
            named += [COLOUR_NAMES[colour]] if colour >= 0 else []
        assert set(named) <= set(words), text
    assert len(set(texts)) == len(texts)


def test_captions_repeat_for_the_same_seed():
    assert several(50)[1] == several(50)[1] != several(50, seed=22)[1]


CAT = "cat with red umbrella"
SQUID = (
    "a magnificent squid, shimmering in shades of deep indigo and vibrant teal, glides gracefully "
    "through an enchanting rose garden where blossoms of crimson, blush, and gold radiate under "
    "the soft, dappled sunlight"
)


def test_no_training_caption_holds_a_prompt_of_the_report():
    texts = several(4000)[1]
    scenes = sample_scenes(2000, seed=23, coloured=1.0)  # and scenes of the report's own squid
    squid, indigo, teal, garden = (
        names.index(word)
        for names, word in (
            (NOUNS, "squid"),
            (COLOUR_NAMES, "indigo"),
            (COLOUR_NAMES, "teal"),
            (world.BACKGROUNDS, "rose garden"),
        )
    )
    scenes.noun[:, 0], scenes.colour[:, 0], scenes.colour2[:, 0] = squid, indigo, teal
    scenes.background[:] = garden
    rng = random.Random(0)
    texts += [captions.varied(scenes, i, rng) for i in range(len(scenes))]
    for text in map(str.lower, texts):
        assert CAT not in text and SQUID not in text
        assert "shimmering in shades of" not in text and "glides gracefully through" not in text


def test_the_vocabulary_covers_the_captions():
    scenes, texts = several(5000)
    texts += [captions.plain(scenes, i).text for i in range(500)]
    known = captions.vocabulary()
    assert all(word == word.lower() for word in known)
    unknown = {w for text in texts for w in re.findall(r"\w+", text.lower())} - known
    assert not unknown
    assert set(re.findall(r"\w+", SQUID)) | set(CAT.split()) <= known


def test_words_that_no_caption_has_are_named_whole():
    assert list(unknown_words("the cat's hat, 3 birds and a café_")) == ["3", "birds", "café"]
