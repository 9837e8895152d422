"""The conventions of the notebooks: kept by every notebook, and each violation caught."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from tools import notebooks as tool

PROJECT = tool.Project(repository="someone/densenb", branch="main")
NAME = "03_cross_attention.ipynb"
SANITIZE = Path(__file__).parents[1] / "nbval_sanitize.cfg"


def executed(source: str, text: str, *, checked: bool = False) -> NotebookNode:
    outputs = [new_output("stream", text=text)] if text else []
    metadata = {"tags": ["nbval-check-output"]} if checked else {}
    return new_code_cell(source, outputs=outputs, metadata=metadata)


def good_notebook() -> NotebookNode:
    cells = [
        new_markdown_cell(PROJECT.badge(NAME)),
        new_code_cell(PROJECT.setup(), metadata={"tags": ["setup"]}),
        *(executed(f"print({n})", f"{n}\n", checked=True) for n in range(3)),
        executed("x = 1", ""),
    ]
    count(cells)
    return new_notebook(cells=cells)


def count(cells: list[NotebookNode]) -> None:
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = number


def problems(notebook: NotebookNode, name: str = NAME, size: int = 1000) -> list[str]:
    return list(tool.violations(notebook, name, size, PROJECT))


@pytest.mark.parametrize(
    "path", sorted((tool.ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name
)
def test_notebook_keeps_the_conventions(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    found = tool.violations(notebook, path.name, path.stat().st_size, tool.Project.read())
    assert list(found) == []


def test_a_good_notebook_has_no_problems() -> None:
    assert problems(good_notebook()) == []


def drop_count(notebook: NotebookNode) -> None:
    notebook.cells[3].execution_count = None


def swap_counts(notebook: NotebookNode) -> None:
    notebook.cells[3].execution_count, notebook.cells[4].execution_count = 3, 2


def add_widget_state(notebook: NotebookNode) -> None:
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}


def add_widget_view(notebook: NotebookNode) -> None:
    notebook.cells[5].outputs = [new_output("display_data", data={tool.WIDGET_VIEW: {}})]


def add_error(notebook: NotebookNode) -> None:
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    notebook.cells[5].outputs = [error]


def drop_badge(notebook: NotebookNode) -> None:
    del notebook.cells[0]


def point_badge_elsewhere(notebook: NotebookNode) -> None:
    notebook.cells[0].source = PROJECT.badge("04_another.ipynb")


def edit_setup(notebook: NotebookNode) -> None:
    notebook.cells[1].source += "\nimport os"


def drop_setup(notebook: NotebookNode) -> None:
    notebook.cells[1].metadata = {}


def repeat_setup(notebook: NotebookNode) -> None:
    notebook.cells.append(new_code_cell(PROJECT.setup(), metadata={"tags": ["setup"]}))
    count(notebook.cells)


def untag(notebook: NotebookNode) -> None:
    notebook.cells[2].metadata = {}


def empty_output(notebook: NotebookNode) -> None:
    notebook.cells[2].outputs = [new_output("stream", text=" \n")]


def only_a_picture(notebook: NotebookNode) -> None:
    data = {"image/png": "aGVsbG8=", "text/plain": "<Figure size 600x400 with 1 Axes>"}
    notebook.cells[2].outputs = [new_output("display_data", data=data)]


def long_cell(notebook: NotebookNode) -> None:
    notebook.cells[5].source = "x = 1\n" * (tool.MAX_LINES + 1)


def wide_cell(notebook: NotebookNode) -> None:
    notebook.cells[5].source = "x = '" + "a" * tool.MAX_COLUMNS + "'"


def break_format(notebook: NotebookNode) -> None:
    notebook.cells[5].outputs = [NotebookNode(output_type="stream", text="no stream name")]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (drop_count, "execution counts"),
        (swap_counts, "execution counts"),
        (add_widget_state, "widget state"),
        (add_widget_view, "widget view"),
        (add_error, "an error in the outputs"),
        (drop_badge, "not the badge"),
        (point_badge_elsewhere, "not the badge"),
        (edit_setup, "setup cell"),
        (drop_setup, "setup cell"),
        (repeat_setup, "setup cell"),
        (untag, "2 cells are tagged nbval-check-output"),
        (empty_output, "no text output"),
        (only_a_picture, "no text output"),
        (long_cell, "26 lines"),
        (wide_cell, "columns"),
        (break_format, "not a valid notebook"),
    ],
)
def test_each_violation_is_caught_and_nothing_else(damage, sentence: str) -> None:
    notebook = good_notebook()
    damage(notebook)
    found = problems(notebook)
    assert len(found) == 1 and sentence in found[0], found


def test_size_and_name_are_checked() -> None:
    assert "1.00 MB" in problems(good_notebook(), size=2**20)[0]
    assert any("NN_snake_case" in p for p in problems(good_notebook(), name="Untitled.ipynb"))


def test_an_expected_error_is_allowed() -> None:
    notebook = good_notebook()
    add_error(notebook)
    notebook.cells[5].metadata = {"tags": ["raises-exception"]}
    assert problems(notebook) == []


def test_setup_cell_is_short_and_narrow() -> None:
    lines = tool.Project.read().setup().splitlines()
    assert len(lines) <= 12 and max(map(len, lines)) <= 79


def test_setup_cell_installs_only_in_colab() -> None:
    lines = PROJECT.setup().splitlines()
    install = next(n for n, line in enumerate(lines) if "%pip" in line)
    assert lines[install - 1] == 'if "google.colab" in sys.modules:'
    assert lines[install].startswith("    %pip install -q ")
    assert "git+https://github.com/someone/densenb@main" in lines[install]


def test_a_long_owner_does_not_break_the_setup_cell() -> None:
    project = tool.Project(repository="a" * 39 + "/densenb", branch="main")
    cell = new_code_cell(project.setup())
    assert list(tool.cell_violations(cell)) == []


def test_sync_builds_both_cells_and_then_changes_nothing() -> None:
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell("x = 1")])
    tool.sync(notebook, NAME, PROJECT)
    sources = [cell.source for cell in notebook.cells]
    assert sources == [PROJECT.badge(NAME), "# Title", PROJECT.setup(), "x = 1"]
    again = nbformat.from_dict(notebook)
    tool.sync(again, NAME, PROJECT)
    assert again == notebook
    nbformat.validate(notebook)


def test_sync_follows_a_change_of_address() -> None:
    notebook = good_notebook()
    moved = tool.Project(repository="else/where", branch="dev")
    tool.sync(notebook, NAME, moved)
    assert list(tool.violations(notebook, NAME, 1000, moved)) == []
    assert len(notebook.cells) == len(good_notebook().cells)


def test_sync_refuses_two_setup_cells() -> None:
    notebook = good_notebook()
    repeat_setup(notebook)
    with pytest.raises(ValueError, match="2 cells are tagged 'setup'"):
        tool.sync(notebook, NAME, PROJECT)


def test_clean_drops_what_changes_from_run_to_run() -> None:
    notebook = good_notebook()
    add_widget_state(notebook)
    add_widget_view(notebook)
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    notebook.metadata["accelerator"] = "GPU"
    notebook.cells[2].metadata["execution"] = {"iopub.status.busy": "now"}
    tool.clean(notebook)
    assert problems(notebook) == []
    assert "version" not in notebook.metadata.language_info
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.cells[2].metadata == {"tags": ["nbval-check-output"]}
    assert tool.printed(notebook.cells[2]) == "0\n"


def test_commands_work_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / NAME
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), path)
    assert tool.main(["sync", "--folder", str(tmp_path)]) == 0
    assert tool.main(["clean", "--folder", str(tmp_path)]) == 0
    assert tool.main(["check", "--folder", str(tmp_path)]) == 1
    assert "execution counts [None, None], not 1..2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<Figure size 640x480 with 1 Axes>", "<Figure size 800x400 with 3 Axes>"),
        ("<PIL.Image.Image size=8x8 at 0x7F01A0>", "<PIL.Image.Image size=8x8 at 0x55E2B8>"),
        ("steps: 100%|████| 28/28 [00:05<00:00,  5.2it/s]", "99%|██| 28/28 [01:09<00:00]"),
    ],
)
def test_sanitizer_hides_what_changes_from_run_to_run(one: str, other: str) -> None:
    assert one != other and sanitized(one) == sanitized(other)


def test_sanitizer_keeps_results() -> None:
    text = "layout mIoU 0.62 (ceiling 0.91), 24x24 tokens, 100% of 12/12 pictures"
    assert sanitized(text) == text


def sanitized(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    return text


def test_sync_writes_the_address_into_the_readme():
    project = tool.Project("someone/fork", "next")
    text = (tool.ROOT / "README.md").read_text(encoding="utf-8")
    synced = tool.sync_readme(text, project)
    assert "github/someone/fork/blob/next/notebooks/00_start_here.ipynb" in synced
    assert "git+https://github.com/someone/fork@next" in synced
    assert tool.sync_readme(synced, tool.Project.read()) == text


def test_clean_makes_pictures_small_once():
    noise = Image.effect_noise((128, 128), 60).convert("RGB")
    buffer = io.BytesIO()
    Image.merge(
        "RGB", [noise.getchannel(0), noise.getchannel(1).rotate(90), noise.getchannel(2)]
    ).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    small = tool.small_png(encoded)
    assert len(small) < len(encoded) / 2
    assert Image.open(io.BytesIO(base64.b64decode(small))).size == (128, 128)
    assert tool.small_png(small) == small
