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
    try:
        import bitsandbytes as bnb
    except ImportError as error:
        raise ValueError(
            "packing weights to 4 bits needs bitsandbytes: pip install bitsandbytes."
        ) from error
    kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    names = [
        name
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and not kept & set(name.split("."))
    ]
    for name in names:
        parent, _, leaf = name.rpartition(".")
        old = getattr(module.get_submodule(parent), leaf)
        new = bnb.nn.Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=dtype,
            quant_type="nf4",
            device="meta",
        )
        new.weight = bnb.nn.Params4bit(
            old.weight.detach().to(dtype), requires_grad=False, quant_type="nf4"
        )
        if old.bias is not None:
            new.bias = nn.Parameter(old.bias.detach().to(dtype), requires_grad=False)
        setattr(module.get_submodule(parent), leaf, new.to(old.weight.device))
    return len(names)
