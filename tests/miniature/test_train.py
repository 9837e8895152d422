"""The training loop, and a smoke test of the whole training of the miniature."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file
from torch import nn

from densenb.miniature import captions, models, tokenizers
from densenb.miniature.oracle import GRID, Oracle, OracleLabels
from densenb.miniature.training import loop, train
from densenb.miniature.training.loop import Loop, Schedule, step_generator
from densenb.miniature.training.pool import Pool
from densenb.miniature.world import World, sample_scenes

pytestmark = pytest.mark.usefixtures("few_backgrounds")
STEPS = 12


class Toy(nn.Module):
    """A linear map whose forward is its loss."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 2)

    def forward(self, x, y):
        return (self.map(x) - y).square().mean()


def toy_batch(step, generator):
    x = torch.randn(8, 3, generator=generator, device=generator.device)
    return x, x[:, :2] * 3 + step


def toy_loop(folder, batch=toy_batch, **options):
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    schedule = options.pop("schedule", Schedule(STEPS, 0.05, warmup=3))
    return Loop("toy", accelerator, Toy(), batch, schedule, folder / "toy.state", **options)


def weights(trained: Loop) -> list[torch.Tensor]:
    return [*trained.raw.parameters(), *trained.ema.parameters()]


def equal(a: Loop, b: Loop) -> bool:
    return all(x.equal(y) for x, y in zip(weights(a), weights(b), strict=True))


# Loop


@pytest.mark.parametrize("killed_at", [1, 6, STEPS - 1])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, monkeypatch, capsys, killed_at
):
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # after every step
    whole = toy_loop(tmp_path / "whole")
    whole.run()

    def dying(step, generator):
        if step == killed_at:
            raise KeyboardInterrupt
        return toy_batch(step, generator)

    with pytest.raises(KeyboardInterrupt):
        toy_loop(tmp_path / "killed", dying).run()
    again = toy_loop(tmp_path / "killed")
    assert again.step == killed_at and not equal(again, whole)
    again.run()
    assert f"toy: resumed at step {killed_at}" in capsys.readouterr().out
    assert again.step == whole.step == STEPS and equal(again, whole)


def test_a_run_in_parts_is_the_same_run(tmp_path):
    whole, parts = toy_loop(tmp_path / "whole"), toy_loop(tmp_path / "parts")
    whole.run()
    parts.run(until=0.5)
    assert parts.step == STEPS / 2 and not equal(parts, whole)
    parts.run()
    assert equal(parts, whole)


def test_a_finished_run_stays_finished(tmp_path):
    first = toy_loop(tmp_path)
    averaged = first.run()
    again = toy_loop(tmp_path)
    assert again.run() is again.ema and equal(again, first)
    assert averaged is first.ema and not averaged.map.weight.equal(first.raw.map.weight)
    assert not any(p.requires_grad for p in averaged.parameters())


def test_runs_learn_and_seeds_differ(tmp_path, capsys):
    schedule = Schedule(300, 0.1, warmup=5)
    first = toy_loop(tmp_path / "0", schedule=schedule, batch=lambda _, g: toy_batch(0, g))
    first.run(log_every=100)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 3 and losses[-1] < 0.05 * losses[0]
    assert [line.split(",")[0] for line in lines] == [f"toy: step {n}/300" for n in (100, 200, 300)]
    one, two = (toy_loop(tmp_path / f"seed{seed}", seed=seed) for seed in (1, 2))
    one.run(), two.run()
    assert not equal(one, two)


def test_streams_of_steps_processes_and_seeds_differ():
    device = torch.device("cpu")
    keys = list(itertools.product((0, 1, 2), (0, 1, 7), (0, 1, 999)))
    draws = [torch.rand((), generator=step_generator(device, *key)).item() for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws[5] == torch.rand((), generator=step_generator(device, *keys[5])).item()


def test_the_schedule_warms_up_stays_and_decays():
    schedule = Schedule(100, 1.0, warmup=10, decay=0.3)
    scales = [schedule.scale(step) for step in range(100)]
    assert scales[0] == 0.1 and scales[4] == 0.5
    assert scales[9:71] == [1.0] * 62
    assert scales[71:] == pytest.approx([1 - n / 30 for n in range(1, 30)])
    assert schedule.scale(100) == 0
    flat = Schedule(100, 1.0, warmup=10, decay=0)
    assert [flat.scale(step) for step in (4, 9, 99)] == [0.5, 1.0, 1.0]
    cold = Schedule(100, 1.0, warmup=0)
    assert [cold.scale(step) for step in (0, 1, 70, 85)] == [1.0, 1.0, 1.0, 0.5]


def test_the_optimizer_follows_the_schedule(tmp_path):
    trained = toy_loop(tmp_path)
    rates = []
    for _ in range(STEPS):
        trained.train_step()
        rates.append(trained.optimizer.param_groups[0]["lr"])
    expected = [0.05 * trained.schedule.scale(step) for step in range(STEPS)]
    assert rates == pytest.approx(expected) and rates[0] < max(rates) > rates[-1]


def test_minutes_become_steps(tmp_path, monkeypatch, capsys):
    now = itertools.count(0.0, 0.5)  # each look at the clock is half a second later
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(now))
    trained = toy_loop(tmp_path, schedule=Schedule(10**6, 0.01, minutes=3.0))
    trained.run(log_every=10**9)
    assert 281 < trained.step == trained.schedule.steps < 10**6
    assert trained.schedule.minutes is None
    assert f"so {trained.step} steps" in capsys.readouterr().out


def test_the_average_follows_the_weights(tmp_path):
    trained = toy_loop(tmp_path, ema=0.8)
    expected = trained.raw.map.weight.detach().clone()
    for step in range(1, STEPS + 1):
        trained.train_step()
        keep = min(0.8, (1 + step) / (10 + step))  # short-sighted at first
        expected = keep * expected + (1 - keep) * trained.raw.map.weight.detach()
        torch.testing.assert_close(trained.ema.map.weight, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, value):
    def broken(step, generator):
        x, y = toy_batch(step, generator)
        return x, y * (value if step == 5 else 1.0)

    with pytest.raises(FloatingPointError, match="toy: loss is (nan|inf) at step 6"):
        toy_loop(tmp_path, broken).run(log_every=2)
    assert not (tmp_path / "toy.state").exists()  # nothing broken is left to go on from
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # after every step, and between two logs
    with pytest.raises(FloatingPointError, match="at step 6"):
        toy_loop(tmp_path, broken).run(log_every=1000)
    left = toy_loop(tmp_path)
    assert left.step == 5 and all(weight.isfinite().all() for weight in weights(left))


def test_the_state_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    trained = toy_loop(tmp_path)
    trained.train_step()
    trained.save()
    before = (tmp_path / "toy.state").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["toy.state"]
    trained.train_step()

    def killed(state, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            trained.save()
    assert (tmp_path / "toy.state").read_bytes() == before
    assert toy_loop(tmp_path).step == 1
    trained.save()
    assert toy_loop(tmp_path).step == 2
    assert [file.name for file in tmp_path.iterdir()] == ["toy.state"]


# What the stages draw and judge


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_pool_keeps_renders_and_labels():
    pool = Pool(3, torch.device("cpu"), seed=4, chunk=2)
    truth = World().render(sample_scenes(3, seed=4))
    assert ((pool.images / 255 - truth.images).abs() <= 0.5 / 255 + 1e-5).all()
    assert pool.nouns.equal(truth.nouns[:, 2::4, 2::4].byte()) and pool.nouns.shape[1] == GRID
    assert pool.colours.equal(truth.colours[:, 2::4, 2::4].byte())
    crops = pool.crops(5, 64, generator())
    assert crops.shape == (5, 3, 64, 64) and crops.min() >= -1 and crops.max() <= 1
    tiles = (pool.images / 127.5 - 1).unfold(2, 64, 1).unfold(3, 64, 1)
    for crop in crops:  # each is somewhere in some picture
        assert (tiles[..., 0, 0] - crop[:, 0, 0, None, None]).abs().amax(1).min() < 1e-5
    assert crops.equal(pool.crops(5, 64, generator()))


def test_noise_levels_lean_towards_noise():
    levels = train.noise_levels(4000, generator())
    assert levels.min() > 0 and levels.max() < 1
    assert levels.median() == pytest.approx(2 / 3, abs=0.02)
    even = train.noise_levels(4000, generator(), shift=1.0)
    assert even.median() == pytest.approx(1 / 2, abs=0.02)


def test_a_blur_keeps_flat_pictures_and_the_mean():
    flat = torch.full((1, 3, 32, 32), 0.3)
    dot = torch.zeros(1, 3, 33, 33)
    dot[..., 16, 16] = 1.0
    for radius in (0.5, 2.0, 5.0):
        torch.testing.assert_close(train._gauss(flat, radius), flat)
        blurred = train._gauss(dot, radius)[0, 0]
        assert blurred.sum() == pytest.approx(1, abs=1e-3)
        spread = (blurred.sum(0) * (torch.arange(33) - 16) ** 2).sum().sqrt()
        assert spread == pytest.approx(radius, rel=0.12)
    assert train._gauss(dot, 0.1) is dot


def test_a_perfect_oracle_gets_full_marks(monkeypatch):
    drawn = []

    class Witness(World):
        def render(self, *args):
            drawn.append(super().render(*args))
            return drawn[-1]

    def perfect(images):
        return OracleLabels(drawn[-1].nouns[:, 2::4, 2::4], drawn[-1].colours[:, 2::4, 2::4])

    def colour_blind(images):
        return perfect(images)._replace(colour=torch.ones(len(images), GRID, GRID).long())

    def blind(images):
        return OracleLabels(*torch.zeros(2, len(images), GRID, GRID).long())

    monkeypatch.setattr(train, "World", Witness)
    judge = functools.partial(train.judge_oracle, device="cpu", count=6)
    assert judge(perfect) == {"mIoU": 100.0, "colour": 100.0}
    assert judge(colour_blind) == {"mIoU": 100.0, "colour": 0.0}
    assert judge(blind) == {"mIoU": 0.0, "colour": 0.0}


def test_the_oracle_reads_pictures_and_has_features():
    oracle = Oracle().eval()
    labels = oracle(torch.rand(1, 3, 256, 256))
    assert labels.noun.shape == labels.colour.shape == (1, GRID, GRID)
    assert labels.noun.max() <= 100 and labels.colour.max() <= 17
    assert oracle.features(torch.rand(2, 3, 256, 256)).shape == (2, 80)


def test_tokenizers_are_trained_once_then_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "corpus", functools.partial(tokenizers.corpus, 300))
    made = train.load_tokenizers(tmp_path)
    monkeypatch.setattr(tokenizers, "corpus", None)  # what training would call
    again = train.load_tokenizers(tmp_path)
    texts = ["", "a blue cat, an orange umbrella", "Zürich 🐱 it's #5!"]
    for one, two in zip(made, again, strict=True):
        assert type(one) is type(two) and one.get_vocab() == two.get_vocab()
        assert one(texts).input_ids == two(texts).input_ids
        assert one.pad_token_id == two.pad_token_id
        assert one.model_max_length == two.model_max_length


# Everything at once

TOY = "--toy --steps 5 --batch 2 --pool 4 --layers 2 --width 32 --snapshots 0.4".split()


@pytest.fixture(scope="module")
def trained(few_backgrounds, tmp_path_factory):
    """(folder, the arguments of every call of `Flow`) of a training of five steps a stage."""
    out, calls = tmp_path_factory.mktemp("miniature"), []

    class Flow(models.Flow):
        def forward(self, *args):
            calls.append(args)
            return super().forward(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "Flow", Flow)
        patch.setattr(tokenizers, "corpus", functools.partial(tokenizers.corpus, 500))
        train.main(["all", "--out", str(out), *TOY])
    return out, calls


@pytest.fixture(scope="module")
def stock(trained):
    pipe = StableDiffusion3Pipeline.from_pretrained(trained[0] / "model", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_training_ends_with_a_stock_pipeline(trained, stock):
    image = stock(
        "a blue cat",
        height=64,
        width=128,
        num_inference_steps=2,
        max_sequence_length=44,
        generator=generator(),
        output_type="pt",
    ).images
    assert image.shape == (1, 3, 64, 128) and image.isfinite().all() and image.std() > 0
    out = trained[0]
    names = {path.name for path in out.iterdir()}
    assert {"vae", "oracle.safetensors", "model", "model-40"} <= names
    assert not any(name.endswith(".new") for name in names)
    assert max(p.stat().st_size for p in (out / "model").rglob("*.*")) < 16e6
    parts = [part for part in stock.components.values() if isinstance(part, nn.Module)]
    assert len(parts) == 5
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    stored = [load_file(path) for path in (out / "model").rglob("*.safetensors")]
    assert {weight.dtype for part in stored for weight in part.values()} == {torch.float16}
    oracle = Oracle()
    oracle.load_state_dict(load_file(out / "oracle.safetensors"))
    assert stock.vae.config.scaling_factor != models.autoencoder().config.scaling_factor


def test_the_text_encoders_are_trained_on_what_the_pipeline_reads(trained, stock):
    """Long and short texts, non-square pictures, and the second CLIP's own padding."""
    sizes = [(tuple(latents.shape[2:]), t5.shape[1]) for latents, *_, t5, _ in trained[1]]
    assert sizes == [((32, 32), 256), *[((32, 32), 44)] * 3, ((24, 40), 44)]
    first, second, third = stock.tokenizer, stock.tokenizer_2, stock.tokenizer_3
    for latents, noise, sigma, clip_l, clip_g, t5, keep in trained[1]:
        assert latents.shape == noise.shape and sigma.shape == (2,) and keep.shape == (2, 3)
        for one, two, three in zip(clip_l, clip_g, t5):
            text = third.decode(three, skip_special_tokens=True)
            padded = {"padding": "max_length", "truncation": True}
            assert one.tolist() == first(text, **padded, max_length=40).input_ids
            assert two.tolist() == second(text, **padded, max_length=40).input_ids
            assert three.tolist() == third(text, **padded, max_length=len(three)).input_ids


@torch.no_grad()
def test_training_encodes_text_as_the_pipeline_does(stock):
    scenes = sample_scenes(2, "test", seed=8, max_objects=2)
    texts = [captions.plain(scenes, i).text for i in range(2)]
    tokens, _, pooled, _ = stock.encode_prompt(texts, None, None, max_sequence_length=44)
    padded = {"padding": "max_length", "return_tensors": "pt"}
    ids = [
        tokenizer(texts, max_length=length, **padded).input_ids
        for tokenizer, length in (
            (stock.tokenizer, 40),
            (stock.tokenizer_2, 40),
            (stock.tokenizer_3, 44),
        )
    ]
    flow = models.Flow(
        stock.text_encoder, stock.text_encoder_2, stock.text_encoder_3, stock.transformer
    )
    ours, ours_pooled = flow.encode(*ids, torch.ones(2, 3))
    torch.testing.assert_close(ours, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_pooled, pooled, atol=1e-5, rtol=1e-5)
    dropped, dropped_pooled = flow.encode(*ids, torch.tensor([[0.0, 1, 0], [1, 0, 1]]))
    assert not dropped[0, 40:].any() and not dropped[0, :40, :64].any() and dropped[0, :40].any()
    assert dropped[1, 40:].equal(ours[1, 40:]) and not dropped_pooled[1, 64:].any()


def test_latents_are_scaled_as_the_pipeline_scales_them(stock):
    pictures = World().render(sample_scenes(1, "test", seed=9), 64, 64).images
    latents = train.encode_latents(stock.vae, pictures)
    vae = stock.vae
    undone = latents / vae.config.scaling_factor + vae.config.shift_factor
    with torch.no_grad():
        torch.testing.assert_close(undone, vae.encode(2 * pictures - 1).latent_dist.mean)


def test_a_finished_run_keeps_its_snapshots(trained, capsys):
    out, calls = trained
    before, seen = files(out), len(calls)
    assert {"model-40/model_index.json", "flow.state"} <= set(before)
    train.main(["flow", "--out", str(out), *TOY])
    after = files(out)
    assert "flow: resumed at step 5" in capsys.readouterr().out and len(calls) == seen
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert before[f"model-40/{weights}"] != before[f"model/{weights}"] == after[f"model/{weights}"]
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"flow.state"}  # written again, with the same weights


def test_sizes_of_the_real_miniature():
    """What is bundled fits its 36 MB of half precision, and is what SD 3.5-medium is made of."""
    with torch.device("meta"):
        dit, vae, oracle = models.transformer(), models.autoencoder(), Oracle()
    assert len(dit.transformer_blocks) == 6
    dual = [block.use_dual_attention for block in dit.transformer_blocks]
    assert dual == [True] * 3 + [False] * 3
    assert all(block.attn.norm_q is not None for block in dit.transformer_blocks)
    count = sum(p.numel() for part in (dit, vae, oracle) for p in part.parameters())
    assert 2 * count < 31e6  # the text encoders take another 5
