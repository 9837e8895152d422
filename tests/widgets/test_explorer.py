"""Two recorded runs side by side: sliders move together, numbers are the records'."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import densenb as dnb
from densenb.models import tiers
from densenb.models.lock import alone
from densenb.recording.compare import by_word, record_both
from densenb.widgets.explorer import SideBySide, quadrant_picture

LAYOUT = dnb.Layout(
    "a blue cat and an orange umbrella in a rose garden",
    [
        dnb.Region("a blue cat", dnb.box(0.5, 0.42, 0.95, 0.97)),
        dnb.Region("an orange umbrella", dnb.ellipse(0.28, 0.28, 0.23, 0.23)),
    ],
    background="a rose garden",
)


@pytest.fixture(scope="module")
def pipe(random_pipe):
    with pytest.MonkeyPatch.context() as patch:
        small = replace(
            tiers.tier(random_pipe), steps=2, guidance=3.0, height=128, width=128, t5_length=32
        )
        patch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, small, raising=False)
        yield random_pipe


@pytest.fixture(scope="module")
def both(pipe):
    return record_both(pipe, LAYOUT, dnb.DenseConfig(window=1), seed=3)


# ---------------------------------------------------------------------------------------- recording
def test_the_recorded_pictures_are_those_of_generate(pipe, both):
    for name, config in (("stock", None), ("dense", dnb.DenseConfig(window=1))):
        (plain,) = dnb.generate(pipe, LAYOUT, [3], config)
        assert both.pictures[name].tobytes() == plain.tobytes()
        assert both.records[name].axes().steps == (0, 1)
        assert both.records[name].heads == (0, 1, 2, 3)
    maps = [both.records[name].phrase_map("a blue cat") for name in ("stock", "dense")]
    mask = LAYOUT.token_masks(8, 8)[0]
    shares = [float((m * mask).sum() / m.sum()) for m in maps]
    assert shares[1] > 2 * shares[0]


def test_recording_waits_for_no_job(pipe):
    with alone(pipe), pytest.raises(RuntimeError, match="already"):
        record_both(pipe, LAYOUT, steps=1)


def test_words_that_occur_once_are_followed_in_their_phrases_region(pipe):
    words = by_word(LAYOUT)
    cat, umbrella = (region.mask for region in LAYOUT.regions)
    everywhere = dnb.box(0, 0, 1, 1)
    assert {region.phrase: region.mask for region in words.regions} == {
        "blue": cat, "cat": cat, "and": everywhere, "an": umbrella, "orange": umbrella,
        "umbrella": umbrella, "in": everywhere, "rose": everywhere, "garden": everywhere,
    }  # fmt: skip
    assert words.text == LAYOUT.text
    with pytest.raises(ValueError, match="no word occurs once"):
        by_word(dnb.Layout("cat cat", [dnb.Region("cat", cat)]))
    both = record_both(pipe, LAYOUT, steps=1, follow=words)
    walk = SideBySide(both.records)
    walk.walks["stock"].what.value = "umbrella"
    assert "umbrella, step 0" in walk.walks["dense"].reading


# -------------------------------------------------------------------------------------- exploring
@pytest.fixture
def walk(both):
    return SideBySide(both.records, both.pictures)


def test_the_sliders_of_both_move_together(walk, both):
    stock, dense = walk.walks["stock"], walk.walks["dense"]
    dense.step.value, dense.block.value, dense.head.value = 1, 2, 3
    dense.what.value = "an orange umbrella"
    for name, each in walk.walks.items():
        expected = both.records[name].tensor("image_text")[1, 2, 0, 3, 1]
        assert torch.equal(each.values, expected)
        assert each.reading.startswith("an orange umbrella, step 1")
    assert not torch.equal(stock.values, dense.values)
    stock.block.value = 0
    assert dense.block.value == 0


def test_the_quadrants_follow(walk, both):
    before = walk.image.tobytes(), walk.reading, walk._shown.value
    walk.walks["stock"].step.value = 1
    walk.walks["dense"].head.value = 2
    for name, matrix in walk.quadrants.items():
        expected = both.records[name].tensor("mass")[1, 0, 0, 2]
        torch.testing.assert_close(matrix, expected, equal_nan=True)
        assert (matrix.nansum(1)[:3] - 1).abs().max() < 1e-4
    assert all(
        a != b for a, b in zip(before, (walk.image.tobytes(), walk.reading, walk._shown.value))
    )
    shown = np.asarray(Image.open(io.BytesIO(walk._shown.value)))
    assert (shown == np.asarray(walk.image)).all()
    walk.walks["dense"].head.value = -1
    mean = both.records["dense"].tensor("mass")[1, 0, 0].mean(dim=0)
    torch.testing.assert_close(walk.quadrants["dense"], mean, equal_nan=True)
    assert walk.reading.startswith("stock, then dense: image -> image")


def test_only_what_can_be_compared_is(both, pipe):
    with pytest.raises(ValueError, match="two are compared"):
        SideBySide({"dense": both.records["dense"]})
    shorter = record_both(pipe, LAYOUT, steps=1).records["dense"]
    with pytest.raises(ValueError, match="differ in steps"):
        SideBySide({"stock": both.records["stock"], "dense": shorter})
    with pytest.raises(ValueError, match="number is 1"):
        SideBySide(both.records, number=1)


def test_quadrant_picture_puts_bright_where_much_is():
    matrix = torch.full((4, 4), 0.01)
    matrix[2, 1] = 0.97
    matrix[0, 3] = torch.nan
    names = ["pixels: a", "pixels: background", "text: a", "special tokens"]
    image = np.asarray(quadrant_picture({"one": matrix, "two": matrix.mT}, names, 2)).astype(int)
    cell, left, top = 63, 190, 38
    corner = {  # away from the number in the middle
        (row, column): image[top + row * cell + 8, left + column * cell + 8].sum()
        for row in range(4)
        for column in range(4)
    }
    assert max(corner, key=corner.get) == (2, 1)
    line = image[top + 2 * cell, left + 8]
    assert (line == 255).all()  # between image and text
