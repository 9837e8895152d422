"""Layouts in the other pipelines of SD 3, in chosen heads, and on both backends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline
from helpers import ALL, LAYOUT, NOTHING, SMALL, close, sample, stock
from PIL import Image

from densenb.modulation.dense_config import DenseConfig
from densenb.sd3.dense_attention import dense_attention


def redrawn(pipe, extra, config=None):
    """The final latents of an image-to-image run, and how often the callback was called."""
    calls = []

    def after_step(_, index, __, state):
        calls.append(index)
        return state

    image = Image.new("RGB", (128, 128), (90, 120, 60))
    options = {
        "image": image,
        "output_type": "latent",
        "callback_on_step_end": after_step,
        "generator": torch.Generator().manual_seed(0),
    } | extra
    if config is None:
        result = pipe(prompt=LAYOUT.text, **SMALL | options)
    else:
        with dense_attention(pipe, LAYOUT, config, **SMALL) as dense:
            result = pipe(**dense.inputs | options)
    return result.images, len(calls)


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        (StableDiffusion3Img2ImgPipeline, {"strength": 0.75}),
        (
            StableDiffusion3InpaintPipeline,
            {"strength": 0.75, "mask_image": Image.new("L", (128, 128), 255)},
        ),
    ],
)
def test_image_to_image_and_inpainting_follow_layouts(random_pipe, kind, extra):
    pipe = kind(**{name: part for name, part in random_pipe.components.items()})
    pipe.set_progress_bar_config(disable=True)
    plain, steps = redrawn(pipe, extra)
    assert steps == 3
    assert torch.equal(redrawn(pipe, extra, NOTHING)[0], plain)
    steered, steered_steps = redrawn(pipe, extra, ALL)
    assert steered_steps == 3 and not close(steered, plain)


def test_a_redrawing_that_starts_after_the_window_is_said(random_pipe):
    pipe = StableDiffusion3Img2ImgPipeline(**random_pipe.components)
    pipe.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="all lie after the first 20% of the steps"):
        redrawn(pipe, {"strength": 0.25}, DenseConfig(window=0.2))


def test_only_chosen_heads_are_edited(random_pipe):
    heads = random_pipe.transformer.config.num_attention_heads
    some = [sample(random_pipe, LAYOUT, replace(ALL, heads=(head,))) for head in range(heads)]
    every = sample(random_pipe, LAYOUT, replace(ALL, heads=tuple(range(heads))))
    assert torch.allclose(every, sample(random_pipe, LAYOUT, ALL), atol=1e-5)
    for one in some:
        assert not close(one, every) and not close(one, stock(random_pipe, LAYOUT))
    message = rf"heads names \[{heads}\], but .* heads 0 to {heads - 1}"
    with pytest.raises(ValueError, match=message):
        sample(random_pipe, LAYOUT, replace(ALL, heads=(heads,)))


@pytest.mark.parametrize("special_tokens", ["neutral", "negative", "background"])
@pytest.mark.parametrize("masks", ["area", "soft"])
def test_both_backends_draw_the_same(random_pipe, special_tokens, masks):
    config = replace(ALL, special_tokens=special_tokens, masks=masks)
    explicit, fused = (
        sample(random_pipe, LAYOUT, replace(config, backend=backend))
        for backend in ("explicit", "fused")
    )
    assert close(fused, explicit) and not close(fused, stock(random_pipe, LAYOUT))


def test_auto_says_what_it_chose(random_pipe):
    for config, backend in [
        (ALL, "explicit"),  # few tokens, on a CPU
        (replace(ALL, backend="fused"), "fused"),
    ]:
        with dense_attention(random_pipe, LAYOUT, config, **SMALL) as dense:
            assert dense.backend == backend
            random_pipe(**dense.inputs, output_type="latent")
