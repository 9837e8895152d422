"""What the modulation costs, side by side: stock, score-keeping, hard mask, FlexAttention, fused.

    python tests/benchmarks/attention.py                 all parts: a CUDA GPU, about four minutes
    python tests/benchmarks/attention.py --toy           all parts, tiny, on any CPU
    python tests/benchmarks/attention.py --only call --only medium

Full-size shapes of Stable Diffusion 3.5 with random weights: time and memory do not depend on what
the weights are. Prints a table for each part and rewrites the JSON file after each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from functools import partial as call
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_random import random_pipeline  # noqa: E402

import densenb as dnb  # noqa: E402
from densenb.attention import explicit, fused, partial_softmax, row_ranges
from densenb.modulation.dense_config import DenseConfig, query_weight
from densenb.modulation.formulas import same_region  # noqa: E402
from densenb.modulation.plan import Plan, Step
from densenb.sd3 import processors

TEXT = 333  # CLIP's 77 tokens and T5's 256
FULL = {
    "medium": {"layers": 24, "heads": 24, "dual": tuple(range(13)), "pos": 384},
    "large": {"layers": 38, "heads": 38, "dual": (), "pos": 192},
}
TOY = {
    "medium": {"layers": 2, "heads": 2, "dual": (0,), "pos": 64},
    "large": {"layers": 2, "heads": 3, "dual": (), "pos": 64},
}
DEFAULT = DenseConfig(window=0.3)
CONFIGS = {
    "default": DEFAULT,
    "image_image 0": DenseConfig(image_image=0),
    "negative": DenseConfig(special_tokens="negative"),
}
FIRST = Step(0, 28, 1.0)
Method = Callable[[Tensor, Tensor, Tensor, DenseConfig, Plan, Step], Tensor]


# ------------------------------------------------------------------------------------ the machine
class Machine:
    """Where it runs, what it can do at most, and how long it may take."""

    def __init__(self, toy: bool, seconds: float) -> None:
        self.toy = toy
        self.cuda = torch.cuda.is_available() and not toy
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.end = time.perf_counter() + seconds
        self.flops, self.bytes = self._ceilings()

    def _ceilings(self) -> tuple[float, float]:
        """Measured FLOP/s of a large matrix product, and bytes/s of a large copy."""
        side = 8192 if self.cuda else 512
        a = torch.randn(side, side, device=self.device, dtype=self.dtype)
        flops = 2 * side**3 / self.seconds(lambda: a @ a)
        big = torch.empty((1 << 30) if self.cuda else (1 << 22), dtype=torch.uint8, device=a.device)
        target = torch.empty_like(big)
        return flops, 2 * big.numel() / self.seconds(lambda: target.copy_(big))

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], repeats: int = 10) -> float:
        """Median time of `run`, after two runs to warm up; on a GPU by its own clock."""
        repeats = 2 if self.toy else repeats
        for _ in range(1 if self.toy else 2):
            run()
        self.sync()
        times = []
        for _ in range(repeats):
            if self.cuda:
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                began.record()
                run()
                ended.record()
                torch.cuda.synchronize()
                times.append(began.elapsed_time(ended) / 1000)
            else:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self, run: Callable[[], Any]) -> float | None:
        """MiB that `run` needs beyond what is there already; None where nobody counts."""
        if not self.cuda:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def report(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.cuda else platform.machine()
        return {
            "device": name,
            "torch": torch.__version__,
            "matmul_tflops": self.flops / 1e12,
            "copy_gbytes": self.bytes / 1e9,
            "toy": self.toy,
        }


@contextmanager
def freed() -> Iterator[None]:
    """Memory that PyTorch keeps of one case is not there to be counted in the next."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def case(machine: Machine, rows: list[dict], row: dict, measure: Callable[[], dict]) -> dict:
    """Add `row` with what `measure` finds, or with the error, or with "no time left"."""
    if time.perf_counter() > machine.end:
        row["error"] = "no time left"
    else:
        try:
            with freed():
                row |= measure()
        except Exception as error:  # one broken method has to leave the others' figures
            row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    rows.append(row)
    return row


# ------------------------------------------------------------------------------- inputs and methods
def synthetic_plan(side: int, regions: int, text: int, device: torch.device) -> Plan:
    """Vertical stripes with a margin, the rest is background; each with a phrase in CLIP and T5."""
    member = torch.zeros(1, side, side, regions + 1, dtype=torch.bool)
    stripe = side // regions
    for region in range(regions):
        left = region * stripe
        member[0, side // 8 : -(side // 8) or None, left : left + max(1, stripe - 1), region] = True
    member[..., -1] = ~member.any(dim=-1)
    words = torch.zeros(1, text, regions + 1, dtype=torch.bool)
    phrase = max(1, min(4, text // (4 * regions)))
    for region in range(regions):
        for start in (1, text // 4):
            words[0, start + region * phrase : start + (region + 1) * phrase, region] = True
    return Plan(
        torch.cat([member.flatten(1, 2), words], dim=1).to(device),
        torch.ones(1, regions + 1, device=device),
        side * side,
    )


def inputs(
    machine: Machine, heads: int, tokens: int, size: int = 64, largest: float = 12.0, rows: int = 1
) -> list[Tensor]:
    """Query and key normed as in the model, scaled to this largest logit, and value."""
    generator = torch.Generator(machine.device).manual_seed(0)

    def normed() -> Tensor:
        x = torch.randn(rows, heads, tokens, size, generator=generator, device=machine.device)
        return x / x.pow(2).mean(dim=-1, keepdim=True).sqrt()

    query, key = normed(), normed()
    low, high = row_ranges.chunked_range(query, key)
    gain = (largest / max(-float(low.min()), float(high.max()))) ** 0.5
    value = torch.randn(query.shape, generator=generator, device=machine.device)
    return [x.to(machine.dtype) for x in (query * gain, key * gain, value)]


def stock(query, key, value, config, plan, step) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value)


def every_score(query, key, value, config, plan, step) -> Tensor:
    return explicit.explicit_attention(query, key, value, config, plan, step)


class HardMask:
    """The cheapest competitor: PyTorch's own attention under a boolean mask `[B, 1, N, N]`."""

    def __init__(self) -> None:
        self.masks: dict[int, tuple[Plan, Tensor]] = {}

    def __call__(self, query, key, value, config, plan, step) -> Tensor:
        if id(plan) not in self.masks:
            self.masks[id(plan)] = plan, self.mask(plan)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.masks[id(plan)][1])

    @staticmethod
    def mask(plan: Plan) -> Tensor:
        free = ~(plan.member > 0).any(dim=-1)
        allowed = same_region(plan.member, plan.member) > 0
        return (allowed | free[:, :, None] | free[:, None, :])[:, None]


class Flex:
    """FlexAttention with the rule as its score_mod: image queries only, as the default asks for."""

    def __init__(self, machine: Machine) -> None:
        self.attend = flex_rule if machine.toy else torch.compile(flex_rule, dynamic=False)
        self.known: dict[tuple, tuple] = {}

    def __call__(self, query, key, value, config, plan, step) -> Tensor:
        name = id(plan), step
        if name not in self.known:
            member = plan.member[0] > 0
            powers = 2 ** torch.arange(member.shape[1], device=member.device)
            weight = query_weight(plan, config, step)[0]
            pixel = torch.arange(len(member), device=member.device) < plan.image
            strength = (weight * pixel)[:, None] * torch.tensor(
                [config.image_text, config.image_image], device=member.device
            )
            self.known[name] = (
                plan,  # kept, so that its id stays its own
                (member * powers).sum(dim=-1).int(),
                strength.clamp(max=0.999),
                (member.any(dim=-1) | pixel).float(),
            )
        plan, *tokens = self.known[name]
        image, text = key[:, :, : plan.image], key[:, :, plan.image :]
        limits = [row_ranges.row_range(query, x) for x in (text if text.shape[2] else image, image)]
        low, high = (torch.stack(found) for found in zip(*limits))
        return self.attend(query, key, value, plan.image, *tokens, low, high)


def flex_rule(query, key, value, image, bits, strength, movable, low, high) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    def score_mod(score, b, h, q, k):
        kind = (k < image).int()
        target = torch.where((bits[q] & bits[k]) != 0, high[kind, b, h, q], low[kind, b, h, q])
        return score + strength[q, kind] * movable[k] * (target - score)

    # What it captures leaves no room for its usual tiles.
    small = {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 2}
    return flex_attention(query, key, value, score_mod=score_mod, kernel_options=small)


def by_parts(query, key, value, config, plan, step) -> Tensor:
    """`fused_attention` on stock operators alone, as where there is no Triton."""
    with without_kernels():
        return fused.fused_attention(query, key, value, config, plan, step)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Attention by stock operators; ranges still come from the kernel."""
    found, row_ranges.triton_kernels = row_ranges.triton_kernels, lambda query: None
    try:
        yield
    finally:
        row_ranges.triton_kernels = found


@lru_cache
def methods(machine: Machine) -> dict[str, Method]:
    """Kept, because what FlexAttention compiles for a shape takes half a minute."""
    return {
        "stock SDPA": stock,
        "explicit": every_score,
        "hard mask": HardMask(),
        "FlexAttention": Flex(machine),
        "fused, stock operators": by_parts,
        "fused": fused.fused_attention,
    }


# ------------------------------------------------------------------------------------------- parts
def part_tiles(machine: Machine) -> list[dict]:
    """Tile sizes of the Triton kernels (1024 px, 24 heads, one row)."""
    rows: list[dict] = []
    kernels = row_ranges.triton_kernels(
        torch.empty(1, 64, device=machine.device, dtype=machine.dtype)
    )
    if kernels is None:
        return [{"kernel": "none", "error": "Triton does not run here"}]
    plan = synthetic_plan(64, 4, TEXT, machine.device)
    query, key, value = inputs(machine, 24, 4096 + TEXT)
    pixels = query[:, :, :4096]
    out = torch.empty_like(pixels)
    shifts = [
        kernels.Shift(move.strength, *found, *move.paired, move.moved)
        for move in fused._groups(plan, DEFAULT, FIRST)[0].blocks[0].moves
        for found in [kernels.row_range(pixels, key[:, :, move.span])]
    ]
    sizes = [((128, 64), 8, 3), ((64, 64), 4, 3), ((128, 64), 4, 3)]
    for tile, warps, stages in [*sizes, ((64, 64), 4, 4), ((128, 64), 8, 4)]:
        row = {"kernel": "range", "tile": tile, "warps": warps, "stages": stages}
        run = call(kernels.row_range, pixels, key[:, :, :4096], tile, warps, stages)
        case(machine, rows, row, lambda run=run: {"ms": machine.seconds(run) * 1e3})
    for tile, warps, stages in [*sizes, ((128, 64), 4, 2), ((128, 128), 8, 3)]:
        row = {"kernel": "attention", "tile": tile, "warps": warps, "stages": stages}
        given = (pixels, key, value, out, 4096, *shifts, tile, warps, stages)
        run = call(kernels.moved_attention, *given)
        case(machine, rows, row, lambda run=run: {"ms": machine.seconds(run) * 1e3})
    return rows


def part_operators(machine: Machine) -> list[dict]:
    """PyTorch's operators that return the log denominator: which run, how fast, how wide."""
    rows: list[dict] = []
    image = 256 if machine.toy else 4096
    kind = "cuda" if machine.cuda else "cpu"
    names = [name for (device, _), name in partial_softmax.CHOICES.items() if device == kind]
    for width in (64, 80, 128):
        query, key, value = inputs(machine, 2 if machine.toy else 24, image, width)
        value = value[..., :64].contiguous()
        choice = partial_softmax.operator_name(machine.device, machine.dtype, width, 64, image)
        for name in [*names, "chunked"]:
            row = {"operator": name, "width": width, "chosen": name == choice}
            run = call(partial_softmax.OPERATORS[name], query, key, value, width**-0.5)
            case(machine, rows, row, lambda run=run: {"ms": machine.seconds(run) * 1e3})
    return rows


def part_error(machine: Machine) -> list[dict]:
    """Relative L2 error against the fp64 definition on the same rounded inputs."""
    rows: list[dict] = []
    side, heads = (8, 2) if machine.toy else (32, 4)
    text = 24 if machine.toy else TEXT
    plan = synthetic_plan(side, 3, text, machine.device)
    step = Step(0, 28, 0.97)

    def relative(result: Tensor, expected: Tensor) -> float:
        return float((result.double() - expected).norm() / expected.norm())

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for largest in (6, 24, 71):
            given = inputs(machine, heads, side * side + text, largest=largest)
            given = [x.to(dtype) for x in given]
            exact = [x.double() for x in given]
            plain = stock(*exact, DEFAULT, plan, step)
            wanted = explicit.explicit_attention(*exact, DEFAULT, plan, step)
            floor = relative(stock(*given, DEFAULT, plan, step), plain)
            for name, method in methods(machine).items():
                slow = name == "FlexAttention" and dtype != machine.dtype
                if name == "hard mask" or slow:
                    continue  # another function; half a minute of compiling
                row = {"dtype": str(dtype).removeprefix("torch."), "largest logit": largest}
                row |= {"method": name}

                run = call(method, *given, DEFAULT, plan, step)

                def measure(
                    run=run, floor=floor, target=plain if name == "stock SDPA" else wanted
                ) -> dict:
                    error = relative(run(), target)
                    return {"error L2": error, "x stock": error / floor}

                case(machine, rows, row, measure)
    return rows


def part_call(machine: Machine) -> list[dict]:
    """One attention call for the one modulated row of a guided batch of two."""
    rows: list[dict] = []
    shapes = {"toy": 2} if machine.toy else {"medium": 24, "large": 38}
    text = 24 if machine.toy else TEXT
    for pixels in (128,) if machine.toy else (512, 768, 1024):
        for shape, heads in shapes.items():
            side = pixels // 16
            tokens = side * side + text
            joint = synthetic_plan(side, 4, text, machine.device)
            for kind, plan in (("joint", joint), ("image-only", joint.image_only())):
                if kind == "image-only" and shape == "large":
                    continue  # it has no such layers
                count = tokens if kind == "joint" else side * side
                given = inputs(machine, heads, count)
                flops = 4 * count**2 * 64 * heads
                extra = 2 * side * side * count * 64 * heads
                base = None
                for name, method in methods(machine).items():
                    if name == "FlexAttention" and (shape, pixels) not in [
                        ("toy", 128), ("medium", 1024),
                    ]:  # fmt: skip
                        continue  # each shape compiles for half a minute
                    row = {"px": pixels, "shape": shape, "kind": kind, "method": name}
                    run = call(method, *given, DEFAULT, plan, FIRST)
                    work = flops + (extra if name.startswith(("fused", "Flex")) else 0)
                    moved = 4 * given[0].nbytes  # query, key and value read, the result written

                    def measure(run=run, work=work, moved=moved) -> dict:
                        return {
                            "ms": machine.seconds(run) * 1e3,
                            "peak MiB": machine.peak(run),
                            "floor ms": max(work / machine.flops, moved / machine.bytes) * 1e3,
                            "GFLOP": work / 1e9,
                            "in+out MB": moved / 1e6,
                        }

                    row = case(machine, rows, row, measure)
                    base = row.get("ms") if name == "stock SDPA" else base
                    row["x stock"] = row["ms"] / base if base and "ms" in row else None
    return rows


def part_growth(machine: Machine) -> list[dict]:
    """How a fused call grows with the tokens, and with the regions (medium shape)."""
    rows: list[dict] = []
    text, heads = (24, 2) if machine.toy else (TEXT, 24)
    sides = (8, 16) if machine.toy else (16, 32, 48, 64, 96, 128)
    sizes = [(side, 4) for side in sides]
    sizes += [(sides[-1] if machine.toy else 64, regions) for regions in (1, 2, 4, 8, 12)]
    for number, (side, regions) in enumerate(sizes):
        plan = synthetic_plan(side, regions, text, machine.device)
        given = inputs(machine, heads, side * side + text)
        row = {"by": "tokens" if number < len(sides) else "regions", "px": side * 16}
        row |= {"tokens": side * side + text, "regions": regions}

        def measure(given=given, plan=plan) -> dict:
            run = lambda method, config=DEFAULT: machine.seconds(  # noqa: E731
                lambda: method(*given, config, plan, FIRST)
            )
            plain, moved = run(stock), run(fused.fused_attention)
            found = {"stock ms": plain * 1e3, "fused ms": moved * 1e3, "x stock": moved / plain}
            found["image_image 0, x"] = run(fused.fused_attention, CONFIGS["image_image 0"]) / plain
            moved_by_parts = run(by_parts)
            return found | {"stock operators, x": moved_by_parts / plain}

        case(machine, rows, row, measure)
    return rows


# ------------------------------------------------------------------------------ steps, generations
def build(machine: Machine, shape: str) -> Any:
    """A pipeline object around a full-size random transformer; everything else is tiny."""
    sizes = (TOY if machine.toy else FULL)[shape]
    width = sizes["heads"] * (8 if machine.toy else 64)
    pipe = random_pipeline()
    before = torch.get_default_dtype()
    torch.set_default_dtype(machine.dtype)
    torch.manual_seed(0)
    try:
        with torch.device(machine.device):
            pipe.transformer = SD3Transformer2DModel(
                sample_size=128,
                num_layers=sizes["layers"],
                attention_head_dim=width // sizes["heads"],
                num_attention_heads=sizes["heads"],
                joint_attention_dim=32 if machine.toy else 4096,
                caption_projection_dim=width,
                pooled_projection_dim=32 if machine.toy else 2048,
                pos_embed_max_size=sizes["pos"],
                dual_attention_layers=sizes["dual"],
                qk_norm="rms_norm",
            ).to(machine.device, machine.dtype)
    finally:
        torch.set_default_dtype(before)
    pipe.transformer.eval().requires_grad_(False)
    return pipe


LAYOUT = dnb.Layout(
    "a blue cat and an orange umbrella in a rose garden",
    [
        dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
        dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
    ],
)


@contextmanager
def processed_by(method: Method) -> Iterator[None]:
    """Layers inside `dense_attention` compute the edited rows by `method`, the others stock."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, plan: Plan) -> Tensor:
        rule, now = self.session.rule, self.session.now
        negative = F.scaled_dot_product_attention(*(x[now.others] for x in (query, key, value)))
        chosen = (x[now.rows] for x in (query, key, value))
        return torch.cat([negative, method(*chosen, rule, plan, now.step).to(negative.dtype)])

    kind = processors.DenseJointAttnProcessor
    before, kind.attend = kind.attend, attend
    try:
        yield
    finally:
        kind.attend = before


class Denoising:
    """The denoising loop of a guided generation: no text encoder, no VAE."""

    def __init__(self, machine: Machine, pipe: Any, pixels: int, steps: int) -> None:
        self.machine, self.pipe, self.pixels, self.steps = machine, pipe, pixels, steps
        config = pipe.transformer.config
        text = 40 + 16 if machine.toy else TEXT
        like = {"device": machine.device, "dtype": machine.dtype}
        self.latents = torch.randn(1, 16, pixels // 8, pixels // 8, **like)
        self.text = torch.randn(2, text, config.joint_attention_dim, **like)
        self.pooled = torch.randn(2, config.pooled_projection_dim, **like)
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        pipe.scheduler = self.scheduler

    @torch.no_grad()
    def run(self) -> tuple[float, list[float]]:
        """Seconds of the whole loop, and of each step."""
        self.scheduler.set_timesteps(self.steps, device=self.machine.device)
        latents, marks = self.latents, []
        self.machine.sync()
        began = time.perf_counter()
        for timestep in self.scheduler.timesteps:
            marks.append(self._mark())
            negative, positive = self.pipe.transformer(
                latents.expand(2, -1, -1, -1), self.text, self.pooled, timestep.expand(2)
            ).sample.chunk(2)
            predicted = negative + 4.0 * (positive - negative)
            latents = self.scheduler.step(predicted, timestep, latents).prev_sample
        marks.append(self._mark())
        self.machine.sync()
        whole = time.perf_counter() - began
        return whole, [self._between(*pair) for pair in zip(marks, marks[1:])]

    def _mark(self) -> Any:
        if not self.machine.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        return first.elapsed_time(second) / 1000 if self.machine.cuda else second - first

    @contextmanager
    def under(self, config: DenseConfig | None, method: Method | None) -> Iterator[None]:
        """Stock without a config; without a method as the library does it by itself."""
        if config is None:
            yield
            return
        size = {"height": self.pixels, "width": self.pixels, "num_inference_steps": self.steps}
        length = self.text.shape[1] - self.pipe.tokenizer_max_length
        with (
            dnb.dense_attention(
                self.pipe, LAYOUT, config, max_sequence_length=length, **size
            ) as dense,
            dense.rows([None, 0]),
        ):
            if method is None:
                yield
            else:
                with processed_by(method):
                    yield

    def measure(self, config: DenseConfig | None, method: Method | None, repeats: int) -> dict:
        with self.under(config, method):
            self.run() if repeats > 1 else None
            if self.machine.cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            runs = [self.run() for _ in range(max(1, repeats - 1))]
            peak = torch.cuda.max_memory_allocated() / 2**20 if self.machine.cuda else None
        weights = sum(x.nbytes for x in self.pipe.transformer.parameters()) / 2**20
        best = min(runs)
        modulated = round(0.3 * self.steps)
        return {
            "generation s": best[0],
            "all runs": [run[0] for run in runs],
            "modulated step ms": statistics.median(best[1][1 : modulated + 1]) * 1e3,
            "later step ms": statistics.median(best[1][modulated + 1 :]) * 1e3,
            "peak MiB": peak,
            "beyond weights MiB": peak and peak - weights,
        }


def part_medium(machine: Machine) -> list[dict]:
    """Whole generations of 28 guided steps at the default window, and their steps: medium."""
    return generations(machine, "medium", (128,) if machine.toy else (1024, 512, 768))


def part_large(machine: Machine) -> list[dict]:
    """Whole generations of 28 guided steps at the default window, and their steps: large."""
    return generations(machine, "large", (128,) if machine.toy else (1024, 512))


def generations(machine: Machine, shape: str, sizes: tuple[int, ...]) -> list[dict]:
    rows: list[dict] = []
    if time.perf_counter() > machine.end:
        return [{"shape": shape, "error": "no time left"}]
    pipe = build(machine, shape)
    steps = 4 if machine.toy else 28
    known = methods(machine)
    for pixels in sizes:
        main = shape == "medium" and pixels == sizes[0]
        loop = Denoising(machine, pipe, pixels, steps)
        flops = generation_flops(machine, shape, pixels, steps)
        off = CONFIGS["image_image 0"]
        repeats = 3 if main else 2  # the first warms up
        runs: list[tuple[str, DenseConfig | None, Method | None, int]] = [
            ("stock", None, None, repeats),
            ("densenb, backend fused", DenseConfig(backend="fused"), None, repeats),
            ("densenb, image_image 0", replace(off, backend="fused"), None, repeats),
            ("fused, stock operators", DEFAULT, known["fused, stock operators"], repeats),
            ("hard mask", DEFAULT, known["hard mask"], 2),
            ("explicit", DEFAULT, known["explicit"], 1),
        ]
        if main:
            negative = replace(CONFIGS["negative"], backend="fused")
            runs += [
                ("densenb, negative", negative, None, repeats),
                ("FlexAttention", DEFAULT, known["FlexAttention"], 2),
                ("stock, again", None, None, repeats),
            ]
        base: dict = {}
        for name, config, method, count in runs:
            row = {"shape": shape, "px": pixels, "method": name}
            run = call(loop.measure, config, method, count)
            row = case(machine, rows, row, run)
            row["floor s"] = flops / machine.flops
            base = row if name == "stock" else base
            for figure in ("generation s", "peak MiB", "beyond weights MiB"):
                if base.get(figure) and row.get(figure):
                    row[f"{figure.rsplit(' ', 1)[0]} x stock"] = row[figure] / base[figure]
            print(f"  {shape} {pixels} {name}: {row.get('generation s', row.get('error'))}")
    return rows


def generation_flops(machine: Machine, shape: str, pixels: int, steps: int) -> float:
    """Multiplications and additions of a stock generation: matrix products and attention."""
    sizes = (TOY if machine.toy else FULL)[shape]
    width = sizes["heads"] * (8 if machine.toy else 64)
    image = (pixels // 16) ** 2
    tokens = image + (56 if machine.toy else TEXT)
    joint = sizes["layers"] * (24 * tokens * width**2 + 4 * tokens**2 * width)
    image_only = len(sizes["dual"]) * (8 * image * width**2 + 4 * image**2 * width)
    return 2 * steps * (joint + image_only)


# --------------------------------------------------------------------------------------- reporting
PARTS: dict[str, Callable[[Machine], list[dict]]] = {
    "tiles": part_tiles,
    "call": part_call,
    "medium": part_medium,
    "large": part_large,
    "growth": part_growth,
    "operators": part_operators,
    "error": part_error,
}


def show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def table(rows: list[dict]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "all runs"))
    lines = [names] + [[show(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="all parts, tiny, on the CPU")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="parts to run")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/attention.json"))
    parser.add_argument("--seconds", type=float, default=230, help="start no case after this time")
    chosen = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    # Without a GPU the full sizes would take hours.
    toy = chosen.toy or not torch.cuda.is_available()
    machine = Machine(toy, chosen.seconds)
    report: dict[str, Any] = machine.report()
    print(json.dumps(report))
    for name in chosen.only or PARTS:
        began = time.perf_counter()
        try:
            rows = PARTS[name](machine)
        except Exception as error:  # a later part may still work
            rows = [{"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}]
        report[name] = rows
        took = time.perf_counter() - began
        print(f"\n{name}: {PARTS[name].__doc__}  [{took:.0f} s]\n{table(rows)}", flush=True)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
