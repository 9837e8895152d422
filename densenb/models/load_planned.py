"""Load a saved Stable Diffusion 3.5, component by component, as a memory plan says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import safe_open
from torch import nn

from densenb.models import four_bits
from densenb.models.architecture import CLASSES, ENCODERS, T5, build
from densenb.models.memory_plan import MemoryPlan
from densenb.models.text_encoders import FrugalPipeline


def load_planned(folder: Path, plan: MemoryPlan) -> FrugalPipeline:
    """The pipeline of a folder in diffusers' layout; encoders are loaded when text comes.

    The transformer goes to the plan's device in the plan's precision, the autoencoder in float32,
    whose half precision can overflow. ValueError when a component is missing from the folder.
    """
    missing = [part for part in plan.precisions if not list((folder / part).glob("*.safetensors"))]
    if missing:
        raise ValueError(
            f"{folder} has no weights (*.safetensors) of {', '.join(missing)}: save or download "
            "the pipeline again, or leave T5 out (t5=False)."
        )
    left_out = [part for part in ENCODERS if part not in plan.precisions]
    with quiet_loading():
        pipe = FrugalPipeline.from_pretrained(
            folder,
            local_files_only=True,
            transformer=load_part(folder, "transformer", plan),
            vae=in_float32(load_part(folder, "vae", plan)),
            **dict.fromkeys(ENCODERS),
            **{part.replace("text_encoder", "tokenizer"): None for part in left_out},
        )
    pipe.attach(
        partial(load_encoders, folder, plan),
        getattr(torch, plan.dtype),
        keep=plan.keep_encoders,
        park=plan.park,
    )
    return pipe


def load_encoders(folder: Path, plan: MemoryPlan) -> dict[str, nn.Module]:
    """The text encoders of the plan, by the pipeline's names; T5, the largest, first."""
    names = [part for part in reversed(ENCODERS) if part in plan.precisions]
    with quiet_loading():
        return {part: load_part(folder, part, plan) for part in names}


def load_part(folder: Path, part: str, plan: MemoryPlan) -> nn.Module:
    """One component on the plan's device, in eval mode, without gradients.

    On a GPU its weights go there file by file, without a copy of the whole in host memory; 4-bit
    weights are packed there.
    """
    precision, device = plan.precisions[part], torch.device(plan.machine.device)
    if part == T5:
        return load_t5(folder / part, precision, getattr(torch, plan.dtype), device)
    library = diffusers if part in ("transformer", "vae") else transformers
    packed = precision == "nf4"
    dtype = getattr(torch, plan.dtype if packed else precision)
    options: dict[str, Any] = {dtype_argument(library): dtype, "local_files_only": True}
    if device.type == "cuda":
        options["device_map"] = {"": f"cuda:{device.index or 0}"}
        if packed:
            options["quantization_config"] = library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
    module = CLASSES[part].from_pretrained(folder / part, **options)
    if packed and device.type != "cuda":
        four_bits.pack(module, dtype)
    return module.eval().requires_grad_(False)


def load_t5(folder: Path, precision: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """T5, one tensor at a time: memory holds the result and one tensor, never more.

    The loader of transformers first reserves room for the whole model, and reads many tensors
    ahead of packing them: SD 3.5's T5 does not fit a Colab T4's memory that way. `precision`:
    "nf4", with computation in `dtype`, or the name of a dtype. Layers that T5 wants in float32 get
    it. ValueError when weights are missing.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # Stock attention has no memory-efficient kernel for T5's bias in some versions of transformers.
    module = build(T5, config | {"attn_implementation": "eager"})
    to_pack = set(four_bits.packable(module)) if precision == "nf4" else set()
    dtype = dtype if precision == "nf4" else getattr(torch, precision)
    kept = set(module._keep_in_fp32_modules or ())
    for name, tensor in tensors(folder):
        owner, _, leaf = name.rpartition(".")
        layer = module.get_submodule(owner)
        if owner in to_pack:
            module.set_submodule(owner, four_bits.packed(layer, tensor, dtype, device))
            continue
        exact = bool(kept & set(owner.split("."))) and dtype == torch.float16
        weight = tensor.to(device, torch.float32 if exact else dtype)
        setattr(layer, leaf, nn.Parameter(weight, requires_grad=False))
    module.tie_weights()
    missing = [name for name, weight in module.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights, the first of them {missing[0]}: save or "
            "download the pipeline again, or leave T5 out (t5=False)."
        )
    return module.eval().requires_grad_(False)


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The saved tensors of a component by name, read when asked for."""
    indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: len(path.name))
    if indices:  # the shortest name: the others are variants
        index = json.loads(indices[0].read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    else:
        files = sorted(folder.glob("*.safetensors"), key=lambda path: len(path.name))[:1]
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a dictionary)
                yield name, weights.get_tensor(name)


def in_float32(vae: nn.Module) -> nn.Module:
    """A float32 autoencoder that decodes latents of any dtype."""

    def widen(_: nn.Module, args: tuple) -> tuple:
        return tuple(value.float() if torch.is_tensor(value) else value for value in args)

    first = vae.post_quant_conv if vae.post_quant_conv is not None else vae.decoder
    first.register_forward_pre_hook(widen)
    return vae


def dtype_argument(library: Any = diffusers) -> str:
    """The name of a library's dtype argument: `dtype` replaced `torch_dtype`, which now warns."""
    if library is transformers:
        return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    renamed = hasattr(diffusers.utils.deprecation_utils, "_resolve_dtype")
    return "dtype" if renamed else "torch_dtype"


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars while loading: a small model loads in a moment."""
    loggers = [diffusers.utils.logging, transformers.utils.logging]
    shown = [logger for logger in loggers if logger.is_progress_bar_enabled()]
    for logger in shown:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in shown:
            logger.enable_progress_bar()
