"""Negative phrases of regions: the text and the layout of the negative rows."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from helpers import ALL, NOTHING, SMALL, Spy, close, noise, sample, stock
from tiny_random import CLIP_LENGTH

import densenb
from densenb.layout.layout import Layout, Region, against_neighbours
from densenb.layout.masks import box
from densenb.modulation.dense_config import DenseConfig
from densenb.recording.recorder import record_attention
from densenb.sampling import generate
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.preview import preview
from densenb.sd3.prompts import call_inputs, encode, negative_layouts
from densenb.sd3.spans import find_spans
from densenb.widgets.live_preview import layout_as_python

LEFT, RIGHT = box(0, 0, 0.5, 1), box(0.5, 0, 1, 0.5)
CAPTION = "a blue cat and an orange umbrella"


def layout_of(cat: str | None = None, umbrella: str | None = None) -> Layout:
    regions = [
        Region("a blue cat", LEFT, negative=cat),
        Region("an orange umbrella", RIGHT, strength=0.5, negative=umbrella),
    ]
    return Layout(CAPTION, regions)


PLAIN, CAT_ONLY, BOTH = layout_of(), layout_of("a dog"), layout_of("a dog", "red roses")
ONE = Layout("a red squid", [Region("a red squid", box(0, 0, 0.5, 0.5))])


# --------------------------------------------------------------------------- layouts of negatives
def test_the_negative_layout_has_the_masks_and_strengths_of_its_regions():
    negative = BOTH.negative("fog and sand.")
    assert negative.text == negative.caption == "fog and sand. a dog, red roses"
    assert negative.phrases == ("a dog", "red roses")
    assert [region.mask for region in negative.regions] == [LEFT, RIGHT]
    assert [region.strength for region in negative.regions] == [1.0, 0.5]
    assert CAT_ONLY.negative().text == "a dog" and len(CAT_ONLY.negative().regions) == 1
    assert PLAIN.negative("fog") is None


def test_equal_negatives_have_words_of_their_own(random_pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negative = layout_of("a dog", "a dog").negative("no")
    assert negative.text == "no, a dog, a dog" and negative.occurrences == (0, 1)


def test_a_word_of_the_negative_prompt_stays_with_the_whole_picture():
    negative = layout_of("a dog", "fog").negative("blurry, a dog")
    assert negative.text == "blurry, a dog, a dog, fog" and negative.occurrences == (1, 0)


def test_negative_embeddings_leave_open_where_the_regions_negatives_go():
    inputs = {"guidance_scale": 4.0, "negative_prompt_embeds": torch.zeros(1, 4, 8)}
    with pytest.raises(ValueError, match="negative_prompt_embeds .* use negative_prompt"):
        negative_layouts([BOTH], inputs)
    assert negative_layouts([PLAIN], inputs) == [None]


def test_one_negative_prompt_for_all_or_one_each():
    inputs = {"guidance_scale": 4.0, "negative_prompt": "fog"}
    both, plain = negative_layouts([BOTH, PLAIN], inputs)
    assert both.text == "fog, a dog, red roses" and plain is None
    inputs["negative_prompt"] = ["fog", "sand"]
    assert [each.text for each in negative_layouts([BOTH, CAT_ONLY], inputs)] == [
        "fog, a dog, red roses",
        "sand, a dog",
    ]
    with pytest.raises(ValueError, match="2 negative prompts for 1 layouts"):
        negative_layouts([PLAIN], inputs)


def test_json_keeps_negatives_and_says_nothing_of_what_is_not_there(tmp_path):
    CAT_ONLY.to_json(tmp_path / "layout.json")
    assert Layout.from_json(tmp_path / "layout.json") == CAT_ONLY != PLAIN
    first, second = CAT_ONLY.to_dict()["regions"]
    assert first["negative"] == "a dog" and "negative" not in second


def test_the_layout_as_python_keeps_negatives():
    again = eval(layout_as_python(CAT_ONLY), {"dnb": densenb})
    assert again == CAT_ONLY and "negative=None" not in layout_as_python(CAT_ONLY)


@pytest.mark.parametrize(
    ("negative", "error", "message"),
    [
        ("  ", ValueError, 'negative of "a cat" is empty'),
        (3, TypeError, 'negative of "a cat" must be a str'),
        ("A  Cat", ValueError, "is the phrase itself"),
    ],
)
def test_bad_negatives_are_refused_by_name(negative, error, message):
    with pytest.raises(error, match=message):
        Region("a cat", LEFT, negative=negative)


def test_neighbours_may_be_the_negatives():
    twins = [Region(phrase, LEFT) for phrase in ("a cat", "a dog", "A cat")]
    layout = against_neighbours(Layout("a cat and a dog and a cat", twins))
    assert [region.negative for region in layout.regions] == ["a dog", "a cat, A cat", "a dog"]
    assert against_neighbours(BOTH).regions[0].negative == "an orange umbrella"
    assert against_neighbours(ONE) == ONE


# ---------------------------------------------------------------------- text of the negative rows
def test_the_call_is_as_it_was(random_pipe):
    for layout in (PLAIN, BOTH):
        inputs = call_inputs(random_pipe, layout, DenseConfig(), negative_prompt="fog")
        assert inputs["prompt"] == CAPTION and inputs["negative_prompt"] == "fog"
    with dense_attention(random_pipe, [PLAIN, ONE], ALL, **SMALL) as dense:
        assert dense.negatives == (None, None)
        random_pipe(**dense.inputs, latents=noise(2), output_type="latent")


@pytest.mark.parametrize("config", [NOTHING, DenseConfig(window=0)])
def test_nothing_to_do_is_bit_identical_to_stock(random_pipe, config):
    assert torch.equal(sample(random_pipe, BOTH, config), stock(random_pipe, PLAIN))


@pytest.mark.parametrize("name", ["negative_prompt_2", "negative_prompt_3"])
def test_other_negative_texts_are_refused(random_pipe, name):
    sizes = {"guidance_scale": 4.0, name: "fog"}
    assert negative_layouts([PLAIN], sizes) == [None]
    with pytest.raises(ValueError, match=f"{name} may have other words"):
        negative_layouts([BOTH], sizes)


def test_no_guidance_no_effect_and_a_warning(random_pipe):
    with pytest.warns(UserWarning, match="negatives have no effect"):
        found = sample(random_pipe, BOTH, ALL, guidance_scale=1.0)
    assert torch.equal(found, sample(random_pipe, PLAIN, ALL, guidance_scale=1.0))


def seen_texts(pipe, layout, config, **call_kwargs):
    """The transformer's text in each pass, `[rows, L, D]`, and the pooled text."""
    texts = []

    def hook(module, args, kwargs):
        texts.append((kwargs["encoder_hidden_states"], kwargs["pooled_projections"]))

    with dense_attention(pipe, layout, config, **SMALL | call_kwargs) as dense:
        handle = pipe.transformer.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            latents = noise(len(dense.negatives))
            pipe(**dense.inputs, latents=latents, output_type="latent")
        finally:
            handle.remove()
    return texts


@pytest.mark.parametrize("config", [replace(ALL, window=0.5), replace(ALL, image_text=0.1)])
def test_words_are_put_in_encoded_alone_while_the_rule_is_active(random_pipe, config):
    found = seen_texts(random_pipe, [BOTH, ONE], config, negative_prompt=["fog", "fog"])
    plain = seen_texts(random_pipe, [PLAIN, ONE], config, negative_prompt=["fog", "fog"])
    negative = BOTH.negative("fog")
    for step, ((text, pooled), (before, same_pooled)) in enumerate(zip(found, plain, strict=True)):
        assert torch.equal(pooled, same_pooled) and torch.equal(text[1:], before[1:])
        if step >= config.window * 4:
            assert torch.equal(text, before)
            continue
        expected = before[0].clone()
        for phrase in negative.phrases:
            alone = encode(random_pipe, Layout(phrase, [Region(phrase, LEFT)]), 44)
            spans, source = (
                find_spans(random_pipe, text, phrase, 44) for text in (negative.text, phrase)
            )
            for start, name in ((0, "clip"), (CLIP_LENGTH, "t5")):
                to = [start + i for i in getattr(spans, name)]
                from_ = [start + i for i in getattr(source, name)]
                expected[to] = alone["prompt_embeds"][0, from_]
        torch.testing.assert_close(text[0], expected, atol=1e-5, rtol=1e-5)
        assert not torch.equal(text[0], before[0])


# ----------------------------------------------------------------- attention of the negative rows
def test_negative_rows_follow_the_negative_layout(random_pipe):
    spy = Spy(window=1)
    sample(random_pipe, BOTH, spy, num_inference_steps=1)
    plan = spy.seen[0][1]
    negative, positive = plan.member
    assert torch.equal(plan.strengths, torch.tensor([[1, 0.5, 1]] * 2))
    assert torch.equal(negative[: plan.image], positive[: plan.image])
    for row, layout in ((negative, BOTH.negative()), (positive, BOTH)):
        for column, phrase in enumerate(layout.phrases):
            spans = find_spans(random_pipe, layout.text, phrase, 44)
            words = [*spans.clip, *(CLIP_LENGTH + i for i in spans.t5)]
            assert row[plan.image :, column].nonzero().flatten().tolist() == words


def test_a_region_without_a_negative_belongs_to_the_background_there(random_pipe):
    spy = Spy(window=1)
    sample(random_pipe, CAT_ONLY, spy, num_inference_steps=1)
    negative, positive = spy.seen[0][1].pixels
    assert torch.equal(negative[:, 0], positive[:, 0]) and not negative[:, 1].any()
    assert torch.equal(negative[:, -1], positive[:, 1:].any(dim=1))


def test_only_layouts_with_negatives_pay_and_order_is_by_prompt(random_pipe):
    spy = Spy(window=1)
    layouts = [PLAIN, BOTH, ONE, CAT_ONLY]
    with dense_attention(random_pipe, layouts, spy, **SMALL) as dense:
        assert dense.negatives == (None, 4, None, 5)
        options = {"num_images_per_prompt": 2, "num_inference_steps": 1, "output_type": "latent"}
        random_pipe(**dense.inputs | options, latents=noise(8))
        assert dense.now.numbers == [2, 3, 6, 7, *range(8, 16)]
    assert all(len(plan.member) == 12 for _, plan, _ in spy.seen)


def test_several_pictures_are_as_each_alone(random_pipe):
    latents = noise(4)
    options = {"num_images_per_prompt": 2, "negative_prompt": "fog"}
    together = sample(random_pipe, [BOTH, ONE], ALL, latents, **options)
    for row, layout in enumerate([BOTH, BOTH, ONE, ONE]):
        alone = sample(random_pipe, layout, ALL, latents[row : row + 1], negative_prompt="fog")
        assert close(together[row : row + 1], alone), row


def test_masks_and_words_of_negatives_matter(random_pipe):
    found = sample(random_pipe, BOTH, ALL)
    assert not close(found, sample(random_pipe, PLAIN, ALL))
    assert not close(found, sample(random_pipe, layout_of("red roses", "a dog"), ALL))


def test_skip_layer_passes_have_no_negative_rows(random_pipe):
    spy = Spy(window=1)
    slg = {"skip_guidance_layers": [1], "num_inference_steps": 10, "skip_layer_guidance_stop": 0.4}
    sample(random_pipe, BOTH, spy, **slg)
    rows = [len(plan.member) for step, plan, _ in spy.seen if step.index == 1]
    assert sorted(rows) == [1] * 3 + [2] * 5


def test_the_fused_path_equals_the_explicit_one(random_pipe):
    one, two = (
        sample(random_pipe, CAT_ONLY, replace(ALL, backend=name, special_tokens="background"))
        for name in ("explicit", "fused")
    )
    assert close(one, two, 1e-4)


def test_rows_may_be_named(random_pipe):
    spy = Spy(window=1)
    with dense_attention(random_pipe, BOTH, spy, **SMALL) as dense:
        random_pipe(**dense.inputs, latents=noise(1), output_type="latent")
        random_pipe.scheduler.set_timesteps(4)
        call = {
            "hidden_states": noise(2),
            "encoder_hidden_states": torch.zeros(2, CLIP_LENGTH + 44, 32),
            "pooled_projections": torch.zeros(2, 32),
            "timestep": random_pipe.scheduler.timesteps[:1].expand(2),
        }
        with torch.no_grad(), dense.rows([dense.negatives[0], 0]):
            random_pipe.transformer(**call)
    assert torch.equal(spy.seen[-1][1].member, spy.seen[0][1].member)
    with pytest.raises(ValueError, match="layouts are 0 to 1"), dense.rows([2, 0]):
        pass


def test_a_record_holds_the_positive_rows_only(random_pipe):
    maps = []
    for layout in (PLAIN, BOTH):
        with dense_attention(random_pipe, layout, ALL, **SMALL) as dense:
            with record_attention(random_pipe, layout, steps=[0]) as record:
                random_pipe(**dense.inputs, latents=noise(1), output_type="latent")
        maps.append(record.phrase_map("a blue cat"))
    torch.testing.assert_close(*maps)


def test_generate_takes_them(random_pipe):
    options = {**SMALL, "num_inference_steps": 1, "progress": lambda done, total: None}
    steps = options.pop("num_inference_steps")
    one, two = (generate(random_pipe, each, 1, ALL, steps, **options)[0] for each in (PLAIN, BOTH))
    assert one.size == two.size == (128, 128) and one.tobytes() != two.tobytes()


def test_a_negative_that_is_cut_off_is_said_before_sampling(random_pipe):
    long = "the cat and " * 30
    with pytest.raises(ValueError, match="'a dog' is cut off"):
        with dense_attention(random_pipe, BOTH, ALL, **SMALL, negative_prompt=long):
            pass


def test_preview_shows_the_negative_text(random_pipe):
    shown = preview(BOTH, random_pipe, height=128, width=128, t5_length=44)
    assert "not in its region: a dog, red roses" in str(shown)
    assert "not in its region" not in str(preview(PLAIN, random_pipe, 128, 128, 44))
