r"""Train the miniature SD 3.5 from scratch: autoencoder, oracle, text encoders and transformer.

    python -m densenb.miniature.training.train all --out out/miniature
    accelerate launch --num_processes 2 -m densenb.miniature.training.train flow \
        --out out/miniature --steps 20000

The same script runs on one CPU (`--toy` for a smoke test), one GPU, several, or several nodes. An
interrupted run resumes; `flow --init FOLDER` starts from the half-precision weights of an earlier
run instead, with a fresh optimizer.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5TokenizerFast

from densenb.miniature import captions, models, tokenizers
from densenb.miniature.oracle import Oracle
from densenb.miniature.training.loop import Loop, Schedule
from densenb.miniature.training.pool import Pool, randint
from densenb.miniature.world import World, sample_scenes

Tokenizers = tuple[CLIPTokenizer, CLIPTokenizer, T5TokenizerFast]
LONG_EVERY = 8  # one batch in eight pads T5 to 256 tokens, one in eight is not square
SHORT_T5 = 44  # tokens in most batches; one training caption in thousands has more
NARROW = (192, 320)  # height, width of non-square pictures: 240 image tokens, either way round


def _loop(name: str, args, accelerator: Accelerator, model: nn.Module, batch, rate: float) -> Loop:
    """The training loop of a stage, by the command's settings; `rate` is the usual one."""
    schedule = Schedule(args.steps, args.rate or rate, args.warmup, args.decay, args.minutes)
    state = args.out / f"{name}.state"
    return Loop(name, accelerator, model, batch, schedule, state, args.seed, args.ema)


# --- autoencoder ------------------------------------------------------------------------------


def _spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft2(x.float(), norm="ortho").abs()


class Reconstruction(nn.Module):
    """L1, edges and frequencies of the reconstruction, with a light KL on the latents.

    In every fourth batch, latents at half size also have to decode to the picture at half size
    (EQ-VAE, Kouzelis et al. 2025): smoother latents are easier to learn to generate.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    @staticmethod
    def _distance(made: Tensor, wanted: Tensor) -> Tensor:
        made = made.float()
        edges = sum((made.diff(dim=d) - wanted.diff(dim=d)).abs().mean() for d in (-2, -1))
        frequencies = (_spectrum(made) - _spectrum(wanted)).abs().mean()
        return (made - wanted).abs().mean() + 0.5 * edges + 0.1 * frequencies

    def forward(self, pictures: Tensor, noise: Tensor, shrink: bool) -> Tensor:
        mean, logvar = self.vae.encoder(pictures).float().chunk(2, 1)  # (B, 16, h, w) each
        logvar = logvar.clamp(-30, 20)
        latents = mean + noise * (0.5 * logvar).exp()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = self._distance(self.vae.decoder(latents), pictures) + 5e-4 * kl
        if shrink:  # .forward: the rare small shape is not worth a compilation of its own
            small = self.vae.decoder.forward(F.avg_pool2d(latents, 2))
            loss = loss + 0.5 * self._distance(small, F.avg_pool2d(pictures, 2))
        return loss


def train_autoencoder(args, accelerator: Accelerator) -> None:
    torch.manual_seed(args.seed)
    vae = models.autoencoder()
    vae.to(memory_format=torch.channels_last)
    device, seed = accelerator.device, 1000 * args.seed + 1 + accelerator.process_index
    pool = Pool(args.pool, device, seed)
    side = 64 if args.toy else 128

    def batch(step: int, generator: torch.Generator) -> tuple:
        pictures = pool.crops(args.batch, side, generator).to(memory_format=torch.channels_last)
        shape = (args.batch, 16, side // 8, side // 8)
        noise = torch.randn(shape, generator=generator, device=device)
        return pictures, noise, step % 4 == 0

    if device.type == "cuda":
        vae.encoder.compile()
        vae.decoder.compile()
    loop = _loop("autoencoder", args, accelerator, Reconstruction(vae), batch, 1e-3)
    vae = loop.run(log_every=args.log_every).vae.eval()
    if accelerator.is_main_process:
        _calibrate(vae, pool)
        vae.half().save_pretrained(args.out / "vae")
        quality = psnr(vae.float(), device, 8 if args.toy else 512)
        print(f"autoencoder: held-out PSNR {quality:.2f} dB")


@torch.no_grad()
def _calibrate(vae: AutoencoderKL, pool: Pool) -> None:
    """Measure the shift and scale that give latents zero mean and unit variance, as in SD 3.5."""
    images = pool.images[:512].float() / 127.5 - 1
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 4),
        scaling_factor=round(1 / latents.std().item(), 4),
    )


@torch.no_grad()
def psnr(vae: AutoencoderKL, device, count: int = 512) -> float:
    """Mean PSNR in dB over held-out (`test`) renders at 256 px, through the latent's mean."""
    world, scenes, values = World(device), sample_scenes(count, "test", seed=5), []
    for i in range(0, count, 32):
        images = world.render(scenes[i : i + 32]).images
        again = vae.decode(vae.encode(2 * images - 1).latent_dist.mean).sample / 2 + 0.5
        error = (again.clamp(0, 1) - images).square().mean((1, 2, 3))
        values.append(-10 * error.log10())
    return torch.cat(values).mean().item()


def load_vae(folder: Path, device) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().to(device)
    return vae.eval().requires_grad_(False)


# --- oracle -----------------------------------------------------------------------------------


class Labelling(nn.Module):
    """Cross entropy of the oracle's noun and color labels."""

    def __init__(self, oracle: Oracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, images: Tensor, nouns: Tensor, colours: Tensor) -> Tensor:
        noun, colour = self.oracle.logits(images)
        return F.cross_entropy(noun.float(), nouns) + 0.5 * F.cross_entropy(colour.float(), colours)


def _gauss(images: Tensor, radius: float) -> Tensor:
    """Gaussian blur with a standard deviation of `radius` pixels."""
    if radius < 0.3:
        return images
    line = torch.arange(-int(3 * radius), int(3 * radius) + 1, device=images.device)
    kernel = torch.exp(-(line**2) / (2 * radius**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    pad = len(line) // 2
    images = F.conv2d(F.pad(images, (pad, pad, 0, 0), "replicate"), kernel[:, :, None], groups=3)
    return F.conv2d(F.pad(images, (0, 0, pad, pad), "replicate"), kernel[:, :, :, None], groups=3)


@torch.no_grad()
def _wear(images: Tensor, vae: AutoencoderKL, step: int, g: torch.Generator) -> tuple[Tensor, bool]:
    """One kind of damage a step, and whether nothing recognizable is left."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=g, device=g.device).item()

    kind = step % 5
    if kind in (1, 2):  # the autoencoder's round trip, with latents a little off
        latents = vae.encode(2 * images - 1).latent_dist.mean
        off = torch.randn(latents.shape, generator=g, device=g.device)
        latents = latents + off * uniform(0, 0.35) / vae.config.scaling_factor
        images = vae.decode(latents).sample / 2 + 0.5
    elif kind == 3:
        images = _gauss(images, uniform(0.3, 2.0))
    elif kind == 4 and step % 10 == 9:
        return _gauss(images, uniform(9, 20)), True
    noise = torch.randn(images.shape, generator=g, device=g.device)
    return (images * uniform(0.9, 1.1) + noise * uniform(0, 0.05)).clamp(0, 1), False


def train_oracle(args, accelerator: Accelerator) -> None:
    torch.manual_seed(args.seed + 1)
    device, seed = accelerator.device, 1000 * args.seed + 101 + accelerator.process_index
    pool, vae = Pool(args.pool, device, seed), load_vae(args.out, device)

    def batch(step: int, generator: torch.Generator) -> tuple:
        index = pool.pick(args.batch, generator)
        images, gone = _wear(pool.images[index].float() / 255, vae, step, generator)
        nouns, colours = pool.nouns[index].long(), pool.colours[index].long()
        return (images, nouns * 0, colours * 0) if gone else (images, nouns, colours)

    loop = _loop("oracle", args, accelerator, Labelling(Oracle()), batch, 2e-3)
    oracle = loop.run(log_every=args.log_every).oracle.eval()
    if accelerator.is_main_process:
        weights = {name: w.half().contiguous() for name, w in oracle.state_dict().items()}
        save_file(weights, args.out / "oracle.safetensors")
        print(f"oracle: {json.dumps(judge_oracle(oracle, device, 8 if args.toy else 1024))}")


def judge_oracle(oracle: Oracle, device, count: int = 1024) -> dict[str, float]:
    """The oracle's accuracy on held-out renders, in percent.

    mIoU: of each object's silhouette with the oracle's pixels of its noun. colour: how often the
    most common color label on a one-color object is right.
    """
    world, scenes = World(device), sample_scenes(count, "test", seed=6, coloured=1.0)
    overlaps, hits = [], []
    for i in range(0, count, 64):
        part = scenes[i : i + 64]
        drawn = world.render(part)
        labels, truth = oracle(drawn.images), drawn.nouns[:, 2::4, 2::4]
        for slot in range(part.noun.shape[1]):
            for row, noun in enumerate(part.noun[:, slot].tolist()):
                mask, seen = truth[row] == noun + 1, labels.noun[row] == noun + 1
                if noun < 0 or mask.sum() < 16:
                    continue
                overlaps.append(((mask & seen).sum() / (mask | seen).sum()).item())
                if part.colour2[row, slot] < 0 and (mask & seen).any():
                    colour = labels.colour[row][mask & seen].mode().values
                    hits.append(float(colour == part.colour[row, slot] + 2))
    return {
        "mIoU": round(100 * sum(overlaps) / max(len(overlaps), 1), 1),
        "colour": round(100 * sum(hits) / max(len(hits), 1), 1),
    }


# --- text encoders and transformer ------------------------------------------------------------


def load_tokenizers(folder: Path) -> Tokenizers:
    """The three tokenizers in `folder`, trained if they are not there yet.

    They are always read back from it, because the trainers break ties at random.
    """
    first, second, third = (folder / name for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    if not third.exists():
        lines = tokenizers.corpus()
        tokenizers.train_clip(lines, "<|endoftext|>").save_pretrained(first)
        tokenizers.train_clip(lines, "!").save_pretrained(second)
        tokenizers.train_t5(lines).save_pretrained(third)
    clips = (CLIPTokenizer.from_pretrained(path) for path in (first, second))
    return (*clips, T5TokenizerFast.from_pretrained(third))


def _tokens(words: Tokenizers, seed: int, count: int, kinds: int) -> tuple:
    """Scenes of one seed with `kinds` captions each: (scenes, CLIP ids `[count, kinds, 40]`, T5 ids
    `[count, kinds, 44]`). One caption in ten is empty, for guidance."""
    clip, _, t5 = words
    scenes, rng = sample_scenes(count, seed=seed), random.Random(seed)
    texts = [
        "" if rng.random() < 0.1 else captions.varied(scenes, i, rng)
        for i in range(count)
        for _ in range(kinds)
    ]
    args = dict(padding="max_length", truncation=True, return_tensors="pt")
    one = clip(texts, max_length=tokenizers.CLIP_LENGTH, **args).input_ids
    three = t5(texts, max_length=SHORT_T5, **args).input_ids
    return scenes, one.short().view(count, kinds, -1), three.short().view(count, kinds, -1)


class Latents:
    """Scaled latents of many scenes with their token ids, on the device, ready to be drawn."""

    def __init__(self, size, vae, words, device, seed, kinds=3, height=256, width=256, chunk=256):
        world, self.kinds = World(device), kinds
        shape = (size, 16, height // 8, width // 8)
        self.latents = torch.empty(shape, dtype=torch.half, device=device)
        self.clip, self.t5 = [], []
        started, block = time.monotonic(), min(4096, size)
        seeds = [10_000 * seed + i for i in range(-(-size // block))]
        # one thread writes captions while this one draws and encodes
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            drawn = pool.map(lambda one: _tokens(words, one, block, kinds), seeds)
            rooms = self.latents.split(block)  # views
            for (scenes, clip, t5), room in zip(drawn, rooms):
                self.clip.append(clip.to(device))
                self.t5.append(t5.to(device))
                for i, part in enumerate(room.split(chunk)):
                    some = scenes[i * chunk : i * chunk + len(part)]
                    part[:] = encode_latents(vae, world.render(some, height, width).images)
        self.clip, self.t5 = torch.cat(self.clip)[:size], torch.cat(self.t5)[:size]
        spent = time.monotonic() - started
        print(f"latents: {size} of {height} x {width} in {spent:.0f} s", flush=True)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        index = randint(len(self.latents), (count,), generator)
        kind = randint(self.kinds, (count,), generator)
        clip, t5 = self.clip[index, kind].long(), self.t5[index, kind].long()
        return self.latents[index].float(), clip, t5


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Pictures in [0, 1] to shifted and scaled latents."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        mean = vae.encode(2 * images - 1).latent_dist.mean
    return (mean.float() - vae.config.shift_factor) * vae.config.scaling_factor


def noise_levels(count: int, generator: torch.Generator, shift: float = 2.0) -> Tensor:
    """Logit-normal noise levels, shifted toward noise as the sampler's are: `[count]`."""
    u = torch.randn(count, generator=generator, device=generator.device).sigmoid()
    return shift * u / (1 + (shift - 1) * u)


def build_flow(args, first, second, third) -> models.Flow:
    if args.init:
        pipe = StableDiffusion3Pipeline.from_pretrained(args.init)
        parts = (pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3, pipe.transformer)
        return models.Flow(*(part.float().requires_grad_(True).train() for part in parts))
    one, two = models.CLIP_WIDTHS
    return models.Flow(
        models.clip_encoder(first, one, "quick_gelu"),
        models.clip_encoder(second, two, "gelu"),
        models.t5_encoder(third),
        models.transformer(args.layers, args.width),
    )


def train_flow(args, accelerator: Accelerator) -> None:
    torch.manual_seed(args.seed + 2)
    device = accelerator.device
    # one process trains the tokenizers, the others read what it saved
    source = args.init or args.out
    with accelerator.main_process_first():
        words = first, second, third = load_tokenizers(source)
    vae = load_vae(source, device)
    flow = build_flow(args, first, second, third)
    seed = 10 * (args.seed + args.data_seed) + 1 + accelerator.process_index
    square = Latents(args.pool, vae, words, device, 3 * seed)
    narrow = [
        Latents(max(args.pool // 12, 4), vae, words, device, 3 * seed + 1 + i, height=h, width=w)
        for i, (h, w) in enumerate((NARROW, NARROW[::-1]))
    ]
    pad, other = first.pad_token_id, second.pad_token_id
    start = second.eos_token_id

    def batch(step: int, g: torch.Generator) -> tuple:
        turn = step % LONG_EVERY
        source = narrow[step // LONG_EVERY % 2] if turn == 4 else square
        latents, clip, t5 = source.draw(args.batch, g)
        # the second CLIP pads with '!' after its end token: the first tokenizer's ids, re-padded
        ended = (clip == start).cumsum(1)
        clip_g = torch.where((ended > 1) & (clip == pad), other, clip)
        if turn == 0:
            t5 = F.pad(t5, (0, tokenizers.T5_LENGTH - SHORT_T5), value=third.pad_token_id)
        keep = (torch.rand(args.batch, 3, generator=g, device=device) > args.drop).float()
        noise = torch.randn(latents.shape, generator=g, device=device)
        return latents, noise, noise_levels(args.batch, g), clip, clip_g, t5, keep

    if device.type == "cuda":
        torch._dynamo.config.cache_size_limit = 64  # three kinds of block, three sequence lengths
        for block in flow.dit.transformer_blocks:
            block.compile(dynamic=False)
    loop = _loop("flow", args, accelerator, flow, batch, 1.2e-3)

    def export(folder: Path) -> None:
        if accelerator.is_main_process:
            models.save(models.assemble(loop.ema.eval(), vae, words), folder)
            print(f"flow: step {loop.step}, averaged weights in {folder}", flush=True)

    for share in sorted(args.snapshots):
        if loop.step > round(share * loop.schedule.steps):
            continue  # a resumed run is past this point, and has kept it
        loop.run(until=share, log_every=args.log_every)
        export(args.out / f"model-{round(100 * share)}")
    loop.run(log_every=args.log_every)
    export(args.out / "model")


STAGES = {"autoencoder": train_autoencoder, "oracle": train_oracle, "flow": train_flow}
# stage -> steps, batch per process, pictures kept per process
DEFAULTS = {
    "autoencoder": (9000, 64, 24_000),
    "oracle": (6000, 96, 40_000),
    "flow": (36_000, 512, 200_000),
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="densenb.miniature.training.train", description=__doc__.split("\n")[0]
    )
    p.add_argument("stage", choices=[*STAGES, "all"])
    p.add_argument("--out", type=Path, default=Path("out/miniature"), help="states and results")
    p.add_argument("--steps", type=int, help="optimizer steps of the stage")
    p.add_argument("--minutes", type=float, help="instead of --steps: what fits into them")
    p.add_argument("--batch", type=int, help="pictures per step and process")
    p.add_argument("--pool", type=int, help="pictures kept per process")
    p.add_argument("--rate", type=float, help="peak learning rate")
    p.add_argument("--warmup", type=int, default=200, help="steps of linear warm-up")
    p.add_argument("--decay", type=float, default=0.3, help="share of steps that decay; 0: none")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--drop", type=float, default=0.12, help="chance of dropping each text encoder")
    p.add_argument("--layers", type=int, default=6)
    p.add_argument("--width", type=int, default=224)
    p.add_argument("--init", type=Path, help="flow: start from the weights in this folder")
    p.add_argument("--snapshots", type=float, nargs="*", default=[], help="shares of steps to keep")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--data-seed", type=int, default=0, help="another pool of scenes")
    p.add_argument("--log-every", type=int, default=200)
    p.add_argument("--toy", action="store_true", help="a few steps of everything, for a smoke test")
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    cuda = torch.cuda.is_available()
    accelerator = Accelerator(mixed_precision="bf16" if cuda else "no")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.toy:
        args.warmup, args.log_every = 2, 2
    for stage in STAGES if args.stage == "all" else [args.stage]:
        settings = argparse.Namespace(**vars(args))
        usual = (4, 2, 8) if args.toy else DEFAULTS[stage]
        for name, default in zip(("steps", "batch", "pool"), usual):
            if getattr(args, name) is None:
                setattr(settings, name, default)
        STAGES[stage](settings, accelerator)
        accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
