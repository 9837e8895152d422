"""The fused backend equals the explicit one for every setting, and stores no scores."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from densenb.attention import fused, partial_softmax, row_ranges
from densenb.attention.explicit import explicit_attention
from densenb.attention.fused import fused_attention
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.formulas import same_region
from densenb.modulation.plan import Plan, Step

STEP = Step(1, 28, 0.95)
PATHS = st.sampled_from([0.0, 0.3, 1.0, 2.5])
CONFIGS = st.builds(
    DenseConfig,
    image_text=PATHS,
    image_image=PATHS,
    text_image=PATHS,
    text_text=PATHS,
    decay=st.sampled_from([0.0, 5.0]),
    area=st.sampled_from([0.0, 1.0]),
    value_range=st.sampled_from(["quadrant", "row", None]),
    special_tokens=st.sampled_from(["neutral", "negative", "background"]),
    overlap_area=st.sampled_from(["union", "sum"]),
)
LAYOUTS = st.sampled_from(["apart", "overlapping", "soft", "empty"])


def members(kind: str, rows: int, image: int, text: int, regions: int, seed: int) -> Tensor:
    """Random regions of every token: all combinations occur, including none."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(rows, image + text, regions, generator=generator)
    if kind == "empty":
        return torch.zeros(draw.shape, dtype=torch.bool)
    if kind == "soft":  # a pixel's sum is at most 1, text stays 0 or 1
        pixels = draw[:, :image] / draw[:, :image].sum(dim=-1, keepdim=True).clamp(min=1)
        pixels = pixels * (torch.rand(rows, image, 1, generator=generator) < 0.8)
        return torch.cat([pixels, (draw[:, image:] < 0.2).float()], dim=1)
    inside = draw < 0.35
    if kind == "apart":
        inside &= inside.cumsum(dim=-1) == 1
    inside[:, image + text // 2 :] = False  # special tokens and padding
    return inside


def example(
    kind: str = "apart",
    rows: int = 1,
    heads: int = 2,
    image: int = 36,
    text: int = 24,
    regions: int = 3,
    size: int = 16,
    largest: float = 12,
    seed: int = 0,
) -> tuple[list[Tensor], Plan]:
    """Query and key with this largest logit, value (in float64), and a plan."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, rows, heads, image + text, size)
    query, key, value = torch.randn(shape, generator=generator, dtype=torch.float64)
    query, key = (x / x.pow(2).mean(dim=-1, keepdim=True).sqrt() for x in (query, key))
    gain = (largest / (query @ key.mT).abs().max() * size**0.5) ** 0.5
    member = members(kind, rows, image, text, regions, seed)
    strengths = 0.5 + torch.rand(rows, regions, generator=generator)
    return [query * gain, key * gain, value], Plan(member, strengths, image)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def only_image(inputs: list[Tensor], plan: Plan) -> tuple[list[Tensor], Plan]:
    return [x[:, :, : plan.image] for x in inputs], plan.image_only()


# ---------------------------------------------------------------------------------------- equality
@settings(max_examples=150, deadline=None)
@given(
    config=CONFIGS,
    kind=LAYOUTS,
    rows=st.integers(1, 3),
    joint=st.booleans(),
    size=st.sampled_from([8, 20, 64]),
    largest=st.sampled_from([6, 71]),
    seed=st.integers(0, 99),
)
def test_equals_the_explicit_backend(config, kind, rows, joint, size, largest, seed):
    inputs, plan = example(kind, rows, size=size, largest=largest, seed=seed)
    if not joint:
        inputs, plan = only_image(inputs, plan)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        rounded = [x.to(dtype) for x in inputs]
        found = fused_attention(*rounded, config, plan, STEP)
        assert found.dtype == dtype
        assert error(found, explicit_attention(*rounded, config, plan, STEP)) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("largest", [6, 24])
@pytest.mark.parametrize("kind", ["apart", "overlapping", "soft"])
def test_half_precision_is_nearly_as_exact_as_stock_attention(dtype, largest, kind):
    inputs, plan = example(kind, heads=3, image=256, text=96, size=64, largest=largest)
    rounded = [x.to(dtype) for x in inputs]
    exact = [x.double() for x in rounded]
    stock = error(F.scaled_dot_product_attention(*rounded), F.scaled_dot_product_attention(*exact))
    everything = DenseConfig(text_image=0.5, text_text=0.3, special_tokens="negative")
    for config in (DenseConfig(), everything, DenseConfig(value_range=None, image_text=3)):
        wanted = explicit_attention(*exact, config, plan, STEP)
        assert error(fused_attention(*rounded, config, plan, STEP), wanted) < 2 * stock


def test_rows_of_several_layouts_stay_where_they_are():
    inputs, plan = example(rows=2)
    order = torch.tensor([1, 0, 0, 1, 0])
    plan = Plan(plan.member[order], plan.strengths[order] * torch.rand(5, 1), plan.image)
    inputs = [torch.cat([x, x.flip(0), x[:1]]) for x in inputs]
    found = fused_attention(*inputs, DenseConfig(), plan, STEP)
    assert error(found, explicit_attention(*inputs, DenseConfig(), plan, STEP)) < 1e-6


def test_without_strength_it_is_stock_attention():
    inputs, plan = example()
    finished = Step(27, 28, 0.0)
    found = fused_attention(*inputs, DenseConfig(), plan, finished)
    assert error(found, F.scaled_dot_product_attention(*inputs)) < 1e-6


def test_text_queries_are_stock_attention_unless_asked_for():
    inputs, plan = example()
    inputs = [x.float() for x in inputs]
    found = fused_attention(*inputs, DenseConfig(), plan, STEP)[:, :, plan.image :]
    query, key, value = inputs
    assert torch.equal(found, F.scaled_dot_product_attention(query[:, :, plan.image :], key, value))


def test_float32_ranges_under_autocast():
    inputs, plan = example(image=64)
    inputs = [x.float() for x in inputs]
    expected = fused_attention(*inputs, DenseConfig(), plan, STEP)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused_attention(*inputs, DenseConfig(), plan, STEP), expected)


# ------------------------------------------------------------------------------ memory and caching
class Largest(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.untyped_storage().nbytes() // 4)
        return result


@pytest.mark.parametrize("special_tokens", ["neutral", "negative"])
def test_no_tensor_of_all_scores(special_tokens, monkeypatch):
    monkeypatch.setattr(row_ranges, "CHUNK", 1 << 20)
    inputs, plan = example(image=900, text=60, heads=4, size=8)
    inputs = [x.float() for x in inputs]
    config = DenseConfig(text_image=0.2, special_tokens=special_tokens)
    tokens = inputs[0].shape[2]
    fused._groups(plan, config, STEP)  # once a pass, not once a layer
    for attend, least, most in (
        (fused_attention, 0, 0.12),
        (explicit_attention, 1, 99),  # the test can detect scores
    ):
        with Largest() as largest:
            attend(*inputs, config, plan, STEP)
        assert least <= largest.elements / (4 * tokens**2) <= most


def test_ranges_are_sought_only_where_they_are_used(monkeypatch):
    asked = []

    def row_range(query, key):
        asked.append((query.shape[2], key.shape[2]))
        return row_ranges.chunked_range(query, key)

    monkeypatch.setattr(fused, "row_range", row_range)
    inputs, plan = example(image=36, text=24)
    expected = {
        DenseConfig(): [(36, 36), (36, 24)],
        DenseConfig(image_image=0): [(36, 24)],
        DenseConfig(value_range="row"): [(36, 60)],
        DenseConfig(value_range=None): [],
        DenseConfig(image_text=0, image_image=0, text_text=1): [(24, 24)],
    }
    for config, calls in expected.items():
        asked.clear()
        fused_attention(*inputs, config, plan, STEP)
        assert asked == calls


def test_a_later_step_does_not_recompile():
    inputs, plan = example()
    inputs = [x.float() for x in inputs]
    compiled = torch.compile(fused_attention, backend="eager")
    config = DenseConfig(decay=1)
    compiled(*inputs, config, plan, STEP)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for index in range(2, 5):
            step = Step(index, 28, 1 - index / 28)
            found = compiled(*inputs, config, plan, step)
            assert error(found, explicit_attention(*inputs, config, plan, step)) < 1e-5


# ----------------------------------------------------------------------------------------- pieces
@given(seed=st.integers(0, 50), kind=LAYOUTS)
@settings(deadline=None)
def test_same_region_has_thin_factors(seed, kind):
    member = members(kind, 1, 30, 20, 4, seed)
    left, right = fused.same_region_factors(member[0, :30].float(), member[0, 30:].float())
    assert torch.allclose(left @ right.T, same_region(member[:, :30], member[:, 30:])[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 4000, 1 << 30])
def test_row_range(dtype, chunk):
    (query, key, _), _ = example(rows=2, size=20)
    query, key = query.to(dtype), key.to(dtype)[:, :, :17]
    scores = query.double() @ key.double().mT * 20**-0.5
    low, high = row_ranges.chunked_range(query, key, chunk)
    assert low.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.allclose(low.double(), scores.amin(dim=-1), atol=1e-5)
    assert torch.allclose(high.double(), scores.amax(dim=-1), atol=1e-5)


def test_parts_make_the_whole():
    (query, key, value), _ = example(largest=40)
    for operator in (partial_softmax.attention_part, partial_softmax.chunked):
        parts = [
            operator(query, key[:, :, keys], value[:, :, keys], 0.25)
            for keys in (slice(0, 7), slice(7, 8), slice(8, None))
        ]
        whole = F.scaled_dot_product_attention(query, key, value, scale=0.25)
        assert torch.allclose(partial_softmax.merge(parts), whole)


def test_chunks_of_every_size_are_equal():
    (query, key, value), _ = example()
    expected = partial_softmax.attention_part(query, key, value, 0.25)
    for chunk in (1, 1000, 1 << 25):
        found = partial_softmax.chunked(query, key, value, 0.25, chunk)
        assert all(torch.allclose(*pair) for pair in zip(found, expected))


@pytest.fixture
def fresh_operators():
    partial_softmax.operator_name.cache_clear()
    yield partial_softmax.OPERATORS
    partial_softmax.operator_name.cache_clear()


def broken(*args):
    raise RuntimeError("no such operator in this PyTorch")


def shifted(query, key, value, scale):
    attended, log_sum = partial_softmax.chunked(query, key, value, scale)
    return attended, log_sum + 0.1


@pytest.mark.parametrize("operator", [broken, shifted])
def test_a_changed_operator_is_noticed_and_passed_over(operator, fresh_operators, monkeypatch):
    inputs, plan = example()
    query = inputs[0]
    asked = query.device, query.dtype, query.shape[-1] + 8, query.shape[-1], query.shape[2]
    assert partial_softmax.operator_name(*asked) == "flash (CPU)"
    partial_softmax.operator_name.cache_clear()
    monkeypatch.setitem(fresh_operators, "flash (CPU)", operator)
    assert partial_softmax.operator_name(*asked) == "chunked"
    found = fused_attention(*inputs, DenseConfig(), plan, STEP)
    assert error(found, explicit_attention(*inputs, DenseConfig(), plan, STEP)) < 1e-6


def test_more_regions_than_the_kernel_holds_go_to_stock_operators(monkeypatch):
    fail = SimpleNamespace(moved_attention=None, Shift=None)
    monkeypatch.setattr(fused, "triton_kernels", lambda query: fail)
    inputs, plan = example("overlapping", image=50, text=200, regions=90)
    config = DenseConfig(image_image=0.5)
    found = fused_attention(*inputs, config, plan, STEP)
    assert error(found, explicit_attention(*inputs, config, plan, STEP)) < 1e-6
