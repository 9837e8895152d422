"""A 10-step picture of the miniature, quiet and beside four busy processes, by wait policy.

    python tests/benchmarks/busy.py

Threads that spin while they wait ("ACTIVE", and OpenMP's own default) take the cores from each
other as soon as something else runs; "PASSIVE" is what densenb asks for. Two threads, median of 3.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SPIN = "while True: pass"
DRAW = """
import time
import densenb as dnb
import torch

torch.set_num_threads(2)
pipe = dnb.load("tiny")
layout = dnb.Layout("a blue cat", [dnb.Region("a blue cat", dnb.box(0.1, 0.3, 0.6, 0.9))])
began = time.perf_counter()
dnb.generate(pipe, layout, seeds=[0], config=None, steps={steps}, progress=lambda *_: None)
print(time.perf_counter() - began)
"""


def seconds(policy: str | None, steps: int) -> float:
    """The time of one picture in a process of its own; None leaves the policy to OpenMP."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    # densenb sets the variable unless it is there: an undefined value gives OpenMP's own default
    environment["OMP_WAIT_POLICY"] = policy or "DEFAULT"
    command = [sys.executable, "-c", DRAW.format(steps=steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks/busy.json"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    rows = []
    for busy in (0, 4):
        others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(busy)]
        try:
            for policy in (None, "PASSIVE"):
                times = [seconds(policy, options.steps) for _ in range(options.repeats)]
                median = statistics.median(times)
                rows.append({"busy": busy, "policy": policy or "default", "seconds": median})
                print("{busy} busy processes, {policy:7}: {seconds:6.1f} s".format(**rows[-1]))
        finally:
            for other in others:
                other.kill()
                other.wait()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
