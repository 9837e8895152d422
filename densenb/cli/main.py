"""The command line: `densenb demo | generate | preview | evaluate | doctor | gallery`.

What the user can mend ends in one line on stderr and exit code 2, before any long work.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import diffusers
import transformers

# Commands import what they alone need.

ADVICE = {
    "dtype=torch.float32": "--dtype float32",
    "or torch.bfloat16": "or --dtype bfloat16",
    "t5=False": "--no-t5",
    'load("tiny")': "--model tiny",
}
"""What errors advise a program -> the option that does it here."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"densenb: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (0, 2 for an error of the user's, 130 when interrupted)."""
    options = parser().parse_args(argv)
    for library in (transformers, diffusers):  # no advice for developers among our lines
        library.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            options.run(options)
        except (ValueError, OSError, RuntimeError) as error:
            message = _message(error)
            if message is None:
                raise
            print(f"densenb: error: {message}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("densenb: interrupted", file=sys.stderr)
            return 130
    return 0


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="densenb", description="Layout control for Stable Diffusion 3.5.")
    top.add_argument("--version", action="version", version=f"densenb {_version()}")
    commands = top.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="five prompts, stock beside steered, scored")
    demo.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (%(default)s)")
    demo.add_argument("--fast", action="store_true", help="one seed a prompt instead of two")
    demo.set_defaults(run=run_demo)

    generate = commands.add_parser("generate", help="pictures of a layout file")
    generate.add_argument("--layout", type=Path, required=True, help="layout, JSON")
    generate.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    generate.add_argument("--seeds", type=_seeds, default=[0], help="such as 0,1,2 (0)")
    generate.add_argument("--method", default="recommended", help="(%(default)s)")
    _sampling(generate)
    generate.set_defaults(run=run_generate)

    preview = commands.add_parser("preview", help="what the model will see of a layout file")
    preview.add_argument("--layout", type=Path, required=True, help="layout, JSON")
    preview.add_argument("--out", type=Path, help="also draw the regions into this PNG")
    _model(preview)
    preview.set_defaults(run=run_preview)

    evaluate = commands.add_parser("evaluate", help="score methods on scenes with ground truth")
    evaluate.add_argument(
        "--suite", type=_names, default=["test"], help="such as test,test-tiny or 'tune*' (test)"
    )
    evaluate.add_argument(
        "--methods",
        type=_names,
        default=["stock", "transferred"],
        help="such as stock,hard-mask or 'repair-*'",
    )
    evaluate.add_argument("--scenes", type=_count, default=256, help="(%(default)s)")
    evaluate.add_argument("--seed", type=int, default=0, help="of scenes and noise (%(default)s)")
    evaluate.add_argument("--seeds", type=_seeds, default=[0], help="more noise, such as 0,1,2 (0)")
    evaluate.add_argument(
        "--full",
        action="store_true",
        help="as many scenes and noise seeds as each suite's numbers should rest on",
    )
    evaluate.add_argument("--against", help="compare with this method, scene by scene")
    evaluate.add_argument("--out", type=Path, help="write the rows to this JSON file")
    evaluate.add_argument(
        "--log", type=Path, help="keep every finished picture's scores; the same command goes on"
    )
    evaluate.add_argument(
        "--judge", default="oracle", help="oracle, detector:MODEL or clip:MODEL (%(default)s)"
    )
    _sampling(evaluate)
    evaluate.add_argument("--batch-size", type=_count, help="pictures at a time (8, on a GPU 64)")
    evaluate.add_argument("--device", help="such as cpu, cuda:1 (CUDA where there is one)")
    evaluate.add_argument("--sheet", type=Path, help="contact sheet of methods x first scenes, PNG")
    evaluate.add_argument("--pictures", type=Path, help="folder for pictures of the first scenes")
    evaluate.add_argument(
        "--keep", type=_count, default=8, help="how many first scenes to picture (%(default)s)"
    )
    evaluate.add_argument("--gallery", type=Path, help="folder for a page of the worst scenes")
    evaluate.add_argument(
        "--worst", type=_count, default=8, help="how many of each method (%(default)s)"
    )
    evaluate.set_defaults(run=run_evaluate)

    doctor = commands.add_parser("doctor", help="what will run here, what not, and why")
    doctor.add_argument("--t4", action="store_true", help="plan for a Colab T4 instead")
    doctor.set_defaults(run=run_doctor)

    gallery = commands.add_parser("gallery", help="the report's prompts, stock and dense, to share")
    gallery.add_argument("--out", type=Path, default=Path("out/gallery"), help="(%(default)s)")
    gallery.add_argument("--seeds", type=_seeds, default=[0, 1], help="such as 0,1,2 (0,1)")
    _sampling(gallery)
    gallery.set_defaults(run=run_gallery)
    return top


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", default="tiny", help="tiny, medium, large or a folder (%(default)s)"
    )
    command.add_argument("--no-t5", action="store_true", help="less memory, weaker on long prompts")


def _sampling(command: argparse.ArgumentParser) -> None:
    _model(command)
    command.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="float32 is the same everywhere, bfloat16 faster on a GPU (float32, or what the "
        "memory plan of a full-size model says)",
    )
    command.add_argument("--steps", type=_count, help="sampling steps (the model's own)")
    command.add_argument("--guidance", type=float, help="guidance scale (the model's own)")


def run_demo(options: argparse.Namespace) -> None:
    _folder(options.out)
    from densenb.cli import demo

    demo.run(options.out, fast=options.fast)


def run_generate(options: argparse.Namespace) -> None:
    layout = _layout(options.layout)
    from tqdm.auto import tqdm

    from densenb import sampling
    from densenb.evaluation.runner import METHODS, steps_and_guidance
    from densenb.evaluation.suites import known
    from densenb.models import load
    from densenb.plots import pictures

    layout = _asked(known(options.method, METHODS, "method"), layout)
    _folder(options.out)
    pipe = load.load(options.model, _device(None), _dtype(options), t5=not options.no_t5)
    _warn_unknown_words(pipe, layout)
    rule, seeds = METHODS[options.method](pipe), options.seeds
    steps, guidance = steps_and_guidance(pipe, options.steps, options.guidance)
    # what generate refuses, it refuses within the bar's delay
    with tqdm(total=len(seeds) * steps, desc="sampling", unit="step", delay=1) as bar:
        for seed in seeds:  # each is saved before the next is begun
            (image,) = sampling.generate(
                pipe, layout, [seed], rule, steps, guidance, progress=lambda *_: bar.update()
            )
            image.save(options.out / f"seed-{seed}.png")
            masks = layout.pixel_masks(*image.size[::-1])
            pictures.overlay(image, masks).save(options.out / f"seed-{seed}-regions.png")
    print(
        f"{len(seeds)} pictures ({options.method}), each with its regions drawn beside it, in "
        f"{options.out}/"
    )


def run_preview(options: argparse.Namespace) -> None:
    layout = _layout(options.layout)
    if options.out:
        _file(options.out)
    from densenb.layout.layout import TOKEN_PIXELS
    from densenb.models.load import load
    from densenb.plots.layouts import token_grid
    from densenb.sd3.preview import preview

    pipe = load(options.model, t5=not options.no_t5)
    _warn_unknown_words(pipe, layout)
    seen = preview(layout, pipe)
    print(seen)
    if options.out:
        grid = seen.height // TOKEN_PIXELS, seen.width // TOKEN_PIXELS
        token_grid(layout, *grid).savefig(options.out, dpi=120)
        print(f"wrote {options.out}")


def run_evaluate(options: argparse.Namespace) -> None:
    from densenb.cli import evaluate
    from densenb.evaluation.runner import METHODS
    from densenb.evaluation.suites import SUITES, known

    options.methods = _matching(options.methods, METHODS, "method")
    options.suite = _matching(options.suite, SUITES, "suite")
    if options.against and known(options.against, METHODS, "method") not in options.methods:
        options.methods = [options.against, *options.methods]
    device = _device(options.device)
    for path in (options.out, options.log, options.sheet):
        if path:
            _file(path)
    for path in (options.pictures, options.gallery):
        if path:
            _folder(path)
    evaluate.run(options, device, _dtype(options))


def run_doctor(options: argparse.Namespace) -> None:
    from densenb.cli import doctor
    from densenb.models import memory_plan

    for line in doctor.report(memory_plan.T4 if options.t4 else None):
        print(line, flush=True)


def run_gallery(options: argparse.Namespace) -> None:
    _folder(options.out)
    from densenb.cli import gallery

    gallery.run(
        options.out,
        options.model,
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        dtype=_dtype(options),
        t5=not options.no_t5,
    )


def _layout(path: Path) -> Any:
    from densenb.layout.layout import Layout

    try:
        return Layout.from_json(path)
    except TypeError as error:  # a value of the wrong type in the file is the user's to mend
        raise ValueError(f"{path}: {error}") from error


def _asked(method: str, layout: Any) -> Any:
    """The layout as a method gets it; ValueError for one that needs the scenes of a suite."""
    from densenb.evaluation.runner import LAYOUTS
    from densenb.layout.layout import against_neighbours

    if method == "recommended-negatives":
        return against_neighbours(layout)
    if method in LAYOUTS:
        raise ValueError(
            f"method {method!r} gives a scene what belongs to other scenes of a suite, and a layout"
            " file has one scene: use densenb evaluate."
        )
    return layout


def _warn_unknown_words(pipe: Any, layout: Any) -> None:
    from densenb.models.tiers import tier

    if tier(pipe).name != "tiny":
        return
    from densenb.miniature.vocabulary import unknown_words

    for word, near in unknown_words(layout.text).items():
        hint = f"; near words it knows: {', '.join(near)}" if near else ""
        warnings.warn(f"the miniature never saw the word {word!r}{hint}.", stacklevel=2)


def _device(name: str | None) -> str:
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


def _dtype(options: argparse.Namespace) -> Any:
    """The `torch.dtype` that was asked for; None leaves it to `load`."""
    import torch

    return options.dtype and getattr(torch, options.dtype)


def _folder(path: Path) -> None:
    """Create a folder that can be written to."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written to: choose another folder.")


def _file(path: Path) -> None:
    """Make sure, before the work, that a file can be written."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it.")
    _folder(path.parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written to: choose another file.")


def _count(text: str) -> int:
    number = int(text) if text.lstrip("-").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return number


def _seeds(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers like 0,1,2")
    return list(dict.fromkeys(int(part) for part in text.split(",")))


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _matching(wanted: list[str], names: Any, what: str) -> list[str]:
    """Names, and what patterns such as 'test*' match; a ValueError for what is not known."""
    from fnmatch import filter as matching

    from densenb.evaluation.suites import known

    found = [n for each in wanted for n in matching(names, each) or [known(each, names, what)]]
    return list(dict.fromkeys(found))


def _version() -> str:
    try:
        return version("densenb")
    except PackageNotFoundError:  # a checkout that was never installed
        return "(not installed)"


def _message(error: Exception) -> str | None:
    """What the user can mend, in one line and by our options; None for an error that is a bug."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError):
        import torch

        from densenb.models.overflow import Overflow

        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
            return (
                "there is not enough memory: take a smaller --model, leave T5 out (--no-t5), or "
                "evaluate fewer pictures at a time (--batch-size)."
            )
        if not isinstance(error, Overflow):
            return None
    for python, option in ADVICE.items():
        text = text.replace(python, option)
    return text


def _show_warning(message: Any, category: Any, *rest: Any) -> None:
    print(f"densenb: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
