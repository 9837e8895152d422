"""What will run on this machine, what will not, and what to do about it: for before class."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from densenb.access import NoAccess, cache_folder, check_access, is_cached
from densenb.configs import REPOSITORIES, sizes
from densenb.layout import Layout, Region, box
from densenb.memory import Machine, MemoryPlan, choose, here
from densenb.pipelines import generate, load

PACKAGES = (
    "densenb", "torch", "diffusers", "transformers", "accelerate", "huggingface_hub",
    "bitsandbytes", "ipywidgets", "anywidget",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Whether a model runs here; if not, why, and what to do."""

    model: str
    runs: bool
    text: str

    def __str__(self) -> str:
        line = f"{self.model:<8}{'yes' if self.runs else 'no':<5}{self.text}"
        return textwrap.fill(line, 99, subsequent_indent=" " * 13)


def versions() -> dict[str, str]:
    """Of Python and of every package that matters; "not installed" for one that is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def examine_tiny() -> Finding:
    """One step of one small picture by the miniature."""
    layout = Layout("a blue cat on a beach", [Region("a blue cat", box(0.1, 0.3, 0.6, 0.9))])
    try:
        generate(load("tiny"), layout, seeds=[0], steps=1, height=64, width=64)
    except (ValueError, OSError, RuntimeError) as error:
        return Finding("tiny", False, f"{error} Install densenb again, from the full repository.")
    return Finding("tiny", True, "the miniature loads and draws.")


def examine_real(name: str, plan: MemoryPlan) -> Finding:
    """Whether "medium" or "large" fits by its plan, and may be downloaded, or is here already."""
    reasons = list(plan.problems)
    there = is_cached(name, plan.precisions)
    try:
        check_access(name)
        source = "downloaded already" if there else f"{plan.download_gb:.1f} GB to download"
    except NoAccess as error:
        source = "downloaded already"
        if not there:
            reasons.append(str(error))
    return Finding(name, not reasons, " ".join(reasons) or f"{plan.label}; {source}.")


def report(machine: Machine | None = None) -> Iterator[str]:
    """The lines of `densenb doctor`, one by one, as they are found out.

    `machine`: draw up the plans for that one instead, e.g. `memory.T4`.
    """
    elsewhere = machine is not None
    machine = machine or here(folder=cache_folder())
    yield "Versions"
    for package, number in versions().items():
        yield f"  {package:<18}{number}"
    yield ""
    yield "Machine" + (" (not this one)" if elsewhere else "")
    yield from (f"  {line}" for line in describe(machine))
    findings = [examine_tiny()]
    for name in REPOSITORIES:
        plan = choose(name, sizes(name), machine, download=not is_cached(name))
        yield ""
        yield str(plan)
        findings.append(examine_real(name, plan))
    yield ""
    yield "Runs here?" if not elsewhere else f"Runs on {machine.name}?"
    yield from map(str, findings)


def describe(machine: Machine) -> Iterator[str]:
    """What a plan knows of a machine, and what follows from it."""
    yield f"{'name':<18}{machine.name}"
    yield f"{'host memory':<18}{machine.host:.1f} GiB"
    if machine.disk is not None:
        yield f"{'free disk':<18}{machine.disk:.1f} GiB"
    if machine.capability is None:
        yield f"{'CPU threads':<18}{torch.get_num_threads()} of {os.cpu_count()}"
        yield f"{'GPU':<18}none that PyTorch {torch.__version__} can use"
    else:
        major, minor = machine.capability
        yield f"{'GPU memory':<18}{machine.gpu:.1f} GiB"
        yield f"{'capability':<18}{major}.{minor}"
        why = "bfloat16 wants 8.0" if machine.dtype == "float16" else "8.0 or more"
        yield f"{'precision':<18}{machine.dtype} ({why})"
    yield f"{'4-bit weights':<18}" + (
        "bitsandbytes is there" if machine.bitsandbytes else "no: pip install bitsandbytes"
    )
