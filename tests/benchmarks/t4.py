"""Does SD 3.5 fit a Colab T4? Full-size models with random weights under a T4's limits.

    python tests/benchmarks/t4.py --scratch /tmp/sd35        # any CUDA GPU, about 31 GB of disk
    python tests/benchmarks/t4.py --toy                      # the same code, tiny, on the CPU

Under the profile `t4` a process sees compute capability (7, 5), so float16 and no Triton; scaled
dot products may take the memory-efficient kernel only (a step that wants the plain one is reported
as a fault); CUDA gets 13.9 GiB; and a process tree whose own memory passes 12 GB is stopped.
Models have the exact configurations of SD 3.5 and random weights: that proves memory, shapes and
plumbing, neither the stability of float16 nor, on another GPU, a T4's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30
HOST_LIMIT = 12e9 / GIB
GPU_LIMIT = 13.9
EXPECTED = {"medium": "24 joint + 13 image-only", "large": "38 joint + 0 image-only"}
CAPTION = "a blue cat and an orange umbrella in a rose garden"
SECOND = "a red cat and a green umbrella on a beach"


@dataclass(frozen=True)
class Case:
    """One way to load one model; precisions are "float16", "nf4" or, for T5, False."""

    model: str
    transformer: str
    t5: str | bool

    @property
    def name(self) -> str:
        return f"{self.model}-{self.transformer}-t5-{self.t5 or 'none'}"


CASES = [
    Case("medium", "float16", "float16"),
    Case("medium", "float16", "nf4"),
    Case("medium", "float16", False),
    Case("medium", "nf4", "nf4"),
    Case("medium", "nf4", False),
    Case("large", "nf4", "nf4"),
    Case("large", "nf4", False),
    Case("large", "nf4", "float16"),
]


# --------------------------------------------------------------------------- build random models
def build(options: argparse.Namespace) -> None:
    """Save one model in diffusers' layout; "large" links to the encoders of "medium"."""
    import torch

    import densenb as dnb
    from densenb.models import architecture
    from densenb.models.load import MINIATURE

    device = "cpu" if options.toy else "cuda"
    folder = options.scratch / options.build
    shared = options.scratch / "medium"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(MINIATURE / "model_index.json", folder)
    tiny = dnb.load("tiny")
    for name, length in (("tokenizer", 77), ("tokenizer_2", 77), ("tokenizer_3", 512)):
        tokenizer = getattr(tiny, name)
        tokenizer.model_max_length = length
        tokenizer.save_pretrained(folder / name)
    architecture.scheduler().save_pretrained(folder / "scheduler")
    for part, config in architecture.CONFIGS[options.build].items():
        if options.build == "large" and part != "transformer":
            (folder / part).symlink_to((shared / part).resolve())
            continue
        began = time.perf_counter()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32 if options.toy else torch.float16)
        module = architecture.build(part, shrunk(config) if options.toy else config, device)
        torch.set_default_dtype(torch.float32)
        module = module.to(torch.float16)
        # The sizes of the released files: they are read one at a time.
        module.save_pretrained(
            folder / part, max_shard_size="10GB" if part == "transformer" else "5GB"
        )
        del module
        print(f"built {options.build}/{part} in {time.perf_counter() - began:.1f} s", flush=True)


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the same build in toy size."""
    small = {
        "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "hidden_size": 16,
        "intermediate_size": 32, "projection_dim": 16, "d_model": 32, "d_kv": 8, "d_ff": 64,
        "num_heads": 4, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4,
    }  # fmt: skip
    return {name: small.get(name, value) for name, value in config.items()}


# ---------------------------------------------------------------------------- one case, one process
def run_case(options: argparse.Namespace) -> None:
    """Load one case under the profile and draw with it; rows go to a file as they come."""
    case = next(case for case in CASES if case.name == options.case)
    if not options.toy:
        sys.modules["triton"] = None  # as if it were not installed
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cuda = not options.toy
    if cuda:
        torch.cuda.get_device_capability = lambda device=None: (7, 5)
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(GPU_LIMIT * GIB / total)

    import densenb as dnb
    from densenb.models import memory_plan
    from densenb.models.architecture import saved_sizes
    from densenb.sd3.prompts import call_inputs

    folder = options.scratch / case.model
    result: dict[str, Any] = {"case": case.name, "stages": {}, "sides": {}, "faults": []}

    def write() -> None:
        text = json.dumps(result, indent=1)
        (options.scratch / f"{case.name}.json").write_text(text, encoding="utf-8")

    def staged(stage: str, work: Callable[[], Any], may_not_fit: bool = False) -> Any:
        """Do the work under the profile; keep its time and its peak of GPU memory. Out of memory
        ends the case, or gives None if that `may_not_fit`."""
        (options.scratch / f"{case.name}.stage").write_text(stage, encoding="utf-8")
        print(f"  {case.name}: {stage}", flush=True)
        result["failed_in"] = stage
        if not cuda:
            began = time.perf_counter()
            value = work()
            result["stages"][stage] = {"s": time.perf_counter() - began}
            return value
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        plain = False
        try:
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
                value = work()
        except torch.cuda.OutOfMemoryError as error:
            if not may_not_fit:
                raise
            value = None
            result["stages"][stage] = {"does_not_fit": str(error)[:300]}
        except RuntimeError as error:
            if "available kernel" not in str(error):
                raise
            plain = True
        if plain:  # not in the handler: there the error keeps what the failed calls had
            result["faults"].append(f"{stage}: no memory-efficient kernel, plain one used")
            torch.cuda.empty_cache()
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                value = work()
        torch.cuda.synchronize()
        if value is None:
            write()
            return None
        result["stages"][stage] = {
            "s": time.perf_counter() - began,
            "gpu": torch.cuda.max_memory_allocated() / GIB,
            "gpu_reserved": torch.cuda.max_memory_reserved() / GIB,
            "gpu_after": torch.cuda.memory_allocated() / GIB,
        }
        write()
        return value

    try:
        machine = memory_plan.T4 if cuda else replace(memory_plan.T4, device="cpu", capability=None)
        precision = {"float16": machine.dtype}
        plan = memory_plan.choose(
            case.model,
            saved_sizes(folder),
            machine,
            transformer=precision.get(case.transformer, case.transformer),
            t5=precision.get(case.t5, case.t5),
            side=max(options.sides),
        )
        result |= {"plan": str(plan), "fits_by_plan": plan.fits, "park": plan.park}
        result |= {"keep_encoders": plan.keep_encoders, "expected_gpu": dict(plan.gpu)}
        print(plan, flush=True)
        pipe = staged("load", lambda: dnb.load(folder, plan=plan))
        result["dtypes"] = sorted({str(p.dtype) for p in pipe.transformer.parameters()})

        def layout(caption: str) -> dnb.Layout:
            cat, umbrella = caption.split(" and ")[0], caption.split(" and ")[1].rsplit(" in ")[0]
            umbrella = umbrella.split(" on ")[0]
            return dnb.Layout(
                caption,
                [
                    dnb.Region(cat, dnb.box(0.05, 0.35, 0.5, 0.95)),
                    dnb.Region(umbrella, dnb.ellipse(0.72, 0.4, 0.22, 0.3)),
                ],
            )

        for name, caption in (("encode", CAPTION), ("encode again", SECOND)):
            inputs = call_inputs(pipe, layout(caption), None)
            length = {"max_sequence_length": inputs["max_sequence_length"]}
            embeds = staged(
                name,
                lambda: pipe.encode_prompt(caption, None, None, **length),  # noqa: B023
            )
            result["text_tokens"] = embeds[0].shape[1]
            result["encoders_freed"] = pipe.text_encoder is None
            result["encoded_finite"] = all(bool(e.isfinite().all()) for e in embeds)
        del embeds
        for side in options.sides:
            result["sides"][str(side)] = row = {}
            draw_side(pipe, layout(CAPTION), side, options.steps, staged, row)
            write()
        result.pop("failed_in")
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"[:2000]
        result["traceback"] = traceback.format_exc()[-4000:]
        print(result["traceback"], flush=True)
    write()


def draw_side(pipe, layout, side, steps, staged, row) -> None:
    """Stock, strength 0 and dense at one size, then decoding and the call that a user makes."""
    import torch

    import densenb as dnb
    from densenb.sd3.prompts import call_inputs

    size = {"height": side, "width": side, "num_inference_steps": steps}
    latents = {"output_type": "latent"}

    def stock() -> torch.Tensor:
        inputs = call_inputs(pipe, layout, None, **size)
        return pipe(**inputs, **latents, generator=dnb.generators([0])).images

    def dense(config) -> Callable[[], torch.Tensor]:
        def work() -> torch.Tensor:
            with dnb.dense_attention(pipe, layout, config, **size) as run:
                row["patched"] = run.patched
                return pipe(**run.inputs, **latents, generator=dnb.generators([0])).images

        return work

    plain = staged(f"{side} stock", stock)
    row["stock_finite"] = bool(plain.isfinite().all())
    nothing = dnb.DenseConfig(image_text=0, image_image=0)
    zero = staged(f"{side} strength 0", dense(nothing))
    row["strength_0_identical"] = torch.equal(plain, zero)
    del zero

    def decode() -> torch.Tensor:
        config = pipe.vae.config
        with torch.no_grad():
            return pipe.vae.decode(plain / config.scaling_factor + config.shift_factor).sample

    pixels = staged(f"{side} decode", decode)
    row["decoded_dtype"], row["decoded_finite"] = str(pixels.dtype), bool(pixels.isfinite().all())
    del pixels
    row["dense"] = {}
    for config in backends():
        steered = staged(f"{side} {config.backend}", dense(config), may_not_fit=True)
        if steered is not None:
            finite, differs = bool(steered.isfinite().all()), not torch.equal(plain, steered)
            row["dense"][config.backend] = {"finite": finite, "differs": differs}
            images = staged(
                f"{side} generate {config.backend}",
                partial(
                    dnb.generate, pipe, layout, [0], config, steps=steps, height=side, width=side
                ),
            )
            row["generated"] = list(images[0].size)
        del steered


def backends() -> list[Any]:
    """The dense settings with each backend that there is; "explicit" is the definition."""
    import densenb as dnb

    configs = []
    for name in ("explicit", "fused"):
        try:
            configs.append(dnb.DenseConfig(backend=name))
        except ValueError:
            continue
    return configs


# ------------------------------------------------------------------------------------- the parent
def own_memory(process: psutil.Process) -> tuple[float, float]:
    """GiB of a process tree: what only it can free, and with the files it has mapped."""
    own = whole = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            status = Path(f"/proc/{each.pid}/status").read_text(encoding="ascii")
        except OSError:
            continue  # it has ended
        fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
        kib = {name: int(value.split()[0]) for name, value in fields.items()}
        own += kib.get("RssAnon", 0) + kib.get("RssShmem", 0)
        whole += sum(kib.values())
    return own * 1024 / GIB, whole * 1024 / GIB


def supervised(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Run a case in a process of its own; its row, with the peaks of host memory by stage."""
    stem = options.scratch / case.name
    for end in (".json", ".stage"):
        stem.with_name(case.name + end).unlink(missing_ok=True)
    began, host, stopped = time.perf_counter(), {}, ""
    with (options.scratch / f"{case.name}.log").open("w") as log:
        child = subprocess.Popen(
            command(options, "--case", case.name), stdout=log, stderr=subprocess.STDOUT
        )
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                own, whole = own_memory(process)
                stage = stem.with_name(case.name + ".stage")
                name = stage.read_text(encoding="utf-8") if stage.exists() else "import"
            except (psutil.NoSuchProcess, OSError):
                break
            peaks = host.setdefault(name, {"own": 0.0, "with_files": 0.0})
            peaks["own"] = max(peaks["own"], own)
            peaks["with_files"] = max(peaks["with_files"], whole)
            if own > HOST_LIMIT:
                stopped = f"host memory {own:.1f} GiB passed {HOST_LIMIT:.1f} in stage {name!r}"
            elif time.perf_counter() - began > options.timeout:
                stopped = f"took longer than {options.timeout} s, in stage {name!r}"
            if stopped:
                child.kill()
            time.sleep(0.02)
        code = child.wait()
    written = stem.with_name(case.name + ".json")
    row = {"case": case.name}
    if written.exists():
        row = json.loads(written.read_text(encoding="utf-8"))
    if stopped or code:
        row["error"] = stopped or row.get("error") or f"the process ended with code {code}"
        row["log"] = (options.scratch / f"{case.name}.log").read_text(errors="replace")[-3000:]
    return row | {"host": host, "total_s": time.perf_counter() - began, **asdict(case)}


def command(options: argparse.Namespace, *more: str) -> list[str]:
    sides = ",".join(map(str, options.sides))
    given = ["--scratch", str(options.scratch), "--steps", str(options.steps), "--sides", sides]
    return [sys.executable, __file__, *given, *(["--toy"] if options.toy else []), *more]


def table(rows: list[dict[str, Any]]) -> str:
    """Peaks by stage, a line for each case and size."""
    heads = ["load", "encode", "stock", "decode", "explicit", "fused"]
    lines = [
        f"{'case':<28}{'px':>5}  {'peak GPU, GiB':<55}peak host, GiB (own / with files)",
        " " * 35 + "".join(f"{head:>9}" for head in heads) + " "
        + "".join(f"{head:>12}" for head in heads),
    ]  # fmt: skip
    for row in rows:
        for side, facts in (row.get("sides") or {"-": {}}).items():
            stages = ["load", "encode", *(f"{side} {head}" for head in heads[2:])]
            gpu = [row.get("stages", {}).get(stage, {}).get("gpu") for stage in stages]
            host = [row.get("host", {}).get(stage) for stage in stages]
            cells = "".join(f"{'-' if g is None else format(g, '.2f'):>9}" for g in gpu) + " "
            for peaks in host:
                text = "-" if peaks is None else f"{peaks['own']:.1f}/{peaks['with_files']:.1f}"
                cells += f"{text:>12}"
            lines.append(f"{row['case']:<28}{side:>5}  {cells}  {verdict(row, facts)}")
    return "\n".join(lines)


def markdown(report: dict[str, Any]) -> str:
    """The same for docs/: GPU peaks by stage, the host's highest, and what was proved."""
    stages = ["load", "encode", "stock", "explicit", "fused", "decode"]
    lines = [
        f"| case | px | {' | '.join(stages)} | host | host, with files | |",
        "|---" * (len(stages) + 5) + "|",
    ]
    for row in report["rows"]:
        for side, facts in (row.get("sides") or {"-": {}}).items():
            cells = []
            for stage in stages:
                name = stage if stage in ("load", "encode") else f"{side} {stage}"
                found = row.get("stages", {}).get(name, {})
                gpu = found.get("gpu")
                none = "too much" if "does_not_fit" in found else "-"
                cells.append(none if gpu is None else f"{gpu:.1f}")
            peaks = row.get("host", {}).values()
            for kind in ("own", "with_files"):
                cells.append(f"{max((peak[kind] for peak in peaks), default=0):.1f}")
            lines.append(
                f"| {row['case']} | {side} | {' | '.join(cells)} | {verdict(row, facts)} |"
            )
    return "\n".join(lines)


def verdict(row: dict[str, Any], facts: dict[str, Any]) -> str:
    """What is wrong, or the proofs that nothing is."""
    if "error" in row:
        return f"FAILED in {row.get('failed_in', '?')}: {row['error'][:90]}"
    wrong = list(row.get("faults", []))
    if facts.get("patched") != EXPECTED[row["model"]]:
        wrong.append(f"patched {facts.get('patched')}")
    for name in ("stock_finite", "decoded_finite", "strength_0_identical"):
        if not facts.get(name):
            wrong.append(f"not {name}")
    if not facts.get("dense"):
        wrong.append("dense does not fit")
    for backend, proof in facts.get("dense", {}).items():
        if not proof["finite"] or not proof["differs"]:
            wrong.append(f"{backend}: {proof}")
    return "; ".join(wrong) or f"fits; {facts['patched']}; finite; strength 0 identical"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("out/benchmarks/t4"))
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/t4.json"))
    parser.add_argument("--only", help="case names, comma-separated, or parts of them")
    parser.add_argument(
        "--sides", default="512,1024", type=lambda t: [int(s) for s in t.split(",")]
    )
    parser.add_argument("--steps", type=int, default=4, help="peaks do not depend on the count")
    parser.add_argument("--jobs", type=int, default=3, help="cases at a time (%(default)s)")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one case")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--reuse", action="store_true", help="models are built already")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case or options.build:
        (run_case if options.case else build)(options)
        return 0

    if not options.toy:
        import torch

        if not torch.cuda.is_available():
            print("skipped: full-size models need a CUDA GPU; --toy runs the same code without")
            return 0

    began = time.perf_counter()
    options.scratch.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    wanted = (options.only or "").split(",")
    cases = [case for case in CASES if any(part in case.name for part in wanted)]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name: {[c.name for c in CASES]}")
    rows: list[dict[str, Any]] = []
    report = {"profile": f"t4: {GPU_LIMIT} GiB GPU, 12 GB host", "toy": options.toy, "rows": rows}
    report |= {"steps": options.steps, "versions": versions(), "build_s": {}}
    lock = threading.Lock()

    def save() -> None:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def built(model: str) -> None:
        if not options.reuse:
            start = time.perf_counter()
            subprocess.run(command(options, "--build", model), check=True)
            report["build_s"][model] = time.perf_counter() - start

    def finished(case: Case, model: Future | None) -> None:
        try:
            if model is not None:
                model.result()
            row = supervised(case, options)
        except Exception as error:
            row = {"case": case.name, **asdict(case), "error": f"{type(error).__name__}: {error}"}
        with lock:
            rows.append(row)
            rows.sort(key=lambda each: [c.name for c in CASES].index(each["case"]))
            save()
        seconds = time.perf_counter() - began
        print(f"[{seconds:4.0f} s] {case.name}: {row.get('error', 'done')}", flush=True)

    built("medium")  # the encoders are there
    with ThreadPoolExecutor(options.jobs) as pool:
        large = None
        if any(case.model == "large" for case in cases):
            large = pool.submit(built, "large")
        jobs = [pool.submit(finished, c, large if c.model == "large" else None) for c in cases]
        for job in jobs:
            job.result()
    report["total_s"] = time.perf_counter() - began
    save()
    print(table(rows))
    options.out.with_suffix(".md").write_text(markdown(report) + "\n", encoding="utf-8")
    print(f"{report['total_s']:.0f} s; wrote {options.out}")
    print("Random weights: this proves memory and plumbing, not the stability of float16.")
    return 1 if any("error" in row for row in rows) else 0


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0], "cpus": str(os.cpu_count())}
    for name in ("torch", "diffusers", "transformers", "accelerate", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    sys.exit(main())
