"""Keep the notebooks alike and clean.

    python tools/notebooks.py sync     write the badge and the setup cell into every notebook, and
                                       the address of the repository into the README
    python tools/notebooks.py clean    drop what an execution leaves behind: widget state, timings
    python tools/notebooks.py check    say what breaks the conventions; exit 1 if anything does

The address of the repository is read from `[tool.densenb]` in pyproject.toml, its only place.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

MAX_BYTES = 2**20
MAX_LINES = 25
MAX_COLUMNS = 79
MIN_CHECKED = 3

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# The version of the interpreter is left out: it would change with every machine.
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
KEPT_NOTEBOOK_KEYS = ("accelerator", "colab")
KEPT_CELL_KEYS = ("tags", "jupyter", "cellView")

SETUP = """\
import sys

if "google.colab" in sys.modules:
    %pip install -q "densenb @ git+https://github.com/{repository}@{branch}"

%matplotlib inline
import densenb as dnb

MODEL = "tiny"  # any CPU, offline; or "medium", "large": see notebook 01
pipe = dnb.load_or_tiny(MODEL)"""


@dataclass(frozen=True)
class Project:
    """Where the notebooks live on GitHub."""

    repository: str
    branch: str

    @classmethod
    def read(cls, pyproject: Path = ROOT / "pyproject.toml") -> Project:
        return cls(**tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["densenb"])

    def badge(self, name: str) -> str:
        """Markdown of the Colab badge of the notebook file `name`."""
        colab = "https://colab.research.google.com"
        page = f"{colab}/github/{self.repository}/blob/{self.branch}/notebooks/{name}"
        return f"[![Open In Colab]({colab}/assets/colab-badge.svg)]({page})"

    def setup(self) -> str:
        """Source of the setup cell, the same in every notebook."""
        return SETUP.format(repository=self.repository, branch=self.branch)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# ---------------------------------------------------------------- sync


def sync(notebook: NotebookNode, name: str, project: Project) -> None:
    """Write the badge into cell 0 and the setup cell into its place, in both cases adding it if
    it is missing; a new setup cell comes before the first code cell."""
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or "colab-badge.svg" not in first.source:
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(id="badge"))
    notebook.cells[0].source = project.badge(name)

    setups = [cell for cell in code_cells(notebook) if "setup" in tags(cell)]
    if len(setups) > 1:
        raise ValueError(f"{name}: {len(setups)} cells are tagged 'setup'; keep one of them")
    if not setups:
        cell = nbformat.v4.new_code_cell(id="setup", metadata={"tags": ["setup"]})
        kinds = [c.cell_type for c in notebook.cells]
        notebook.cells.insert(kinds.index("code") if "code" in kinds else len(kinds), cell)
        setups = [cell]
    setups[0].source = project.setup()


def sync_readme(text: str, project: Project) -> str:
    """The README with the repository's address in its badges, its pip line and its git line."""
    colab = f"research.google.com/github/{project.repository}/blob/{project.branch}/"
    text = re.sub(r"research\.google\.com/github/[\w.-]+/[\w.-]+/blob/[\w.-]+/", colab, text)
    clone = f"git clone https://github.com/{project.repository} "
    text = re.sub(r"git clone https://github\.com/[\w.-]+/[\w.-]+ ", clone, text)
    pip = f"git+https://github.com/{project.repository}@{project.branch}"
    return re.sub(r"git\+https://github\.com/[\w.-]+/[\w.-]+@[\w.-]+", pip, text)


# ---------------------------------------------------------------- clean


def clean(notebook: NotebookNode) -> None:
    """Keep what a reader needs of an executed notebook, so that two runs differ only in results."""
    kept = {key: notebook.metadata[key] for key in KEPT_NOTEBOOK_KEYS if key in notebook.metadata}
    notebook.metadata = nbformat.from_dict({**KERNEL, **kept})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_CELL_KEYS if key in cell.metadata}
        )
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if keep_output(output)]


def keep_output(output: NotebookNode) -> bool:
    """Whether to keep an output: the view of a widget, whose state is not stored, goes. So does the
    JPEG that IPython puts beside the PNG of every picture; the PNG is made small."""
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("image/jpeg", None)
        data["image/png"] = small_png(data["image/png"])
    return WIDGET_VIEW not in data


def small_png(encoded: str) -> str:
    """A base64 PNG with 256 colours of its own: a third of the size, for pictures to look at."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if image.mode == "P":
        return encoded
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# ---------------------------------------------------------------- check


def violations(notebook: NotebookNode, name: str, size: int, project: Project) -> Iterator[str]:
    """Yield one sentence for each convention that the notebook file `name` of `size` bytes
    breaks."""
    if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", name):
        yield "the name is not of the form NN_snake_case.ipynb"
    if size >= MAX_BYTES:
        yield f"{size / 2**20:.2f} MB; a notebook stays under {MAX_BYTES / 2**20:.0f} MB"
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"
    if "widgets" in notebook.metadata:
        yield "widget state in the metadata; run `python tools/notebooks.py clean`"

    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or first.source != project.badge(name):
        yield "cell 0 is not the badge; run `python tools/notebooks.py sync`"
    code = code_cells(notebook)
    if [cell.source for cell in code if "setup" in tags(cell)] != [project.setup()]:
        yield "not one setup cell with the common text; run `python tools/notebooks.py sync`"

    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"execution counts {counts}, not 1..{len(code)}; execute it from top to bottom"

    checked = [cell for cell in code if "nbval-check-output" in tags(cell)]
    if len(checked) < MIN_CHECKED:
        yield f"{len(checked)} cells are tagged nbval-check-output; at least {MIN_CHECKED} must be"
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            yield from (f"cell {index}: {problem}" for problem in cell_violations(cell))


def cell_violations(cell: NotebookNode) -> Iterator[str]:
    """Yield one sentence for each convention that a code cell breaks."""
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines; a code cell has at most {MAX_LINES}"
    # The address in an install line cannot be wrapped, however long the owner's name is.
    widest = max((len(line) for line in lines if not line.lstrip().startswith("%pip")), default=0)
    if widest > MAX_COLUMNS:
        yield f"a line of {widest} columns; a code cell has at most {MAX_COLUMNS}"
    if any(WIDGET_VIEW in output.get("data", {}) for output in cell.outputs):
        yield "a stored widget view; run `python tools/notebooks.py clean`"
    failed = any(output.output_type == "error" for output in cell.outputs)
    if failed and "raises-exception" not in tags(cell):
        yield "an error in the outputs"
    if "nbval-check-output" in tags(cell) and not printed(cell).strip():
        yield "tagged nbval-check-output, but it has no text output to compare"


def printed(cell: NotebookNode) -> str:
    """Text that a cell shows. A picture's repr does not count: it says nothing about it."""
    shown = [output.text for output in cell.outputs if output.output_type == "stream"]
    for data in (output.data for output in cell.outputs if "data" in output):
        if not any(mime.startswith("image/") for mime in data):
            shown.append(data.get("text/plain", ""))
    return "".join(shown)


# ---------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["sync", "clean", "check"])
    parser.add_argument("--folder", type=Path, default=ROOT / "notebooks")
    options = parser.parse_args(arguments)

    project = Project.read()
    paths = sorted(options.folder.glob("*.ipynb"))
    broken = 0
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if options.command == "check":
            for problem in violations(notebook, path.name, path.stat().st_size, project):
                broken += 1
                print(f"{path.name}: {problem}")
            continue
        if options.command == "sync":
            sync(notebook, path.name, project)
        else:
            clean(notebook)
        nbformat.write(notebook, path)
    if options.command == "sync":
        readme = ROOT / "README.md"
        text = sync_readme(readme.read_text(encoding="utf-8"), project)
        readme.write_text(text, encoding="utf-8")
    print(f"{options.command}: {len(paths)} notebooks, {broken} problems")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
