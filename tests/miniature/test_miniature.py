"""The bundled miniature and oracle themselves: what they are, and that they draw and judge."""

from __future__ import annotations

import random

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch import nn

from densenb.evaluation.measure import score_layout
from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box
from densenb.miniature import captions
from densenb.miniature.oracle import WEIGHTS, load_oracle
from densenb.miniature.tokenizers import CLIP_LENGTH
from densenb.miniature.training import train
from densenb.miniature.world import COLOUR_NAMES, NOUNS, sample_scenes
from densenb.models.load import MINIATURE, load
from densenb.modulation.dense_config import DenseConfig
from densenb.sampling import generate, generators
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.prompts import call_inputs

pytestmark = pytest.mark.usefixtures("few_backgrounds")
MB = 1e6
SEEDS = (0, 1)
STEPS = 10


@pytest.fixture(scope="module")
def stock():
    """As anybody would load it, without this package."""
    return StableDiffusion3Pipeline.from_pretrained(MINIATURE, local_files_only=True)


@pytest.fixture(scope="module")
def pipe():
    return load("tiny")


def modules(pipe) -> dict[str, nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


# What is bundled


def test_files_are_small():
    bundled = [path for path in (*MINIATURE.rglob("*"), WEIGHTS) if path.is_file()]
    sizes = [path.stat().st_size for path in bundled]
    assert max(sizes) < 16 * MB and sum(sizes) <= 38 * MB


def test_parameters_are_those_of_the_model_card(stock):
    parts = modules(stock)
    assert len(parts) == 5
    assert size(parts["transformer"]) < 12e6 and size(load_oracle()) < 1.5e6
    assert sum(map(size, parts.values())) < 17e6
    card = (MINIATURE.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (*parts.values(), load_oracle()):
        assert f"{size(part) / 1e6:.2f}" in card


def test_it_loads_in_float32_without_being_asked(stock):
    for part in modules(stock).values():
        assert {weight.dtype for weight in part.state_dict().values()} <= {
            torch.float32,
            torch.int64,  # positions
        }
        assert part.dtype == torch.float32


def test_it_is_made_as_sd35_medium_is(stock):
    dit, blocks = stock.transformer.config, stock.transformer.transformer_blocks
    assert dit.qk_norm == "rms_norm"
    assert all(block.attn.norm_q is not None for block in blocks)
    half = len(blocks) // 2
    assert tuple(dit.dual_attention_layers) == tuple(range(half))
    assert [block.attn2 is not None for block in blocks] == [True] * half + [False] * half
    assert dit.pos_embed_max_size <= 48
    assert dit.in_channels == dit.out_channels == stock.vae.config.latent_channels == 16
    assert stock.vae_scale_factor == 8
    assert stock.scheduler.config.shift == 3.0
    assert not stock.scheduler.config.use_dynamic_shifting
    assert stock.tokenizer_max_length == CLIP_LENGTH == 40
    for encoder in (stock.text_encoder, stock.text_encoder_2):
        assert encoder.config.max_position_embeddings == 40


def test_the_text_encoders_know_their_tokens_and_the_words_of_the_world(stock):
    scenes, rng = sample_scenes(500, "test", seed=1), random.Random(1)
    plain = [captions.plain(scenes, i).text for i in range(len(scenes))]
    varied = [captions.varied(scenes, i, rng) for i in range(len(scenes))]
    for end, length, specials in (("", 40, 2), ("_2", 40, 2), ("_3", train.SHORT_T5, 1)):
        tokenizer = getattr(stock, "tokenizer" + end)
        assert len(tokenizer) == getattr(stock, "text_encoder" + end).config.vocab_size
        assert max(map(len, tokenizer(plain).input_ids)) < length
        fits = [len(ids) <= length for ids in tokenizer(varied, verbose=False).input_ids]
        assert sum(fits) >= 0.99 * len(fits)
        words = tokenizer([*NOUNS, *COLOUR_NAMES]).input_ids
        assert {len(ids) for ids in words} == {1 + specials}
    known = stock.tokenizer_3([*varied, "Ünïcödé & café!"], verbose=False).input_ids
    assert all(stock.tokenizer_3.unk_token_id not in ids for ids in known)


# What it does; measured on other machines it was 37.1 dB, mIoU 93.4 and 100 % of colours


def test_the_autoencoder_keeps_pictures(stock):
    assert train.psnr(stock.vae.eval(), "cpu", count=8) >= 35


def test_the_oracle_names_objects_and_colours():
    found = train.judge_oracle(load_oracle(), "cpu", count=24)
    assert found["mIoU"] >= 88 and found["colour"] >= 97


AGAINST = Layout(
    "a purple owl on the left and a red apple on the right in a forest",
    [
        Region("a purple owl", box(0.52, 0.25, 0.96, 0.85)),
        Region("a red apple", box(0.04, 0.25, 0.48, 0.85)),
    ],
)


def followed(pipe, config) -> tuple[float, float]:
    """Mean in-mask share, where a missing object counts 0, and mean IoU; percent."""
    images = generate(pipe, AGAINST, seeds=SEEDS, config=config, steps=STEPS)
    scores = score_layout(images, AGAINST)
    return 100 * scores.in_mask.nan_to_num().mean().item(), 100 * scores.iou.mean().item()


def test_steering_beats_the_words_of_the_caption(pipe):
    """The caption says left and right, the layout the opposite: measured 1 against 91 % in the
    mask, IoU 1 against 63."""
    in_mask, iou = followed(pipe, None)
    steered_in_mask, steered_iou = followed(pipe, DenseConfig.recommended(pipe))
    assert in_mask <= 25 and steered_in_mask >= 70
    assert steered_iou >= iou + 30


@pytest.mark.parametrize("recommended", [False, True])
def test_strength_0_is_bit_identical_to_stock(pipe, recommended):
    options = {"num_inference_steps": 4, "output_type": "latent"}
    off = {"image_text": 0.0, "image_image": 0.0}
    config = DenseConfig(special_tokens="negative" if recommended else "neutral", **off)
    with dense_attention(pipe, AGAINST, config, **options) as dense:
        steered = pipe(**dense.inputs, generator=generators(1)).images
    plain = pipe(**call_inputs(pipe, AGAINST, None, **options), generator=generators(1)).images
    assert steered.equal(plain)
    with dense_attention(pipe, AGAINST, DenseConfig(), **options) as dense:  # or nothing is steered
        assert not pipe(**dense.inputs, generator=generators(1)).images.equal(plain)
