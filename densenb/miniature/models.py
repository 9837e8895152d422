"""The parts of the miniature SD 3.5: stock classes of diffusers and transformers, made small.

Sizes are chosen so that everything bundled fits in 36 MB of fp16: 6 blocks of width 224 rather than
8 of 192, because adaptive-norm layers grow with depth and cost a third of the parameters.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from densenb.miniature.tokenizers import CLIP_LENGTH

PIXELS = 256  # the side of a training picture
T5_WIDTH = 192  # joint_attention_dim; the two CLIPs (64 + 96 channels) are zero-padded to it
CLIP_WIDTHS = (64, 96)


def autoencoder() -> AutoencoderKL:
    """16 latent channels at 1/8 of the side, as in SD 3.5; no attention, so that crops teach it."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        norm_num_groups=16,
        latent_channels=16,
        sample_size=PIXELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def transformer(layers: int = 6, width: int = 224) -> SD3Transformer2DModel:
    """An MM-DiT-X: dual attention in the first half of the blocks, RMS-normed queries and keys."""
    return SD3Transformer2DModel(
        sample_size=PIXELS // 8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=32,
        dual_attention_layers=tuple(range(layers // 2)),
        qk_norm="rms_norm",
    )


def clip_encoder(
    tokenizer: CLIPTokenizer, width: int, activation: str
) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=4,
            num_attention_heads=width // 32,
            max_position_embeddings=CLIP_LENGTH,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_encoder(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=32,
            d_ff=2 * T5_WIDTH,
            num_layers=4,
            num_heads=T5_WIDTH // 32,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


class Flow(nn.Module):
    """The modules that train together: the three text encoders and the transformer.

    `forward` does the same as `StableDiffusion3Pipeline` between a prompt's token ids and the
    predicted velocity, and returns the flow-matching loss.
    """

    def __init__(
        self,
        clip_l: CLIPTextModelWithProjection,
        clip_g: CLIPTextModelWithProjection,
        t5: T5EncoderModel,
        dit: SD3Transformer2DModel,
    ):
        super().__init__()
        self.clip_l, self.clip_g, self.t5, self.dit = clip_l, clip_g, t5, dit

    def encode(
        self, clip_l: Tensor, clip_g: Tensor, t5: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Token ids `[B, 40]`, `[B, 40]`, `[B, L]` to text states `[B, 40 + L, 192]` and pooled
        `[B, 160]`. `keep [B, 3]` of zeros and ones drops encoders, as SD 3 was trained."""
        one = self.clip_l(clip_l, output_hidden_states=True)
        two = self.clip_g(clip_g, output_hidden_states=True)
        parts = [out.hidden_states[-2] * keep[:, i, None, None] for i, out in enumerate((one, two))]
        clip = torch.cat(parts, 2)  # (B, 40, 160)
        clip = nn.functional.pad(clip, (0, T5_WIDTH - sum(CLIP_WIDTHS)))  # (B, 40, 192)
        pooled = [out.text_embeds * keep[:, i, None] for i, out in enumerate((one, two))]
        long = self.t5(t5).last_hidden_state * keep[:, 2, None, None]  # (B, L, 192)
        return torch.cat([clip, long], 1), torch.cat(pooled, 1)  # (B, 40 + L, 192), (B, 160)

    def forward(
        self, latents: Tensor, noise: Tensor, sigma: Tensor, clip_l, clip_g, t5, keep: Tensor
    ) -> Tensor:
        """Mean squared error of the velocity `noise - latents` at noise level `sigma [B]`."""
        text, pooled = self.encode(clip_l, clip_g, t5, keep)
        mix = sigma[:, None, None, None]
        velocity = self.dit(
            hidden_states=(1 - mix) * latents + mix * noise,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=1000 * sigma,
            return_dict=False,
        )[0]
        return (velocity.float() - (noise - latents)).square().mean()


def assemble(
    flow: Flow, vae: AutoencoderKL, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer, T5TokenizerFast]
) -> StableDiffusion3Pipeline:
    """The trained parts as a stock pipeline."""
    first, second, third = tokenizers
    return StableDiffusion3Pipeline(
        transformer=flow.dit,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=flow.clip_l,
        tokenizer=first,
        text_encoder_2=flow.clip_g,
        tokenizer_2=second,
        text_encoder_3=flow.t5,
        tokenizer_3=third,
    )


def save(pipe: StableDiffusion3Pipeline, folder: str | Path) -> None:
    """Write a copy in half precision, in files of under 16 MB that any git host takes.

    What is written loads the same in transformers 4 and 5: text encoders that say float32, as
    transformers would otherwise load them in half precision beside a float32 transformer, and the
    names of the fast tokenizers, the only ones that read tokenizer.json in transformers 4.
    """
    parts = {name: copy.deepcopy(part) for name, part in pipe.components.items()}
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.half()
        elif hasattr(part, "backend_tokenizer"):  # it remembers how its last call padded
            part.backend_tokenizer.no_padding()
            part.backend_tokenizer.no_truncation()
    type(pipe)(**parts).save_pretrained(folder, max_shard_size="15MB")
    for path in Path(folder).rglob("*.json"):
        if path.name not in ("config.json", "model_index.json", "tokenizer_config.json"):
            continue
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)  # a folder of the machine that trained it
        if path.name == "model_index.json":
            for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
                config[name][1] = config[name][1].removesuffix("Fast") + "Fast"
        elif path.name == "tokenizer_config.json":
            config.pop("extra_special_tokens", None)  # [] of transformers 5, not read by 4
            config.pop("local_files_only", None)  # how the trainer found it
        elif path.parent.name.startswith("text_encoder"):
            config["dtype" if "dtype" in config else "torch_dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
