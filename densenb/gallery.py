"""The comparison that nobody has seen yet: the first report's prompts on the real SD 3.5.

For whoever has access to the model. Everything that a reader needs to judge or repeat the pictures
lies beside them, and a checklist says what such a run can settle.
"""

from __future__ import annotations

import html
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from densenb import plots
from densenb.attention import dense_attention
from densenb.demo import CASES, Case
from densenb.doctor import versions
from densenb.evaluate import best_device, plain, settings_of
from densenb.memory import GIB, describe_device
from densenb.modulation import DenseConfig, Rule
from densenb.pipelines import TINY, call_inputs, generate, generators, load, tier

SEEDS = (0, 1)
METHODS: dict[str, Rule | None] = {
    "stock": None,
    "transferred": DenseConfig(),
    "specials-negative": DenseConfig(special_tokens="negative"),
    "specials-background": DenseConfig(special_tokens="background"),
    "six-logits": DenseConfig(**TINY.tuned),
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
    cases: Sequence[Case] = CASES[:2],
) -> dict[str, Any]:
    """Draw every case with every method, and write it all under `out` and into `out`.zip.

    Writes `pictures/`, a figure for each case and method, `index.html`, `gallery.json`
    (settings, versions, machine, proofs) and `CHECKLIST.md`. `pipe` replaces `model`; both as in
    `pipelines.load`. Returns what `gallery.json` holds.

    Raises ValueError, before any sampling, when the model cannot be loaded here.
    """
    out = Path(out)
    pipe = load(model, best_device(), dtype, t5=t5) if pipe is None else pipe
    this = tier(pipe)
    steps = this.steps if steps is None else steps
    guidance = this.guidance if guidance is None else guidance
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
    foot = f"{this.label} · {this.width} x {this.height} · {steps} steps · guidance {guidance:g}"
    for case in cases:
        stock: list[Image.Image] = []
        for name, rule in METHODS.items():
            began = time.perf_counter()
            images = generate(pipe, case.layout, seeds, rule, steps=steps, guidance=guidance)
            seconds = (time.perf_counter() - began) / len(images)
            for seed, image in zip(seeds, images, strict=True):
                file = f"pictures/{case.name}-{name}-seed-{seed}.png"
                image.save(out / file)
                row = {"case": case.name, "method": name, "seed": seed, "file": file}
                report["pictures"].append(row | {"seconds": round(seconds, 1)})
            if rule is None:
                stock = images
                continue
            title = f"{case.layout.text} ({name})"
            numbers = ", ".join(map(str, seeds))
            figure = plots.before_after(
                stock, images, case.layout, title, f"{foot} · seeds {numbers} from the top"
            )
            figure.savefig(out / f"{case.name}-{name}.png", dpi=110)
    if on_gpu:
        report["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
    report = plain(report)
    (out / "gallery.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page(report), encoding="utf-8")
    (out / "CHECKLIST.md").write_text("\n".join(checklist(report)) + "\n", encoding="utf-8")
    shutil.make_archive(str(out), "zip", out.parent, out.name)
    print(f"{len(report['pictures'])} pictures; open {out / 'index.html'}, or share {out}.zip")
    return report


def prove(pipe: Any, case: Case, steps: int = 2) -> dict[str, Any]:
    """What can be checked without eyes: layers taken over, strength 0 against stock, finiteness."""
    latents: list[torch.Tensor] = []
    inputs = call_inputs(pipe, case.layout, None, num_inference_steps=steps, output_type="latent")
    latents.append(pipe(**inputs, generator=generators([0])).images)
    patched = ""
    for rule in (NOTHING, DenseConfig()):
        with dense_attention(
            pipe, case.layout, rule, num_inference_steps=steps, output_type="latent"
        ) as dense:
            latents.append(pipe(**dense.inputs, generator=generators([0])).images)
            patched = dense.patched
    stock, zero, steered = latents
    return {
        "attention_layers": patched,
        "strength_0_equals_stock": torch.equal(stock, zero),
        "dense_differs_from_stock": not torch.equal(stock, steered),
        "finite_after_two_steps": bool(torch.stack(latents).isfinite().all()),
    }


def commit(pipe: Any) -> str | None:
    """The commit of a downloaded model: its folder's name in the download cache."""
    folder = Path(pipe.config.get("_name_or_path") or ".")
    return folder.name if folder.parent.name == "snapshots" else None


# ----------------------------------------------------------------------------- pages beside them
def page(report: Mapping[str, Any]) -> str:
    """One HTML page: what was run, then each case, a row for each seed and a column a method."""
    escape = html.escape
    facts = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(report[name]))}</td></tr>"
        for name in ("model", "size", "steps", "guidance", "seeds", "device", "proofs")
    )
    sections = []
    for name, layout in report["layouts"].items():
        head = "".join(f"<th>{escape(method)}</th>" for method in report["settings"])
        rows = []
        for seed in report["seeds"]:
            cells = "".join(
                f'<td><img src="{escape(row["file"])}" alt="{escape(row["method"])}"></td>'
                for row in report["pictures"]
                if (row["case"], row["seed"]) == (name, seed)
            )
            rows.append(f"<tr><th>{seed}</th>{cells}</tr>")
        sections.append(
            f"<h2>{escape(layout['caption'])}</h2>"
            f"<table><tr><th>seed</th>{head}</tr>{''.join(rows)}</table>"
        )
    style = "body{font-family:sans-serif;margin:2em}img{width:256px}th{text-align:left}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>densenb gallery</title>'
        f"<style>{style}</style><h1>densenb gallery</h1><table>{facts}</table>"
        f"{''.join(sections)}<p>Settings and versions: gallery.json. What this run can settle: "
        "CHECKLIST.md.</p></html>\n"
    )


CLAIMS = (
    "It loads: the pictures exist, and the peak of GPU memory is the one that the plan expected.",
    "float16 holds: no picture is black, white or noise (look at every one).",
    "In the stock pictures the objects are where the noise put them, not in their regions.",
    "With `transferred` more of each object lies in its region than in the stock picture of the "
    "same seed.",
    "With `specials-negative` and `specials-background` still more does (on the miniature: yes, "
    "about a quarter more).",
    "With `six-logits`, the miniature's best setting, most of all does, and the pictures are as "
    "good (on the miniature: yes).",
    "Each object has its own colour, and no region has the other region's.",
    "Objects are as well drawn as in the stock picture: no seams, repeats or flat patches.",
    "The paper's strengths (1.0 and 0.3) are not too strong and not too weak for this model.",
)


def checklist(report: Mapping[str, Any]) -> Iterator[str]:
    """CHECKLIST.md: what was proved by the run, and what eyes have to settle."""
    yield f"# What this run settles: {report['model']}"
    yield ""
    yield "Proved by the program:"
    yield ""
    proofs = report["proofs"]
    tick = {True: "x", False: " "}
    yield f"- [x] Attention layers taken over: {proofs['attention_layers']}."
    yield ("      (SD 3.5 medium has 24 joint + 13 image-only, large 38 joint + 0 image-only.)")
    yield f"- [{tick[proofs['strength_0_equals_stock']]}] At strength 0 it is stock, bit for bit."
    yield f"- [{tick[proofs['dense_differs_from_stock']]}] At the usual strength it is not."
    yield f"- [{tick[proofs['finite_after_two_steps']]}] All numbers are finite after two steps."
    yield ""
    yield "To be settled by eye, for each seed, and best by someone who did not make the pictures:"
    yield ""
    yield from (f"- [ ] {claim}" for claim in CLAIMS)
    yield ""
    yield "To be written down from the run:"
    yield ""
    revision = report["revision"] or "none, it was not downloaded"
    yield f"- [ ] the model's revision, to be pinned in `REVISIONS` (configs.py): {revision}"
    yield f"- [ ] GPU, its memory and the peak: {report['device']}, {report.get('peak_gpu_gib')}"
    yield ""
    yield "How to contribute it: open an issue or a pull request in densenb's repository with the"
    yield "zip file and this list. Pictures of SD 3.5 come under its licence, and their maker has"
    yield "to agree to their being shown."
