"""The comparison that is still missing: the first report's prompts on the real SD 3.5.

For users with access to the model. Everything that a reader needs to judge or repeat the pictures
is saved beside them, with a checklist of what such a run can settle.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from densenb.cli.demo import CASES, Case
from densenb.cli.doctor import versions
from densenb.evaluation.failures import PAGES
from densenb.evaluation.runner import best_device, steps_and_guidance
from densenb.evaluation.tables import plain, settings_of
from densenb.models.load import load
from densenb.models.memory_plan import GIB, describe_device
from densenb.models.tiers import TINY, tier
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.rule import Rule
from densenb.plots import layouts
from densenb.sampling import generate, generators
from densenb.sd3.dense_attention import dense_attention
from densenb.sd3.prompts import call_inputs

SEEDS = (0, 1)
METHODS: dict[str, Rule | None] = {
    "stock": None,
    "transferred": DenseConfig(),
    "specials-negative": DenseConfig(special_tokens="negative"),
    "specials-background": DenseConfig(special_tokens="background"),
    "six-logits": DenseConfig(**TINY.recommended),
}
NOTHING = DenseConfig(image_text=0, image_image=0)


def run(
    out: str | Path,
    model: str | Path = "tiny",
    *,
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
    guidance: float | None = None,
    dtype: torch.dtype | None = None,
    t5: bool = True,
    pipe: Any = None,
) -> dict[str, Any]:
    """Draw every case with every method, and write it all under `out` and into `out`.zip.

    Writes `pictures/`, a figure for each case and method, `index.html`, `gallery.json`
    (settings, versions, machine, proofs) and `CHECKLIST.md`. `pipe` replaces `model`, which is as
    in `pipelines.load`. Returns the content of `gallery.json`.

    Raises ValueError, before any sampling, when the model cannot be loaded here.
    """
    out, cases = Path(out), CASES[:2]
    pipe = load(model, best_device(), dtype, t5=t5) if pipe is None else pipe
    this = tier(pipe)
    steps, guidance = steps_and_guidance(pipe, steps, guidance)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    report: dict[str, Any] = {
        "model": this.label,
        "revision": commit(pipe),
        "size": [this.width, this.height],
        "steps": steps,
        "guidance": guidance,
        "seeds": list(seeds),
        "settings": {name: settings_of(rule) for name, rule in METHODS.items()},
        "layouts": {case.name: case.layout.to_dict() for case in cases},
        "versions": versions(),
        "device": describe_device(pipe.device),
        "proofs": prove(pipe, cases[0]),
        "pictures": [],
    }
    footer = f"{replace(this, steps=steps, guidance=guidance).stamp(seeds)} from the top"
    for case in cases:
        for name, rule in METHODS.items():
            began = time.perf_counter()
            images = generate(pipe, case.layout, seeds, rule, steps=steps, guidance=guidance)
            seconds = (time.perf_counter() - began) / len(images)
            for seed, image in zip(seeds, images, strict=True):
                file = f"pictures/{case.name}-{name}-seed-{seed}.png"
                image.save(out / file)
                row = {"case": case.name, "method": name, "seed": seed, "file": file}
                report["pictures"].append(row | {"seconds": round(seconds, 1)})
            if rule is None:  # the first method
                stock = images
                continue
            title = f"{case.layout.text} ({name})"
            figure = layouts.before_after(stock, images, case.layout, title, footer)
            figure.savefig(out / f"{case.name}-{name}.png", dpi=110)
    if on_gpu:
        report["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    report = plain(report)
    (out / "gallery.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page(report), encoding="utf-8")
    (out / "CHECKLIST.md").write_text(checklist(report), encoding="utf-8")
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    print(f"{len(report['pictures'])} pictures; open {out / 'index.html'}, or share {out}.zip")
    return report


def prove(pipe: Any, case: Case) -> dict[str, Any]:
    """Automatic checks: layers that were patched, strength 0 against stock, finite numbers."""
    options = {"num_inference_steps": 2, "output_type": "latent"}
    inputs = call_inputs(pipe, case.layout, None, **options)
    latents = [pipe(**inputs, generator=generators([0])).images]
    for rule in (NOTHING, DenseConfig()):
        with dense_attention(pipe, case.layout, rule, **options) as dense:
            latents.append(pipe(**dense.inputs, generator=generators([0])).images)
    stock, zero, steered = latents
    return {
        "attention_layers": dense.patched,
        "strength_0_equals_stock": torch.equal(stock, zero),
        "dense_differs_from_stock": not torch.equal(stock, steered),
        "finite_after_two_steps": bool(torch.stack(latents).isfinite().all()),
    }


def commit(pipe: Any) -> str | None:
    """The commit of a downloaded model: its folder's name in the download cache."""
    folder = Path(pipe.config.get("_name_or_path") or ".")
    return folder.name if folder.parent.name == "snapshots" else None


def page(report: Mapping[str, Any]) -> str:
    """One HTML page: the run's settings, then each case, a row for each seed, a column a method."""
    return PAGES.get_template("gallery.html").render(report=report)


def checklist(report: Mapping[str, Any]) -> str:
    """CHECKLIST.md: what the run proved, and what has to be settled by eye."""
    return PAGES.get_template("CHECKLIST.md").render(report=report)
