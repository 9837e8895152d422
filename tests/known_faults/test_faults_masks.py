"""Masks that are read, sampled or thinned out otherwise than whoever painted them meant."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import densenb as dnb

LEFT = np.zeros((64, 96), np.uint8)
LEFT[:, :48] = 1  # the left half is in
RED = np.zeros((64, 96, 4), np.uint8)
RED[:, :48] = (255, 0, 0, 255)

fails = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="one token, and the advice to make it larger"
)


# ------------------------------------------------------------------------------------- dim masks
@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(Image.fromarray(LEFT * 255), id="white"),
        pytest.param(Image.fromarray(LEFT), id="0 and 1", marks=fails),
        pytest.param(Image.fromarray(LEFT * 2), id="class id 2", marks=fails),
        pytest.param(Image.fromarray(LEFT.astype(np.uint16) * 255), id="8 of 16 bit", marks=fails),
        pytest.param(Image.fromarray(RED), id="red paint", marks=fails),
    ],
)
def test_a_dim_mask_is_read_as_meant_or_its_brightness_is_said(picture, tmp_path):
    picture.save(tmp_path / "mask.png")
    tokens, said = read(lambda: dnb.mask_from_png(tmp_path / "mask.png"))
    assert tokens == 128 or "bright" in said


@fails
def test_the_largest_probability_of_a_faint_mask_is_said():
    tokens, said = read(lambda: LEFT * 0.3)
    assert tokens == 128 or "0.3" in said or "30" in said


def read(mask):
    """How many tokens of 16 x 16 a mask gets, and what is said about it, refused or warned."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            layout = dnb.Layout("a cat", [dnb.Region("a cat", mask())])
            tokens = int(layout.token_masks(16, 16).sum())
        except ValueError as error:
            return 0, str(error)
    return tokens, " ".join(str(each.message) for each in heard)


# ------------------------------------------------------------------------------------ label maps
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="near colors are taken, too")
def test_a_color_that_nobody_named_stays_in_no_region():
    ade20k = np.full((64, 64, 3), 120, np.uint8)  # wall, table, shelf and rug
    ade20k[:32, :32], ade20k[:32, 32:], ade20k[32:, :32] = (255, 6, 82), (255, 7, 71), (255, 9, 92)
    assert shares(ade20k, {"#ff0652": "a table"}) == {"a table": 0.25}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="near ids are taken, too")
def test_a_class_id_that_nobody_named_stays_in_no_region(tmp_path):
    ids = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((32, 32), np.uint8))
    Image.fromarray(ids).save(tmp_path / "ids.png")
    named = {"#010101": "a cat", "#020202": "a dog"}
    assert shares(tmp_path / "ids.png", named) == {"a cat": 0.25, "a dog": 0.25}


def shares(labels, phrases):
    regions = dnb.regions_from_label_map(labels, phrases)
    return {region.phrase: region.mask.raster(64, 64).mean().item() for region in regions}


# ------------------------------------------------------------------------------ EXIF orientation
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the tag is ignored")
@pytest.mark.parametrize("name", ["mask.jpg", "mask.png"])
def test_a_mask_lies_where_viewers_show_it(name, tmp_path):
    shown = turned(tmp_path / name, black=(0, 0, 0), white=(255, 255, 255))
    read = dnb.mask_from_png(tmp_path / name).raster(*shown.shape).numpy() > 0.5
    assert (read == shown).all()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the tag is ignored")
def test_a_label_map_lies_where_viewers_show_it(tmp_path):
    shown = turned(tmp_path / "map.png", black=(0, 0, 255), white=(255, 0, 0))
    (region,) = dnb.regions_from_label_map(tmp_path / "map.png", {"#ff0000": "a cat"})
    read = region.mask.raster(*shown.shape).numpy() > 0.5
    assert (read == shown).all()


def turned(path, black, white):
    """Write a picture with a tag that turns it; where viewers show its first color."""
    stored = np.full((96, 64, 3), black, np.uint8)
    stored[:48] = white
    tag = Image.Exif()
    tag[274] = 6  # turn it by 90 degrees
    Image.fromarray(stored).save(path, exif=tag)
    return np.array(ImageOps.exif_transpose(Image.open(path)))[..., 0] > 127


# ---------------------------------------------------------------------------------- thin regions
Y, X = np.mgrid[:256, :256]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="one token is left, at one end")
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(dnb.box(0.51, 0.05, 0.535, 0.95), id="pole"),
        pytest.param(dnb.box(121 / 256, 0.05, 135 / 256, 0.95), id="pole across a token edge"),
        pytest.param(dnb.box(0, 0.505, 1, 0.53), id="horizon"),
        pytest.param(abs(X - Y) <= 3, id="diagonal"),
        pytest.param(abs(np.hypot(X - 128, Y - 128) - 90) < 3, id="ring"),
    ],
)
@pytest.mark.filterwarnings("ignore:region")
def test_a_thin_region_keeps_tokens_all_along(mask):
    layout = dnb.Layout("a lamp in a garden", [dnb.Region("a lamp", mask)])
    (kept,), (covered,) = layout.token_masks(16, 16), layout.token_masks(16, 16, "soft")
    length = extent(covered >= covered.max() / 2)
    assert extent(kept) >= length and kept.sum() >= length


def extent(tokens):
    """How many rows or columns of tokens are from end to end, whichever are more."""
    places = tokens.nonzero()
    return (places.amax(0) - places.amin(0)).max().item() + 1


# -------------------------------------------------------------------------------- nearest sample
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F8: sampled after an area average")
def test_nearest_samples_the_mask_itself():
    mask = np.random.default_rng(0).random((512, 512))
    layout = dnb.Layout("a cat", [dnb.Region("a cat", mask)])
    sampled = torch.from_numpy(mask[::32, ::32] >= 0.5)
    assert torch.equal(layout.token_masks(16, 16, "nearest")[0], sampled)
