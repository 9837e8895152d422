"""The Triton kernels against the definition: on a GPU, or in Triton's interpreter on a CPU.

Without Triton they are skipped; `pip install triton` (Linux) is enough, conftest.py does the rest.
"""

from __future__ import annotations

import pytest
import torch
from test_fused import STEP, error, example, only_image

from densenb.attention import fused, row_ranges
from densenb.attention.explicit import explicit_attention
from densenb.attention.fused import fused_attention
from densenb.modulation.dense_config import DenseConfig

pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested")
from densenb.attention import kernels  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# The interpreter multiplies bfloat16 incorrectly.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if CUDA else [])]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-4, torch.bfloat16: 3e-3}


def cases(*args, **kwargs):
    inputs, plan = example(*args, **kwargs)
    plan = type(plan)(plan.member.to(DEVICE), plan.strengths.to(DEVICE), plan.image)
    return [x.to(DEVICE) for x in inputs], plan


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [1, 64, 100])
def test_range(dtype, keys):
    (query, key, _), _ = cases(rows=2, image=100, text=40, size=20)
    query, key = query.to(dtype), key.to(dtype)[:, :, 5 : 5 + keys]
    found, expected = kernels.row_range(query, key), row_ranges.chunked_range(query, key)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(found, expected))


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["apart", "overlapping", "soft", "empty"])
@pytest.mark.parametrize(
    "config",
    [
        DenseConfig(),
        DenseConfig(special_tokens="negative", overlap_area="sum", image_image=2),
        DenseConfig(image_image=0, special_tokens="background"),
        DenseConfig(image_text=0, text_image=0.5, text_text=0.4, value_range="row"),
        DenseConfig(value_range=None, image_text=3, text_text=1),
    ],
    ids=lambda config: f"{config.special_tokens}-{config.value_range}-{config.image_image:g}",
)
def test_attention(monkeypatch, joint, kind, config):
    monkeypatch.setattr(fused, "triton_kernels", lambda query: kernels)
    monkeypatch.setattr(fused, "row_range", kernels.row_range)
    inputs, plan = cases(kind, rows=2, image=70, text=24, size=24)
    if not joint:
        inputs, plan = only_image(inputs, plan)
    for dtype in DTYPES:
        rounded = [x.to(dtype) for x in inputs]
        exact = [x.double() for x in rounded]
        found = fused_attention(*rounded, config, plan, STEP)
        assert error(found, explicit_attention(*exact, config, plan, STEP)) < TOLERANCES[dtype]


def test_the_trial_run_tells_right_from_wrong(monkeypatch):
    assert kernels.compute_correctly(torch.device(DEVICE))
    wrong = [
        2 * x for x in row_ranges.chunked_range(*[torch.ones(1, 1, 64, 64, device=DEVICE)] * 2)
    ]
    monkeypatch.setattr(kernels, "row_range", lambda *given: wrong)
    assert not kernels.compute_correctly(torch.device(DEVICE))
