"""Four-bit weights without a GPU: bitsandbytes' CPU path on the miniature's own weights."""

from __future__ import annotations

import pytest
import torch

from densenb.models import four_bits
from densenb.models.load import load

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def exact():
    return load("tiny")


@pytest.fixture(scope="module")
def packed():
    pipe = load("tiny")
    pipe.counts = [four_bits.pack(pipe.transformer), four_bits.pack(pipe.text_encoder_3)]
    return pipe


def linear(module):
    return {n: m for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)}


def error(found, expected) -> float:
    """Relative: length of the difference over length of what is right."""
    return float((found - expected).norm() / expected.norm())


def test_every_linear_layer_but_wo_is_packed(exact, packed):
    for count, part in zip(packed.counts, ("transformer", "text_encoder_3")):
        before, after = linear(getattr(exact, part)), linear(getattr(packed, part))
        assert before.keys() == after.keys()
        left = {name for name, layer in after.items() if type(layer) is torch.nn.Linear}
        assert left == {name for name in before if name.endswith(".wo")}
        assert count == len(after) - len(left)
        assert bool(left) == (part == "text_encoder_3")
        for name, layer in after.items():
            if name not in left:
                assert isinstance(layer, bnb.nn.Linear4bit) and layer.weight.dtype == torch.uint8
                assert layer.weight.quant_type == "nf4"
                assert layer.weight.numel() * 2 == before[name].weight.numel()


def test_a_layer_computes_what_its_packed_weights_say(exact, packed):
    name = "transformer_blocks.0.attn.to_q"
    before = exact.transformer.get_submodule(name)
    after = packed.transformer.get_submodule(name)
    weight = four_bits.unpacked(after.weight)
    # The values of NF4 lie at most 0.31 of a block's largest weight apart, so half of it is lost.
    largest = before.weight.abs().max()
    assert (weight.float() - before.weight).abs().max() < 0.17 * largest
    x = torch.randn(3, before.in_features, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.linear(x, weight.float(), before.bias)
    assert error(after(x), expected) < 1e-2  # the kernel may round in half precision


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 64), (64, 32), (16, 48), (7, 10)])
def test_rows_of_any_length_are_unpacked_in_place(size):
    torch.manual_seed(0)
    layer = torch.nn.Linear(size[1], size[0])
    after = four_bits.packed(layer, layer.weight, torch.float32, torch.device("cpu"))
    weight = four_bits.unpacked(after.weight)
    assert error(weight, layer.weight) < 0.15  # 0.09 when this was written; 0.4 when out of place
    x = torch.randn(3, size[1])
    expected = torch.nn.functional.linear(x, weight, layer.bias)
    assert torch.allclose(after(x), expected) and torch.allclose(after(x[0]), expected[0])


@torch.no_grad()
def test_t5_stays_close(exact, packed):
    ids = exact.tokenizer_3("a blue cat on a beach", return_tensors="pt").input_ids
    close = error(packed.text_encoder_3(ids)[0], exact.text_encoder_3(ids)[0])
    assert 0 < close < 0.1  # 0.02 when this was written


@torch.no_grad()
def test_the_transformer_stays_close(exact, packed):
    random = torch.Generator().manual_seed(0)
    config = exact.transformer.config
    inputs = {
        "hidden_states": torch.randn(1, 16, 16, 16, generator=random),
        "encoder_hidden_states": torch.randn(1, 20, config.joint_attention_dim, generator=random),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim, generator=random),
        "timestep": torch.tensor([700.0]),
        "return_dict": False,
    }
    close = error(packed.transformer(**inputs)[0], exact.transformer(**inputs)[0])
    assert 0 < close < 0.3  # 0.13 when this was written


def test_dense_attention_works_on_packed_layers(packed):
    import densenb as dnb

    layout = dnb.Layout(
        "a blue cat on a beach", [dnb.Region("a blue cat", dnb.box(0, 0.3, 0.5, 1))]
    )
    size = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent"}
    drawn = []
    for config in (dnb.DenseConfig(image_text=0, image_image=0), dnb.DenseConfig(window=1)):
        with dnb.dense_attention(packed, layout, config, **size) as dense:
            drawn.append(packed(**dense.inputs, generator=dnb.generators([0])).images)
    stock = packed(**dense.inputs, generator=dnb.generators([0])).images
    assert torch.equal(drawn[0], stock) and not torch.equal(drawn[1], stock)
    assert drawn[1].isfinite().all()


def test_without_bitsandbytes_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        four_bits.pack(torch.nn.Linear(2, 2))
