"""Folders of models that are damaged, incomplete, or not what they say."""

from __future__ import annotations

import shutil

import pytest
import torch
from fault_helpers import Failed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import densenb as dnb
from densenb.cli.main import main


def xfail(raises, reason):
    return pytest.mark.xfail(strict=True, raises=raises, reason=reason)


def weights(model, part):
    (file,) = (model / part).glob("*.safetensors")
    return file


def replace_file(file, raw):
    """Write a new file: the old one is a link into the package."""
    file.unlink()
    file.write_bytes(raw)


def cut(model, part):
    file = weights(model, part)
    replace_file(file, file.read_bytes()[:5000])


def emptied(model, part):
    replace_file(weights(model, part), b"")


def reshaped(model, part):
    file = weights(model, part)
    tensors = load_file(file)
    name = next(iter(tensors))
    file.unlink()
    save_file(tensors | {name: tensors[name][:1].clone()}, file, {"format": "pt"})


def without_a_tensor(model, part):
    file = weights(model, part)
    tensors = load_file(file)
    del tensors[next(iter(tensors))]
    file.unlink()
    save_file(tensors, file, {"format": "pt"})


def renamed_tensor(model, part):
    file = weights(model, part)
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors["other." + name] = tensors.pop(name)
    file.unlink()
    save_file(tensors, file, {"format": "pt"})


def pickled(model, part):
    file = weights(model, part)
    name = "diffusion_pytorch_model.bin" if part == "vae" else "pytorch_model.bin"
    torch.save(load_file(file), model / part / name)
    file.unlink()


# ------------------------------------------------------- A9: one line instead of a traceback
SAID_LATE = "A9: a traceback of another library"


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3", "vae"])
@pytest.mark.parametrize(
    ("damage", "raises"),
    [(cut, SafetensorError), (emptied, SafetensorError), (reshaped, RuntimeError)],
)
def test_damaged_weights_are_said_in_one_line(
    damage, raises, part, model, layout_file, request, capsys
):
    if part != "vae":  # diffusers says it well
        request.applymarker(xfail(raises, SAID_LATE))
    damage(model, part)
    assert main(["preview", "--layout", str(layout_file), "--model", str(model)]) == 2
    assert capsys.readouterr().err.count("densenb: error: ") == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{}", marks=xfail(KeyError, SAID_LATE)),
        pytest.param("[]", marks=xfail(TypeError, SAID_LATE)),
        pytest.param("5", marks=xfail(AttributeError, SAID_LATE)),
    ],
)
def test_an_index_of_something_else_is_said_in_one_line(text, model, layout_file, capsys):
    replace_file(model / "model_index.json", text.encode())
    assert main(["preview", "--layout", str(layout_file), "--model", str(model)]) == 2
    assert "model_index.json" in capsys.readouterr().err


# --------------------------------------------------- A3: refused instead of filled in at random
@xfail(Failed, "A3: filled in at random")
@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3"])
@pytest.mark.parametrize("damage", [without_a_tensor, renamed_tensor])
def test_missing_and_unexpected_tensors_of_a_text_encoder_are_refused(damage, part, model):
    damage(model, part)
    with pytest.raises(ValueError, match=part):
        dnb.load(model)


@xfail(NotImplementedError, "A3: the error of a tensor that holds nothing")
def test_missing_tensors_of_the_autoencoder_are_refused(model):
    without_a_tensor(model, "vae")
    with pytest.raises(ValueError, match="vae"):
        dnb.load(model)


@xfail(Failed, "A3: unpickled")
@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3", "vae"])
def test_pickled_weights_are_refused(part, model):
    pickled(model, part)
    with pytest.raises((ValueError, OSError), match="safetensors"):
        dnb.load(model)


@xfail(Failed, "A3: wrong pictures, or another default setting")
@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "tokenizer_3"])
@pytest.mark.parametrize("gone", ["folder", "files"])
def test_a_missing_tokenizer_is_refused(gone, part, model):
    shutil.rmtree(model / part)
    if gone == "files":
        (model / part).mkdir()
    with pytest.raises(ValueError, match=part):
        dnb.load(model)


def test_a_model_without_t5_is_loaded_without_it(model):
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(model / part)
    assert dnb.load(model, t5=False).tokenizer_3 is None
