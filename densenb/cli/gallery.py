"""`densenb gallery`: the first report's prompts on the real SD 3.5, the comparison still missing.

For users with access to the model. Everything that a reader needs to judge or repeat the pictures
is saved beside them, with a checklist of what such a run can settle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import densenb as dnb
from densenb.cli.doctor import versions
from densenb.cli.options import add_sampling, folder, load, seeds
from densenb.models.tiers import SIX_LOGITS

if TYPE_CHECKING:
    from densenb.models.pipeline import Pipeline

METHODS: dict[str, Mapping[str, Any] | None] = {
    "stock": None,
    "transferred": {},
    "specials-negative": {"special_tokens": "negative"},
    "specials-background": {"special_tokens": "background"},
    "six-logits": SIX_LOGITS,
}
"""Name -> fields of `DenseConfig`; None is the stock pipeline, which comes first."""


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser(
        "gallery", help="draw the first report's prompts, stock and dense, to share"
    )
    command.add_argument(
        "--out", type=Path, default=Path("out/gallery"), help="folder (default: %(default)s)"
    )
    command.add_argument("--seeds", type=seeds, default=[0, 1], help="such as 0,1,2 (default: 0,1)")
    add_sampling(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw the report's cases with every method, and write it all under `out` and into `out`.zip.

    Writes `pictures/`, a figure for each case and method, `index.html`, `gallery.json`
    (settings, versions, machine, proofs) and `CHECKLIST.md`. Raises ValueError, before any
    sampling, when the model cannot be loaded here.
    """
    out = options.out
    folder(out)
    import torch

    from densenb.cli.cases import CASES
    from densenb.evaluation import runner, tables
    from densenb.models.memory_plan import GIB, describe_device
    from densenb.plots.layouts import before_after

    cases = dict(list(CASES.items())[:2])
    rules = {name: None if f is None else dnb.DenseConfig(**f) for name, f in METHODS.items()}
    pipe = load(options, runner.best_device())
    this = dnb.tier(pipe)
    steps, guidance = runner.steps_and_guidance(pipe, options.steps, options.guidance)
    (out / "pictures").mkdir(exist_ok=True)
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    report: dict[str, Any] = {
        "model": this.label,
        "revision": commit(pipe),
        "size": [this.width, this.height],
        "steps": steps,
        "guidance": guidance,
        "seeds": options.seeds,
        "settings": {name: tables.settings_of(rule) for name, rule in rules.items()},
        "layouts": {case: layout.to_dict() for case, layout in cases.items()},
        "versions": versions(),
        "device": describe_device(pipe.device),
        "proofs": prove(pipe, next(iter(cases.values()))),
        "pictures": [],
    }
    footer = f"{replace(this, steps=steps, guidance=guidance).stamp(options.seeds)} from the top"
    for case, layout in cases.items():
        for name, rule in rules.items():
            began = time.perf_counter()
            images = dnb.generate(pipe, layout, options.seeds, rule, steps=steps, guidance=guidance)
            seconds = (time.perf_counter() - began) / len(images)
            for seed, image in zip(options.seeds, images, strict=True):
                file = f"pictures/{case}-{name}-seed-{seed}.png"
                image.save(out / file)
                row = {"case": case, "method": name, "seed": seed, "file": file}
                report["pictures"].append(row | {"seconds": round(seconds, 1)})
            if rule is None:  # the first method
                stock = images
                continue
            figure = before_after(stock, images, layout, f"{layout.text} ({name})", footer)
            figure.savefig(out / f"{case}-{name}.png", dpi=110)
    if on_gpu:
        report["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    report = tables.plain(report)
    (out / "gallery.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for file, template in (("index.html", "gallery.html"), ("CHECKLIST.md", "CHECKLIST.md")):
        (out / file).write_text(render(template, report), encoding="utf-8")
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    print(f"{len(report['pictures'])} pictures: open {out / 'index.html'}, or share {out}.zip")


def prove(pipe: Pipeline, layout: dnb.Layout) -> dict[str, Any]:
    """Automatic checks: layers that were patched, strength 0 against stock, finite numbers."""
    import torch

    from densenb.sd3.prompts import call_inputs

    options = {"num_inference_steps": 2, "output_type": "latent"}
    inputs = call_inputs(pipe, layout, None, **options)
    latents = [pipe(**inputs, generator=dnb.generators([0])).images]
    for rule in (dnb.DenseConfig(image_text=0, image_image=0), dnb.DenseConfig()):
        with dnb.dense_attention(pipe, layout, rule, **options) as dense:
            latents.append(pipe(**dense.inputs, generator=dnb.generators([0])).images)
    stock, zero, steered = latents
    return {
        "attention_layers": dense.patched,
        "strength_0_equals_stock": torch.equal(stock, zero),
        "dense_differs_from_stock": not torch.equal(stock, steered),
        "finite_after_two_steps": bool(torch.stack(latents).isfinite().all()),
    }


def commit(pipe: Pipeline) -> str | None:
    """The commit of a downloaded model: its folder's name in the download cache."""
    path = Path(pipe.config.get("_name_or_path") or ".")
    return path.name if path.parent.name == "snapshots" else None


def render(template: str, report: Mapping[str, Any]) -> str:
    """A report as the page (`gallery.html`) or as what is left to settle (`CHECKLIST.md`)."""
    from densenb.evaluation.failures import PAGES

    return PAGES.get_template(template).render(report=report)
