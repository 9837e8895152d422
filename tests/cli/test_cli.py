"""The command line: what users type, what they get wrong, and what they are told."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch
import transformers
from helpers import LAYOUT
from PIL import Image

from densenb.cli import demo, main
from densenb.cli.cases import CASES
from densenb.evaluation import suites
from densenb.evaluation.judges import named_object
from densenb.layout.layout import Layout, against_neighbours
from densenb.miniature import vocabulary
from densenb.miniature.oracle import Oracle
from densenb.miniature.world import COLOURS, NOUNS
from densenb.models import tiers
from densenb.models.memory_plan import Machine
from densenb.models.overflow import Overflow
from densenb.modulation.dense_config import DenseConfig
from densenb.plots import layouts, pictures
from densenb.sampling import generate


@pytest.fixture(scope="session")
def model(random_pipe, tmp_path_factory):
    """The random pipeline in a folder, as `--model` takes it."""
    folder = tmp_path_factory.mktemp("random-model")
    random_pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def layout_file(tmp_path):
    path = tmp_path / "layout.json"
    LAYOUT.to_json(path)
    return str(path)


@pytest.fixture
def random_oracle(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("densenb.evaluation.judges.load_oracle", lambda device: Oracle().eval())


COMMANDS = ("demo", "generate", "preview", "evaluate", "doctor", "gallery")


def fails(capsys, *arguments) -> str:
    """The one line that a failing command prints."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # argparse
        code = stop.code
    streams = capsys.readouterr()
    assert code == 2 and streams.out == ""
    assert streams.err.startswith("densenb: error: ") and streams.err.count("\n") == 1
    return streams.err


def test_generate_writes_each_seed_with_and_without_regions(model, layout_file, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    arguments = ["--layout", layout_file, "--out", str(out), "--seeds", "0,3", "--steps", "1"]
    assert main(["generate", *arguments, "--model", model]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "seed-0-regions.png", "seed-0.png", "seed-3-regions.png", "seed-3.png",
    ]  # fmt: skip
    assert Image.open(out / "seed-0.png").size == (256, 256)
    printed = capsys.readouterr().out
    assert str(out) in printed and "(recommended)" in printed


def test_generate_takes_the_setting_that_was_measured_for_the_model(
    layout_file, tmp_path, monkeypatch, capsys
):
    drawn = []
    monkeypatch.setattr(
        "densenb.sampling.generate",
        lambda pipe, layout, seeds, rule, *_, **__: (
            drawn.append(rule) or [Image.new("L", (64, 64))]
        ),
    )
    assert main(["generate", "--layout", layout_file, "--out", str(tmp_path / "out")]) == 0
    assert drawn == [DenseConfig(**tiers.TINY.recommended)]
    assert "(recommended)" in capsys.readouterr().out


def test_an_interrupted_generate_keeps_what_is_finished(
    model, layout_file, tmp_path, monkeypatch, capsys
):
    from densenb import sampling

    def generate(pipe, layout, seeds, *rest, **options):
        if seeds == [3]:
            raise KeyboardInterrupt
        return drawing(pipe, layout, seeds, *rest, **options)

    drawing = sampling.generate
    monkeypatch.setattr(sampling, "generate", generate)
    out = tmp_path / "out"
    arguments = ["--layout", layout_file, "--out", str(out), "--seeds", "5,3,7", "--steps", "2"]
    assert main(["generate", *arguments, "--model", model]) == 130
    assert sorted(path.name for path in out.iterdir()) == ["seed-5-regions.png", "seed-5.png"]
    streams = capsys.readouterr()
    assert "interrupted" in streams.err and "pictures" not in streams.out


def test_what_sampling_would_refuse_ends_in_one_line_without_a_bar(model, tmp_path, capsys):
    path = tmp_path / "long.json"
    Layout("a rose garden, " * 99 + "a blue cat", LAYOUT.regions[:1]).to_json(path)
    arguments = ["--layout", str(path), "--out", str(tmp_path / "out"), "--model", model]
    arguments += ["--method", "transferred"]
    assert "'a blue cat'" in fails(capsys, "generate", *arguments)


def test_generate_gives_a_method_the_layout_it_is_about(layout_file, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "densenb.sampling.generate",
        lambda pipe, layout, *_, **__: drawn.append(layout) or [Image.new("L", (64, 64))],
    )
    arguments = ["generate", "--layout", layout_file, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--method", "recommended-negatives"]) == 0
    assert drawn == [against_neighbours(LAYOUT)] and drawn != [LAYOUT]


def test_preview_prints_tokens_and_draws_the_grid(model, layout_file, tmp_path, capsys):
    picture = tmp_path / "preview.png"
    arguments = ["--layout", layout_file, "--model", model, "--out", str(picture)]
    assert main(["preview", *arguments]) == 0
    printed = capsys.readouterr().out
    assert LAYOUT.text in printed and "a blue cat" in printed and "16 x 16" in printed
    assert Image.open(picture).width > 400


def test_evaluate_writes_rows_table_sheet_and_pictures(model, tmp_path, capsys, random_oracle):
    out, sheet, pictures = tmp_path / "table.json", tmp_path / "sheet.png", tmp_path / "pictures"
    arguments = ["--scenes", "3", "--methods", "stock, transferred", "--steps", "1"]
    arguments += ["--batch-size", "2", "--device", "cpu", "--model", model, "--keep", "2"]
    arguments += ["--out", str(out), "--sheet", str(sheet), "--pictures", str(pictures)]
    assert main(["evaluate", *arguments]) == 0
    rows = json.loads(out.read_text())
    methods = ["ground-truth", "token-grid ceiling", "stock", "transferred"]
    assert [row["method"] for row in rows] == methods
    printed = capsys.readouterr().out
    assert all(method in printed for method in methods) and str(out) in printed
    kept = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    assert kept == [
        f"{method}/scene-00{scene}.png"
        for method in ("ground-truth", "stock", "transferred")
        for scene in (0, 1)
    ]
    assert Image.open(sheet).size == (4 + 2 * 132, 4 + 3 * 148)


def test_evaluate_goes_on_from_its_log_compares_and_shows_failures(
    model, tmp_path, capsys, random_oracle
):
    out, log, page = tmp_path / "table.json", tmp_path / "log.jsonl", tmp_path / "page"
    arguments = ["evaluate", "--suite", "test,test-box*", "--scenes", "2", "--steps", "1"]
    arguments += ["--methods", "stock,hard-mask,hard-mask-im*", "--device", "cpu", "--model", model]
    arguments += ["--out", str(out), "--log", str(log)]
    assert main(arguments) == 0
    rows, lines = json.loads(out.read_text()), log.read_text()
    methods = ["ground-truth", "token-grid ceiling", "stock", "hard-mask", "hard-mask-image"]
    assert [row["method"] for row in rows] == 2 * methods
    assert [row["suite"] for row in rows] == 5 * ["test"] + 5 * ["test-boxes"]
    assert rows[-1]["headline"] == "box_iou" and "against" not in rows[0]
    assert capsys.readouterr().out.count("ground-truth") == 2

    arguments += ["--against", "stock", "--gallery", str(page), "--worst", "1"]
    assert main(arguments) == 0
    assert log.read_text() == lines  # nothing was drawn again
    compared = json.loads(out.read_text())
    assert compared[3]["against"]["method"] == "stock" and compared[2]["against"] is None
    assert [row | {"against": None} for row in rows] == [
        row | {"against": None} for row in compared
    ]
    assert "vs stock" in capsys.readouterr().out
    text = (page / "index.html").read_text()
    assert text.count("<article>") == 2 * 3 and "<h2 id='test-boxes'>" in text


def test_a_batch_is_never_larger_than_asked_for(model, tmp_path, random_oracle, monkeypatch):
    from densenb.evaluation import runner

    def counted(pipe, rule, layouts, *rest):
        sizes.append(len(layouts))
        return drawing(pipe, rule, layouts, *rest)

    sizes, drawing = [], runner.draw
    monkeypatch.setattr(runner, "draw", counted)
    arguments = ["--scenes", "3", "--methods", "stock", "--steps", "1", "--batch-size", "2"]
    arguments += ["--sheet", str(tmp_path / "sheet.png"), "--gallery", str(tmp_path / "page")]
    assert main(["evaluate", *arguments, "--device", "cpu", "--model", model]) == 0
    assert sizes == 3 * [2, 1]  # the table, the sheet, the gallery


def test_full_asks_for_what_each_suite_rests_on(model, tmp_path, random_oracle, monkeypatch):
    few = dataclasses.replace(suites.SUITES["test"], scenes=2, seeds=3)
    monkeypatch.setitem(suites.SUITES, "test", few)
    out = tmp_path / "table.json"
    arguments = ["--full", "--methods", "stock", "--steps", "1", "--device", "cpu"]
    assert main(["evaluate", *arguments, "--model", model, "--out", str(out)]) == 0
    row = json.loads(out.read_text())[-1]
    assert row["scenes"] == 2 and row["seeds"] == [0, 1, 2]


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(model, tmp_path):
    tables = []
    for processes, launch in ((1, []), (2, ["-m", "accelerate.commands.launch", "--multi_gpu"])):
        out, log = tmp_path / f"{processes}.json", tmp_path / f"{processes}.jsonl"
        launch = [*launch, f"--num_processes={processes}"] if launch else []
        command = [sys.executable, *launch, "-m", "densenb.cli", "evaluate", "--device", "cpu"]
        command += ["--model", model, "--methods", "stock,hard-mask", "--scenes", "3"]
        command += ["--seeds", "0,1", "--steps", "1", "--batch-size", "1"]
        run = subprocess.run(
            [*command, "--out", str(out), "--log", str(log)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("ground-truth") == 1  # one process speaks
        tables.append(json.loads(out.read_text()))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        keys = [(line["run"], line["seed"], line["scene"]) for line in lines if "scene" in line]
        assert len(keys) == len(set(keys)) == 3 + 3 + 2 * 2 * 3
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dem"], "invalid choice: 'dem'"),
        (["generate", "--out", "x"], "--layout"),
        (["generate", "--layout", "gone.json", "--out", "{tmp}/x"], "gone.json"),
        (["generate", "--layout", "{layout}", "--out", "{layout}"], "layout.json"),
        (["generate", "--layout", "{layout}", "--out", "{tmp}/x", "--seeds", "a"], "0,1,2"),
        (["generate", "--layout", "{layout}", "--out", "{tmp}/x", "--model", "huge"], "huge"),
        (
            ["generate", "--layout", "{layout}", "--out", "{tmp}/x", "--method", "transfered"],
            "did you mean 'transferred'",
        ),
        (
            ["generate", "--layout", "{layout}", "--out", "{tmp}/x", "--method", "shuffled-masks"],
            "'shuffled-masks' gives a scene what belongs to other scenes",
        ),
        (
            ["generate", "--layout", "{layout}", "--out", "{tmp}", "--method", "shuffled-captions"],
            "a layout file has one scene: use densenb evaluate",
        ),
        (["preview", "--layout", "{layout}", "--out", "{tmp}"], "is a folder"),
        (["evaluate", "--methods", "stock,hardmask"], "did you mean 'hard-mask'"),
        (["evaluate", "--suite", "tets"], "did you mean 'test'"),
        (["evaluate", "--suite", "test,tune-tni"], "did you mean 'tune-tiny'"),
        (["evaluate", "--against", "hardmask"], "did you mean 'hard-mask'"),
        (["evaluate", "--judge", "clp", "--steps", "1"], "detector:MODEL or clip:MODEL"),
        (["evaluate", "--log", "{layout}", "--out", "{tmp}/x.json"], "is not a log of"),
        (["evaluate", "--gallery", "{layout}"], "layout.json"),
        (["evaluate", "--scenes", "0"], "at least 1"),
        (["evaluate", "--steps", "2.5"], "at least 1"),
        (["evaluate", "--out", "{tmp}"], "is a folder"),
        (["evaluate", "--device", "gpu"], "cpu, cuda"),
        (["evaluate", "--dtype", "float16"], "bfloat16"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, layout_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = [part.format(tmp=tmp_path, layout=layout_file) for part in arguments]
    assert message in fails(capsys, *filled)


def test_a_model_that_does_not_fit_shows_why(layout_file, tmp_path, capsys, monkeypatch):
    small = Machine("a netbook", "cpu", host=4.0)
    monkeypatch.setattr("densenb.models.load.here", lambda *_, **__: small)
    arguments = ["--layout", layout_file, "--out", str(tmp_path), "--model", "medium"]
    assert main(["generate", *arguments]) == 2
    streams = capsys.readouterr()
    assert "medium on a netbook" in streams.out
    assert "medium does not fit a netbook" in streams.err and streams.err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, 'unknown key "colour"'),
        ({"caption": 3}, "caption"),
        ({"regions": []}, "no regions"),
        ({"regions": [{"phrase": "a cat", "bxo": [0, 0, 1, 1]}]}, "box"),
    ],
)
def test_a_wrong_layout_file_ends_in_one_line(change, message, tmp_path, capsys):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(LAYOUT.to_dict() | change))
    assert message in fails(capsys, "preview", "--layout", str(path))


def test_nothing_is_written_when_the_request_is_wrong(layout_file, tmp_path, capsys):
    out = tmp_path / "x"
    fails(capsys, "generate", "--layout", layout_file, "--out", str(out), "--method", "stok")
    fails(capsys, "evaluate", "--methods", "stok", "--out", str(out / "table.json"))
    assert not out.exists()


def test_a_fresh_process_prints_that_one_line_only():
    command = [sys.executable, "-m", "densenb.cli", "evaluate", "--methods", "stok"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("densenb: error: unknown method 'stok'")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("bug", [KeyError("a bug"), RuntimeError("shapes do not match")])
def test_a_bug_keeps_its_traceback(bug, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise bug

    monkeypatch.setattr(demo, "run", broken)
    with pytest.raises(type(bug), match=str(bug)):
        main(["demo", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            Overflow("torch.float16 overflowed. Load with dtype=torch.float32, or\n without T5 "
                         "(t5=False), or torch.bfloat16 on a GPU."),
            "torch.float16 overflowed. Load with --dtype float32, or without T5 (--no-t5), or "
            "--dtype bfloat16 on a GPU.",
        ),
        (ValueError('check the network, or use load("tiny").'), "or use --model tiny."),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB."), "--batch-size"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory"), "--batch-size"),
    ],
)  # fmt: skip
def test_what_the_machine_cannot_do_is_one_line_with_our_options(
    error, message, monkeypatch, tmp_path, capsys
):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(demo, "run", broken)
    assert message in fails(capsys, "demo", "--out", str(tmp_path))


def test_real_overflow_says_which_option_helps(model, layout_file, tmp_path, monkeypatch, capsys):
    from densenb.models import load

    def overflowing(*arguments, **options):
        pipe = loading(*arguments, **options)
        next(pipe.transformer.parameters()).data.fill_(torch.inf)
        return pipe

    loading = load.load
    monkeypatch.setattr(load, "load", overflowing)
    arguments = ["--layout", layout_file, "--out", str(tmp_path / "out"), "--model", model]
    arguments += ["--method", "transferred", "--steps", "1"]
    assert "with --dtype float32" in fails(capsys, "generate", *arguments)


def test_precision_and_t5_reach_the_model(model, layout_file, tmp_path, monkeypatch, random_oracle):
    from densenb.models import load

    def watched(*arguments, **options):
        loaded.append(loading(*arguments, **options))
        return loaded[-1]

    loaded, loading = [], load.load
    monkeypatch.setattr(load, "load", watched)
    log = tmp_path / "log.jsonl"
    evaluate = ["evaluate", "--scenes", "1", "--methods", "stock", "--device", "cpu"]
    evaluate += ["--log", str(log)]
    generate = ["generate", "--layout", layout_file, "--out", str(tmp_path / "out")]
    for command in (evaluate, generate):
        for chosen in ([], ["--dtype", "bfloat16", "--no-t5"]):
            assert main([*command, "--model", model, "--steps", "1", *chosen]) == 0
    found = [(pipe.transformer.dtype, pipe.tokenizer_3 is None) for pipe in loaded]
    assert found == 2 * [(torch.float32, False), (torch.bfloat16, True)]
    runs = [json.loads(line).get("settings", {}) for line in log.read_text().splitlines()]
    kept = [(run["dtype"], run.get("t5")) for run in runs if run.get("method") == "stock"]
    assert kept == [("float32", None), ("bfloat16", False)]


def test_an_interruption_is_no_traceback(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert main(["demo", "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_warnings_are_one_line_without_a_place_in_the_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "run", lambda *_, **__: warnings.warn("look out", stacklevel=1))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "densenb: warning: look out\n"


@pytest.mark.parametrize("library", [diffusers, transformers])
def test_libraries_give_no_advice_for_developers(library, monkeypatch, tmp_path, caplog):
    logger = library.utils.logging.get_logger(f"{library.__name__}.pipelines")
    verbosity = library.utils.logging.get_verbosity()
    monkeypatch.setattr(demo, "run", lambda *_, **__: logger.warning("pass another argument"))
    try:
        library.utils.logging.set_verbosity_warning()
        logger.warning("heard")
        assert main(["demo", "--out", str(tmp_path)]) == 0
    finally:
        library.utils.logging.set_verbosity(verbosity)
    assert caplog.messages == ["heard"]


def test_version_and_help(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stop:
            main([option])
        assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("densenb ")
    assert all(command in printed for command in COMMANDS)


# --------------------------------------------------------------------------------- what is imported
def imported(code: str, names: set[str]) -> set[str]:
    """Which of the modules a fresh process has imported after running some code."""
    code += f"\nimport sys; print('imported:', *{names} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split("imported:")[1].split())


HEAVY = {"torch", "diffusers", "transformers", "accelerate", "matplotlib", "numpy", "PIL"}


def test_the_list_of_imports_is_not_always_empty():
    assert imported("import numpy", HEAVY) == {"numpy"}


def test_densenb_itself_imports_nothing_heavy():
    assert imported("import densenb", HEAVY) == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS),
     ["generate", "--steps", "x"], ["evaluate", "--scenes", "0"], ["dem"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_wrong_options_import_nothing_heavy(arguments):
    code = f"from densenb.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert imported(code, HEAVY) == set()


def test_the_miniature_warns_of_words_it_never_saw():
    unknown = vocabulary.unknown_words("a red catt and a zeppelin in a rose garden, on the left")
    assert list(unknown) == ["catt", "zeppelin"]
    assert unknown["catt"][0] == "cat"
    known = " ".join([*NOUNS, *COLOURS])
    assert not vocabulary.unknown_words(known)


# ------------------------------------------------------------------------------------------- demo
@pytest.mark.parametrize("layout", CASES.values(), ids=CASES)
def test_cases_can_be_scored_and_keep_their_captions(layout):
    assert layout.text == layout.caption
    for region in layout.regions:
        assert named_object(region.phrase)[0] >= 0
    assert not layout.token_masks(16, 16).sum(0).gt(1).any()  # regions do not overlap


def test_the_prompts_of_the_first_report_are_in_the_demo():
    captions = [layout.caption for layout in CASES.values()]
    assert captions[0] == "cat with red umbrella"
    assert captions[1].startswith("A magnificent squid, shimmering in shades of deep indigo and")


@pytest.fixture
def quick(random_pipe, random_oracle, monkeypatch):
    """Only two cases, drawn in one step by the random pipeline and scored by a random oracle."""
    small = dataclasses.replace(tiers.tier(random_pipe), steps=1, t5_length=64)
    monkeypatch.setattr(random_pipe.transformer, tiers.ATTRIBUTE, small, raising=False)
    monkeypatch.setattr("densenb.models.load.load", lambda *_, **__: random_pipe)
    monkeypatch.setattr("densenb.cli.cases.CASES", dict(list(CASES.items())[:2]))
    monkeypatch.setattr(DenseConfig, "recommended", lambda pipe: DenseConfig(window=1.0))
    return random_pipe


def test_demo_writes_figures_pictures_and_scores(quick, tmp_path, capsys):
    assert main(["demo", "--fast", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert [(row["case"], row["run"]) for row in report["rows"]] == [
        (case, run) for case in ("cat-umbrella", "squid-rose-garden") for run in ("stock", "dense")
    ]
    assert [(row["case"], row["run"]) for row in report["means"]] == [
        ("all", "stock"), ("all", "dense"),
    ]  # fmt: skip
    assert report["settings"]["window"] == 1.0 and report["seeds"] == [0]
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    assert names == {
        "overview.png", "1-cat-umbrella.png", "2-squid-rose-garden.png",
        "pictures/cat-umbrella-stock-seed-0.png", "pictures/cat-umbrella-dense-seed-0.png",
        "pictures/squid-rose-garden-stock-seed-0.png",
        "pictures/squid-rose-garden-dense-seed-0.png",
    }  # fmt: skip
    stock, dense = (
        Image.open(tmp_path / "pictures" / f"cat-umbrella-{run}-seed-0.png").tobytes()
        for run in ("stock", "dense")
    )
    assert stock != dense
    printed = capsys.readouterr().out
    assert "squid-rose-garden" in printed and "metrics.json" in printed


def test_demo_draws_what_generate_draws(quick, tmp_path):
    assert main(["demo", "--fast", "--out", str(tmp_path)]) == 0
    config = DenseConfig(window=1.0)
    (image,) = generate(quick, CASES["cat-umbrella"], seeds=[0], config=config, steps=1)
    ours = Image.open(tmp_path / "pictures" / "cat-umbrella-dense-seed-0.png")
    assert ours.tobytes() == image.tobytes()


# ------------------------------------------------------------------------------------------ plots
def test_overlay_draws_outlines_in_the_palette_and_spares_the_rest():
    picture = torch.full((3, 64, 64), 0.5)
    masks = LAYOUT.pixel_masks(64, 64)
    drawn = pictures.overlay(picture, masks)
    pixels = torch.from_numpy(np.asarray(drawn).copy())
    cat = (masks[0] >= 0.5).nonzero()
    corner = pixels[cat[0, 0], cat[0, 1]].tolist()
    assert corner == [0xE6, 0x9F, 0x00]  # the first colour of the palette
    assert (pixels[(masks >= 0.5).sum(0) == 0] == 128).all()
    assert pixels[42, 18].tolist() == [128, 128, 128]  # inside, without a fill
    filled = pictures.overlay(picture, masks, fill=0.5)
    assert filled.getpixel((18, 42)) != (128, 128, 128)


def test_overlay_refuses_masks_of_another_size():
    with pytest.raises(ValueError, match="pixel_masks"):
        pictures.overlay(torch.zeros(3, 64, 64), LAYOUT.pixel_masks(32, 32))


def test_before_after_has_a_row_a_seed_and_names_what_it_shows(tmp_path):
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    figure = layouts.before_after(pictures, pictures, LAYOUT, "a title", "model, 28 steps")
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[:3]] == ["layout", "stock", "dense"]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
