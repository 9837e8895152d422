"""How long one 256 px picture of the miniature takes on a CPU, stock and dense, side by side.

    python tests/benchmarks/picture.py

Lesson settings (28 guided steps, T5 length 44), median of 5, with two threads and with one; the
floating-point operations of the stock picture stand beside, as counted by PyTorch.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import densenb as dnb

REPEATS = 5
OUT = Path("out/benchmarks/picture.json")


def seconds(pipe, layout, config) -> float:
    began = time.perf_counter()
    dnb.generate(pipe, layout, seeds=[0], config=config)
    return time.perf_counter() - began


def main() -> None:
    pipe = dnb.load("tiny")
    layout = dnb.Layout(
        "a blue cat and an orange umbrella in a rose garden",
        [
            dnb.Region("a blue cat", dnb.box(0.05, 0.35, 0.50, 0.95)),
            dnb.Region("an orange umbrella", dnb.ellipse(0.72, 0.40, 0.22, 0.30)),
        ],
    )
    with FlopCounterMode(display=False) as counter:
        dnb.generate(pipe, layout, seeds=[0], config=None)
    flops = counter.get_total_flops()
    methods = {"stock": None, "dense": dnb.DenseConfig.recommended(pipe)}
    rows = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        times = {name: [] for name in methods}
        for _ in range(REPEATS):  # in turn, so that a busy moment hits both
            for name, config in methods.items():
                times[name].append(seconds(pipe, layout, config))
        stock, dense = (statistics.median(times[name]) for name in methods)
        rows.append(
            {"threads": threads, "stock_s": stock, "dense_s": dense, "ratio": dense / stock}
        )
    report = {"machine": platform.processor() or platform.machine(), "stock_flops": flops}
    report |= {"torch": torch.__version__, "rows": rows}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"one picture, stock: {flops / 1e12:.2f} TFLOP")
    print("threads   stock s   dense s   dense / stock")
    for row in rows:
        print("{threads:7d} {stock_s:9.1f} {dense_s:9.1f} {ratio:15.2f}".format(**row))


if __name__ == "__main__":
    main()
