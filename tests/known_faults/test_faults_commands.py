"""The command line: what it checks too late, says in a traceback, or hands to a terminal."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from fault_helpers import Failed, full_disk

from densenb.cli import gallery
from densenb.cli.main import main, parser
from densenb.miniature.training import train


def run(*arguments):
    """The exit code of a command."""
    try:
        return main([str(each) for each in arguments])
    except SystemExit as done:
        return done.code


def layout_of(folder, caption="a blue cat", **region):
    """A layout file with one region."""
    region = {"phrase": "a blue cat", "box": [0, 0, 0.5, 1]} | region
    path = folder / "one.json"
    path.write_text(json.dumps({"caption": caption, "regions": [region]}))
    return path


# -------------------------------------------------------------------- A12: checked before the work
NOWHERE = ("--model", "nowhere")  # what is said before this model is missed, is said in time
late = pytest.mark.xfail(strict=True, raises=AssertionError, reason="checked too late")


@late
@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--sheet", "sheet.xyz"], "sheet.xyz", id="suffix of a sheet"),
        pytest.param(["--scenes", 99999999999999], "scenes", id="scenes"),
        pytest.param(["--steps", 9999999999], "steps", id="steps"),
        pytest.param(["--device", "meta"], "meta", id="device meta"),
    ],
)
def test_evaluate_checks_its_options_first(options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", *options, *NOWHERE) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="A9: a traceback")
def test_a_device_that_is_not_here_is_said_in_one_line(capsys):
    assert run("evaluate", "--device", "mps", *NOWHERE) == 2
    assert "mps" in capsys.readouterr().err


@late
def test_preview_checks_the_suffix_of_its_picture_first(layout_file, tmp_path, capsys):
    out = tmp_path / "out.bmp"
    assert run("preview", "--layout", layout_file, "--out", out, *NOWHERE) == 2
    assert "out.bmp" in capsys.readouterr().err


@late
def test_generate_checks_its_steps_first(layout_file, tmp_path, capsys):
    asked = ("--layout", layout_file, "--out", tmp_path, "--steps", 9999999999)
    assert run("generate", *asked, *NOWHERE) == 2
    assert "steps" in capsys.readouterr().err


@late
def test_evaluate_refuses_to_score_no_suite(tmp_path):
    assert run("evaluate", "--suite", "", "--out", tmp_path / "rows.json") == 2


@pytest.mark.xfail(strict=True, raises=Failed, reason="A12: training begins")
@pytest.mark.parametrize("option", [("--steps", "0"), ("--ema", "5"), ("--layers", "0")])
def test_training_checks_its_options_first(option, tmp_path, monkeypatch):
    monkeypatch.setitem(train.STAGES, "flow", lambda *_: pytest.fail("training began"))
    with pytest.raises((SystemExit, ValueError)):
        train.main(["flow", "--out", str(tmp_path), *option])


# -------------------------------------------------------------- A9: one line instead of a traceback
def traceback_of(error):
    return pytest.mark.xfail(strict=True, raises=error, reason="A9: a traceback")


@traceback_of(RecursionError)
def test_deep_nesting_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert run("preview", "--layout", tmp_path / "deep.json") == 2
    assert "deep.json" in capsys.readouterr().err


@traceback_of(TypeError)
def test_half_a_character_is_said_in_one_line(tmp_path, capsys):
    assert run("preview", "--layout", layout_of(tmp_path, "a blue cat \ud800")) == 2
    assert "densenb: error: " in capsys.readouterr().err


@traceback_of(OverflowError)
@pytest.mark.parametrize("values", [[1e200, 0.5, 0.1, 0.1], [1.5, 0.5, 1e-200, 0.1]])
def test_an_ellipse_beyond_all_numbers_is_said_in_one_line(values, tmp_path, capsys):
    path = tmp_path / "one.json"
    region = {"phrase": "a blue cat", "ellipse": values}
    path.write_text(json.dumps({"caption": "a blue cat", "regions": [region]}))
    assert run("preview", "--layout", path) == 2
    assert "ellipse" in capsys.readouterr().err


@traceback_of(RuntimeError)
def test_a_strength_beyond_all_numbers_is_said_in_one_line(tmp_path, capsys):
    asked = ("--layout", layout_of(tmp_path, strength=1e308), "--out", tmp_path, "--steps", 1)
    assert run("generate", *asked) == 2
    assert "strength" in capsys.readouterr().err


class Closed(io.StringIO):
    """The pipe to `head -1` once that has its line."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A9: an error about a pipe")
def test_a_reader_that_has_enough_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed())
    run("doctor")
    assert capsys.readouterr().err == ""


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A9: it ends in an error")
def test_a_terminal_without_accents_shows_a_preview(tmp_path, monkeypatch):
    path = layout_of(tmp_path, "a blue cat in a café")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert run("preview", "--layout", path) == 0


# ----------------------------------------------------------------------- A8: text stays text
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A8: raw escape codes")
def test_control_characters_are_shown_not_sent(tmp_path, capsys):
    assert run("preview", "--layout", layout_of(tmp_path, "a blue cat \x1b[31m")) == 0
    assert "\x1b" not in capsys.readouterr().out


# -------------------------------------------------------------------- A1: output read as input
@pytest.fixture
def draw(pipe, monkeypatch):
    """Draw a small gallery into a folder."""
    monkeypatch.setattr(gallery, "METHODS", {"stock": None, "transferred": {}})
    monkeypatch.setattr("densenb.models.load.load", lambda *_, **__: pipe)
    # a gallery that packs itself fills the disk
    with full_disk(20_000_000):
        asked = ["gallery", "--seeds", "0", "--steps", "1", "--out"]
        yield lambda out: gallery.run(parser().parse_args([*asked, str(out)]))


@pytest.mark.xfail(strict=True, raises=OSError, reason="A1: the archive packs itself")
def test_a_gallery_of_this_folder_is_packed_beside_it(draw, tmp_path, monkeypatch):
    folder = tmp_path / "pictures-to-share"
    folder.mkdir()
    monkeypatch.chdir(folder)
    draw(Path("."))
    assert (tmp_path / "pictures-to-share.zip").is_file()


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="A1: all of the folder is packed")
def test_a_gallery_packs_its_own_files_only(draw, tmp_path):
    out = tmp_path / "gallery"
    out.mkdir()
    (out / "secret.txt").write_text("not to be shared")
    draw(out)
    names = zipfile.ZipFile(tmp_path / "gallery.zip").namelist()
    assert any(name.endswith("index.html") for name in names)
    assert not any("secret" in name for name in names)
