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
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from densenb.models.four_bits import packable

REPOSITORIES = {
    "medium": "stabilityai/stable-diffusion-3.5-medium",
    "large": "stabilityai/stable-diffusion-3.5-large",
}
# The commit of each repository that densenb was tested with, by the names above. None is known yet,
# because this project has not run the real weights; without one, the newest commit is loaded.
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

# Configurations; what they leave out is the default of the class.
_JOINT = {
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
_CLIP_ENDS = {"bos_token_id": 0, "eos_token_id": 2}
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
    "text_encoder": _CLIP_ENDS
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "text_encoder_2": _CLIP_ENDS
    | {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    "text_encoder_3": {
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
        if part in ENCODERS:
            return CLASSES[part](CLASSES[part].config_class(**config)).eval()
        given = {name: value for name, value in config.items() if not name.startswith("_")}
        return CLASSES[part](**given).eval()


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
    parameters = set(module.parameters())  # T5's embedding has two names, and counts once
    saved = module.state_dict(keep_vars=True).values()
    linear = {n: m.weight.numel() for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    packed = sum(linear[name] for name in packable(module))
    return Size(
        parameters=sum(parameter.numel() for parameter in parameters),
        buffers=sum(tensor.numel() for tensor in saved if tensor not in parameters),
        linear=packed,
        exact=sum(linear.values()) - packed,
    )


@cache
def sizes(name: str) -> dict[str, Size]:
    """The size of each component of "medium" or "large"."""
    return {part: measure(build(part, CONFIGS[name][part])) for part in PARTS}


def saved_sizes(folder: Path) -> dict[str, Size]:
    """The size of each component of a saved pipeline, read from its configurations alone."""
    paths = {part: folder / part / "config.json" for part in PARTS}
    return {
        part: measure(build(part, json.loads(path.read_text(encoding="utf-8"))))
        for part, path in paths.items()
        if path.is_file()
    }
