"""The work of `densenb evaluate`, after its options were checked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from densenb.evaluation import failures
from densenb.evaluation.judges import load_judge
from densenb.evaluation.log import Log
from densenb.evaluation.runner import artist, default_batch, evaluate_each
from densenb.evaluation.suites import SUITES, Suite, batches, build_suite
from densenb.evaluation.tables import GROUND_TRUTH, compared, table
from densenb.models.load import load
from densenb.plots import pictures


def run(options: argparse.Namespace, device: str, dtype: torch.dtype | None) -> None:
    """Evaluate every suite; then, in the main process, write and print what was asked for."""
    # processes that are done wait for the others, as long as those need
    state = PartialState(cpu=options.device == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1 and device == "cuda":
        device = str(state.device)  # one for each process
    options.batch_size = options.batch_size or default_batch(device)
    log = Log(options.log, leads=state.is_local_main_process)
    state.wait_for_everyone()  # no process writes before all have read
    judge = load_judge(options.judge, device)
    pipe = load(options.model, device, dtype, t5=not options.no_t5)

    suites, rows = {}, []
    for name in options.suite:
        kind = SUITES[name]
        scenes = kind.scenes if options.full else options.scenes
        suites[name] = build_suite(name, scenes, options.seed, device)
        for row in evaluate_each(
            pipe,
            options.methods,
            suites[name],
            seeds=range(kind.seeds) if options.full else options.seeds,
            batch_size=options.batch_size,
            device=device,
            steps=options.steps,
            guidance=options.guidance,
            judge=judge,
            log=log,
        ):
            rows.append(row)
            if options.out:  # after every row: an interrupted run keeps what is finished
                write_rows(options.out, rows)
    if not state.is_main_process:
        return
    if options.against:
        rows = compared(rows, options.against)
        if options.out:
            write_rows(options.out, rows)
    print(table(rows))
    if options.sheet or options.pictures:
        first_scenes(options, pipe, suites[options.suite[0]])
    if options.gallery:
        gallery(options, pipe, suites, rows)
    for path in (options.out, options.log, options.sheet, options.pictures, options.gallery):
        if path:
            print(f"wrote {path}")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file in one step, so that an interrupted run leaves the old one whole."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def first_scenes(options: argparse.Namespace, pipe: Any, suite: Suite) -> None:
    """The first scenes by every method, from the first noise seed: `--sheet` and `--pictures`."""
    first = [(options.seeds[0], scene) for scene in range(min(options.keep, len(suite)))]
    kept = {GROUND_TRUTH: list(suite.images[: len(first)].float() / 255)}
    for method in options.methods:
        draw = artist(pipe, method, suite, options.steps, options.guidance)
        parts = map(draw, batches(first, options.batch_size))
        kept[method] = [picture for part in parts for picture in part.cpu()]
    if options.sheet:
        pictures.sheet(kept).save(options.sheet)
    for method, images in kept.items() if options.pictures else ():
        (options.pictures / method).mkdir(exist_ok=True)
        for index, image in enumerate(images):
            pictures.to_image(image).save(options.pictures / method / f"scene-{index:03}.png")


def gallery(
    options: argparse.Namespace, pipe: Any, suites: dict[str, Suite], rows: list[dict[str, Any]]
) -> None:
    """A page of each method's worst scenes: `--gallery`."""
    sections = [
        failures.section(
            options.gallery,
            suite,
            [row for row in rows if row["suite"] == name],
            partial(artist, pipe, suite=suite, steps=options.steps, guidance=options.guidance),
            options.worst,
            against=options.against,
            batch_size=options.batch_size,
        )
        for name, suite in suites.items()
    ]
    failures.write(options.gallery, f"What fails: {rows[0]['model']}", sections)
