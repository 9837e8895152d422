"""The benchmark scripts run: tiny, on a CPU. Their figures are for `make benchmarks`."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent


def test_attention_benchmark_in_miniature(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark", BENCHMARKS / "attention.py")
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark", benchmark)  # torch.compile looks it up
    spec.loader.exec_module(benchmark)
    benchmark.main(["--toy", "--out", str(tmp_path / "attention.json")])
    report = json.loads((tmp_path / "attention.json").read_text())
    for part in set(benchmark.PARTS) - {"tiles"}:
        assert report[part] and not [row["error"] for row in report[part] if "error" in row], part
    errors = {(row["dtype"], row["method"]): row["x stock"] for row in report["error"]}
    assert errors["float32", "fused"] < 2 and errors["bfloat16", "fused"] < 2
