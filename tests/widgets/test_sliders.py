"""Sliders, driven from Python: what they say and show, and that plain Python gives the same."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import densenb as dnb
from densenb import sampling, widgets
from densenb.models import tiers
from densenb.models.lock import alone
from densenb.modulation.dense_config import modulate
from densenb.modulation.plan import Plan, Step
from densenb.plots import pictures
from densenb.recording.record import Entry, Record
from densenb.widgets import explorer, live_preview
from densenb.widgets.sliders import RegionSliders

LAYOUT = dnb.Layout(
    "a blue cat and an orange umbrella in a rose garden",
    [
        dnb.Region("a blue cat", dnb.box(0.5, 0.42, 0.95, 0.97)),
        dnb.Region("an orange umbrella", dnb.ellipse(0.28, 0.28, 0.23, 0.23)),
    ],
)


@pytest.fixture(scope="module")
def pipe(random_pipe):
    """The random pipeline with a short text and a tier of few steps."""
    with pytest.MonkeyPatch.context() as patch:
        small = replace(
            tiers.tier(random_pipe), steps=4, guidance=3.0, height=128, width=128, t5_length=32
        )
        patch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, small, raising=False)
        yield random_pipe


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)))


# ------------------------------------------------------------------------------------------- masks
def test_untouched_sliders_say_what_was_given(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT, ["image_text"])
    assert sliders.layout == LAYOUT and sliders.config == dnb.DenseConfig()
    exact = dnb.Region("a blue cat", dnb.box(0.123456789, 0.2, 0.6, 0.7))
    assert RegionSliders(exact).mask == exact.mask


def test_a_moved_slider_moves_its_region_and_no_other(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT)
    before = sliders.preview.tobytes(), sliders._live.value
    sliders.regions[0].x.value = 0.3
    sliders.regions[0].width.value = 0.2
    cat, umbrella = sliders.layout.regions
    assert cat == dnb.Region("a blue cat", dnb.box(0.2, 0.42, 0.4, 0.97))
    assert umbrella == LAYOUT.regions[1]
    assert sliders.preview.tobytes() != before[0] and sliders._live.value != before[1]
    assert (pixels(sliders._live) == np.asarray(sliders.preview)).all()


def test_back_where_it_was_a_slider_gives_the_mask_that_was_given(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT)
    shown, start = sliders._live.value, sliders.regions[1].y.value
    sliders.regions[1].y.value = 0.6
    assert sliders.layout != LAYOUT
    sliders.regions[1].y.value = start
    assert sliders.layout == LAYOUT and sliders._live.value == shown


def test_shape(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT)
    sliders.regions[0].shape.value = "ellipse"
    assert sliders.layout.regions[0].mask == dnb.ellipse(0.725, 0.695, 0.225, 0.275)
    sliders.regions[1].shape.value = "box"
    assert sliders.layout.regions[1].mask == dnb.box(0.05, 0.05, 0.51, 0.51)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["box", "ellipse"]),
    *[st.floats(0, 1)] * 2,
    *[st.floats(0.05, 1)] * 2,
)
def test_wherever_the_sliders_stand_the_mask_is_valid(shape, x, y, width, height):
    sliders = RegionSliders(LAYOUT.regions[0])
    for name, value in zip(("x", "y", "width", "height"), (x, y, width, height), strict=True):
        getattr(sliders, name).value = value
    sliders.shape.value = shape
    middle_row, middle_column = min(int(y * 64), 63), min(int(x * 64), 63)
    assert sliders.mask.raster(64, 64)[middle_row, middle_column] == 1


def test_painted_masks_stay_until_they_are_given_a_shape():
    painted = torch.zeros(64, 64)
    painted[16:32, 32:64] = 1
    sliders = RegionSliders(dnb.Region("a blue cat", painted))
    assert sliders.shape.value == "as given"
    sliders.x.value = 0.4
    assert sliders.mask == dnb.mask_from_array(painted)
    sliders.x.value, sliders.shape.value = 0.75, "box"
    assert sliders.mask == dnb.box(0.5, 0.25, 1.0, 0.5)


def test_only_the_chosen_regions_sliders_are_shown(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT)
    assert sliders._moving.children == sliders.regions[0].controls
    sliders.regions[0].x.value = 0.3
    shown = sliders._moving.children
    assert shown == sliders.regions[0].controls  # the same widgets, or a drag would end
    before = sliders.preview.tobytes()
    sliders.region.value = 1
    assert sliders._moving.children == sliders.regions[1].controls
    assert sliders.preview.tobytes() != before


# ---------------------------------------------------------------------------------------- settings
def test_settings(pipe):
    names = ["window", "decay", "area", "image_image"]
    sliders = widgets.ConfigSliders(pipe, LAYOUT, names)
    assert list(sliders.settings) == names and not sliders.regions
    for name, value in (("window", 0.5), ("decay", 2.0), ("area", 0.0), ("image_image", 0.8)):
        before = sliders._live.value
        sliders.settings[name].value = value
        assert sliders.config == replace(sliders.config, **{name: value})
        assert sliders._live.value != before, name
    assert sliders.config == dnb.DenseConfig(window=0.5, decay=2, area=0, image_image=0.8)
    assert sliders.layout == LAYOUT


def test_what_has_no_slider_keeps_its_value(pipe):
    config = dnb.DenseConfig(special_tokens="negative", text_image=0.2, blocks=[1])
    sliders = widgets.ConfigSliders(pipe, LAYOUT, ["image_text"], config)
    sliders.settings["image_text"].value = 0.4
    assert sliders.config == replace(config, image_text=0.4)


def test_a_fixed_bias_is_in_logits(pipe):
    config = dnb.DenseConfig(value_range=None, image_text=3)
    sliders = widgets.ConfigSliders(pipe, LAYOUT, ["image_text", "window"], config)
    assert sliders.settings["image_text"].max == 10 and sliders.settings["window"].max == 1
    assert sliders.settings["image_text"].value == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": ["heat"]}, "no slider for 'heat'"),
        ({"settings": "window"}, r"\['window'\]"),
        ({"config": dnb.HardMask()}, "DenseConfig"),
        ({"layout": "a cat"}, "one Layout"),
        ({"steps": 0}, "at least 1"),
        ({"seed": -1}, "seed is -1.* whole number from 0"),
    ],
)
def test_what_cannot_be_shown_is_refused_at_once(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        widgets.ConfigSliders(**{"pipe": pipe, "layout": LAYOUT} | arguments)


# ----------------------------------------------------------------------------------------- picture
def test_the_picture_is_that_of_the_plain_call(pipe):
    sliders = widgets.MaskSliders(pipe, LAYOUT, ["image_text"], steps=2, seed=3)
    sliders.regions[0].x.value = 0.31
    sliders.settings["image_text"].value = 0.7
    picture = sliders.draw()
    again = eval(sliders.code, {"dnb": dnb, "pipe": pipe})
    assert picture.tobytes() == again.tobytes() and sliders.picture is picture
    other = eval(sliders.code.replace("0.7", "0.1"), {"dnb": dnb, "pipe": pipe})
    assert other.tobytes() != picture.tobytes()


def test_code_rebuilds_every_kind_of_layout(pipe):
    regions = [
        dnb.Region("a blue cat", dnb.polygon([(0.5, 0.5), (0.9, 0.5), (0.7, 0.9)]), strength=0.5),
        dnb.Region("an orange umbrella", torch.eye(16)),
    ]
    words = 'a blue cat and an orange umbrella, the cat\'s hat, a "rose" garden'
    layout = dnb.Layout(words, regions, background='a "rose" garden')
    code = live_preview.as_python(layout, dnb.DenseConfig(), 0, 8)
    seen = {}

    class Spy:
        def __getattr__(self, name):
            return getattr(dnb, name)

        def generate(self, pipe, layout, **kwargs):
            seen.update(kwargs, layout=layout)
            return [None]

    eval(code, {"dnb": Spy(), "pipe": pipe, "layout": layout})
    assert seen == {"layout": layout, "seeds": [0], "config": dnb.DenseConfig(), "steps": 8}


def test_the_button_draws_and_shows(pipe):
    sliders = widgets.ConfigSliders(pipe, LAYOUT, steps=2)
    states = []
    sliders._bar.observe(
        lambda change: states.append((change["new"], sliders.button.disabled)), names="value"
    )
    sliders.button.click()
    assert states == [(1, True), (2, True)] and not sliders.button.disabled
    image, note = sliders._drawn.children
    assert pixels(image).shape == (128, 128, 3) and not sliders.message
    assert "· 2 steps ·" in note.value and "seeds 0" in note.value
    sliders.seed.value = 1
    assert "before the last change" in note.value


def test_an_error_of_the_button_is_shown_and_the_button_works_again(pipe, monkeypatch):
    sliders = widgets.ConfigSliders(pipe, LAYOUT, steps=2)

    def broken(*args, **kwargs):
        raise RuntimeError("no <memory> left")

    with monkeypatch.context() as patch:
        patch.setattr("densenb.widgets.sliders.generate", broken)
        sliders.button.click()
        assert "RuntimeError: no &lt;memory&gt; left" in sliders.message
        assert not sliders.button.disabled and sliders.picture is None
        with pytest.raises(RuntimeError, match="memory"):  # in Python it is an error
            sliders.draw()
    sliders.button.click()
    assert sliders.picture is not None and not sliders.message


def test_while_another_widget_draws_the_button_says_so(pipe):
    sliders = widgets.ConfigSliders(pipe, LAYOUT, steps=2)
    with alone(pipe):
        sliders.button.click()
    assert "drawing already" in sliders.message and sliders.picture is None
    sliders.button.click()
    assert sliders.picture is not None


def test_errors_and_warnings_of_a_slider_are_shown(pipe, monkeypatch):
    sliders = widgets.MaskSliders(pipe, LAYOUT)
    region = sliders.regions[0]
    region.height.value = region.width.value = 0.05
    assert "covers half of none" in sliders.message
    region.width.value = region.height.value = 0.4
    assert sliders.message == ""
    kept = sliders.layout

    def broken(*args):
        raise ValueError("bad luck")

    monkeypatch.setattr("densenb.widgets.sliders.live_picture", broken)
    region.x.value = 0.5
    assert "ValueError: bad luck" in sliders.message and sliders.layout == kept


# ------------------------------------------------------------------------------------ what is shown
@pytest.fixture(scope="module")
def plan(pipe) -> Plan:
    return live_preview.layout_plan(pipe, LAYOUT, dnb.DenseConfig())[0]


@pytest.mark.parametrize("value_range", ["quadrant", None])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_the_bias_shown_is_what_the_rule_does(plan, value_range, index):
    config = dnb.DenseConfig(
        value_range=value_range, image_text=0.8, image_image=0.4, window=0.5, decay=2
    )
    step = Step(index, 8, 0.9)
    scores = torch.randn(1, 1, *[plan.member.shape[1]] * 2, generator=torch.Generator())
    changed = modulate(scores, plan, config, step) - scores
    if not config.active(step, joint=True):
        changed = torch.zeros_like(scores)
    image, query, column = plan.image, 40, 1
    (word, *_) = plan.member[0, image:, column].nonzero()[:, 0].tolist()

    text = live_preview.text_bias(plan, config, step, column)
    others = live_preview.image_bias(plan, config, step, query)
    real_text = changed[0, 0, :image, image + word]
    real_image = changed[0, 0, query, :image]
    if value_range is None:
        torch.testing.assert_close(text, real_text)
        torch.testing.assert_close(others, real_image)
        return
    for signed, real, here, block in (
        (text, real_text, scores[0, 0, :image, image + word], scores[0, 0, :image, image:]),
        (others, real_image, scores[0, 0, query, :image], scores[0, 0, query, :image][None]),
    ):
        up, down = block.amax(dim=1) - here, here - block.amin(dim=1)
        torch.testing.assert_close(torch.where(signed > 0, signed * up, signed * down), real)


def test_every_bias_that_a_slider_can_give_has_its_own_colour(pipe, monkeypatch):
    config = dnb.DenseConfig(value_range=None, image_text=2, decay=0, area=0)
    sliders = widgets.ConfigSliders(pipe, LAYOUT, ["image_text"], config)
    titles = []
    real = pictures.side_by_side
    monkeypatch.setattr(pictures, "side_by_side", lambda p, side: titles.extend(p) or real(p, side))
    shown = set()
    for logits in (2.0, 6.0, 8.0, sliders.settings["image_text"].max):
        sliders.settings["image_text"].value = logits
        titles.clear()
        sliders._update()
        assert f"{-logits:+.2f} to {logits:+.2f} logits\ncolours end at -10 and +10" in titles[2]
        x, y = sliders.preview.width * 5 // 8, 100  # in the third panel
        shown.add(sliders.preview.getpixel((x, y)))
    assert len(shown) == 4


def test_a_background_without_a_phrase_has_no_words(plan):
    assert not live_preview.text_bias(plan, dnb.DenseConfig(), Step(0, 8, 1.0), column=2).any()


def test_no_strength_is_left_outside_the_window(pipe):
    steps = live_preview.sampling_steps(pipe, 4)
    values = live_preview.strength_left(dnb.DenseConfig(window=0.5, decay=3), steps)
    assert values == pytest.approx([steps[0].sigma ** 3, steps[1].sigma ** 3, 0, 0], rel=1e-5)
    assert (
        live_preview.strength_left(dnb.DenseConfig(image_text=0, image_image=0), steps) == [0] * 4
    )


def test_sampling_steps_are_those_of_the_pipeline(pipe):
    before = pipe.scheduler.timesteps.clone()
    steps = live_preview.sampling_steps(pipe, 3)
    assert torch.equal(pipe.scheduler.timesteps, before)
    seen = []
    sampling.generate(pipe, LAYOUT, [0], None, steps=3, progress=lambda *done: seen.append(done))
    assert [step.sigma * 1000 for step in steps] == pytest.approx(pipe.scheduler.timesteps.tolist())
    assert seen == [(1, 3), (2, 3), (3, 3)]


# ---------------------------------------------------------------------------------------- explorer
def recorded(maps: torch.Tensor) -> Record:
    """A record of maps [S, L, K, P, rows, columns] for the phrases of the layout."""
    entries = [
        Entry(0, step, 1.0 - step / 4, block, "attn", 0, 0, True, False, {"image_text": values})
        for step, blocks in enumerate(maps)
        for block, values in enumerate(blocks, start=5)
    ]
    return Record((LAYOUT,), ((),), tuple(range(maps.shape[2])), entries=entries)


def test_explorer_walks_through_the_record():
    maps = torch.rand(3, 2, 4, 2, 8, 8)
    walk = explorer.explore(recorded(maps))
    torch.testing.assert_close(walk.values, maps[0, 0, :, 0].mean(dim=0))
    assert walk.reading.startswith("a blue cat, step 0 (sigma 1.00), block 5, mean of the heads: ")
    walk.step.value, walk.block.value, walk.head.value = 2, 1, 3
    walk.what.value = "an orange umbrella"
    assert torch.equal(walk.values, maps[2, 1, 3, 1])
    assert walk.reading.startswith("an orange umbrella, step 2 (sigma 0.50), block 6, head 3: ")
    assert (pixels(walk._shown) == np.asarray(walk.image)).all()


def test_explorer_reads_the_share_in_the_region():
    inside = LAYOUT.token_masks(16, 16)[1].float().expand(1, 1, 1, 2, 16, 16)
    picture = Image.new("RGB", (256, 256), "white")
    walk = explorer.explore(recorded(inside), picture)
    assert ": 0% in its region" in walk.reading
    before = walk.image.tobytes()
    walk.what.value = "an orange umbrella"
    assert ": 100% in its region (18% of the picture)" in walk.reading
    assert walk.image.tobytes() != before


def test_explorer_reads_the_peak_of_a_background():
    maps = torch.zeros(1, 1, 1, 3, 8, 8)
    maps[..., 2, 4, 6] = 0.5
    record = recorded(maps)
    record.layouts = (replace(LAYOUT, background="a rose garden"),)
    walk = explorer.explore(record)
    walk.what.value = "a rose garden"
    assert walk.reading.endswith("block 5, head 0: highest 0.5 (row 4, column 6).")


def test_explorer_refuses_a_picture_that_was_not_recorded():
    with pytest.raises(ValueError, match="number is 1"):
        explorer.explore(recorded(torch.rand(1, 1, 1, 2, 4, 4)), number=1)


def test_widgets_show_themselves_in_a_notebook(monkeypatch):
    from densenb.widgets import explorer

    shown = []
    monkeypatch.setattr(explorer, "display", shown.append)
    walk = explorer.explore(recorded(torch.rand(1, 1, 1, 2, 4, 4)))
    walk._ipython_display_()
    assert shown == [walk.box]
