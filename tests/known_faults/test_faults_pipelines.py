"""Pipelines, callbacks, schedulers and options that diffusers allows, and densenb misreads."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from diffusers import (
    FlowMatchHeunDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3PAGPipeline,
    StableDiffusion3Pipeline,
)
from diffusers.callbacks import SD3CFGCutoffCallback
from diffusers.models.attention_processor import JointAttnProcessor2_0
from fault_helpers import (
    QUICK,
    SMALL_CALL,
    Failed,
    cat_and_umbrella,
    defaults,
    difference,
    recommended,
    second,
    unless_refused,
)
from PIL import Image

import densenb as dnb
from densenb.widgets import playground


def variant(pipe, **components):
    """A pipeline of the same models, but for these components."""
    other = StableDiffusion3Pipeline(**{**pipe.components, **components})
    other.set_progress_bar_config(disable=True)
    return other


# -------------------------------------------------------------------- perturbed-attention guidance
@pytest.fixture
def pag(pipe):
    parts = {
        k: v for k, v in pipe.components.items() if k not in ("image_encoder", "feature_extractor")
    }
    pag = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=["blocks.4"])
    pag.set_progress_bar_config(disable=True)
    return pag


PAG = SMALL_CALL | {"pag_scale": 3.0}
BY_NAME = "PAG|[Pp]erturbed"


def pag_pictures(pag, layouts, config, generator=0, **options):
    latents = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(generator))
    with dnb.dense_attention(pag, layouts, config, **PAG, **options) as dense:
        count = options.get("num_images_per_prompt", 1)
        count *= len(layouts) if isinstance(layouts, list) else 1
        return pag(**dense.inputs, latents=latents.expand(count, -1, -1, -1).clone()).images


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F6: only one of them is steered")
def test_perturbed_guidance_steers_both_pictures_of_a_prompt(pag, pipe):
    early = replace(recommended(pipe), blocks=(0, 1))
    with unless_refused(BY_NAME):
        one, other = pag_pictures(pag, cat_and_umbrella(), early, num_images_per_prompt=2)
        assert difference(one, other) < 0.1


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F6: both follow the first layout")
def test_perturbed_guidance_gives_each_prompt_its_layout(pag, pipe):
    early, one = replace(recommended(pipe), blocks=(0, 1)), cat_and_umbrella()
    two = dnb.Layout(one.caption, [dnb.Region("a blue cat", dnb.box(0.6, 0.1, 0.95, 0.9))])
    with unless_refused(BY_NAME):
        _, together = pag_pictures(pag, [one, two], early, guidance_scale=0.0)
        (alone,) = pag_pictures(pag, two, early, guidance_scale=0.0)
        assert difference(together, alone) < 0.1


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="F6: said after all of the sampling")
def test_perturbed_guidance_steers_the_perturbed_layers_too(pag, pipe):
    with unless_refused(BY_NAME):
        one, other = pag_pictures(
            pag, cat_and_umbrella(), recommended(pipe), num_images_per_prompt=2
        )
        assert difference(one, other) < 0.1


@pytest.mark.xfail(strict=True, raises=ValueError, reason="F6: advice that does not help")
def test_perturbed_guidance_steers_one_picture(pag, pipe):
    with unless_refused(BY_NAME):
        assert pag_pictures(pag, cat_and_umbrella(), recommended(pipe))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F6: three pictures are recorded")
def test_perturbed_guidance_records_as_many_pictures_as_there_are(pag):
    call = PAG | {"num_images_per_prompt": 2, "guidance_scale": 4.0, "max_sequence_length": 44}
    with unless_refused(BY_NAME):
        with dnb.record_attention(pag, cat_and_umbrella(), steps=[0], blocks=[0]) as record:
            pag(prompt=cat_and_umbrella().text, **call)
        assert {entry.picture for entry in record.entries} == {0, 1}


# ------------------------------------------------------------------------------------- callbacks
@pytest.mark.xfail(strict=True, raises=KeyError, reason="its tensor_inputs are hidden")
def test_generate_takes_a_callback_of_diffusers(pipe):
    cutoff = SD3CFGCutoffCallback(cutoff_step_ratio=0.5)
    assert dnb.generate(pipe, cat_and_umbrella(), [0], callback_on_step_end=cutoff, **QUICK)


@pytest.mark.xfail(strict=True, raises=KeyError, reason="latents are taken to be among the inputs")
def test_generate_takes_a_callback_that_does_not_ask_for_latents(pipe):
    asked = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    callback = {"callback_on_step_end": lambda pipe, index, time, given: given}
    assert dnb.generate(pipe, cat_and_umbrella(), [0], **callback, **asked, **QUICK)


def test_dense_attention_takes_a_callback_of_diffusers(pipe):
    cutoff = SD3CFGCutoffCallback(cutoff_step_ratio=0.5)
    call = SMALL_CALL | {"callback_on_step_end": cutoff}
    with dnb.dense_attention(pipe, cat_and_umbrella(), **call) as dense:
        assert pipe(**dense.inputs).images


# ----------------------------------------------------------------------------- options of the text
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(recommended, id="recommended"),
        *(
            pytest.param(
                config,
                id=name,
                marks=pytest.mark.xfail(
                    strict=True, raises=AssertionError, reason="the text is encoded without it"
                ),
            )
            for name, config in (
                ("published", lambda pipe: dnb.DenseConfig.published()),
                ("pooled", lambda pipe: dnb.DenseConfig(pooled="phrases")),
            )
        ),
    ],
)
def test_clip_skip_changes_the_text(config, pipe):
    with unless_refused("clip_skip"):
        plain, skipped = (
            dnb.generate(pipe, cat_and_umbrella(), [0], config(pipe), **skip, **QUICK)[0]
            for skip in ({}, {"clip_skip": 1})
        )
        assert difference(plain, skipped) > 0.1


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="it is encoded without clip_skip")
def test_clip_skip_changes_the_text_of_a_regions_negative(pipe):
    texts = []
    for skip in ({}, {"clip_skip": 1}):
        layout = cat_and_umbrella(negative="a red dog")
        seen = []  # text that the transformer gets, by hook: the context has no name for it
        with dnb.dense_attention(pipe, layout, recommended(pipe), **skip, **SMALL_CALL) as dense:
            hook = pipe.transformer.register_forward_pre_hook(
                lambda module, args, kwargs, seen=seen: seen.append(kwargs), with_kwargs=True
            )
            try:
                pipe(**dense.inputs)
            finally:
                hook.remove()
        texts.append(seen[0]["encoder_hidden_states"][0])  # of the negative prompt
    assert not torch.equal(*texts)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="diffusers' dump of tensors")
@pytest.mark.parametrize("name", ["negative_prompt_2", "negative_prompt_3"])
def test_a_second_negative_prompt_is_taken_or_refused_by_name(name, pipe):
    try:
        dnb.generate(
            pipe, cat_and_umbrella(), [0], dnb.DenseConfig.published(), **{name: "red"}, **QUICK
        )
    except ValueError as error:
        assert "tensor(" not in str(error)


# ----------------------------------------------------------------------- encoders and tokenizers
LONG = "a rose garden, " + ", ".join(["red roses and green leaves"] * 5) + ", and a blue cat"


@pytest.mark.xfail(strict=True, raises=Failed, reason="found in a T5 text that is all zeros")
def test_a_phrase_beyond_clip_is_refused_without_t5(pipe):
    layout = dnb.Layout(LONG, [dnb.Region("a blue cat", dnb.box(0, 0, 0.5, 1))])
    with pytest.raises(ValueError, match="cut off"):
        dnb.preview(layout, variant(pipe, text_encoder_3=None), t5_length=77)


def test_a_phrase_beyond_clip_is_refused_without_t5_and_its_tokenizer(pipe):
    layout = dnb.Layout(LONG, [dnb.Region("a blue cat", dnb.box(0, 0, 0.5, 1))])
    with pytest.raises(ValueError, match="cut off"):
        dnb.preview(layout, variant(pipe, text_encoder_3=None, tokenizer_3=None), t5_length=77)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="F10: the phrase is blamed")
def test_a_pipeline_without_tokenizers_is_refused_by_name(pipe):
    bare = variant(pipe, tokenizer=None, tokenizer_2=None, tokenizer_3=None)
    with pytest.raises(ValueError) as refused:
        dnb.preview(cat_and_umbrella(), bare)
    assert "tokenizer" in str(refused.value)


# ------------------------------------------------------------------- a second pipeline, its crops
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the layout is laid over the crop")
def test_a_layout_is_cropped_as_the_picture_is(pipe):
    inpaint = second(StableDiffusion3InpaintPipeline, pipe)
    hole = Image.new("L", (256, 256))
    hole.paste(255, (128, 128, 256, 256))
    grey = Image.new("RGB", (256, 256), "gray")

    def picture(region):
        layout = dnb.Layout("a blue cat in a rose garden", [dnb.Region("a blue cat", region)])
        call = {"image": grey, "mask_image": hole, "padding_mask_crop": 0, "strength": 1.0}
        call |= {"num_inference_steps": 2, "guidance_scale": 4.0, "max_sequence_length": 44}
        with dnb.dense_attention(
            inpaint, layout, recommended(pipe), height=256, width=256, **call
        ) as dense:
            return inpaint(**dense.inputs, generator=dnb.generators(1)[0]).images[0]

    with unless_refused("crop"):
        everywhere, in_the_hole = (picture(dnb.box(x, x, 1, 1)) for x in (0, 0.5))
        assert difference(everywhere, in_the_hole) == 0


def test_the_setting_of_a_model_is_that_of_every_pipeline_around_it(pipe):
    again = second(StableDiffusion3Img2ImgPipeline, pipe)
    assert recommended(again) == recommended(pipe)


def test_the_defaults_of_a_model_are_those_of_every_pipeline_around_it(pipe):
    assert defaults(second(StableDiffusion3Img2ImgPipeline, pipe)) == defaults(pipe)


@pytest.mark.xfail(strict=True, raises=Failed, reason="F2: steered by the guidance of an old call")
def test_a_call_of_another_pipeline_is_refused_by_name(pipe):
    pipe(cat_and_umbrella().text, **SMALL_CALL, guidance_scale=1.0, max_sequence_length=44)
    other = second(StableDiffusion3Img2ImgPipeline, pipe)
    with dnb.dense_attention(pipe, cat_and_umbrella(), **SMALL_CALL):
        with pytest.raises(ValueError, match="another pipeline"):
            other(
                cat_and_umbrella().text, image=Image.new("RGB", (128, 128)), guidance_scale=4.0,
                num_inference_steps=2, strength=1.0, max_sequence_length=44,
            )  # fmt: skip


# ------------------------------------------------------------------------------ counting of steps
@pytest.fixture
def heun(pipe):
    """The pipeline with Heun's scheduler, which calls the model twice a step."""
    before = pipe.scheduler
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    yield pipe
    pipe.scheduler = before


def last_progress(pipe, **options):
    said = []
    dnb.generate(
        pipe, cat_and_umbrella(), [0], dnb.DenseConfig(window=1.0),
        **QUICK | {"steps": 4, "progress": lambda *counts: said.append(counts)}, **options,
    )  # fmt: skip
    return said[-1]


def test_progress_ends_at_its_total(pipe):
    assert last_progress(pipe) == (4, 4)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the total is num_inference_steps")
def test_progress_ends_at_its_total_with_other_sigmas(pipe):
    done, total = last_progress(pipe, sigmas=[1.0, 0.8, 0.6, 0.4, 0.2, 0.1])
    assert done == total


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the total is num_inference_steps")
def test_progress_ends_at_its_total_from_a_picture(pipe):
    call = {"image": Image.new("RGB", (128, 128)), "strength": 0.5, "max_sequence_length": 44}
    done, total = last_progress(second(StableDiffusion3Img2ImgPipeline, pipe), guidance=4.0, **call)
    assert done == total


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the total is num_inference_steps")
def test_progress_ends_at_its_total_with_heun(heun):
    done, total = last_progress(heun)
    assert done == total


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a velocity over no time")
def test_looks_of_the_playground_are_finite_with_heun(heun, monkeypatch):
    plain, finite = playground.foreseen, []

    def foreseen(*arguments):
        ahead = plain(*arguments)
        finite.append(bool(ahead.isfinite().all()))
        return ahead

    monkeypatch.setattr(playground, "foreseen", foreseen)
    play = playground.Playground(heun, cat_and_umbrella(), steps=3)
    play.every.value = 1
    play.generate()
    play.wait(100)
    assert finite and all(finite)


# ------------------------------------------------------------------------ steering that is not it
@pytest.mark.xfail(strict=True, raises=Failed, reason="A10: the rest is unsteered, silently")
def test_processors_that_are_replaced_on_the_way_are_noticed(pipe):
    def replaced(pipe, index, time, given):
        pipe.transformer.set_attn_processor(JointAttnProcessor2_0())
        return given

    call = SMALL_CALL | {"callback_on_step_end": replaced}
    with pytest.raises(RuntimeError, match="processors"):
        with dnb.dense_attention(
            pipe, cat_and_umbrella(), dnb.DenseConfig(window=1.0), **call
        ) as dense:
            pipe(**dense.inputs)


@pytest.mark.xfail(strict=True, raises=Failed, reason="F14 and A10: steered at other words")
def test_a_prompt_that_is_not_the_layouts_is_noticed(pipe):
    with dnb.dense_attention(pipe, cat_and_umbrella(), **SMALL_CALL) as dense:
        with pytest.warns(UserWarning, match="a red dog"):
            pipe(**{**dense.inputs, "prompt": "a red dog"})


@pytest.mark.xfail(strict=True, raises=Failed, reason="F14: the second follows another's layout")
def test_one_prompt_for_two_layouts_is_noticed(pipe):
    other = dnb.Layout("a red dog", [dnb.Region("a red dog", dnb.box(0, 0, 1, 0.5))])
    layouts = [cat_and_umbrella(), other]
    with dnb.dense_attention(pipe, layouts, **SMALL_CALL) as dense:
        one = {"prompt": layouts[0].text, "num_images_per_prompt": 2}
        with pytest.warns(UserWarning, match="a red dog"):
            pipe(**{**dense.inputs, **one})


@pytest.mark.xfail(strict=True, raises=Failed, reason="A10: NaN means no guidance")
def test_guidance_that_is_no_number_is_refused(pipe):
    with pytest.raises(ValueError, match="guidance"):
        dnb.generate(pipe, cat_and_umbrella(), [0], guidance=float("nan"), **QUICK)


# ---------------------------------------------------------------------------------------- threads
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A7: it is steered, silently")
def test_another_thread_does_not_draw_by_this_ones_layout(pipe):
    call = {"prompt": cat_and_umbrella().text, "max_sequence_length": 44, **SMALL_CALL}
    call["guidance_scale"] = 4.0
    steered = replace(recommended(pipe), window=1.0)
    (plain,) = pipe(**call, generator=dnb.generators(1)).images
    drawn = []

    def draw():
        with unless_refused("thread"):
            drawn.extend(pipe(**call, generator=dnb.generators(1)).images)

    with dnb.dense_attention(pipe, cat_and_umbrella(), steered, **SMALL_CALL) as dense:
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join(60)
        pipe(**dense.inputs)
    assert all(difference(picture, plain) == 0 for picture in drawn)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A7: the second one is refused")
def test_generate_waits_for_another_threads_picture(pipe):
    drawn = []

    def draw():
        try:
            drawn.extend(dnb.generate(pipe, cat_and_umbrella(), [0], **QUICK))
        except RuntimeError:
            pass

    thread = threading.Thread(target=draw)

    def first_step(done, total):
        if done == 1:
            thread.start()
            thread.join(1)  # long enough for a picture, and not for ever where it waits for us

    dnb.generate(pipe, cat_and_umbrella(), [0], **QUICK | {"progress": first_step})
    thread.join(60)
    assert len(drawn) == 1


# --------------------------------------------------------------------------------------- clean-up
def test_an_interrupt_during_clean_up_leaves_no_hook(pipe, monkeypatch):
    own = copy.copy(pipe)
    own.transformer = copy.deepcopy(pipe.transformer)  # what is left behind is left in a copy
    put, calls = own.transformer.set_attn_processor, []

    def interrupted(processors):
        calls.append(processors)
        if len(calls) == 2:  # the first puts ours in, the second takes them out
            raise KeyboardInterrupt
        put(processors)

    monkeypatch.setattr(own.transformer, "set_attn_processor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with dnb.dense_attention(own, cat_and_umbrella(), **SMALL_CALL):
            pass
    assert not own.transformer._forward_pre_hooks  # torch has no public name for it
