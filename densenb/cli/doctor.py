"""`densenb doctor`: what will run on this machine, what will not, and what to do about it."""

from __future__ import annotations

import argparse
import os
import platform
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import densenb as dnb

if TYPE_CHECKING:
    from densenb.models.memory_plan import Machine, MemoryPlan

PACKAGES = (
    "densenb", "torch", "diffusers", "transformers", "accelerate", "huggingface_hub",
    "bitsandbytes", "ipywidgets", "anywidget",
)  # fmt: skip
TOO_LATE = (  # at most 100 characters
    "PyTorch came first and may be slow: import densenb before torch, or set "
    "OMP_WAIT_POLICY=PASSIVE."
)


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser("doctor", help="show what runs here, what doesn't, and why")
    command.add_argument("--t4", action="store_true", help="plan for a Colab T4 instead")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the report."""
    from densenb.models.memory_plan import T4

    for line in report(T4 if options.t4 else None):
        print(line, flush=True)


@dataclass(frozen=True)
class Finding:
    """Whether a model runs here; if not, why, and what to do."""

    model: str
    runs: bool
    text: str

    def __str__(self) -> str:
        line = f"{self.model:<8}{'yes' if self.runs else 'no':<5}{self.text}"
        return textwrap.fill(line, 99, subsequent_indent=" " * 13)


def report(machine: Machine | None = None) -> Iterator[str]:
    """The lines of the report, each as soon as it is known.

    `machine`: the one to plan for, e.g. `memory_plan.T4`; by default this one.
    """
    from densenb.models.architecture import REPOSITORIES, sizes
    from densenb.models.download import cache_folder, is_cached
    from densenb.models.memory_plan import choose, here

    elsewhere = machine is not None
    machine = machine or here(folder=cache_folder())
    title = "Machine (not this one)" if elsewhere else "Machine"
    for part, facts in (("Versions", versions()), (title, describe(machine))):
        yield part
        yield from (f"  {name:<18}{fact}" for name, fact in facts.items())
        yield ""
    if dnb.TORCH_CAME_FIRST:
        yield f"{TOO_LATE}\n"
    findings = [examine_tiny()]
    for name in REPOSITORIES:
        plan = choose(name, sizes(name), machine, download=not is_cached(name))
        yield f"{plan}\n"
        findings.append(examine_real(name, plan))
    yield f"Runs on {machine.name}?" if elsewhere else "Runs here?"
    yield from map(str, findings)


def versions() -> dict[str, str]:
    """Versions of Python and of the main packages; "not installed" for one that is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(machine: Machine) -> dict[str, str]:
    """What a plan knows about a machine, and what follows from it."""
    import torch

    facts = {"name": machine.name, "host memory": f"{machine.host:.1f} GiB"}
    if machine.disk is not None:
        facts["free disk"] = f"{machine.disk:.1f} GiB"
    if machine.capability is None:
        facts["CPU threads"] = f"{torch.get_num_threads()} of {os.cpu_count()}"
        facts["GPU"] = f"none that PyTorch {torch.__version__} can use"
    else:
        why = "bfloat16 needs 8.0" if machine.dtype == "float16" else "8.0 or more"
        facts["GPU memory"] = f"{machine.gpu:.1f} GiB"
        facts["capability"] = ".".join(map(str, machine.capability))
        facts["precision"] = f"{machine.dtype} ({why})"
    there = machine.bitsandbytes
    facts["4-bit weights"] = "bitsandbytes is there" if there else "no: pip install bitsandbytes"
    return facts


def examine_tiny() -> Finding:
    """Whether the miniature can draw: one step of one small picture."""
    try:
        region = dnb.Region("a blue cat", dnb.box(0.1, 0.3, 0.6, 0.9))
        layout = dnb.Layout("a blue cat on a beach", [region])
        dnb.generate(dnb.load("tiny"), layout, seeds=[0], steps=1, height=64, width=64)
    except (ValueError, OSError, RuntimeError) as error:
        return Finding("tiny", False, f"{error} Install densenb again, from the full repository.")
    return Finding("tiny", True, "the miniature loads and draws.")


def examine_real(name: str, plan: MemoryPlan) -> Finding:
    """Whether "medium" or "large" fits by its plan, and is downloaded or may be."""
    from densenb.models.download import NoAccess, check_access, is_cached

    reasons, source = list(plan.problems), "downloaded already"
    if not is_cached(name, plan.precisions):
        source = f"{plan.download_gb:.1f} GB to download"
        try:
            check_access(name)
        except NoAccess as error:
            reasons.append(str(error))
    return Finding(name, not reasons, " ".join(reasons) or f"{plan.label}; {source}.")
