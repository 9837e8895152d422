"""Memory plans: sizes from configurations, the choice for a machine, and what the table says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densenb.models import architecture, memory_plan
from densenb.models.architecture import ENCODERS, T5, Size
from densenb.models.memory_plan import T4, Machine, choose

H100 = Machine("big", "cuda", capability=(9, 0), gpu=75.0, host=200.0, disk=500.0)
LAPTOP = Machine("laptop", "cpu", host=14.9, disk=100.0)


# -------------------------------------------------------------------------------------------- sizes
def test_parameters_of_the_released_models():
    medium, large = architecture.sizes("medium"), architecture.sizes("large")
    assert medium["transformer"].parameters == 2_243_171_520
    assert medium["transformer"].buffers == 384 * 384 * 1536  # the position embedding
    assert large["transformer"].parameters == 8_056_627_520
    assert large["transformer"].buffers == 192 * 192 * 2432
    assert [medium[part].parameters for part in ("text_encoder", "text_encoder_2", T5, "vae")] == [
        123_650_304, 694_659_840, 4_762_310_656, 83_819_683,
    ]  # fmt: skip


def test_t5_keeps_its_wo_in_float32():
    t5 = architecture.sizes("medium")[T5]
    assert t5.exact == 24 * 4096 * 10240
    assert t5.gib("float16") == pytest.approx(2 * (t5.parameters + t5.exact) / 2**30)
    assert t5.gib("bfloat16") == pytest.approx(2 * t5.parameters / 2**30)
    assert 4 * t5.exact / 2**30 < t5.gib("nf4") < t5.gib("bfloat16")


def test_four_bits_and_a_scale_for_every_64_weights():
    only_linear = Size(parameters=64 * 2**20, linear=64 * 2**20)
    assert only_linear.gib("nf4") == pytest.approx((32 + 4) / 1024)


def test_a_size_is_what_the_module_takes(random_pipe):
    for part in architecture.PARTS:
        module = getattr(random_pipe, part)
        state = module.state_dict()
        size = architecture.measure(module)
        unique = {tensor.data_ptr(): tensor.numel() for tensor in state.values()}
        assert size.parameters + size.buffers == sum(unique.values())
        linear = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
        assert size.linear + size.exact == sum(m.weight.numel() for m in linear)


def test_sizes_of_a_folder_are_read_without_its_weights(random_pipe, tmp_path):
    random_pipe.save_pretrained(tmp_path)
    expected = {
        part: architecture.measure(getattr(random_pipe, part)) for part in architecture.PARTS
    }
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    assert architecture.saved_sizes(tmp_path) == expected


@pytest.mark.parametrize(("name", "processors"), [("medium", 37), ("large", 38)])
def test_attention_layers_with_a_processor(name, processors):
    transformer = architecture.build("transformer", architecture.CONFIGS[name]["transformer"])
    assert transformer.device.type == "meta"
    names = list(transformer.attn_processors)
    assert len(names) == processors
    assert sum(".attn2." in each for each in names) == (13 if name == "medium" else 0)


# ----------------------------------------------------------------------------------------- machines
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(None, "float32"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_precision_follows_the_capability(capability, dtype):
    assert replace(T4, capability=capability).dtype == dtype


def test_a_t4_is_not_asked_whether_it_emulates_bfloat16(monkeypatch):
    class Properties:
        name, total_memory = "Tesla T4", 16 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    machine = memory_plan.here()
    assert (machine.dtype, machine.device, machine.side) == ("float16", "cuda", 512)
    assert 14 < machine.gpu < 16


def test_here_without_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = memory_plan.here(folder=tmp_path / "not" / "made" / "yet")
    assert (machine.device, machine.capability, machine.dtype) == ("cpu", None, "float32")
    assert machine.host > 0.5 and machine.disk > 0


# -------------------------------------------------------------------------------------------- plans
def plan(name, machine, **options):
    return choose(name, architecture.sizes(name), machine, **options)


@pytest.mark.parametrize("name", ["medium", "large"])
def test_a_large_gpu_keeps_everything_as_it_is(name):
    chosen = plan(name, H100)
    assert chosen.fits and chosen.keep_encoders and not chosen.park
    assert set(chosen.precisions.values()) == {"bfloat16", "float32"}
    assert chosen.precisions["vae"] == "float32"
    assert chosen.side == 1024


def test_on_a_t4_text_is_encoded_first():
    medium, large = plan("medium", T4), plan("large", T4)
    for chosen in (medium, large):
        assert chosen.fits and not chosen.keep_encoders
        assert max(chosen.gpu.values()) <= T4.gpu and max(chosen.host.values()) <= T4.host
        assert chosen.gpu["denoise"] < chosen.gpu["encode"]
        assert "bfloat16" not in chosen.precisions.values()
    assert medium.precisions["transformer"] == "float16"
    assert large.precisions["transformer"] == "nf4"  # 15 GiB in float16


def test_parking_costs_host_memory_and_is_done_only_where_needed():
    parked, packed = plan("medium", T4, t5="float16"), plan("medium", T4, t5="nf4")
    assert parked.park and not packed.park
    weights = parked.sizes["transformer"].gib("float16")
    assert parked.host["encode"] - packed.host["encode"] == pytest.approx(weights)
    poor = replace(T4, host=8.0)
    assert plan("medium", poor).precisions[T5] == "nf4"


def test_t5_is_left_out_only_on_request():
    assert T5 in plan("medium", T4).precisions
    without = plan("medium", T4, t5=False)
    assert T5 not in without.precisions and without.download_gb < 7
    assert without.label == "float16, no T5"
    assert plan("medium", T4, t5="nf4").label == "float16, T5 nf4"
    assert plan("large", T4, t5="nf4").label == "nf4"


def test_what_stays_leaves_room_for_large_pictures():
    small, large = plan("medium", T4, t5="nf4"), plan("medium", T4, t5="nf4", side=1024)
    assert not small.keep_encoders and (small.side, large.side) == (512, 1024)
    assert small.gpu["denoise"] <= large.gpu["denoise"]


def test_without_bitsandbytes_nothing_is_packed():
    bare = replace(T4, bitsandbytes=False)
    assert "nf4" not in plan("medium", bare).precisions.values()
    with pytest.raises(ValueError, match="large does not fit.*pip install bitsandbytes"):
        plan("large", bare).require()


def test_a_laptop_is_told_what_would_help():
    chosen = plan("medium", LAPTOP)
    assert not chosen.fits and chosen.dtype == "float32" and not chosen.gpu
    with pytest.raises(ValueError, match=r"encode.*host memory.*Colab's free T4.*t5=False.*tiny"):
        chosen.require()
    plan("medium", LAPTOP, t5=False).require()
    (problem,) = plan("large", LAPTOP).problems  # leaving T5 out would not do
    assert "medium model" in problem and "t5=False" not in problem


def test_the_disk_matters_only_for_a_download():
    full = replace(H100, disk=10.0)
    assert plan("medium", full).fits
    (problem,) = plan("medium", full, download=True).problems
    assert "16.3 GB" in problem and "HF_HOME" in problem


def test_an_impossible_precision_is_refused():
    with pytest.raises(ValueError, match="transformer is 'int8'.*'nf4' or 'float16'"):
        plan("medium", T4, transformer="int8")
    with pytest.raises(ValueError, match="t5 is 'bfloat16'"):
        plan("medium", T4, t5="bfloat16")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["medium", "large"]),
    st.floats(1, 100),
    st.floats(1, 100),
    st.sampled_from([(7, 5), (8, 9)]),
)
def test_a_plan_that_fits_fits(name, gpu, host, capability):
    machine = Machine("any", "cuda", capability, gpu=gpu, host=host)
    chosen = plan(name, machine)
    within = all(peak <= gpu for peak in chosen.gpu.values()) and all(
        peak <= host for peak in chosen.host.values()
    )
    assert chosen.fits == within
    more = plan(name, replace(machine, gpu=gpu + 10, host=host + 10))
    assert more.fits or not chosen.fits  # more memory never hurts


def test_the_table_has_every_component_and_stage():
    text = str(plan("medium", T4, t5=False))
    for word in (
        "download GB",
        "precision",
        "peak GPU",
        "peak host",
        *architecture.PARTS,
        "left out",
    ):
        assert word in text
    assert all(stage in text for stage in memory_plan.STAGES)
    assert "! " not in text and "! " in str(plan("large", LAPTOP))
    assert max(map(len, str(plan("large", T4)).splitlines())) <= 100


def test_encoders_are_in_the_pipelines_order():
    assert ENCODERS == ("text_encoder", "text_encoder_2", "text_encoder_3")
