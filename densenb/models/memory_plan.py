"""Plan the precision and the placement of each component, so that SD 3.5 fits a machine.

Pure functions from the sizes of the components and a machine to a plan; nothing is loaded here.
Text is encoded first, then the encoders are freed: T5 alone is larger than the transformer.
All sizes are GiB, except downloads, which are GB as everywhere else. Taught in notebook 01.
"""

from __future__ import annotations

import platform
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import psutil
import torch

from densenb.models.architecture import ENCODERS, T5, Size

GIB = 2**30
BFLOAT16_FROM = (8, 0)
STAGES = ("encode", "denoise", "decode")

# What comes on top of the weights, GiB: measured with random weights (tests/benchmarks/t4.py),
# rounded up; encoding with T5 is an estimate. Drawing and decoding: at 1024 px, with scores that
# are never stored.
ENCODE_SPACE = 0.6
DENOISE_SPACE = 1.0
DECODE_SPACE = 5.0  # the float32 autoencoder
HOST_PROCESS = {"cpu": 1.0, "cuda": 1.6}  # Python, PyTorch, and CUDA's share
HOST_STAGING = 2.6  # weights on their way to the GPU


@dataclass(frozen=True)
class Machine:
    """What a plan has to fit.

    capability: CUDA's compute capability, None without a GPU. gpu, host: memory that may be used,
    GiB. disk: free, GiB, None if it does not matter. bitsandbytes: can weights be packed to 4 bits?
    """

    name: str
    device: str
    capability: tuple[int, int] | None = None
    gpu: float = 0.0
    host: float = 0.0
    disk: float | None = None
    bitsandbytes: bool = True

    @property
    def dtype(self) -> str:
        """By capability, never by `is_bf16_supported`, which says yes to slow emulation too."""
        if self.capability is None:
            return "float32"
        return "bfloat16" if self.capability >= BFLOAT16_FROM else "float16"

    @property
    def side(self) -> int:
        """Pixels of a picture's side: older GPUs take too long for 1024."""
        return 1024 if self.capability is not None and self.capability >= BFLOAT16_FROM else 512


T4 = Machine("Colab T4", "cuda", capability=(7, 5), gpu=13.9, host=12e9 / GIB, disk=70.0)


def here(device: str | None = None, folder: str | Path = ".") -> Machine:
    """This machine, or its part that is `device`: the GPU where there is one, by default."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = Path(folder).expanduser().absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    common = {
        "host": psutil.virtual_memory().total / GIB,
        "disk": shutil.disk_usage(existing).free / GIB,
        "bitsandbytes": find_spec("bitsandbytes") is not None,
    }
    if torch.device(device).type != "cuda":
        return Machine("this machine's CPU", device, **common)
    properties = torch.cuda.get_device_properties(device)
    return Machine(
        properties.name,
        device,
        capability=torch.cuda.get_device_capability(device),
        gpu=0.95 * properties.total_memory / GIB,  # CUDA itself takes the rest
        **common,
    )


def describe_device(device: str | torch.device) -> str:
    """Its name and, of a GPU, compute capability and memory; for the foot of a report."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return (
        f"{properties.name}, capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory / GIB:.1f} GiB"
    )


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is loaded and run.

    precisions: of each component that is loaded at all. keep_encoders: text encoders stay after
    encoding. park: the transformer waits in host memory while they work. gpu, host: expected peaks
    by stage, GiB. problems: why it does not fit, empty if it does.
    """

    name: str
    machine: Machine
    dtype: str
    precisions: Mapping[str, str]
    sizes: Mapping[str, Size]
    keep_encoders: bool
    park: bool
    side: int
    gpu: Mapping[str, float] = field(default_factory=dict)
    host: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def download_gb(self) -> float:
        """GB to download if none of it is here yet."""
        return sum(self.sizes[part].download_gb for part in self.precisions)

    @property
    def label(self) -> str:
        """The precisions in a few words, for figures: "float16, T5 nf4"."""
        words = [self.precisions["transformer"]]
        if T5 in self.sizes and T5 not in self.precisions:
            words.append("no T5")
        elif self.precisions.get(T5, words[0]) != words[0]:
            words.append(f"T5 {self.precisions[T5]}")
        return ", ".join(words)

    def require(self) -> None:
        """ValueError, with the reasons and what to do, unless the plan fits."""
        if self.problems:
            raise ValueError(
                f"{self.name} does not fit {self.machine.name}: {' '.join(self.problems)} "
                'The miniature, load("tiny"), runs on any machine.'
            )

    def __str__(self) -> str:
        return "\n".join(_table(self))


def choose(
    name: str,
    sizes: Mapping[str, Size],
    machine: Machine,
    *,
    transformer: str | None = None,
    t5: str | bool = True,
    dtype: str | None = None,
    side: int | None = None,
    download: bool = False,
) -> MemoryPlan:
    """The best plan that fits; if none does, the smallest, with its problems.

    Best is: nothing packed to 4 bits, then only T5, then only the transformer, then both; each
    with the encoders kept if they fit beside it. T5 is dropped only when `t5=False` says so.
    `transformer` and `t5` may also force a precision ("nf4", or the machine's dtype).
    """
    dtype = dtype or machine.dtype
    for what, value in (("transformer", transformer), ("t5", t5)):
        if value not in (None, True, False, "nf4", dtype):
            raise ValueError(f"{what} is {value!r}: use 'nf4' or {dtype!r}.")
    packed = (dtype, "nf4") if machine.capability is not None else (dtype,)
    transformers = packed if transformer is None else (transformer,)
    t5s = packed if t5 is True else (t5,)
    if T5 not in sizes:
        t5s = (None,)
    side = side or machine.side
    for transformer_precision, t5_precision, keep in product(transformers, t5s, (True, False)):
        precisions = {"transformer": transformer_precision, "vae": "float32"}
        precisions |= {part: dtype for part in ENCODERS if part in sizes and part != T5}
        precisions |= {T5: t5_precision} if t5_precision else {}
        # If the encoders stay, there has to be room for the largest pictures too.
        pixels = max(side, 1024 if keep else 0)
        plan = _plan(name, machine, dtype, precisions, sizes, keep, pixels, download)
        if plan.fits:
            return replace(plan, side=side)
    return plan


def _plan(
    name: str,
    machine: Machine,
    dtype: str,
    precisions: Mapping[str, str],
    sizes: Mapping[str, Size],
    keep: bool,
    side: int,
    download: bool,
) -> MemoryPlan:
    weights = {part: sizes[part].gib(precision) for part, precision in precisions.items()}
    encoders = sum(weights[part] for part in ENCODERS if part in weights)
    drawing = sum(weights.values()) - encoders
    on_gpu = machine.capability is not None
    together = encoders + drawing + ENCODE_SPACE
    park = on_gpu and not keep and together > machine.gpu
    kept = encoders if keep else 0.0
    scale = 1.0 if dtype != "float32" else 2.0
    work = {
        "encode": together - (weights["transformer"] if park else 0.0),
        "denoise": kept + drawing + scale * _space(DENOISE_SPACE, side),
        "decode": kept + drawing + _space(DECODE_SPACE, side),
    }
    if on_gpu:
        gpu, host = work, dict.fromkeys(STAGES, HOST_PROCESS["cuda"] + HOST_STAGING)
        host["encode"] += weights["transformer"] if park else 0.0
    else:
        gpu, host = {}, {stage: HOST_PROCESS["cpu"] + peak for stage, peak in work.items()}
    plan = MemoryPlan(name, machine, dtype, precisions, sizes, keep, park, side, gpu, host)
    return replace(plan, problems=tuple(_problems(plan, download)))


def _space(at_1024: float, side: int) -> float:
    """Working memory grows with the number of pixels; small pictures need at least 0.2 GiB."""
    return max(0.2, at_1024 * (side / 1024) ** 2)


def _problems(plan: MemoryPlan, download: bool) -> Iterator[str]:
    machine = plan.machine
    ways = ["leave T5 out (t5=False)"] if _t5_is_the_problem(plan) else []
    ways += ["take the medium model"] if plan.name == "large" else []
    if plan.gpu and (peak := max(plan.gpu.values())) > machine.gpu:
        yield (
            f"to {_stage(plan.gpu)} it needs {peak:.1f} GiB of GPU memory, and there are "
            f"{machine.gpu:.1f}: {', or '.join(['take a larger GPU', *ways])}."
        )
    if (peak := max(plan.host.values())) > machine.host:
        more = "a machine with more" if machine.capability else "a GPU, such as Colab's free T4"
        yield (
            f"to {_stage(plan.host)} it needs {peak:.1f} GiB of host memory, and there are "
            f"{machine.host:.1f}: {', or '.join([f'take {more}', *ways])}."
        )
    if download and machine.disk is not None and plan.download_gb * 1e9 / GIB > machine.disk:
        yield (
            f"the download of {plan.download_gb:.1f} GB is more than the {machine.disk:.1f} GiB "
            "that are free on the disk: free some, or point HF_HOME to a larger one."
        )
    if "nf4" in plan.precisions.values() and not machine.bitsandbytes:
        yield "packing weights to 4 bits needs bitsandbytes: pip install bitsandbytes."


def _stage(peaks: Mapping[str, float]) -> str:
    """The stage with the highest peak."""
    return max(peaks, key=peaks.get)


def _t5_is_the_problem(plan: MemoryPlan) -> bool:
    """Whether it would fit without T5."""
    if T5 not in plan.precisions:
        return False
    room = plan.machine.gpu if plan.gpu else plan.machine.host
    peaks = dict(plan.gpu or plan.host)
    peaks["encode"] -= plan.sizes[T5].gib(plan.precisions[T5])
    return max(peaks.values()) <= room


def _table(plan: MemoryPlan) -> Iterator[str]:
    machine = plan.machine
    room = f"{machine.gpu:.1f} GiB GPU, " if machine.capability else ""
    fate = "fits" if plan.fits else "does not fit"
    yield f"{plan.name} on {machine.name} ({room}{machine.host:.1f} GiB host): {fate}"
    yield f"{'component':<16}{'download GB':>12}{'precision':>12}{'GiB':>8}"
    for part, size in plan.sizes.items():
        precision = plan.precisions.get(part)
        loaded = f"{size.gib(precision):8.2f}" if precision else f"{'-':>8}"
        fetched = f"{size.download_gb:12.2f}" if precision else f"{'-':>12}"
        yield f"{part:<16}{fetched}{precision or 'left out':>12}{loaded}"
    yield f"{'all':<16}{plan.download_gb:12.2f}"
    yield f"{'stage':<16}{'peak GPU':>12}{'peak host':>12}   (GiB, expected at {plan.side} px)"
    for stage in STAGES:
        gpu = f"{plan.gpu[stage]:12.1f}" if plan.gpu else f"{'-':>12}"
        yield f"{stage:<16}{gpu}{plan.host[stage]:12.1f}"
    if not plan.keep_encoders:
        yield "text encoders are freed after encoding, and loaded again for new text"
    if plan.park:
        yield "the transformer waits in host memory while they work"
    for problem in plan.problems:
        yield textwrap.fill(f"! {problem}", 99, subsequent_indent="  ")
