"""`densenb generate`: pictures of a layout file."""

from __future__ import annotations

import argparse
from pathlib import Path

import densenb as dnb
from densenb.cli.options import (
    add_sampling,
    folder,
    load,
    read_layout,
    seeds,
    warn_unknown_words,
)


def add(commands: argparse._SubParsersAction) -> None:
    """The command's options."""
    command = commands.add_parser("generate", help="draw pictures of a layout file")
    command.add_argument("--layout", type=Path, required=True, help="layout file, JSON")
    command.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    command.add_argument("--seeds", type=seeds, default=[0], help="such as 0,1,2 (default: 0)")
    command.add_argument(
        "--method", default="recommended", help="how to steer (default: %(default)s)"
    )
    add_sampling(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw one picture for each seed, and save it with and without its regions."""
    layout = read_layout(options.layout)
    from tqdm.auto import tqdm

    from densenb.evaluation.runner import METHODS, best_device, steps_and_guidance
    from densenb.evaluation.suites import known
    from densenb.plots.pictures import overlay

    layout = layout_for(known(options.method, METHODS, "method"), layout)
    folder(options.out)
    pipe = load(options, best_device())
    warn_unknown_words(pipe, layout)
    rule, total = METHODS[options.method](pipe), len(options.seeds)
    steps, guidance = steps_and_guidance(pipe, options.steps, options.guidance)
    # the delay keeps the bar away when `generate` refuses its arguments
    with tqdm(total=total * steps, desc="sampling", unit="step", delay=1) as bar:
        for seed in options.seeds:  # each picture is saved before the next is begun
            (image,) = dnb.generate(
                pipe, layout, [seed], rule, steps, guidance, progress=lambda *_: bar.update()
            )
            image.save(options.out / f"seed-{seed}.png")
            masks = layout.pixel_masks(*image.size[::-1])
            overlay(image, masks).save(options.out / f"seed-{seed}-regions.png")
    print(
        f"{total} pictures ({options.method}), each also with its regions drawn in, are in "
        f"{options.out}/"
    )


def layout_for(method: str, layout: dnb.Layout) -> dnb.Layout:
    """The layout as the method gets it; ValueError if the method needs the scenes of a suite."""
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
