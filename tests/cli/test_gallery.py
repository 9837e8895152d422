"""The gallery: the report's prompts on any model, with all that is needed to judge them."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from densenb.cli import gallery, main
from densenb.cli.cases import CASES
from densenb.cli.main import parser
from densenb.evaluation.runner import best_device
from densenb.models import tiers


@pytest.fixture(scope="module")
def quick(random_pipe):
    """The random pipeline at the size of a stamp."""
    with pytest.MonkeyPatch.context() as patch:
        small = replace(tiers.tier(random_pipe), steps=2, height=64, width=64, t5_length=64)
        patch.setattr(
            random_pipe.transformer, tiers.ATTRIBUTE, replace(small, label="noise"), raising=False
        )
        yield random_pipe


@pytest.fixture(scope="module")
def made(quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "gallery"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenb.models.load.load", lambda *_, **__: quick)
        assert main(["gallery", "--out", str(out), "--seeds", "0,3"]) == 0
    return out, json.loads((out / "gallery.json").read_text())


def test_it_draws_the_two_prompts_of_the_report(made):
    out, report = made
    cases = list(report["layouts"])
    assert [report["layouts"][case]["caption"] for case in cases] == [
        layout.caption for layout in list(CASES.values())[:2]
    ]
    assert report["layouts"][cases[0]]["caption"] == "cat with red umbrella"
    shown = {(row["case"], row["method"], row["seed"]) for row in report["pictures"]}
    assert shown == {(c, m, s) for c in cases for m in gallery.METHODS for s in (0, 3)}
    for row in report["pictures"]:
        assert Image.open(out / row["file"]).size == (64, 64)
    methods = {
        method: [(out / row["file"]).read_bytes() for row in report["pictures"]
                 if row["method"] == method]
        for method in gallery.METHODS
    }  # fmt: skip
    drawn = [methods[name] for name in gallery.METHODS]
    assert all(one != other for one, other in itertools.combinations(drawn, 2))


def test_settings_versions_and_proofs_lie_beside_the_pictures(made):
    out, report = made
    assert report["settings"]["stock"] == {}
    assert report["settings"]["specials-negative"]["special_tokens"] == "negative"
    assert report["model"] == "noise" and report["seeds"] == [0, 3] and report["steps"] == 2
    assert {"torch", "diffusers", "transformers", "python"} < report["versions"].keys()
    assert report["proofs"] == {
        "attention_layers": "3 joint + 2 image-only",
        "strength_0_equals_stock": True,
        "dense_differs_from_stock": True,
        "finite_after_two_steps": True,
    }
    assert str(out.parent) not in (out / "gallery.json").read_text()


def test_the_page_shows_every_picture(made):
    out, report = made
    sources = []

    class Images(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                sources.append(dict(attributes)["src"])

    text = (out / "index.html").read_text(encoding="utf-8")
    Images().feed(text)
    assert sorted(sources) == sorted(row["file"] for row in report["pictures"])
    assert CASES["squid-rose-garden"].caption in text and "<script" not in text


def test_the_page_survives_strange_captions(made):
    _, report = made
    strange = json.loads(json.dumps(report))
    strange["layouts"]["cat-umbrella"]["caption"] = 'a <b>"cat" & co'
    assert "a &lt;b&gt;&#34;cat&#34; &amp; co" in gallery.render("gallery.html", strange)


def test_the_checklist_ticks_what_was_proved(made):
    out, report = made
    text = (out / "CHECKLIST.md").read_text(encoding="utf-8")
    assert text.count("- [x]") == 4 and text.count("- [ ]") == 9 + 2
    failed = report | {"proofs": report["proofs"] | {"strength_0_equals_stock": False}}
    lines = gallery.render("CHECKLIST.md", failed)
    assert lines.count("- [x]") == 3 and "- [ ] At strength 0" in lines
    assert "contribute" in text


def test_all_of_it_is_zipped(made):
    out, report = made
    with zipfile.ZipFile(out.with_suffix(".zip")) as archive:
        names = {name.removeprefix("gallery/") for name in archive.namelist()}
    assert {"index.html", "gallery.json", "CHECKLIST.md"} < names
    assert {row["file"] for row in report["pictures"]} < names
    assert {"cat-umbrella-transferred.png", "squid-rose-garden-specials-negative.png"} < names


@pytest.mark.parametrize(
    ("path", "commit"),
    [
        ("/cache/models--a--b/snapshots/c0ffee", "c0ffee"),
        ("saved/my-model", None),
        ("", None),
        (None, None),
    ],
)
def test_the_commit_is_read_from_the_download_cache(path, commit):
    class Pipe:
        config = {"_name_or_path": path}

    assert gallery.commit(Pipe) == commit


def test_the_command_draws_any_folder(quick, tmp_path, monkeypatch):
    given, drawn = [], []

    def load(*arguments, **options):
        given.append((*arguments, options))
        return quick

    def generate(pipe, layout, seeds, rule, **options):
        drawn.append((seeds, options))
        return [Image.new("RGB", (64, 64))] * len(seeds)

    monkeypatch.setattr("densenb.models.load.load", load)
    monkeypatch.setattr("densenb.sampling.generate", generate)
    arguments = ["--model", "some/folder", "--out", str(tmp_path / "g"), "--seeds", "4", "--no-t5"]
    assert main(["gallery", *arguments, "--guidance", "3"]) == 0
    assert given == [("some/folder", best_device(), None, {"t5": False})]
    assert drawn == 2 * len(gallery.METHODS) * [([4], {"steps": 2, "guidance": 3.0})]


def test_what_notebook_01_asks_for_is_a_command_and_the_file_it_writes():
    notebook = Path(__file__).parents[2] / "notebooks" / "01_load_sd35_on_a_t4.ipynb"
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (text,) = (t for t in map("".join, (c["source"] for c in cells)) if "!densenb gallery" in t)
    (command,) = re.findall(r"!densenb (gallery .*)", text)
    options = parser().parse_args(command.split())
    assert options.model == "medium" and f'files.download("{options.out}.zip")' in text


def test_a_model_that_is_not_there_ends_in_one_line(tmp_path, capsys):
    assert main(["gallery", "--model", "tny", "--out", str(tmp_path / "g")]) == 2
    assert "densenb: error: 'tny' is neither" in capsys.readouterr().err
