"""Notebooks catch mistakes in the library, and can be run again in the same kernel.

One mutant runs in `make test`; the others, and the second runs, in `make test-slow`.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from mutants import MUTANTS, startup
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMPARED = "nbval-check-output"
INTERRUPT = """\
import os, signal, threading
from densenb import Layout, Region, box, generate
asked = Layout("a blue cat", [Region("a blue cat", box(0.1, 0.1, 0.6, 0.9))])
threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    generate(pipe, asked, seeds=8)
except KeyboardInterrupt:
    print("interrupted")
"""


def nbval(notebook: Path, ipython: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q"]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]
    command += ["--nbval-cell-timeout", "600", "-p", "no:python", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, str(notebook)],
        cwd=ROOT,
        env=os.environ | {"IPYTHONDIR": str(ipython)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    [
        name if name == "transposed_mask" else pytest.param(name, marks=pytest.mark.slow)
        for name in MUTANTS
    ],
)
def test_the_notebook_that_teaches_it_catches_the_mistake(name, tmp_path):
    startup(tmp_path, name)
    result = nbval(ROOT / "notebooks" / f"{MUTANTS[name][1]}.ipynb", tmp_path)
    assert result.returncode == 1, result.stdout[-2000:] + result.stderr[-2000:]
    assert re.search(r"mismatch|differ|Cell execution caused an exception", result.stdout)


def outputs(cell: nbformat.NotebookNode) -> str:
    """What nbval compares, for text: streams and plain results."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "error":
            parts.append(output.evalue)
        parts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return re.sub(r"0x[0-9a-f]+|<Figure size .*>", "", "".join(parts))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_twice_in_one_kernel_and_after_an_interrupt(path):
    stored = nbformat.read(path, as_version=4)
    first, second = (copy.deepcopy(stored.cells) for _ in range(2))
    interrupt = nbformat.v4.new_code_cell(INTERRUPT)
    stored.cells = [*first, interrupt, *second]
    for number, cell in enumerate(stored.cells):
        cell.id = f"cell-{number}"
    client = NotebookClient(stored, timeout=600, resources={"metadata": {"path": path.parent}})
    client.execute()
    assert outputs(interrupt).endswith("interrupted\n")
    compared = [i for i, cell in enumerate(first) if COMPARED in cell.metadata.get("tags", [])]
    assert len(compared) >= 3
    for i in compared:
        assert outputs(second[i]) == outputs(first[i]), first[i].source
