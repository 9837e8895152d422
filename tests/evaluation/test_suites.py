"""Every kind of suite is what it says: objects, colours, places, masks, words, splits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from densenb.evaluation import metrics, suites
from densenb.evaluation.suites import SUITES, build_suite
from densenb.layout.masks import Box, Ellipse
from densenb.miniature import arrangements, captions
from densenb.miniature.world import CONTRAST, lab, palette, sample_scenes, shared_world, visible

KINDS = [name for name in SUITES if name.startswith("test")]
SHAPES = ["test-boxes", "test-ellipses", "test-brush"]


@pytest.fixture(scope="module")
def built():
    """Each suite of the test split, small; pictures are not drawn unless asked for."""
    return {name: build_suite(name, 6) for name in KINDS}


def asked(suite, index) -> torch.Tensor:
    return suite.masks[index][suite.scenes.noun[index] >= 0]


# ------------------------------------------------------------------------------------- all suites
def test_both_splits_have_the_same_kinds():
    assert [name.replace("tune", "test", 1) for name in SUITES if name.startswith("tune")] == KINDS
    assert {(kind.scenes, kind.seeds) for kind in SUITES.values()} == {(256, 4), (64, 2)}


@pytest.mark.parametrize(
    ("name", "nouns", "places", "sizes"),
    [
        ("test", [[17, -1], [7, 37], [65, 51], [93, -1]], 3.91136, 6.54854),
        ("tune", [[52, -1], [4, 47], [50, 73], [85, -1]], 4.04247, 7.40674),
    ],
)
def test_the_plain_suites_never_change(name, nouns, places, sizes):
    """Reported tables rest on these very scenes."""
    scenes = SUITES[name].sample(4, 0)
    assert scenes.noun[:, :2].tolist() == nouns
    assert scenes.centre[:, 0].sum().item() == pytest.approx(places, abs=1e-4)
    assert scenes.size.sum().item() == pytest.approx(sizes, abs=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_masks_are_those_of_the_layouts_and_words_are_verbatim(built, name):
    suite = built[name]
    for index, layout in enumerate(suite.layouts):
        assert torch.equal(layout.pixel_masks(256, 256) >= 0.5, asked(suite, index))
        assert layout.text == layout.caption
        assert (asked(suite, index).float().mean((1, 2)) > 0.01).all()
    assert not suite.masks[suite.scenes.noun < 0].any()


@pytest.mark.parametrize("name", KINDS)
def test_suites_grow_at_the_end_and_splits_and_seeds_differ(built, name):
    def drawn(other, count, seed=0):
        return SUITES[other].sample(count, seed)

    for field in dataclasses.fields(built[name].scenes):
        longer = getattr(built[name].scenes, field.name)
        assert torch.equal(getattr(drawn(name, 3), field.name), longer[:3])
    places = built[name].scenes.centre
    for other, seed in ((name.replace("test", "tune"), 0), (name, 1)):
        assert not (drawn(other, 6, seed).centre == places).flatten(1).any(1).any()


@pytest.mark.parametrize("name", KINDS)
def test_a_token_grid_can_follow_every_suite(built, name):
    suite = built[name]
    ceiling = metrics.token_grid_ceiling(suite.masks, boxes=not suite.outlines)
    assert (ceiling.isnan() == (suite.scenes.noun < 0)).all()
    assert 0.6 < ceiling.nanmean() < 1


def test_pictures_are_drawn_when_asked_for_and_kept(monkeypatch):
    world, counts = shared_world("cpu"), []
    draw = world.render
    monkeypatch.setattr(
        world, "render", lambda scenes, *size: counts.append(len(scenes)) or draw(scenes, *size)
    )
    suite = build_suite("test-three", 2)
    assert counts == []
    assert suite.images is suite.images and counts == [2]
    assert suite.references.shape == suite.images.shape == (2, 3, 256, 256)
    assert not (suite.images == suite.references).flatten(1).all(1).any()
    assert suite.images.dtype == torch.uint8 and counts == [2, 2]


def test_visible_silhouettes_are_the_masks_of_the_renderer():
    scenes = sample_scenes(3, "test", 5, min_objects=4)
    rendered = shared_world("cpu").render(scenes, 48, 64)
    assert torch.equal(visible(shared_world("cpu").silhouettes(scenes, 48, 64)), rendered.masks)


# -------------------------------------------------------------------------------- what each asks
@pytest.mark.parametrize(
    ("name", "objects"),
    [
        ("test", [1, 2, 3, 1, 2, 3]),
        ("test-one-two", [1, 2, 1, 2, 1, 2]),
        ("test-three", [3] * 6),
        ("test-four", [4] * 6),
        ("test-same-noun", [2] * 6),
        ("test-contradiction", [1, 2, 1, 2, 1, 2]),
    ],
)
def test_so_many_coloured_objects(built, name, objects):
    scenes = built[name].scenes
    assert (scenes.noun >= 0).sum(1).tolist() == objects
    assert ((scenes.colour >= 0) == (scenes.noun >= 0)).all()


def contrasts(scenes):
    shades = lab(palette())
    return (shades[scenes.colour[:, 0]] - shades[scenes.colour[:, 1]]).norm(dim=1)


def test_twins_share_a_noun_and_differ_in_colour(built):
    scenes = built["test-same-noun"].scenes
    assert torch.equal(scenes.noun[:, 0], scenes.noun[:, 1])
    assert (contrasts(scenes) >= CONTRAST).all()


def test_one_colour_twice_on_two_nouns(built):
    scenes = built["test-same-colour"].scenes
    assert torch.equal(scenes.colour[:, 0], scenes.colour[:, 1])
    assert (scenes.noun[:, 0] != scenes.noun[:, 1]).all()


def test_a_swapped_pair_differs_in_the_colours_only(built):
    scenes = built["test-swapped-colours"].scenes
    first, second = scenes[0::2], scenes[1::2]
    assert torch.equal(first.colour[:, :2], second.colour[:, :2].flip(1))
    assert (contrasts(first) >= CONTRAST).all()
    for field in dataclasses.fields(scenes):
        if field.name != "colour":
            assert torch.equal(getattr(first, field.name), getattr(second, field.name))


def test_tiny_regions_cover_three_to_ten_percent(built):
    areas = [asked(built["test-tiny"], i).float().mean((1, 2)) for i in range(6)]
    assert [len(area) for area in areas] == [1, 2, 3, 1, 2, 3]
    assert all(((0.03 <= area) & (area <= 0.10)).all() for area in areas)


def test_overlapping_masks_hold_what_is_hidden_too(built):
    suite = built["test-overlapping"]
    first, second = suite.masks[:, 0], suite.masks[:, 1]
    smaller = torch.minimum(first.sum((1, 2)), second.sum((1, 2)))
    share = (first & second).sum((1, 2)) / smaller
    least, most = arrangements.OVERLAPPING
    assert (share >= least).all() and (share <= most).all()


def test_many_objects_can_all_be_seen(built):
    for name in ("test-three", "test-four"):
        whole = shared_world("cpu").silhouettes(built[name].scenes, 64, 64)
        seen = visible(whole).sum((-2, -1)) / whole.sum((-2, -1)).clamp(min=1)
        assert (seen[built[name].scenes.noun >= 0] > 0.6).all()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_hold_their_objects_and_are_larger(built, name):
    plain, suite = built["test"], built[name]
    assert not suite.outlines and suite.headline == "box_iou" and plain.headline == "mIoU"
    assert torch.equal(plain.scenes.centre, suite.scenes.centre)
    assert not (plain.masks & ~suite.masks).any()
    assert (suite.masks.sum((-2, -1)) > plain.masks.sum((-2, -1)))[plain.scenes.noun >= 0].all()


def test_boxes_are_tight_and_ellipses_in_proportion(built):
    for index in range(6):
        shown = asked(built["test"], index)
        for region, mask in zip(built["test-boxes"].layouts[index].regions, shown, strict=True):
            assert isinstance(region.mask, Box)
            tight = metrics.bounding_box(region.mask.raster(256, 256) >= 0.5)
            assert torch.equal(tight, metrics.bounding_box(mask))
        for region, mask in zip(built["test-ellipses"].layouts[index].regions, shown, strict=True):
            x0, y0, x1, y1 = metrics.bounding_box(mask).tolist()
            assert isinstance(region.mask, Ellipse)
            assert region.mask.rx / region.mask.ry == pytest.approx((x1 - x0) / (y1 - y0))
            assert not torch.equal(region.mask.raster(256, 256), mask.float())


def test_a_brush_fills_holes_and_loses_corners():
    ring = torch.zeros(256, 256, dtype=torch.bool)
    ring[96:160, 96:160] = True
    ring[116:140, 116:140] = False
    painted = suites.brush_over(ring).raster(256, 256) >= 0.5
    assert painted[96:160, 96:160].all()
    assert painted[90, 128] and not painted[84, 84]


def test_captions_contradict_the_masks(built):
    suite = built["test-contradiction"]
    for index, layout in enumerate(suite.layouts):
        for region, mask in zip(layout.regions, asked(suite, index), strict=True):
            said = layout.caption.split(region.phrase)[1].split(" and ")[0]
            x = mask.nonzero()[:, 1].float().mean() / 256
            assert ("left" in said) != ("right" in said)
            assert ("left" in said) == (x > 0.5)


def test_a_contradicting_caption_reads_well():
    scenes = sample_scenes(1, "test", 0, 2, 2, coloured=1.0)
    scenes.centre[0, :2] = torch.tensor([[0.2, 0.5], [0.8, 0.8]])
    caption = captions.contradicting(scenes, 0)
    first, second = caption.phrases
    start = f"{first} on the right and {second} at the bottom left "
    assert caption.text.startswith(start) and caption.phrases == captions.plain(scenes, 0).phrases
