"""`densenb evaluate`: score methods on scenes with ground truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from fnmatch import filter as matching
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenb.cli.options import add_sampling, count, file, folder, load, names, seeds

if TYPE_CHECKING:
    from densenb.evaluation.suites import Suite
    from densenb.models.pipeline import Pipeline


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser("evaluate", help="score methods on scenes with ground truth")
    option = command.add_argument
    option(
        "--suite",
        type=names,
        default=["test"],
        help="such as test,test-tiny or 'tune*' (default: test)",
    )
    option(
        "--methods",
        type=names,
        default=["stock", "transferred"],
        help="such as stock,hard-mask or 'repair-*' (default: stock,transferred)",
    )
    option("--scenes", type=count, default=256, help="how many (default: %(default)s)")
    option("--seed", type=int, default=0, help="of the scenes and noise (default: %(default)s)")
    option("--seeds", type=seeds, default=[0], help="of more noise, such as 0,1,2 (default: 0)")
    option(
        "--full",
        action="store_true",
        help="use as many scenes and noise seeds as each suite needs for numbers to report",
    )
    option("--against", help="compare with this method, scene by scene")
    option("--out", type=Path, help="write the rows to this JSON file")
    option("--log", type=Path, help="keep scores in this file; the same command resumes from it")
    option(
        "--judge",
        default="oracle",
        help="oracle, detector:MODEL or clip:MODEL (default: %(default)s)",
    )
    add_sampling(command)
    option("--batch-size", type=count, help="pictures at a time (default: 8, on a GPU 64)")
    option("--device", help="such as cpu or cuda:1 (default: CUDA where there is one)")
    option("--sheet", type=Path, help="PNG for a contact sheet, methods by first scenes")
    option("--pictures", type=Path, help="folder for pictures of the first scenes")
    option("--keep", type=count, default=8, help="how many first scenes (default: %(default)s)")
    option("--gallery", type=Path, help="folder for a page of the worst scenes")
    option("--worst", type=count, default=8, help="how many per method (default: %(default)s)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate every suite; then, in the main process, write and print what was asked for."""
    from accelerate import PartialState

    from densenb.evaluation import judges, log, runner, suites, tables

    device = check(options)
    # a process that is done waits for the others as long as they need
    state = PartialState(cpu=options.device == "cpu", timeout=timedelta(days=7))
    if state.num_processes > 1 and device == "cuda":
        device = str(state.device)  # one for each process
    options.batch_size = options.batch_size or runner.default_batch(device)
    scores = log.Log(options.log, leads=state.is_local_main_process)
    state.wait_for_everyone()  # no process writes before all have read
    judge = judges.load_judge(options.judge, device)
    pipe = load(options, device)

    built, rows = {}, []
    for name in options.suite:
        kind = suites.SUITES[name]
        scenes = kind.scenes if options.full else options.scenes
        built[name] = suites.build_suite(name, scenes, options.seed, device)
        for row in runner.evaluate_each(
            pipe,
            options.methods,
            built[name],
            seeds=range(kind.seeds) if options.full else options.seeds,
            batch_size=options.batch_size,
            device=device,
            steps=options.steps,
            guidance=options.guidance,
            judge=judge,
            log=scores,
        ):
            rows.append(row)
            if options.out:  # after every row: an interrupted run keeps what is finished
                write_rows(options.out, rows)
    if not state.is_main_process:
        return
    if options.against:
        rows = tables.compared(rows, options.against)
        if options.out:
            write_rows(options.out, rows)
    print(tables.table(rows))
    if options.sheet or options.pictures:
        draw_first_scenes(options, pipe, built[options.suite[0]])
    if options.gallery:
        draw_worst_scenes(options, pipe, built, rows)
    for path in (options.out, options.log, options.sheet, options.pictures, options.gallery):
        if path:
            print(f"wrote {path}")


def check(options: argparse.Namespace) -> str:
    """The device, after patterns became full names; ValueError or OSError for a wrong option."""
    from densenb.evaluation.runner import METHODS
    from densenb.evaluation.suites import SUITES, known

    options.methods = full_names(options.methods, METHODS, "method")
    options.suite = full_names(options.suite, SUITES, "suite")
    if options.against and known(options.against, METHODS, "method") not in options.methods:
        options.methods = [options.against, *options.methods]
    device = check_device(options.device)
    for path in filter(None, (options.out, options.log, options.sheet)):
        file(path)
    for path in filter(None, (options.pictures, options.gallery)):
        folder(path)
    return device


def full_names(wanted: Iterable[str], all_names: Iterable[str], what: str) -> list[str]:
    """Names, and what patterns such as 'test*' match; ValueError for an unknown one."""
    from densenb.evaluation.suites import known

    found = [n for w in wanted for n in matching(all_names, w) or [known(w, all_names, what)]]
    return list(dict.fromkeys(found))


def check_device(name: str | None) -> str:
    """The device, by default the best; ValueError for one that is not there."""
    import torch

    from densenb.evaluation.runner import best_device

    if name is None:
        return best_device()
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}: use cpu, cuda or cuda:1.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but there is no CUDA here: use --device cpu.")
    return name


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file in one step, so that an interrupted run leaves the old one whole."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def draw_first_scenes(options: argparse.Namespace, pipe: Pipeline, suite: Suite) -> None:
    """The first scenes by every method, from the first noise seed: `--sheet` and `--pictures`."""
    from densenb.evaluation import runner, suites, tables
    from densenb.plots import pictures

    first = [(options.seeds[0], scene) for scene in range(min(options.keep, len(suite)))]
    kept = {tables.GROUND_TRUTH: list(suite.images[: len(first)].float() / 255)}
    for method in options.methods:
        draw = runner.artist(pipe, method, suite, options.steps, options.guidance)
        parts = map(draw, suites.batches(first, options.batch_size))
        kept[method] = [picture for part in parts for picture in part.cpu()]
    if options.sheet:
        pictures.sheet(kept).save(options.sheet)
    for method, images in kept.items() if options.pictures else ():
        (options.pictures / method).mkdir(exist_ok=True)
        for index, image in enumerate(images):
            pictures.to_image(image).save(options.pictures / method / f"scene-{index:03}.png")


def draw_worst_scenes(
    options: argparse.Namespace,
    pipe: Pipeline,
    suites: dict[str, Suite],
    rows: list[dict[str, Any]],
) -> None:
    """A page of each method's worst scenes: `--gallery`."""
    from densenb.evaluation import failures, runner

    sections = [
        failures.section(
            options.gallery,
            suite,
            [row for row in rows if row["suite"] == name],
            partial(
                runner.artist, pipe, suite=suite, steps=options.steps, guidance=options.guidance
            ),
            options.worst,
            against=options.against,
            batch_size=options.batch_size,
        )
        for name, suite in suites.items()
    ]
    failures.write(options.gallery, f"What fails: {rows[0]['model']}", sections)
