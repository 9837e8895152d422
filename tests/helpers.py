"""What several test files share: the layout of cat and umbrella, and short samplings."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from densenb.layout.layout import Layout, Region
from densenb.layout.masks import box, ellipse
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.sd3.dense_attention import dense_attention

CAT = Region("a blue cat", box(0.05, 0.35, 0.5, 0.95))


UMBRELLA = Region("an orange umbrella", ellipse(0.72, 0.4, 0.22, 0.3))


LAYOUT = Layout("a blue cat and an orange umbrella in a rose garden", [CAT, UMBRELLA])


ONE = Layout("a red squid on the beach, at night", [Region("a red squid", box(0, 0, 0.5, 0.5))])


SMALL = {"height": 128, "width": 128, "num_inference_steps": 4, "max_sequence_length": 44}


ALL = DenseConfig(image_text=1, image_image=0.5, text_image=0.5, text_text=0.5, window=1, decay=1)


NOTHING = DenseConfig(image_text=0, image_image=0)


def noise(count: int, height: int = 16, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 16, height, width, generator=torch.Generator().manual_seed(seed))


def sample(pipe, layout, config, latents=None, **call_kwargs) -> torch.Tensor:
    """Final latents of a short run."""
    layouts = [layout] if isinstance(layout, Layout) else layout
    latents = noise(len(layouts)) if latents is None else latents
    with dense_attention(pipe, layout, config, **SMALL | call_kwargs) as dense:
        return pipe(**dense.inputs, latents=latents, output_type="latent").images


def stock(pipe, layout, latents=None, **call_kwargs) -> torch.Tensor:
    inputs = {"prompt": layout.text} | SMALL | call_kwargs
    latents = noise(1) if latents is None else latents
    return pipe(**inputs, latents=latents, output_type="latent").images


@dataclass(frozen=True, kw_only=True)
class Spy(Rule):
    """Plain softmax, that is strength 0 forced through the explicit path; notes what it is told."""

    seen: list = field(default_factory=list)

    def probabilities(self, scores, plan, step):
        self.seen.append((step, plan, scores))
        return scores.softmax(dim=-1)


def close(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return float((result - expected).norm() / expected.norm()) < tolerance
