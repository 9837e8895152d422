"""The benchmark under a T4's limits: one toy case end to end, and what its tables say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parent / "t4.py"


@pytest.fixture(scope="module")
def t4():
    spec = importlib.util.spec_from_file_location("t4", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "t4", module)  # dataclasses look it up
        spec.loader.exec_module(module)
        yield module


def test_a_toy_case_runs_in_a_process_of_its_own(tmp_path):
    out = tmp_path / "t4.json"
    command = [sys.executable, str(SCRIPT), "--toy", "--only", "medium-float16-t5-float16"]
    command += ["--sides", "64", "--steps", "2", "--scratch", str(tmp_path), "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert "error" not in row and row["faults"] == [] and row["text_tokens"] == 333
    side = row["sides"]["64"]
    assert side["patched"] == "24 joint + 13 image-only"
    assert side["strength_0_identical"] and side["stock_finite"] and side["decoded_finite"]
    assert side["dense"]["explicit"] == {"finite": True, "differs": True}
    assert 0 < row["host"]["64 stock"]["own"] < 12
    assert "| medium-float16-t5-float16 | 64 |" in out.with_suffix(".md").read_text()
    assert "fits; 24 joint + 13 image-only; finite; strength 0 identical" in run.stdout


def test_memory_of_a_process_tree(t4):
    own, whole = t4.own_memory(psutil.Process())
    assert 0 < own <= whole
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(200 * 2**20); input()"],
                             stdin=subprocess.PIPE)  # fmt: skip
    try:
        deadline = 200
        while t4.own_memory(psutil.Process())[0] < own + 0.15 and deadline:
            deadline -= 1
            child.poll()
            time.sleep(0.05)
        assert t4.own_memory(psutil.Process())[0] > own + 0.15
    finally:
        child.communicate(b"\n")


def good_row() -> dict:
    facts = {"patched": "38 joint + 0 image-only", "dense": {"fused": {"finite": True}}}
    facts |= dict.fromkeys(("stock_finite", "decoded_finite", "strength_0_identical"), True)
    facts["dense"]["fused"]["differs"] = True
    stages = {"load": {"gpu": 4.71}, "512 stock": {"gpu": 6.4}}
    stages["512 explicit"] = {"does_not_fit": "out of memory"}
    host = {"load": {"own": 1.9, "with_files": 10.5}, "512 stock": {"own": 2.5, "with_files": 3.0}}
    return {"case": "large-nf4-t5-none", "model": "large", "faults": [], "stages": stages} | {
        "sides": {"512": facts}, "host": host,
    }  # fmt: skip


def test_a_good_case_is_called_good(t4):
    row = good_row()
    assert t4.verdict(row, row["sides"]["512"]).startswith("fits; 38 joint")
    text = t4.markdown({"rows": [row]})
    assert "| large-nf4-t5-none | 512 | 4.7 | - | 6.4 | too much | - | - | 2.5 | 10.5 |" in text
    assert "6.40" in t4.table([row]) and "2.5/3.0" in t4.table([row])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patched": "24 joint + 13 image-only"}, "patched 24 joint"),
        ({"stock_finite": False}, "not stock_finite"),
        ({"strength_0_identical": False}, "not strength_0_identical"),
        ({"dense": {}}, "dense does not fit"),
        ({"dense": {"fused": {"finite": False, "differs": True}}}, "fused: {'finite': False"),
    ],
)
def test_what_is_wrong_is_said(t4, change, message):
    row = good_row()
    assert message in t4.verdict(row, row["sides"]["512"] | change)


def test_faults_and_errors_are_said(t4):
    row = good_row() | {"faults": ["encode: no memory-efficient kernel, plain one used"]}
    assert "plain one used" in t4.verdict(row, row["sides"]["512"])
    row = {"case": "x", "error": "OutOfMemoryError: no", "failed_in": "encode"}
    assert t4.verdict(row, {}) == "FAILED in encode: OutOfMemoryError: no"
    assert "FAILED in encode" in t4.table([row]) and "FAILED" in t4.markdown({"rows": [row]})
