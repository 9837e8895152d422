"""Loading SD 3.5 piece by piece: T5, one tensor at a time."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from densenb.models.load_planned import load_t5, tensors


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    T5EncoderModel(config).eval().save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return tmp_path


IDS = torch.arange(12)[None] % 50


def test_equals_the_loader_of_transformers(folder):
    mine = load_t5(folder, "float32", torch.float16, torch.device("cpu"))
    library = T5EncoderModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    torch.testing.assert_close(mine(IDS).last_hidden_state, library(IDS).last_hidden_state)
    assert not any(weight.requires_grad or weight.is_meta for weight in mine.parameters())
    assert mine.shared.weight is mine.encoder.embed_tokens.weight


def test_half_precision_keeps_wo_exact(folder):
    module = load_t5(folder, "float16", torch.float16, torch.device("cpu"))
    dtypes = {
        name.split(".")[-2]: weight.dtype
        for name, weight in module.named_parameters()
        if "DenseReluDense" in name
    }
    assert dtypes == {"wi_0": torch.float16, "wi_1": torch.float16, "wo": torch.float32}


def test_packed_weights_are_close_and_wo_is_left_alone(folder):
    bnb = pytest.importorskip("bitsandbytes")
    module = load_t5(folder, "nf4", torch.float32, torch.device("cpu"))
    block = module.encoder.block[0].layer[1].DenseReluDense
    assert isinstance(block.wi_0, bnb.nn.Linear4bit) and type(block.wo) is torch.nn.Linear
    exact = load_t5(folder, "float32", torch.float32, torch.device("cpu"))
    ours, theirs = (each(IDS).last_hidden_state for each in (module, exact))
    error = (ours - theirs).norm() / theirs.norm()
    assert 0.001 < error < 0.3


def test_variants_beside_the_weights_are_not_read(folder):
    for path in sorted(folder.glob("*.safetensors*")):
        path.with_name(path.name.replace("model", "model.fp16", 1)).write_bytes(path.read_bytes())
    names = [name for name, _ in tensors(folder)]
    assert len(names) == len(set(names)) > 10


def test_a_missing_weight_is_named(folder):
    first = min(folder.glob("*.safetensors"))
    kept = load_file(first)
    lost = next(name for name in kept if "shared" not in name)
    save_file({name: tensor for name, tensor in kept.items() if name != lost}, first)
    with pytest.raises(ValueError, match=f"lacks 1 weights, the first of them {lost}"):
        load_t5(folder, "float32", torch.float16, torch.device("cpu"))
