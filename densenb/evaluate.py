"""A grid of methods over scenes of the synthetic world: one row of scores per method.

Methods and suites are two small registries. A method turns a pipeline into a *rule* for
`dense_attention` (a `DenseConfig` or a baseline), or into None for the stock pipeline; a suite
(`suites.py`) turns a count and a seed into scenes. Every method gets the same captions, masks and
noise.

Rows carry percentages, except `quality` (KID times 1000, lower is better) and the settings.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from densenb import metrics
from densenb.attention import dense_attention
from densenb.baselines import HardMask
from densenb.layout import Layout, against_neighbours
from densenb.modulation import DenseConfig, Rule
from densenb.pipelines import call_inputs, tier
from densenb.stages import STAGES
from densenb.suites import Suite, known, noise, shuffled
from densenb.tiny.oracle import load_oracle
from densenb.tiny.world import COLOURS, NOUNS
from densenb.transfer import RELAPSES, REPAIRS

METHODS: dict[str, Callable[[Any], Rule | None]] = {
    "stock": lambda pipe: None,
    "transferred": lambda pipe: DenseConfig(),
    "published": lambda pipe: DenseConfig.published(),
    "tuned": DenseConfig.tuned,
    "tuned-alone": lambda pipe: replace(DenseConfig.tuned(pipe), encode_phrases_alone=True),
    "tuned-pooled": lambda pipe: replace(DenseConfig.tuned(pipe), pooled="phrases"),
    "tuned-negatives": DenseConfig.tuned,
    "shuffled-masks": DenseConfig.tuned,
    "hard-mask": lambda pipe: HardMask(),
    "hard-mask-image": lambda pipe: HardMask(quadrants=HardMask.quadrants[:2]),
} | {name: lambda pipe, config=config: config for name, config in STAGES.items()}
METHODS |= REPAIRS | RELAPSES
"""Name -> the rule for a pipeline; None is the stock pipeline. Add a method by adding a line."""

LAYOUTS: dict[str, Callable[[Suite], list[Layout]]] = {
    "shuffled-masks": shuffled,
    "tuned-negatives": lambda suite: [against_neighbours(each) for each in suite.layouts],
}
"""Methods that are given other layouts than the suite's, by which they are scored all the same."""

GROUND_TRUTH = "ground-truth"
CEILING = "token-grid ceiling"
PERCENTAGES = (
    "mIoU", "mIoU_present", "in_mask", "presence", "colour_binding", "leakage", "box_iou",
    "phrase_binding",
)  # fmt: skip
FEWEST_FOR_QUALITY = 32  # pictures; below, the distance says nothing


def best_device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def latent_shape(pipe: Any) -> tuple[int, int, int]:
    """Channels, rows and columns of the latents of one picture at the tier's size."""
    this, factor = tier(pipe), pipe.vae_scale_factor
    return pipe.transformer.config.in_channels, this.height // factor, this.width // factor


def draw(
    pipe: Any,
    rule: Rule | None,
    layouts: list[Layout],
    latents: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1], float32, of a batch of layouts under a rule (None = stock).

    Raises:
        RuntimeError: when the numbers overflowed on the way.
    """
    options = {
        "latents": latents.to(pipe.device, pipe.transformer.dtype),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "pt",
    }
    if rule is None:
        images = pipe(**call_inputs(pipe, layouts, None, **options)).images
    else:
        with dense_attention(pipe, layouts, rule, **options) as dense:
            images = pipe(**dense.inputs).images
    if not images.isfinite().all():
        raise RuntimeError(
            f"a picture has values that are not finite: {pipe.transformer.dtype} overflowed. "
            "Use float32, or bfloat16 on a GPU that has it."
        )
    return images.float()


def label(
    oracle: Any, images: Tensor, suite: Suite, start: int = 0
) -> tuple[metrics.ObjectScores, Tensor]:
    """Score pictures [B, 3, H, W] of the scenes from `start` on: scores, features (on the CPU)."""
    rows = slice(start, start + len(images))
    device = next(oracle.parameters()).device
    with torch.inference_mode():
        images = images.to(device, torch.float32)
        labels, features = oracle(images), oracle.features(images)
    scores = metrics.score_objects(
        labels.noun.cpu(),
        labels.colour.cpu(),
        metrics.to_grid(suite.masks[rows]),
        *(getattr(suite.scenes, name)[rows].cpu() for name in ("noun", "colour", "colour2")),
    )
    return scores, features.cpu()


def measure(
    images: Sequence[Image.Image] | Tensor, layout: Layout, oracle: Any = None
) -> dict[str, float]:
    """How well pictures follow one layout: means over all objects of all pictures, in percent.

    Keys and NaN as in `metrics.aggregate`: mIoU, in_mask, presence, colour_binding, leakage, ...
    The rest as in `score_layout`. Taught in notebook 00.
    """
    return metrics.aggregate(score_layout(images, layout, oracle))


def score_layout(
    images: Sequence[Image.Image] | Tensor, layout: Layout, oracle: Any = None
) -> metrics.ObjectScores:
    """What the oracle finds of each region's object: scores [B, R] of B pictures of one layout.

    Args:
        images: PIL pictures of one size, or [B, 3, H, W] in [0, 1].
        layout: each region's phrase names one object of the synthetic world, see `named_object`.
        oracle: by default the bundled one.

    Raises:
        ValueError: when the oracle could not tell what a region asks for.
    """
    objects = torch.tensor([named_object(region.phrase) for region in layout.regions])
    if not isinstance(images, Tensor):
        pixels = [torch.from_numpy(np.array(image.convert("RGB"))) for image in images]
        images = torch.stack(pixels).permute(0, 3, 1, 2).float() / 255
    oracle = load_oracle() if oracle is None else oracle
    with torch.inference_mode():
        labels = oracle(images.to(next(oracle.parameters()).device, torch.float32))
    masks = metrics.to_grid(layout.pixel_masks(*images.shape[-2:]), *labels.noun.shape[-2:])
    count = len(images)
    return metrics.score_objects(
        labels.noun.cpu(),
        labels.colour.cpu(),
        masks.expand(count, *masks.shape),
        *objects.expand(count, *objects.shape).unbind(-1),
    )


def named_object(phrase: str) -> tuple[int, int, int]:
    """The noun and up to two colours in a phrase: indices into NOUNS and COLOURS, -1 for none.

    Raises ValueError unless the phrase has exactly one noun, and at most two colours, of the world.
    """
    words = re.findall(r"[a-z]+", phrase.lower())
    nouns, colours = (
        [list(names).index(word) for word in dict.fromkeys(words) if word in names]
        for names in (NOUNS, COLOURS)
    )
    if len(nouns) != 1 or len(colours) > 2:
        raise ValueError(
            f"{phrase!r} names {len(nouns)} objects and {len(colours)} colours that the oracle "
            'knows: it scores one object with at most two colours, such as "a blue cat" (see '
            "densenb.tiny.world.NOUNS and COLOURS)."
        )
    first, second = (*colours, -1, -1)[:2]
    return nouns[0], first, second


def evaluate_each(
    pipe: Any,
    methods: Sequence[str],
    suite: Suite,
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    device: str | None = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    oracle: Any = None,
    on_pictures: Callable[[str, int, Tensor], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """`evaluate`, one row at a time, so that a caller can keep what is finished."""
    # every rule now: a model that lacks one is said before the first picture, not after hours
    rules = {name: METHODS[name](pipe) for name in [known(n, METHODS, "method") for n in methods]}
    device = device or best_device()
    batch_size = batch_size or (64 if device.startswith("cuda") else 8)
    this = tier(pipe)
    steps = this.steps if steps is None else steps
    guidance = this.guidance if guidance is None else guidance
    _at_least_one(batch_size=batch_size, steps=steps, methods=len(rules), seeds=len(seeds))

    pipe.to(device)
    oracle = (load_oracle(device) if oracle is None else oracle).to(device)
    fixed = {
        "suite": suite.name,
        "scenes": len(suite),
        "seed": suite.seed,
        "seeds": list(seeds),
        "model": this.label,
        "steps": steps,
        "guidance": guidance,
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
    }
    starts = range(0, len(suite), batch_size)
    real = [label(oracle, suite.images[i : i + batch_size].float() / 255, suite, i) for i in starts]
    with torch.inference_mode():
        reference = torch.cat(
            [
                oracle.features((part.float() / 255).to(device)).cpu()
                for part in suite.references.split(batch_size)
            ]
        )
    if on_pictures:
        for i in starts:
            on_pictures(GROUND_TRUTH, i, suite.images[i : i + batch_size].float() / 255)
    scores, features = _collect(real)
    yield _row(GROUND_TRUTH, [scores], features, reference, suite, fixed, rule=None)
    yield _ceiling_row(pipe, suite, fixed)

    total = len(rules) * len(seeds) * len(suite)
    with tqdm(total=total, unit="picture", smoothing=0.1) as bar:
        for method, rule in rules.items():
            bar.set_description(method)
            asked = LAYOUTS[method](suite) if method in LAYOUTS else suite.layouts
            by_seed, pictured = [], []
            for seed in seeds:
                parts = []
                for start in starts:
                    layouts = asked[start : start + batch_size]
                    indices = range(start, start + len(layouts))
                    latents = noise(suite, indices, seed, latent_shape(pipe))
                    images = draw(pipe, rule, layouts, latents, steps, guidance)
                    parts.append(label(oracle, images, suite, start))
                    if on_pictures and seed == seeds[0]:
                        on_pictures(method, start, images.cpu())
                    bar.update(len(layouts))
                scores, features = _collect(parts)
                by_seed.append(scores)
                pictured.append(features)
            yield _row(method, by_seed, torch.cat(pictured), reference, suite, fixed, rule=rule)


def evaluate(
    pipe: Any,
    methods: Sequence[str],
    suite: Suite,
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    device: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Score methods on a suite: one row for each, after `ground-truth` and `token-grid ceiling`.

    Batched over scenes (one layout per batch row), with a progress bar. Rows have the keys method,
    suite, scenes, mIoU, interval (95 %, of mIoU, by scene), mIoU_by_scene, mIoU_present, in_mask,
    presence, presence_by_objects, colour_binding, leakage, box_iou, phrase_binding, quality, seed,
    seeds, model, steps, guidance, dtype and settings; what is not defined for a row is None.

    Args:
        pipe: the pipeline, in its own precision; it is moved to `device` and stays there. Float32
            gives every machine the same table; bfloat16 is faster on a GPU.
        methods: keys of `METHODS`.
        suite: from `build_suite`.
        seeds: noise seeds; every scene is drawn once for each.
        batch_size: scenes at a time; by default 64 on a GPU, 8 on a CPU.
        device: by default CUDA where there is one.
        steps, guidance: by default the tier's.
        oracle: by default the bundled one.
        on_pictures: called with (method, index of the first scene, pictures [B, 3, H, W] in
            [0, 1]) for the ground truth and for every batch of the first noise seed.

    Raises:
        ValueError: for an unknown method (with near names) or a count below 1, before any work.
    """
    return list(evaluate_each(pipe, methods, suite, seeds, batch_size, device, **options))


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1.")


def _collect(parts: list[tuple[metrics.ObjectScores, Tensor]]):
    scores, features = zip(*parts, strict=True)
    return metrics.ObjectScores.cat(scores), torch.cat(features)


def _row(
    method: str,
    by_seed: list[metrics.ObjectScores],
    features: Tensor,
    reference: Tensor,
    suite: Suite,
    fixed: dict[str, Any],
    rule: Rule | None,
) -> dict[str, Any]:
    scores = metrics.ObjectScores.cat(by_seed)
    objects = (suite.scenes.noun >= 0).sum(1).cpu()
    repeated = objects.repeat(len(by_seed))
    by_objects = {
        str(count): metrics.aggregate(scores.rows(repeated == count))["presence"]
        for count in objects.unique().tolist()
    }
    iou = torch.cat([part.iou for part in by_seed], 1)
    quality = None
    if min(len(features), len(reference)) >= FEWEST_FOR_QUALITY:
        quality = metrics.kid(features, reference, torch.Generator().manual_seed(0))[0]
    row = {
        "method": method,
        **metrics.aggregate(scores),
        "interval": _interval(iou),
        "mIoU_by_scene": (100 * iou.nanmean(1)).tolist(),
        "presence_by_objects": by_objects,
        "quality": quality,
        **fixed,
        "settings": settings_of(rule),
    }
    if method == GROUND_TRUTH:  # nothing was sampled
        row |= dict.fromkeys(("seeds", "steps", "guidance", "dtype"))
    return plain(row)


def _ceiling_row(pipe: Any, suite: Suite, fixed: dict[str, Any]) -> dict[str, Any]:
    this = tier(pipe)
    token = pipe.vae_scale_factor * pipe.transformer.config.patch_size
    best = metrics.token_grid_ceiling(suite.masks, this.height // token, this.width // token)
    row = {
        "method": CEILING,
        **dict.fromkeys(PERCENTAGES),
        "mIoU": 100 * best.nanmean().item(),
        "interval": _interval(best),
        "mIoU_by_scene": (100 * best.nanmean(1)).tolist(),
        "presence_by_objects": {},
        "quality": None,
        **fixed,
        **dict.fromkeys(("seeds", "steps", "guidance", "dtype")),
        "settings": {},
    }
    return plain(row)


def _interval(values_by_scene: Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return [100 * end for end in metrics.bootstrap_interval(values_by_scene, generator)]


def settings_of(rule: Rule | None) -> dict[str, Any]:
    """What a rule was set to, with its name; nothing for the stock pipeline."""
    return {} if rule is None else {"rule": type(rule).__name__, **dataclasses.asdict(rule)}


def plain(value: Any) -> Any:
    """The same with numbers rounded and NaN as None: what JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return value


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text; a dash where a score is not defined."""
    counts = sorted({count for row in rows for count in row["presence_by_objects"]})
    by_count = [f"pres. {count}" for count in counts]
    lines = [["method", "mIoU", "95 %", *PERCENTAGES[1:], *by_count, "KID"]]
    for row in rows:
        ends = row["interval"]
        interval = "-" if ends is None or None in ends else f"{ends[0]:.1f}-{ends[1]:.1f}"
        numbers = [row[name] for name in PERCENTAGES[1:]]
        numbers += [row["presence_by_objects"].get(count) for count in counts]
        lines.append(
            [row["method"], _number(row["mIoU"]), interval, *map(_number, numbers)]
            + [_number(row["quality"], 2)]
        )
    return aligned(lines)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text under a ruled head: the first flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *rows[1:]])
