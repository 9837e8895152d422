"""Loading by a plan, and a pipeline whose text encoders come and go."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_random import random_pipeline
from transformers.models.t5.modeling_t5 import T5Attention

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.models import load as load_module
from densenb.models import load_planned, text_encoders, tiers
from densenb.models.architecture import ENCODERS, T5, saved_sizes
from densenb.models.load import load, plan_for
from densenb.models.memory_plan import T4, choose, here
from densenb.models.text_encoders import FrugalPipeline
from densenb.models.tiers import tier
from densenb.modulation.dense_config import DenseConfig
from densenb.sampling import generate, generators
from densenb.sd3 import prompts
from densenb.sd3.dense_attention import dense_attention

CAT = Layout("a blue cat in a rose garden", [Region("a blue cat", box(0, 0.3, 0.5, 1))])
DOG = Layout("two yellow dogs on the beach", [Region("two yellow dogs", box(0.5, 0, 1, 0.6))])
SIZE = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 44}
LATENT = {"output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "my-model"
    random_pipeline().save_pretrained(folder)
    return folder


def planned(folder, **options):
    roomy = replace(here("cpu"), host=100.0)
    return choose("my-model", saved_sizes(folder), roomy, side=64, **options)


def freeing(folder, **options):
    """A plan that frees the encoders, though a machine in a test has room for them."""
    return replace(planned(folder, **options), keep_encoders=False)


@pytest.fixture
def pipe(folder):
    return load(folder, plan=freeing(folder))


@pytest.fixture
def loads(monkeypatch):
    """Which encoders were loaded, in order."""
    names, load_part = [], load_planned.load_part

    def counted(folder, part, plan):
        if part in ENCODERS:
            names.append(part)
        return load_part(folder, part, plan)

    monkeypatch.setattr(load_planned, "load_part", counted)
    return names


def latents(pipe, layout, config=None, **options):
    if config is None:
        inputs = prompts.call_inputs(pipe, layout, None, **SIZE | LATENT | options)
        return pipe(**inputs, generator=generators([0])).images
    with dense_attention(pipe, layout, config, **SIZE | LATENT | options) as dense:
        return pipe(**dense.inputs, generator=generators([0])).images


# ------------------------------------------------------------------------------ encode, then free
def test_encoders_come_for_new_text_only(pipe, loads):
    assert not loads and pipe.text_encoder is None  # loading alone does not need them
    latents(pipe, CAT)
    assert loads == ["text_encoder_3", "text_encoder_2", "text_encoder"]
    assert [getattr(pipe, name) for name in ENCODERS] == [None] * 3
    latents(pipe, CAT, DenseConfig())
    latents(pipe, CAT, guidance_scale=1.0)
    encoded(pipe, CAT.text, None, None, num_images_per_prompt=2)
    assert len(loads) == 3  # the text is known
    generate(pipe, DOG, seeds=2, steps=1, height=64, width=64, max_sequence_length=44)
    assert len(loads) == 6  # a later layout loads them again
    latents(pipe, DOG, max_sequence_length=50)
    assert len(loads) == 9  # longer text is other text


def test_pictures_are_those_of_the_plain_pipeline(pipe, folder):
    plain = load(folder)
    for config in (None, DenseConfig(window=1.0), DenseConfig(encode_phrases_alone=True)):
        found, expected = latents(pipe, CAT, config), latents(plain, CAT, config)
        assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    images = [
        generate(each, CAT, [1], None, steps=2, height=64, width=64) for each in (pipe, plain)
    ]
    (a,), (b,) = (map(np.asarray, pair) for pair in images)
    assert np.abs(a.astype(int) - b).max() <= 1


def test_strength_0_is_stock_bit_for_bit(pipe):
    nothing = DenseConfig(image_text=0, image_image=0)
    stock = latents(pipe, CAT)
    assert torch.equal(stock, latents(pipe, CAT, nothing))
    assert not torch.equal(stock, latents(pipe, CAT, DenseConfig(window=1.0)))


def encoded(pipe, *arguments, **options):
    return pipe.encode_prompt(*arguments, max_sequence_length=44, **options)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("a blue cat", None, None), {}),
        ((["a blue cat", "two dogs"], None, None), {"num_images_per_prompt": 2}),
        (("a blue cat", "two dogs", "the beach"), {"negative_prompt": "a hat"}),
        ((["a cat", "a hat"], None, None), {"negative_prompt": ["at night", "roses"]}),
        (("a blue cat", None, None), {"do_classifier_free_guidance": False}),
        (("a blue cat", None, None), {"clip_skip": 1}),
        (
            ("a blue cat", None, None),
            {"negative_prompt": "", "negative_prompt_2": "a hat", "negative_prompt_3": "roses"},
        ),
    ],
)
def test_prompts_are_encoded_as_by_the_stock_pipeline(pipe, random_pipe, arguments, options):
    found = encoded(pipe, *arguments, **options)
    expected = encoded(random_pipe, *arguments, **options)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)


def test_embeddings_that_are_given_pass_through(pipe, loads):
    given = [torch.randn(1, 84, 32), torch.randn(1, 84, 32), torch.randn(1, 32), torch.randn(1, 32)]
    names = "prompt_embeds", "negative_prompt_embeds"
    pooled = "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
    kept = encoded(pipe, None, None, None, **dict(zip(names + pooled, given, strict=True)))
    assert all(ours is theirs for ours, theirs in zip(kept, given, strict=True)) and not loads


def test_a_wrong_number_of_negative_prompts(pipe):
    with pytest.raises(ValueError, match="2 negative prompts for 3 prompts"):
        encoded(pipe, ["a"] * 3, None, None, negative_prompt=["b", "c"])


def test_old_texts_are_forgotten(pipe, loads, monkeypatch):
    monkeypatch.setattr(text_encoders, "KEPT_TEXTS", 3)
    for text in ("a cat", "a dog", "a hat", "a rose"):
        encoded(pipe, text, None, None)
    assert [key[0] for key in pipe._known] == ["a dog", "a hat", "a rose"] or len(pipe._known) == 3
    before = len(loads)
    encoded(pipe, "a rose", None, None, do_classifier_free_guidance=False)
    assert len(loads) == before
    many = encoded(pipe, [f"{n} cats" for n in "123456"], None, None)
    assert len(many[0]) == 6  # more than are kept


def test_encoders_go_also_when_encoding_fails(pipe, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FrugalPipeline, "_get_t5_prompt_embeds", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        latents(pipe, CAT)
    assert pipe.text_encoder is None and not pipe._known


def test_an_overflow_names_the_text_encoder(pipe, monkeypatch):
    load_encoders = pipe._load_encoders

    def overflowing():
        found = load_encoders()
        with torch.no_grad():
            found[T5].encoder.final_layer_norm.weight.fill_(float("inf"))
        return found

    pipe._load_encoders = overflowing
    with pytest.raises(RuntimeError, match="encoded tokens are not finite.*text encoder.*t5=False"):
        generate(pipe, CAT, seeds=1, steps=1)
    assert pipe.text_encoder is None


def test_what_fits_float32_may_overflow_the_transformers_dtype(pipe):
    pipe._dtype = torch.float16
    assert pipe._remembered(torch.full((1, 2), 6e4), "tokens").dtype == torch.float16
    with pytest.raises(RuntimeError, match="torch.float16 overflowed"):
        pipe._remembered(torch.full((1, 2), 7e4), "tokens")


def test_a_transformer_that_parks_is_back_for_drawing(folder, monkeypatch):
    pipe = load(folder, plan=replace(freeing(folder), park=True))
    moves, move = [], pipe.transformer.to
    monkeypatch.setattr(
        pipe.transformer, "to", lambda where: (moves.append(str(where)), move(where))
    )
    with dense_attention(pipe, CAT, DenseConfig(window=1.0), **SIZE | LATENT) as dense:
        pipe(**dense.inputs, generator=generators([0]))  # encodes while layers are in our hands
    assert moves == ["cpu", "cpu"]  # away, and back to the device, which is this one here


def test_an_error_does_not_keep_the_encoders(folder, monkeypatch):
    pipe = load(folder, plan=replace(freeing(folder), park=True))
    encoders, load_encoders = [], pipe._load_encoders

    def watched():
        found = load_encoders()
        encoders.extend(weakref.ref(encoder) for encoder in found.values())
        return found

    def broken(self, hidden_states, *_, **__):
        raise RuntimeError("no kernel")

    pipe._load_encoders = watched
    with monkeypatch.context() as patch:
        patch.setattr(T5Attention, "forward", broken)
        with pytest.raises(RuntimeError, match="no kernel") as caught:
            latents(pipe, CAT)
    assert caught.tb and len(encoders) == 3 and not any(encoder() for encoder in encoders)
    assert latents(pipe, CAT).isfinite().all()


# -------------------------------------------------------------------------------- loading by plan
def test_keeping_encoders_loads_them_once(folder, loads):
    pipe = load(folder, plan=replace(freeing(folder), keep_encoders=True))
    latents(pipe, CAT)
    latents(pipe, DOG)
    assert len(loads) == 3 and pipe.text_encoder_3 is not None


def test_a_planned_pipeline_is_ready(pipe, folder):
    assert isinstance(pipe, FrugalPipeline) and isinstance(
        pipe, load_module.StableDiffusion3Pipeline
    )
    assert not pipe.transformer.training and not pipe.vae.training
    assert not any(weight.requires_grad for weight in pipe.transformer.parameters())
    assert (tier(pipe).label, tier(pipe).height) == ("my-model (float32)", 64)


def test_four_bits_by_plan(folder):
    bnb = pytest.importorskip("bitsandbytes")
    pipe = load(folder, plan=freeing(folder, transformer="nf4", t5="nf4"))
    assert isinstance(pipe.transformer.transformer_blocks[0].attn.to_q, bnb.nn.Linear4bit)
    assert tier(pipe).label == "my-model (nf4)"
    drawn = [latents(pipe, CAT, config) for config in (None, DenseConfig(window=1.0))]
    assert not torch.equal(*drawn) and all(each.isfinite().all() for each in drawn)


def test_without_t5_its_tokens_are_zero(folder, loads):
    pipe = load(folder, plan=freeing(folder, t5=False))
    assert pipe.tokenizer_3 is None
    tokens = encoded(pipe, "a blue cat", None, None)[0]
    assert tokens.shape == (1, 84, 32) and not tokens[:, 40:].any() and tokens[:, :40].any()
    assert loads == ["text_encoder_2", "text_encoder"]
    assert tier(pipe).label.endswith("no T5)")
    plain = load(folder, t5=False)
    assert plain.text_encoder_3 is None and plain.tokenizer_3 is None
    assert torch.allclose(encoded(plain, "a blue cat", None, None)[0], tokens, atol=1e-5)


def test_the_decoder_is_float32_whatever_the_latents_are(folder):
    pipe = load(folder, plan=freeing(folder, dtype="bfloat16"))
    assert pipe.transformer.dtype == torch.bfloat16 and pipe.vae.dtype == torch.float32
    seen = latents(pipe, CAT)
    assert seen.dtype == torch.bfloat16
    assert pipe.vae.decode(seen).sample.dtype == torch.float32
    (image,) = generate(pipe, CAT, seeds=1, steps=1)
    assert image.size == (64, 64)


def test_a_missing_component_is_named(folder, tmp_path):
    plan = freeing(folder)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    for part in plan.precisions:
        if part != T5:
            (tmp_path / part).symlink_to(folder / part)
    with pytest.raises(ValueError, match="no weights.*of text_encoder_3.*t5=False"):
        load(tmp_path, plan=plan)


def test_large_folders_are_planned_and_small_ones_are_not(folder, monkeypatch, capsys):
    assert not isinstance(load(folder), FrugalPipeline)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(load_module, "PLANNED_GB", 0.0)
    assert isinstance(load(folder), FrugalPipeline)
    assert "my-model on this machine's CPU" in capsys.readouterr().out
    monkeypatch.setattr(load_module, "here", lambda *_, **__: replace(here("cpu"), host=0.1))
    with pytest.raises(ValueError, match="my-model does not fit.*host memory"):
        load(folder)


# ------------------------------------------------------------------------------- the gated models
@pytest.fixture
def downloaded(monkeypatch, folder):
    """Stable Diffusion 3.5 has been downloaded, and is tiny; what was asked for."""
    asked = []

    def fetch(name, parts):
        asked.append((name, list(parts)))
        return folder

    monkeypatch.setattr(load_module, "fetch", fetch)
    monkeypatch.setattr(load_module, "here", lambda *_, **__: replace(T4, device="cpu"))
    return asked


def test_load_medium_prints_its_plan_and_has_its_tier(downloaded, capsys):
    pipe = load("medium", t5=False)
    ((name, parts),) = downloaded
    assert name == "medium" and T5 not in parts
    assert "medium on Colab T4" in capsys.readouterr().out
    this = tier(pipe)
    assert (this.name, this.label) == ("medium", "SD 3.5 medium (float16, no T5)")
    assert (this.height, this.width, this.guidance, this.t5_length) == (512, 512, 5.0, 256)
    assert pipe.transformer.dtype == torch.float16 and not this.measured


def test_what_does_not_fit_is_not_downloaded(downloaded, monkeypatch):
    monkeypatch.setattr(load_module, "here", lambda *_, **__: replace(T4, gpu=2.0))
    with pytest.raises(ValueError, match="large does not fit Colab T4.*GPU memory"):
        load("large")
    assert not downloaded


def test_the_plan_of_a_name_or_a_folder(folder):
    assert plan_for("medium", "cpu", torch.float32, t5=False).precisions["transformer"] == "float32"
    assert plan_for(folder).name == "my-model"


def test_the_first_cell_of_a_notebook_goes_on(monkeypatch, folder, capsys):
    monkeypatch.setattr(load_module, "MINIATURE", folder)
    monkeypatch.setattr(load_module, "here", lambda *_, **__: replace(here("cpu"), host=1.0))
    pipe = load_module.load_or_tiny("large")
    assert tier(pipe) == tiers.TINY
    printed = capsys.readouterr().out
    assert "goes on with the MINIATURE" in printed and "Colab's free T4" in printed
    assert max(map(len, printed.splitlines())) <= 100
    load_module.load_or_tiny("tiny")
    assert capsys.readouterr().out == ""
