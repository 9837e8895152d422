"""Four-bit weights without a GPU: replace the linear layers of a model.

On a GPU the loaders of diffusers and transformers pack weights while they read them; on the CPU
they refuse, or differ by version, although bitsandbytes can. Taught in notebook 01.
"""

from __future__ import annotations

from copy import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn


def pack(module: nn.Module, dtype: torch.dtype = torch.float32) -> int:
    """Replace every `nn.Linear` in `module` by one of 4 bits a weight (NF4); return their number.

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
    names = [name for name, layer in module.named_modules() if type(layer) is nn.Linear]
    return [name for name in names if not kept & set(name.split("."))]


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
    new = linear_class()(
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


@cache
def linear_class() -> type[nn.Module]:
    """bitsandbytes' `Linear4bit`, which on a CPU computes with the weights of `unpacked`.

    By itself it would choose a kernel by the processor, and on those with bfloat16 instructions one
    that takes few shapes (bitsandbytes 0.50).
    """
    import bitsandbytes as bnb

    class Linear4bit(bnb.nn.Linear4bit):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.device.type != "cpu":
                return super().forward(x)
            weight = unpacked(self.weight).to(self.compute_dtype)
            return F.linear(x.to(self.compute_dtype), weight, self.bias).to(x.dtype)

    return Linear4bit


def unpacked(weight: nn.Parameter) -> torch.Tensor:
    """The values of a packed weight, `[out, in]`, as wide as before it was packed.

    Unpacked as one long row: with AVX-512, bitsandbytes 0.50 loses its place at the end of rows
    that are no multiple of 64, the block that shares a scale.
    """
    import bitsandbytes as bnb

    state = copy(weight.quant_state)
    state.shape = torch.Size([1, weight.quant_state.shape.numel()])
    return bnb.functional.dequantize_4bit(weight.data, state).view(weight.quant_state.shape)
