"""Four-bit weights without a GPU: the linear layers of a model exchanged by hand.

On a GPU the loaders of diffusers and transformers pack weights while they read them; on the CPU
they refuse, or differ by version, though bitsandbytes itself can. Taught in notebook 01.
"""

from __future__ import annotations

import torch
from torch import nn


def pack(module: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Exchange every `nn.Linear` in `module` for one of 4 bits a weight (NF4); how many they were.

    Layers that transformers keeps in float32, T5's `wo`, are left alone. dtype: of the
    computation. ValueError without bitsandbytes.
    """
    names = packable(module)
    for name in names:
        layer = module.get_submodule(name)
        module.set_submodule(name, packed(layer, layer.weight, dtype, layer.weight.device))
    return len(names)


def packable(module: nn.Module) -> list[str]:
    """The names of the linear layers that may be packed: all but those kept in float32."""
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return [
        name
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and not kept & set(name.split("."))
    ]


def packed(
    layer: nn.Linear, weight: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """A layer like `layer`, whose own weight may be on the meta device, with `weight` packed."""
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise ValueError(
            "packing weights to 4 bits needs bitsandbytes: pip install bitsandbytes."
        ) from error
    new = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    new.weight = bnb.nn.Params4bit(weight.detach().to(dtype), requires_grad=False, quant_type="nf4")
    if layer.bias is not None:
        new.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
    return new.to(device)
