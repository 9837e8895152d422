"""Does the stock miniature still draw what is asked when a text encoder is missing?

    python experiments/encoders.py --scenes 256

Presence and colours on `test` scenes with all three encoders, without T5, without both CLIPs, and
by a call that gives the prompt alone (guidance 7, T5 length 256). A missing encoder leaves zeros,
as in SD 3's training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import densenb as dnb
from densenb.evaluation import runner
from densenb.evaluation.suites import build_suite
from densenb.evaluation.tables import table
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import generic_tier, set_tier


def without_t5(pipe: Any) -> Any:
    """The pipeline itself, which then fills T5's tokens with zeros."""
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    return pipe


def without_clip(pipe: Any) -> Any:
    """The pipeline itself, with zeros from both CLIPs: diffusers cannot run without them."""

    def to_zeros(module: Any, arguments: Any, output: Any) -> Any:
        output.text_embeds = torch.zeros_like(output.text_embeds)
        output.hidden_states = tuple(torch.zeros_like(state) for state in output.hidden_states)
        return output

    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.register_forward_hook(to_zeros)
    return pipe


def alone(pipe: Pipeline) -> Pipeline:
    """The pipeline with diffusers' own defaults: guidance 7 and a T5 length of 256."""
    set_tier(pipe, generic_tier(pipe, "prompt alone"))
    return pipe


VARIANTS: dict[str, Callable[[str], Any]] = {
    "all encoders": lambda device: dnb.load("tiny", device),
    "without T5": lambda device: without_t5(dnb.load("tiny", device)),
    "without CLIP": lambda device: without_clip(dnb.load("tiny", device)),
    "prompt alone": lambda device: alone(dnb.load("tiny", device)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path, default=Path("out/encoders.json"))
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    device = runner.best_device()
    suite = build_suite("test", options.scenes, 0, device)
    rows = []
    for name, make in VARIANTS.items():
        scored = runner.evaluate(make(device), ["stock"], suite, batch_size=options.batch_size)
        rows.append(scored[-1] | {"method": name})
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
