"""A random `StableDiffusion3Pipeline` of stock classes, small enough for unit tests.

Nothing is downloaded: both tokenizers are built from the words of a few sentences (not trained, for
the trainers of `tokenizers` break ties at random), and every weight is drawn from a seed. Pictures
are noise; token order, processors and batch layout are those of SD 3.5-medium.
"""

from __future__ import annotations

import re

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from densenb.miniature import tokenizers
from densenb.miniature.tokenizers import CLIP_LENGTH

SENTENCES = [
    "a blue cat and an orange umbrella in a rose garden.",
    "a red squid and the green castle on the beach, at night",
    "two yellow dogs and a purple octopus in front of a brick wall!",
    "A well-known snow-white rabbit (a photo) and a small café",
    "the cat's hat and 3 teal birds on a field of roses",
    "a magnificent squid, shimmering in shades of deep indigo and vibrant teal",
]
WORDS = list(dict.fromkeys(re.findall(r"\w+", " ".join(SENTENCES))))


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's byte-level BPE with `</w>`; merges build each word from its first letter on."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        start, *letters = byte_level.pre_tokenize_str(word.lower())[0][0]
        for i, letter in enumerate(letters):
            letter += "</w>" if i == len(letters) - 1 else ""
            merges[start, letter] = None
            start += letter
    return tokenizers.clip_tokenizer(merges, pad_token)


def t5_tokenizer() -> T5TokenizerFast:
    """T5's Unigram: words start with "▁", no BOS, `</s>` at the end, `<unk>` off Latin."""
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -3.0}
    scores |= {f"▁{word}": -6.0 for word in WORDS if len(word) < 8}  # longer words are cut up
    scores |= {letter: -8.0 for letter in sorted(set("".join(SENTENCES)) - {" "})}
    return tokenizers.t5_tokenizer(scores)


def text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def random_pipeline(seed: int = 0, layers: int = 3) -> StableDiffusion3Pipeline:
    """A tiny random SD 3.5 in eval mode: `attn2` in blocks 0 and 1, 40 CLIP tokens, then T5's."""
    first, second, third = clip_tokenizer(), clip_tokenizer(pad_token="!"), t5_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "transformer": SD3Transformer2DModel(
                sample_size=32,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=layers,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=32,
                pooled_projection_dim=32,
                pos_embed_max_size=32,
                dual_attention_layers=(0, 1),
                qk_norm="rms_norm",
            ),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(4, 4, 8, 8),
                layers_per_block=1,
                norm_num_groups=2,
                latent_channels=16,
                sample_size=256,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            "text_encoder": text_encoder(first, width=16),
            "text_encoder_2": text_encoder(second, width=16),
            "text_encoder_3": T5EncoderModel(
                T5Config(
                    vocab_size=len(third),
                    d_model=32,
                    d_kv=8,
                    d_ff=32,
                    num_layers=2,
                    num_heads=2,
                    feed_forward_proj="gated-gelu",
                )
            ),
        }
    pipe = StableDiffusion3Pipeline(
        **{name: part.eval() for name, part in parts.items()},
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=first,
        tokenizer_2=second,
        tokenizer_3=third,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
