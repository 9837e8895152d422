"""Layouts: masks at any resolution, phrases in captions, files, and the errors for bad input."""

from __future__ import annotations

import base64
import io
import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from densenb.layout.label_maps import regions_from_label_map
from densenb.layout.layout import Layout, Region, cover
from densenb.layout.mask_files import mask_from_png
from densenb.layout.masks import box, ellipse, mask_from_array, polygon
from densenb.layout.phrases import find_phrase

UNIT = st.floats(0, 1, width=32)
SIZES = st.integers(1, 40)


@st.composite
def boxes(draw):
    x0, x1 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(UNIT, min_size=2, max_size=2, unique=True)))
    return box(x0, y0, x1, y1)


ELLIPSES = st.builds(ellipse, UNIT, UNIT, st.floats(0.01, 2), st.floats(0.01, 2))
ARRAYS = (
    hnp.arrays(np.float32, st.tuples(SIZES, SIZES), elements=UNIT)
    .filter(lambda array: array.max() > 0.01)
    .map(mask_from_array)
)


@st.composite
def polygons(draw):
    corners = draw(st.lists(st.tuples(UNIT, UNIT), min_size=3, max_size=8))
    edges = np.array(corners[1:]) - corners[0]
    # Collinear corners are refused, so use a triangle instead.
    flat = np.linalg.matrix_rank(edges, tol=1e-6) < 2
    return polygon([(0, 0), (1, 0), (0, 1)] if flat else corners)


MASKS = st.one_of(boxes(), ELLIPSES, polygons(), ARRAYS)


# Rasters


@given(MASKS, SIZES, SIZES)
def test_raster_has_its_size_its_range_and_is_never_empty(mask, height, width):
    raster = mask.raster(height, width)
    assert raster.shape == (height, width) and raster.dtype == torch.float32
    assert raster.min() >= 0 and raster.max() <= 1 and raster.sum() > 0


def test_a_box_holds_the_pixels_whose_centres_are_inside():
    assert box(0.25, 0, 0.75, 0.5).raster(2, 4).tolist() == [[0, 1, 1, 0], [0, 0, 0, 0]]
    assert box(0.3, 0, 0.6, 1).raster(1, 10).tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 0]]


@given(st.lists(UNIT, min_size=1, max_size=4, unique=True), SIZES, SIZES)
def test_boxes_that_share_edges_share_no_pixel_and_leave_no_gap(cuts, height, width):
    edges = sorted({0.0, *cuts, 1.0})
    inside = [
        box(a, 0, b, 1).inside(*grid(height, width)) for a, b in zip(edges, edges[1:], strict=False)
    ]
    assert torch.stack(inside).sum(dim=0).eq(1).all()


def grid(height, width):
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    return x[None, :], y[:, None]


def test_an_ellipse_has_its_area_and_may_overhang():
    assert ellipse(0.5, 0.5, 0.4, 0.2).raster(400, 300).mean().item() == pytest.approx(
        np.pi * 0.4 * 0.2, rel=0.01
    )
    assert ellipse(0, 0.5, 0.4, 0.2).raster(400, 300).mean().item() == pytest.approx(
        np.pi * 0.4 * 0.2 / 2, rel=0.01
    )


def test_a_polygon_matches_pillow_and_its_own_box():
    points = [(0.1, 0.2), (0.8, 0.05), (0.6, 0.9), (0.5, 0.4)]
    image = Image.new("L", (400, 400))
    ImageDraw.Draw(image).polygon([(x * 400, y * 400) for x, y in points], fill=1)
    different = torch.from_numpy(np.array(image)).float() - polygon(points).raster(400, 400)
    assert different.abs().mean() < 0.005  # Pillow also paints the outline
    corners = [(0.2, 0.3), (0.7, 0.3), (0.7, 0.9), (0.2, 0.9)]
    assert polygon(corners).raster(37, 53).equal(box(0.2, 0.3, 0.7, 0.9).raster(37, 53))


def test_a_polygon_that_crosses_itself_follows_the_even_odd_rule():
    bow_tie = polygon([(0, 0), (1, 1), (1, 0), (0, 1)]).raster(100, 100)
    assert bow_tie[50, 5] == 1 and bow_tie[50, 95] == 1
    assert bow_tie[5, 50] == 0 and bow_tie[95, 50] == 0


@given(hnp.arrays(bool, st.tuples(SIZES, SIZES)).filter(np.any), st.integers(1, 4))
def test_an_array_is_itself_at_its_size_and_averages_down(array, factor):
    height, width = array.shape
    assert (
        mask_from_array(array).raster(height, width).numpy().astype(bool).tolist() == array.tolist()
    )
    big = mask_from_array(np.kron(array, np.ones((factor, factor))))
    assert np.allclose(big.raster(height, width), array, atol=1e-6)


@given(hnp.arrays(np.float32, st.tuples(SIZES, SIZES), elements=UNIT), SIZES, SIZES)
def test_shrinking_keeps_the_mean(array, height, width):
    array[0, 0] = 1
    height, width = min(height, array.shape[0]), min(width, array.shape[1])
    mask = mask_from_array(array)
    mean = mask.raster(*array.shape).mean().item()
    assert mask.raster(height, width).mean().item() == pytest.approx(mean, abs=1e-5)


def test_growing_is_bilinear():
    array = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    mask = mask_from_array(array)
    expected = torch.nn.functional.interpolate(
        mask.raster(5, 7)[None, None], size=(12, 21), mode="bilinear", align_corners=False
    )[0, 0]
    torch.testing.assert_close(mask.raster(12, 21), expected)


def test_arrays_may_be_numpy_torch_or_lists():
    rows = [[0, 1], [0.2, 0]]
    masks = [
        mask_from_array(rows),
        mask_from_array(np.array(rows)),
        mask_from_array(torch.tensor(rows)),
    ]
    assert masks[0] == masks[1] == masks[2] and hash(masks[0]) == hash(masks[2])


def test_png_white_is_in_black_and_transparent_are_out(tmp_path):
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 255, 255, 255)
    pixels[0, 1] = (255, 255, 255, 0)
    pixels[1, 2] = (128, 128, 128, 255)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "brush.png")
    mask = mask_from_png(tmp_path / "brush.png").raster(2, 3)
    assert torch.allclose(mask, torch.tensor([[1, 0, 0], [0, 0, 128 / 255]]), atol=1e-6)
    deep = np.array([[0, 65535], [32896, 0]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.tensor([[0, 1], [128 / 255, 0]])
    assert torch.allclose(mask_from_png(tmp_path / "deep.png").raster(2, 2), expected, atol=1e-6)


# Token grids


def layout_of(*masks, **kwargs):
    phrases = [f"thing number {'abcdefgh'[i]}" for i in range(len(masks))]
    regions = [Region(phrase, mask) for phrase, mask in zip(phrases, masks, strict=True)]
    return Layout(" and ".join(phrases), regions, **kwargs)


def test_token_masks_on_a_grid_that_is_not_square():
    layout = layout_of(box(0, 0, 0.5, 1), box(0.25, 0.5, 1, 1))
    masks = layout.token_masks(2, 4)
    assert masks.dtype == torch.bool and masks.shape == (2, 2, 4)
    assert masks.int().tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 0, 0], [0, 1, 1, 1]]]


def test_cover_is_the_same_by_way_of_latents():
    layout = layout_of(ellipse(0.4, 0.55, 0.31, 0.23), box(0.03, 0.1, 0.97, 0.12))
    pixels = layout.pixel_masks(96, 160)
    tokens = cover(pixels, 16)
    assert tokens.shape == (2, 6, 10)
    torch.testing.assert_close(cover(cover(pixels, 8), 2), tokens)
    torch.testing.assert_close(tokens.mean(dim=(1, 2)), pixels.mean(dim=(1, 2)))
    with pytest.warns(UserWarning, match='"thing number b" covers half of none'):
        assert layout.token_masks(6, 10)[0].equal(tokens[0] >= 0.5)


def test_a_token_is_in_when_half_of_it_is():
    at_half, below = layout_of(box(0, 0, 0.625, 1)), layout_of(box(0, 0, 0.61, 1))
    assert at_half.token_masks(1, 4).int().tolist() == [[[1, 1, 1, 0]]]
    assert below.token_masks(1, 4).int().tolist() == [[[1, 1, 0, 0]]]
    # Nearest samples the top left pixel of each token, whatever its coverage.
    assert below.token_masks(1, 4, method="nearest").int().tolist() == [[[1, 1, 1, 0]]]


@given(st.integers(8, 60), st.integers(1, 8))
def test_a_half_stays_a_half_when_painted_masks_shrink(half, columns):
    array = np.tile(np.repeat([1, 0], half), columns)[None]
    assert layout_of(array).token_masks(1, columns).all()


def test_a_small_region_gets_its_best_token_and_a_warning_but_vanishes_under_nearest():
    layout = layout_of(box(0.52, 0.52, 0.56, 0.6), box(0, 0, 0.5, 0.5))
    with pytest.warns(UserWarning, match="thing number a"):
        masks = layout.token_masks(4, 4)
    assert masks[0].nonzero().tolist() == [[2, 2]]
    assert not layout.token_masks(4, 4, method="nearest")[0].any()


@pytest.mark.filterwarnings("ignore:region")
@given(st.lists(MASKS, min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 6))
def test_area_leaves_no_region_without_a_token(masks, rows, columns):
    layout = layout_of(*masks)
    tokens = layout.token_masks(rows, columns)
    assert tokens.shape == (len(masks), rows, columns)
    assert tokens.flatten(1).any(dim=1).all()
    pixels = layout.pixel_masks(rows * 16, columns * 16)
    covered = torch.nn.functional.avg_pool2d(pixels, 16)
    assert tokens[covered > 0.51].all()
    assert layout.token_masks(rows, columns, method="nearest").shape == tokens.shape


# Phrases


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("a blue cat and a dog", "a blue cat", ["a blue cat"]),
        ("A Blue  cat, asleep", "a blue cat", ["A Blue  cat"]),
        ("cat, catfish, concat, cat.", "cat", ["cat", "cat"]),
        ("a cat-like hat, half-cat", "cat", []),
        ("a snow-white cat", "snow-white", ["snow-white"]),
        ("the cat's hat (a cat)", "cat", ["cat", "cat"]),
        ("un café noir", "café", ["café"]),
        ("C++ and C#, 🐱!", "C++", ["C++"]),
        ("C++ and C#, 🐱!", "🐱", ["🐱"]),
    ],
)
def test_find_phrase_by_whole_words(text, phrase, found):
    assert [text[a:b] for a, b in find_phrase(text, phrase)] == found


def regions(*phrases):
    return [Region(phrase, box(0, 0, 1, 1)) for phrase in phrases]


def test_text_is_the_caption_when_all_phrases_are_in_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layout = Layout("A cat on a red mat.", regions("a cat", "red mat"), background="on")
    assert layout.text == "A cat on a red mat."
    assert layout.phrases == ("a cat", "red mat", "on")


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a cat", "a cat, a dog, a hill"),
        ("a cat.", "a cat. a dog, a hill"),
        ("a cat, ", "a cat, a dog, a hill"),
        ("", "a dog, a hill"),
    ],
)
def test_missing_phrases_are_appended_with_a_warning(caption, text):
    with pytest.warns(UserWarning, match="a dog"):
        layout = Layout(caption, regions("a dog"), background="a hill")
    assert layout.text == text


def test_equal_phrases_take_turns_and_are_appended_when_they_run_out():
    layout = Layout("a cat and a cat", regions("a cat", "A cat"))
    assert (layout.text, layout.occurrences) == ("a cat and a cat", (0, 1))
    with pytest.warns(UserWarning, match="a cat"):
        layout = Layout("a cat and a cat", regions("a cat", "a cat", "a cat"))
    assert (layout.text, layout.occurrences) == ("a cat and a cat, a cat", (0, 1, 2))


def test_a_phrase_avoids_the_words_of_a_longer_one_while_it_can():
    assert Layout("a red cat and a cat", regions("cat", "a red cat")).occurrences == (1, 0)
    assert Layout("a cat with a hat", regions("a cat with a hat", "a hat")).occurrences == (0, 0)


def test_accents_match_however_they_are_typed():
    assert Layout("a cafe\u0301", regions("café")).text == "a café"


# Files


@pytest.mark.filterwarnings("ignore:phrases appended")
@given(
    st.lists(st.tuples(MASKS, st.floats(0, 3)), min_size=1, max_size=4),
    st.text(max_size=30),
    st.none() | st.just("a grey wall"),
)
def test_dict_round_trip(parts, caption, background):
    parts = [Region(f"thing {i}", mask, strength) for i, (mask, strength) in enumerate(parts)]
    layout = Layout(caption, parts, background)
    again = Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again == layout and again.text == layout.text and hash(again) == hash(layout)


def test_json_round_trip(tmp_path):
    array = np.linspace(0, 1, 12).reshape(3, 4)
    parts = [Region("a café", array, strength=0.5), Region("a hat", ellipse(0.5, 0.5, 0.2, 0.2))]
    layout = Layout("a café in a hat", parts, background="in")
    layout.to_json(tmp_path / "layout.json")
    assert Layout.from_json(tmp_path / "layout.json") == layout
    assert "café" in (tmp_path / "layout.json").read_text(encoding="utf-8")


def test_json_reads_every_kind_of_mask_and_paths_start_at_its_folder(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "all.png")
    data = {
        "caption": "a, b, c, d",
        "regions": [
            {"phrase": "a", "box": [0, 0, 1, 0.5]},
            {"phrase": "b", "ellipse": [0.5, 0.5, 0.1, 0.2], "strength": 2},
            {"phrase": "c", "polygon": [[0, 0], [1, 0], [0, 1]]},
            {"phrase": "d", "mask": "all.png"},
        ],
    }
    (tmp_path / "layout.json").write_text(json.dumps(data))
    layout = Layout.from_json(tmp_path / "layout.json")
    assert [region.strength for region in layout.regions] == [1, 2, 1, 1]
    assert layout.pixel_masks(4, 4).mean(dim=(1, 2))[[0, 3]].tolist() == [0.5, 1]


def label_map():
    labels = np.full((8, 8, 3), 255, dtype=np.uint8)
    labels[:4, :4], labels[4:, 4:] = (255, 0, 0), (0, 0, 255)
    labels[3, 3] = (250, 10, 5)  # a blurred edge
    return labels


def test_label_map(tmp_path):
    found = regions_from_label_map(label_map(), {"#ff0000": "a cat", "#00f": "a dog"})
    assert [region.phrase for region in found] == ["a cat", "a dog"]
    assert [region.mask.raster(8, 8).sum().item() for region in found] == [16, 16]
    Image.fromarray(label_map()).save(tmp_path / "labels.png")
    from_file = regions_from_label_map(
        tmp_path / "labels.png", {"#ff0000": "a cat", "#00f": "a dog"}
    )
    assert from_file == found


# Bad input: the message names the value and the fix


def cut_png() -> str:
    """The first half of a PNG, in base64."""
    file = io.BytesIO()
    Image.effect_noise((16, 16), 60).save(file, format="PNG")
    return base64.b64encode(file.getvalue()[:150]).decode("ascii")


def region_dict(**kwargs):
    return {"caption": "a cat", "regions": [{"phrase": "a cat", **kwargs}]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: box(0.1, 0, 1.2, 1), r"1\.2.*in \[0, 1\].*divide pixel"),
        (lambda: box(-0.1, 0, 0.5, 1), r"-0\.1.*in \[0, 1\]"),
        (lambda: box(0.6, 0, 0.2, 1), r"0\.6.*x0 >= x1.*top left"),
        (lambda: box(0, 0.5, 1, 0.5), r"y0 >= y1"),
        (lambda: box(0, float("nan"), 1, 1), "nan.*finite"),
        (lambda: box(10**400, 0, 1, 1), "box got 1000.*finite"),
        (lambda: ellipse(0.5, 0.5, 0, 0.1), "radii"),
        (lambda: ellipse(2, 0.5, 0.5, 0.5), "outside the picture"),
        (lambda: ellipse(1.1, 1.1, 0.12, 0.12), "outside the picture"),
        (lambda: polygon([(0, 0), (1, 1)]), "2 points"),
        (lambda: polygon([(0, 0), (0.5, 0.5), (1, 1)]), "one line"),
        (lambda: polygon([(0, 0), (0.5, 2), (1, 1)]), r"\(0\.5, 2\.0\) leaves"),
        (lambda: polygon([(0, 0), (0.5, 1, 2), (1, 1)]), "not a pair"),
        (lambda: mask_from_array(np.zeros((4, 4))), "empty"),
        (lambda: mask_from_array(np.ones((4, 4, 3))), r"\[4, 4, 3\].*\[height, width\]"),
        (lambda: mask_from_array(np.ones((0, 4))), r"\[0, 4\]"),
        (lambda: mask_from_array(np.full((4, 4), np.nan)), "NaN"),
        (lambda: mask_from_array(np.full((4, 4), 255)), "255.*Divide"),
        (lambda: mask_from_array(np.full((4, 4), -1)), "-1"),
        (lambda: mask_from_png("nowhere.png"), "nowhere.png is not a file"),
        (lambda: Region("", box(0, 0, 1, 1)), "phrase is empty"),
        (lambda: Region(" \n", box(0, 0, 1, 1)), "phrase is empty"),
        (lambda: Region("a cat", box(0, 0, 1, 1), strength=-1), 'strength of "a cat" is -1'),
        (lambda: Region("a cat", np.zeros((2, 2))), "empty"),
        (lambda: Layout("a cat", []), "no regions"),
        (lambda: Layout("a cat", regions("a cat"), background=""), "background is empty"),
        (lambda: layout_of(box(0, 0, 1, 1)).token_masks(4, 4, method="bilinear"), "bilinear"),
        (
            lambda: layout_of(box(0, 0, 1, 1)).pixel_masks(0, 4),
            "height is 0, but has to be at least 1",
        ),
        (lambda: Layout.from_json("nowhere.json"), "nowhere.json is not a file"),
        (lambda: Layout.from_dict({"caption": "a"}), 'no "regions"'),
        (lambda: Layout.from_dict({"captoin": "a", "regions": []}), 'did you mean "caption"'),
        (lambda: Layout.from_dict({"caption": "a", "regions": [], "xyz": 1}), "known keys are"),
        (lambda: Layout.from_dict(region_dict(boxx=[0, 0, 1, 1])), 'did you mean "box"'),
        (lambda: Layout.from_dict(region_dict()), "no shape"),
        (lambda: Layout.from_dict(region_dict(box=[0, 0, 1])), r"x0, y0, x1, y1"),
        (lambda: Layout.from_dict(region_dict(box=[0, 0, 1, 1], mask="a.png")), "give one of"),
        (lambda: Layout.from_dict(region_dict(mask="gone.png")), "gone.png is not a file"),
        (lambda: Layout.from_dict(region_dict(mask_png="?")), "base64"),
        (lambda: Layout.from_dict(region_dict(mask_png=cut_png())), "whole PNG in base64"),
        (lambda: regions_from_label_map(np.ones((4, 4)), {"#fff": "a"}), r"\[4, 4\]"),
        (lambda: regions_from_label_map(label_map(), {}), "no colors"),
        (lambda: regions_from_label_map(label_map(), {"#00ff00": "a"}), "#00ff00.*#ffffff"),
        (lambda: regions_from_label_map(label_map(), {"reddish": "a"}), "reddish"),
    ],
)
def test_bad_values_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: box("0", 0, 1, 1), "'0'"),
        (lambda: ellipse(0.5, None, 1, 1), "None"),
        (lambda: mask_from_array("mask.png"), "mask_from_png"),
        (lambda: Region("a cat", "mask.png"), "mask_from_png"),
        (lambda: Region("a cat", None), "None is not a mask"),
        (lambda: Region("a cat", {"box": [0, 0, 1, 1]}), "a dict is not a mask"),
        (lambda: Region("a cat", [[0, 1], [1]]), "not a mask"),
        (lambda: Region(7, box(0, 0, 1, 1)), "7"),
        (lambda: Region("a cat", box(0, 0, 1, 1), strength="high"), "'high'"),
        (lambda: Layout(None, regions("a cat")), "caption must be a str"),
        (lambda: Layout("a cat", regions("a cat")[0]), "put it in"),
        (lambda: Layout("a cat", [("a cat", box(0, 0, 1, 1))]), "not a Region"),
        (lambda: Layout("a cat", regions("a cat"), background=3), "background must be a str"),
        (lambda: layout_of(box(0, 0, 1, 1)).pixel_masks(4.5, 4), "height must be an int, got 4.5"),
        (lambda: Layout.from_dict(region_dict(mask=5)), "mask of 'a cat' is 5"),
        (lambda: Layout.from_dict(region_dict(polygon=5)), "polygon needs points, got 5"),
        (lambda: Layout.from_dict([]), "layout must be an object"),
        (lambda: Layout.from_dict({"caption": "a", "regions": ["a"]}), "region must be an object"),
        (lambda: Layout.from_dict({"caption": "a", "regions": "a"}), "must be a list"),
    ],
)
def test_bad_types_are_refused_by_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_bad_files_are_refused_by_name(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not valid JSON"):
        Layout.from_json(tmp_path / "bad.json")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="text.png is not a picture"):
        mask_from_png(tmp_path / "text.png")
    (tmp_path / "cut.png").write_bytes(base64.b64decode(cut_png()))
    with pytest.raises(ValueError, match="cut.png cannot be read.*truncated.*cut off"):
        mask_from_png(tmp_path / "cut.png")
    Image.new("L", (4, 4)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="black.png.*empty.*White is in"):
        mask_from_png(tmp_path / "black.png")
