"""Loading, tiers, seeds and `generate`."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from tiny_random import random_pipeline

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.models import load as load_module
from densenb.models import tiers
from densenb.models.load import load
from densenb.models.memory_plan import Machine
from densenb.models.tiers import TINY, Tier, tier
from densenb.modulation.dense_config import DenseConfig
from densenb.recording.recorder import record_attention
from densenb.sampling import generate, generators
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.prompts import call_inputs

LAYOUT = Layout(
    "a blue cat and an orange umbrella in a rose garden",
    [Region("a blue cat", box(0, 0.3, 0.5, 1)), Region("an orange umbrella", box(0.5, 0, 1, 0.6))],
)
SMALL = {"steps": 2, "height": 128, "width": 128, "max_sequence_length": 44}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "my-model"
    random_pipeline().to(torch.float16).save_pretrained(folder)
    return folder


def pixels(images) -> list[list[int]]:
    return [np.asarray(image).tolist() for image in images]


# ------------------------------------------------------------------------------------------ loading
def test_load_a_folder(folder, capfd):
    pipe = load(folder)
    assert "%|" not in capfd.readouterr().err  # no bars
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_3):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    assert pipe.device == torch.device("cpu")
    assert tier(pipe) == Tier("my-model", "my-model", 256, 256, 28, 7.0, 256)


def test_load_in_half_precision(folder):
    pipe = load(str(folder), dtype=torch.bfloat16)
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16


def test_load_tiny(folder, monkeypatch):
    monkeypatch.setattr(load_module, "MINIATURE", folder)
    assert tier(load()) == tier(load("tiny")) == TINY
    monkeypatch.setattr(load_module, "MINIATURE", folder / "gone")
    with pytest.raises(ValueError, match="miniature is missing"):
        load("tiny")


def test_a_small_machine_is_told_why_not_the_real_models(monkeypatch, capsys):
    small = Machine("a netbook", "cpu", host=4.0)
    monkeypatch.setattr(load_module, "here", lambda *_, **__: small)
    with pytest.raises(ValueError, match="large does not fit a netbook.*host memory.*tiny"):
        load("large")
    assert "large on a netbook" in capsys.readouterr().out


def test_load_something_else(tmp_path):
    with pytest.raises(ValueError, match="neither 'tiny', 'medium' or 'large' nor a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'tny' is neither"):
        load("tny")


def test_a_pipeline_of_ones_own_has_a_tier(random_pipe):
    assert tier(random_pipe) == Tier("custom", "custom", 256, 256, 28, 7.0, 256)


# -------------------------------------------------------------------------------------------- seeds
def test_generators_are_seeded_and_on_the_cpu():
    assert [g.initial_seed() for g in generators(3)] == [0, 1, 2]
    assert [g.initial_seed() for g in generators(np.array([7, 7, 0]))] == [7, 7, 0]
    assert generators([2**64 - 1])[0].initial_seed() == 2**64 - 1
    assert {g.device.type for g in generators(range(5, 7))} == {"cpu"}


@pytest.mark.parametrize("seeds", [0, -1, True, [], [-1], [0.5], [True], "12", [2**64]])
def test_bad_seeds(seeds):
    with pytest.raises(ValueError, match="seeds is"):
        generators(seeds)


# ----------------------------------------------------------------------------------------- generate
def test_a_picture_depends_on_its_own_seed_only(random_pipe):
    three = generate(random_pipe, LAYOUT, seeds=3, **SMALL)
    assert [image.size for image in three] == [(128, 128)] * 3
    assert pixels(generate(random_pipe, LAYOUT, seeds=[2, 0], **SMALL)) == pixels(
        [three[2], three[0]]
    )
    assert pixels(three[:1]) != pixels(three[1:2])


def test_stock_pictures_are_the_pipelines_own(random_pipe):
    images = generate(random_pipe, LAYOUT, seeds=[3], config=None, guidance=2.0, **SMALL)
    expected = random_pipe(
        LAYOUT.text,
        height=128,
        width=128,
        num_inference_steps=2,
        guidance_scale=2.0,
        max_sequence_length=44,
        generator=torch.Generator().manual_seed(3),
    ).images
    assert pixels(images) == pixels(expected)
    nothing = DenseConfig(image_text=0, image_image=0)
    assert pixels(images) == pixels(
        generate(random_pipe, LAYOUT, seeds=[3], config=nothing, guidance=2.0, **SMALL)
    )
    strong = DenseConfig(image_image=1, window=1, decay=0)
    assert pixels(images) != pixels(
        generate(random_pipe, LAYOUT, seeds=[3], config=strong, guidance=2.0, **SMALL)
    )


def test_generate_uses_the_tier(random_pipe, monkeypatch):
    small = Tier("small", "small", 64, 128, 3, 1.0, 44)
    monkeypatch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, small, raising=False)
    assert call_inputs(random_pipe, LAYOUT, None) == {
        "prompt": LAYOUT.text,
        "height": 64,
        "width": 128,
        "num_inference_steps": 3,
        "guidance_scale": 1.0,
        "max_sequence_length": 44,
    }
    assert generate(random_pipe, LAYOUT, seeds=1)[0].size == (128, 64)
    assert call_inputs(random_pipe, LAYOUT, None, height=None)["height"] == 64


def test_stock_is_stock_or_an_error(random_pipe):
    with dense_attention(random_pipe, LAYOUT, num_inference_steps=1) as dense:
        with pytest.raises(RuntimeError, match="already active"):
            generate(random_pipe, LAYOUT, seeds=1, config=None, **SMALL)
        with record_attention(random_pipe, LAYOUT), pytest.raises(RuntimeError, match="active"):
            generate(random_pipe, LAYOUT, seeds=1, config=None, **SMALL)
        random_pipe(**dense.inputs, output_type="latent")


def test_generate_shows_progress(random_pipe, capfd):
    generate(random_pipe, LAYOUT, seeds=2, **SMALL)
    assert "4/4" in capfd.readouterr().err


def test_overflow_is_an_error_that_names_the_step():
    pipe = random_pipeline()
    with torch.no_grad():
        pipe.transformer.proj_out.bias.fill_(float("nan"))
    before = dict(pipe.transformer.attn_processors)
    with pytest.raises(RuntimeError, match="latents of step 1 of 2 are not finite.*float32"):
        generate(pipe, LAYOUT, seeds=1, **SMALL)
    assert dict(pipe.transformer.attn_processors) == before


def test_overflow_in_the_decoder_is_an_error(monkeypatch):
    pipe = random_pipeline()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="decoded picture"):
        generate(pipe, LAYOUT, seeds=1, config=None, **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": [LAYOUT]}, "one Layout"),
        ({"seeds": 0}, "seeds is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"config": "dense"}, "config is 'dense'"),
        ({"width": 100}, "width=112"),
        ({"prompt": "a dog"}, "prompt comes from the layout"),
        ({"prompt": "a dog", "config": None}, "prompt comes from the layout"),
        ({"config": DenseConfig(blocks=[9])}, "blocks 0 to 2"),
        ({"output_type": "latent"}, "output_type cannot be given to generate"),
        ({"generator": None}, "generator cannot be given to generate"),
    ],
)
def test_generate_checks_before_it_samples(random_pipe, changes, message):
    def sampled(*_):
        pytest.fail("sampled")

    hook = random_pipe.transformer.register_forward_pre_hook(sampled)
    try:
        with pytest.raises(ValueError, match=message):
            generate(random_pipe, **{"layout": LAYOUT, "seeds": 1} | SMALL | changes)
    finally:
        hook.remove()


def test_recommended_is_what_was_measured_or_a_candidate_with_a_warning(random_pipe, monkeypatch):
    with pytest.warns(UserWarning, match="no setting has been measured for custom"):
        assert DenseConfig.recommended(random_pipe) == DenseConfig(**tiers.SIX_LOGITS)
    this = tiers.tier(random_pipe)
    measured = dataclasses.replace(this, recommended={"decay": 2.0}, measured=True)
    monkeypatch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, measured, raising=False)
    assert DenseConfig.recommended(random_pipe) == DenseConfig(decay=2.0)
    assert DenseConfig(**tiers.TINY.recommended) != DenseConfig()


def test_a_trained_state_of_the_miniature_has_its_tier_and_a_name_of_its_own(tmp_path, random_pipe):
    folder = tmp_path / "states" / "model-25"
    shutil.copytree(load_module.MINIATURE, folder)
    state = tier(load(folder))
    assert state == dataclasses.replace(TINY, label="miniature SD 3.5, states/model-25")
    other = tmp_path / "other"  # same classes, other words: nothing was measured for it
    random_pipe.save_pretrained(other)
    assert not tier(load(other)).measured and tier(load(other)).label == "other"
