"""The checks of the exercises: right answers pass, each kind of wrong one is told what is wrong."""

from __future__ import annotations

import re

import nbformat
import pytest
import torch

import densenb as dnb
from densenb.lessons import checking, checks
from tools.notebooks import ROOT

CAPTION = "a blue cat and an orange umbrella in a rose garden"
CAT, UMBRELLA = "a blue cat", "an orange umbrella"
CAT_HERE, UMBRELLA_HERE = dnb.box(0.50, 0.42, 0.95, 0.97), dnb.ellipse(0.28, 0.28, 0.23, 0.23)
LOWER_LEFT = dnb.box(0.0, 0.5, 0.5, 1.0)
CAT_MOVED = dnb.box(0.04, 0.52, 0.49, 0.98)


def layout(cat=CAT_HERE, umbrella=UMBRELLA_HERE, caption=CAPTION, background=None) -> dnb.Layout:
    regions = [dnb.Region(CAT, cat), dnb.Region(UMBRELLA, umbrella)]
    return dnb.Layout(caption, regions, background)


def check(after) -> None:
    checks.check_layout_moved(layout(), after, CAT, LOWER_LEFT)


def test_a_moved_region_passes(capsys):
    check(layout(cat=CAT_MOVED))
    assert capsys.readouterr().out == 'ok: "a blue cat" has moved, and everything else stayed.\n'


def test_the_shape_of_the_region_and_the_order_of_the_regions_are_free(capsys):
    painted = torch.zeros(64, 64)
    painted[34:62, 3:31] = 1
    regions = [dnb.Region(UMBRELLA, UMBRELLA_HERE), dnb.Region(CAT, painted)]
    check(dnb.Layout(CAPTION, regions))
    check(layout(cat=dnb.ellipse(0.25, 0.75, 0.24, 0.24)))
    assert capsys.readouterr().out.count("ok: ") == 2


TWO_CATS = dnb.Layout("a blue cat and a red cat", [dnb.Region(CAT, CAT_MOVED)])
OTHER_PHRASE = [dnb.Region("a blue", CAT_MOVED), dnb.Region(UMBRELLA, UMBRELLA_HERE)]
WRONG = {
    "nothing changed": (layout(), "still where it was"),
    "the same region, painted": (layout(cat=CAT_HERE.raster(256, 256)), "still where it was"),
    "the other region moved": (layout(umbrella=CAT_MOVED), 'moved "an orange umbrella": put it'),
    "both moved": (
        layout(CAT_MOVED, dnb.box(0.5, 0.1, 0.9, 0.5)),
        '"a blue cat" moved, but so did "an orange umbrella"',
    ),
    "regions swapped": (layout(UMBRELLA_HERE, CAT_HERE), 'so did "an orange umbrella"'),
    "another corner": (layout(cat=dnb.box(0.05, 0.03, 0.50, 0.48)), "only 0% of the region"),
    "half way": (layout(cat=dnb.box(0.25, 0.52, 0.70, 0.98)), "only 55% of the region"),
    "too small": (layout(cat=dnb.box(0.1, 0.7, 0.3, 0.9)), "shrunk to 16% of its area"),
    "another caption": (TWO_CATS, "the caption is now 'a blue cat and a red cat'"),
    "another phrase": (dnb.Layout(CAPTION, OTHER_PHRASE), 'the phrases are now "a blue", "an or'),
    "a region lost": (
        dnb.Layout(CAPTION, [dnb.Region(CAT, CAT_MOVED)]),
        'the phrases are now "a blue cat": keep "a blue cat", "an orange umbrella"',
    ),
    "a phrase for the background": (layout(CAT_MOVED, background="a rose garden"), "the phrases"),
    "a mask alone": (CAT_MOVED, "a Box, not a layout"),
}


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_answer_is_told_what_is_wrong(answer, capsys):
    after, message = WRONG[answer]
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        check(after)
    assert capsys.readouterr().out == ""


def test_a_notebook_shows_the_message_without_a_traceback():
    error = checking.CheckFailed("move the cat.")
    assert error._render_traceback_() == ["not yet: move the cat."]


def test_an_exercise_says_and_keeps_the_message_of_its_check(monkeypatch, capsys):
    monkeypatch.setattr(checking, "EXERCISES", {})
    monkeypatch.setattr(checking, "PASSED", {})

    @checking.exercise("02", "03")
    def check_sign(number: float) -> str:
        checking.expect(number > 0, "too small.")
        return f"{number} is right."

    with pytest.raises(checking.CheckFailed, match=r"too small\."):
        check_sign(-1)
    assert checking.PASSED == {} and checking.EXERCISES == {"check_sign": ("02", "03")}
    check_sign(1)
    check_sign(1)
    check_sign(number=2)
    assert checking.PASSED == {"check_sign": ["1 is right.", "2 is right."]}
    assert capsys.readouterr().out == "ok: 1 is right.\n" * 2 + "ok: 2 is right.\n"


@pytest.mark.parametrize(
    ("found", "message"),
    [(1.0, "one."), (3.0, "two or three."), (-1.0, "negative."), (5.0, "otherwise."), (4.0, None)],
)
def test_the_first_mistake_that_fits_is_told(found, message):
    mistakes = {"one.": 1, "two or three.": [2, torch.tensor(3)], "negative.": found < 0}
    mistakes["never."] = torch.tensor(False)
    if message is None:
        checking.diagnose(found, mistakes, 4, "otherwise.")
    else:
        with pytest.raises(checking.CheckFailed, match=re.escape(message)):
            checking.diagnose(found, mistakes, 4, "otherwise.")


def guided(negative, positive, scale):
    return negative + scale * (positive - negative)


def test_guidance_passes(capsys):
    checks.check_guidance(guided)
    checks.check_guidance(lambda n, p, g: g * p + (1 - g) * n)
    assert capsys.readouterr().out.count("ok: ") == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n, p, g: None, "gives nothing"),
        (lambda n, p, g: torch.cat([n, p]), "a tensor of shape (2, 4, 3, 3)"),
        (lambda n, p, g: p + g * (p - n), "start from the positive"),
        (lambda n, p, g: guided(p, n, g), "exchanged"),
        (lambda n, p, g: p, "at scale 4"),
        (lambda n, p, g: n, "at scale 1"),
    ],
)
def test_wrong_guidance_is_told_why(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        checks.check_guidance(answer)


def test_four_bits_pass(capsys):
    checks.check_four_bits(lambda n: n * (4 / 8 + 4 / 64) / 2**30)
    assert "ok: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: None, "gives nothing, not a number"),
        (lambda n: n / 2 / 2**30, "scales are missing"),
        (lambda n: n * 0.5625 / 1e9, "10^9 bytes"),
        (lambda n: n * 0.5625, "divide by 2^30"),
        (lambda n: n * 4.5 / 2**30, "bits"),
        (lambda n: n * 4 / 2**30, "gives 256 GiB, not 36"),
    ],
)
def test_wrong_bytes_are_told_why(answer, message):
    with pytest.raises(checking.CheckFailed, match=re.escape(message)):
        checks.check_four_bits(answer)


# ------------------------------------------------------------------ the exercises themselves


def exercise(name: str, ids: list[str]) -> list[str]:
    """Sources of cells of a notebook, by id."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells}
    return [sources[each] for each in ids]


def test_notebook_00_the_stub_fails_and_the_printed_solution_passes(capsys):
    ids = ["layout", "exercise", "exercise-check", "exercise-help"]
    given, stub, check_it, folded = exercise("00_start_here.ipynb", ids)
    names = {"dnb": dnb}
    exec(given, names)
    exec(stub, names)
    with pytest.raises(checking.CheckFailed, match="still where it was"):
        exec(check_it, names)
    (solution,) = re.findall(r"```python\n(.*?)```", folded, re.DOTALL)
    exec(solution, names)
    exec(check_it, names)
    assert capsys.readouterr().out.endswith("everything else stayed.\n")


@pytest.mark.parametrize("name", ["ex1", "ex2"])
def test_notebook_01_the_stubs_fail_and_the_printed_solutions_pass(name, capsys):
    notebook = "01_load_sd35_on_a_t4.ipynb"
    stub, check_it, folded = exercise(notebook, [name, f"{name}-check", f"{name}-help"])
    names = {"checks": checks}
    exec(stub, names)
    with pytest.raises(checking.CheckFailed, match="gives nothing"):
        exec(check_it, names)
    (solution,) = re.findall(r"```python\n(.*?)```", folded, re.DOTALL)
    exec(solution, names)
    exec(check_it, names)
    assert "ok: " in capsys.readouterr().out
