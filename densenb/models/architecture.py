"""What Stable Diffusion 3.5 is made of: configurations, repositories, and sizes without weights.

The configurations are those of the released models; building a module from one on the meta device
gives every shape and no memory is spent. Taught in notebook 01.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

REPOSITORIES = {
    "medium": "stabilityai/stable-diffusion-3.5-medium",
    "large": "stabilityai/stable-diffusion-3.5-large",
}
# The commit of each repository that densenb was tested with, by the names above. None is known yet,
# for this project has not run the real weights; without one, the newest commit is loaded.
REVISIONS: dict[str, str] = {}

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PARTS = ("transformer", "vae", *ENCODERS)
T5 = "text_encoder_3"

CLASSES: dict[str, type] = {
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
}

_JOINT = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
MEDIUM = _JOINT | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),  # the blocks that carry attn2
}
LARGE = _JOINT | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
}
_CLIP = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2}
SHARED: dict[str, dict[str, Any]] = {
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "text_encoder": _CLIP
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "text_encoder_2": _CLIP
    | {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    "text_encoder_3": {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    },
}
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "medium": {"transformer": MEDIUM, **SHARED},
    "large": {"transformer": LARGE, **SHARED},
}


def build(part: str, config: Mapping[str, Any], device: str = "meta") -> nn.Module:
    """One component with fresh weights, in eval mode; on the meta device it takes no memory."""
    with torch.device(device):
        if part in ("transformer", "vae"):
            given = {name: value for name, value in config.items() if not name.startswith("_")}
            return CLASSES[part](**given).eval()
        kind = T5Config if part == T5 else CLIPTextConfig
        return CLASSES[part](kind(**config)).eval()


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD 3.5's: flow matching, Euler steps, shift 3."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


@dataclass(frozen=True)
class Size:
    """How many numbers a component holds.

    parameters: all weights. buffers: tables that are saved with them (the position embedding).
    linear: the weights of `nn.Linear` that 4-bit packing replaces. exact: weights that transformers
    keeps in float32 under float16 (T5's `wo`, which overflows).
    """

    parameters: int
    buffers: int = 0
    linear: int = 0
    exact: int = 0

    def gib(self, precision: str) -> float:
        """GiB in memory, in "float32", "bfloat16", "float16" or "nf4"."""
        total = self.parameters + self.buffers
        wide = 4 * self.exact
        if precision == "nf4":  # 4 bits a weight and a float32 scale for every 64
            packed = self.linear * (0.5 + 4 / 64)
            return (packed + 2 * (total - self.linear - self.exact) + wide) / 2**30
        if precision == "float16":
            return (2 * (total - self.exact) + wide) / 2**30
        return {"float32": 4, "bfloat16": 2}[precision] * total / 2**30

    @property
    def download_gb(self) -> float:
        """GB (10^9 bytes) on disk, at two bytes a number as released."""
        return 2 * (self.parameters + self.buffers) / 1e9


def measure(module: nn.Module) -> Size:
    """The size of a module; the meta device will do."""
    buffers = module.state_dict().keys() - dict(module.named_parameters()).keys()
    linear = {n: m.weight.numel() for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    exact = sum(size for name, size in linear.items() if kept & set(name.split(".")))
    state = module.state_dict(keep_vars=True)
    return Size(
        parameters=sum(p.numel() for p in module.parameters()),
        buffers=sum(state[name].numel() for name in buffers if not _tied(module, state[name])),
        linear=sum(linear.values()) - exact,
        exact=exact,
    )


def _tied(module: nn.Module, tensor: torch.Tensor) -> bool:
    """Whether a saved tensor is a parameter under a second name, as T5's embedding is."""
    return any(tensor is parameter for parameter in module.parameters())


@cache
def sizes(name: str) -> dict[str, Size]:
    """The size of each component of "medium" or "large"."""
    return {part: measure(build(part, CONFIGS[name][part])) for part in PARTS}


def saved_sizes(folder: Path) -> dict[str, Size]:
    """The size of each component of a saved pipeline, read from its configurations alone."""
    found = {}
    for part in PARTS:
        path = folder / part / "config.json"
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            found[part] = measure(build(part, config))
    return found
