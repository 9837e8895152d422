"""A grid of methods over scenes of the synthetic world: one row of scores per method.

Methods and suites are two small registries. A method turns a pipeline into a *rule* for
`dense_attention` (a `DenseConfig` or a baseline), or into None for the stock pipeline; a suite
(`suites.py`) turns a count and a seed into scenes. Every method gets the same captions, masks and
noise. A judge (`judges.py`) scores the pictures, a log (`log.py`) keeps the scores, and
`tables.py` turns the log into rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm.auto import tqdm

from densenb.evaluation.judges import Judge, OracleJudge, score_suite
from densenb.evaluation.log import Key, Log, features_of, results, scores_of
from densenb.evaluation.measure import measure
from densenb.evaluation.metrics import ObjectScores
from densenb.evaluation.suites import (
    Suite,
    batches,
    known,
    noise,
    shuffled_captions,
    shuffled_masks,
)
from densenb.evaluation.tables import GROUND_TRUTH, ceiling_row, method_row, settings_of
from densenb.layout.layout import Layout, against_neighbours
from densenb.layout.validation import check_count
from densenb.models.overflow import check_finite
from densenb.models.pipeline import Pipeline
from densenb.models.tiers import tier
from densenb.modulation.baselines import (
    HardMask,
    MultiplyWeights,
    PaintWithWords,
    ScaleByArea,
    ScaleText,
)
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.first_transfer import READINGS, RELAPSES, REPAIRS
from densenb.modulation.rule import Rule
from densenb.modulation.stages import RECOMMENDED_RANGE, STAGES
from densenb.sd3.dense_attention import dense_attention

__all__ = [
    "LAYOUTS", "METHODS", "artist", "best_device", "draw", "evaluate", "evaluate_each",
    "latent_shape", "measure", "steps_and_guidance",
]  # fmt: skip

METHODS: dict[str, Callable[[Pipeline], Rule | None]] = {
    "stock": lambda pipe: None,
    "transferred": lambda pipe: DenseConfig(),
    "published": lambda pipe: DenseConfig.published(),
    "recommended": DenseConfig.recommended,
    "recommended-alone": lambda pipe: replace(
        DenseConfig.recommended(pipe), encode_phrases_alone=True
    ),
    "recommended-pooled": lambda pipe: replace(DenseConfig.recommended(pipe), pooled="phrases"),
    "recommended-negatives": DenseConfig.recommended,
    "shuffled-masks": DenseConfig.recommended,
    "shuffled-captions": DenseConfig.recommended,
    "recommended-range": lambda pipe: RECOMMENDED_RANGE,
    "hard-mask": lambda pipe: HardMask(),
    "hard-mask-image": lambda pipe: HardMask(quadrants=HardMask.quadrants[:2]),
    "hard-mask-alternating": HardMask.alternating,
    "paint-with-words": lambda pipe: PaintWithWords(),
    "paint-with-words-half": lambda pipe: PaintWithWords(weight=0.2),
    "mis-dit": MultiplyWeights.for_model,
    "taca": lambda pipe: ScaleText(),
    "omost": lambda pipe: ScaleByArea(),
    "omost-early": lambda pipe: ScaleByArea(window=0.3),
} | {name: lambda pipe, config=config: config for name, config in STAGES.items()}
METHODS |= REPAIRS | READINGS | RELAPSES
"""Name -> the rule for a pipeline; None is the stock pipeline. Add a method by adding a line."""

LAYOUTS: dict[str, Callable[[Suite], list[Layout]]] = {
    "shuffled-masks": shuffled_masks,
    "shuffled-captions": shuffled_captions,
    "recommended-negatives": lambda suite: [against_neighbours(each) for each in suite.layouts],
}
"""Methods that get other layouts than the suite's, but are scored by the suite's all the same."""

REFERENCES = "references"  # renders of other scenes, for the quality score
Artist = Callable[[Sequence[tuple[int, int]]], Tensor]
"""From (noise seed, scene) pairs of a suite to pictures [B, 3, H, W] in [0, 1]."""


def best_device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_batch(device: str) -> int:
    """How many pictures at a time."""
    return 64 if device.startswith("cuda") else 8


def latent_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """Channels, rows and columns of the latents of one picture at the tier's size."""
    this, factor = tier(pipe), pipe.vae_scale_factor
    return pipe.transformer.config.in_channels, this.height // factor, this.width // factor


def steps_and_guidance(
    pipe: Pipeline, steps: int | None, guidance: float | None
) -> tuple[int, float]:
    """Steps and guidance, the tier's where they are None."""
    this = tier(pipe)
    steps = this.steps if steps is None else steps
    return steps, this.guidance if guidance is None else guidance


def draw(
    pipe: Pipeline,
    rule: Rule | None,
    layouts: list[Layout],
    latents: Tensor,
    steps: int,
    guidance: float,
) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1], float32, of a batch of layouts under a rule (None = stock).

    Raises:
        Overflow: when a number on the way is not finite.
    """
    options = {
        "latents": latents.to(pipe.device, pipe.transformer.dtype),  # (B, C, rows, columns)
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "pt",
    }
    with dense_attention(pipe, layouts, rule, **options) as dense:
        images = pipe(**dense.inputs).images
    check_finite(images, "a picture's pixels")
    return images.float()


def artist(
    pipe: Pipeline,
    method: str,
    suite: Suite,
    steps: int | None = None,
    guidance: float | None = None,
) -> Artist:
    """A function that draws a method's pictures [B, 3, H, W] of (noise seed, scene) pairs.

    The same pair always gives the same picture, so that pictures can be drawn again when needed.
    """
    rule = METHODS[method](pipe)
    layouts = LAYOUTS[method](suite) if method in LAYOUTS else suite.layouts
    steps, guidance = steps_and_guidance(pipe, steps, guidance)
    shape = latent_shape(pipe)

    def pictures(pairs: Sequence[tuple[int, int]]) -> Tensor:
        latents = torch.cat([noise(suite, [scene], seed, shape) for seed, scene in pairs])
        return draw(pipe, rule, [layouts[scene] for _, scene in pairs], latents, steps, guidance)

    return pictures


def renders(suite: Suite, name: str = "images") -> Artist:
    """An artist that shows the suite's renders: its `images`, or its `references`."""
    return lambda pairs: getattr(suite, name)[[scene for _, scene in pairs]].float() / 255


@dataclass(frozen=True)
class Job:
    """All pictures of one method on one suite: a run of the log, and the artist that draws it."""

    method: str
    rule: Rule | None
    run: str
    seeds: Sequence[int]
    pictures: Artist

    def batches(self, scenes: int, size: int, finished: set[Key]) -> list[list[Key]]:
        """Unfinished pictures, in batches that do not depend on the number of processes."""
        keys = [Key(self.run, seed, scene) for seed in self.seeds for scene in range(scenes)]
        left = [[key for key in part if key not in finished] for part in batches(keys, size)]
        return [part for part in left if part]


def plan_jobs(
    pipe: Pipeline,
    rules: Mapping[str, Rule | None],
    suite: Suite,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    judge: Judge,
    log: Log,
) -> list[Job]:
    """The jobs of an evaluation, renders first, each with its run in the log."""
    first = suite.layouts[0]
    scenes = {
        "suite": suite.name,
        "suite_seed": suite.seed,
        "first_scene": [first.caption, *first.phrases],  # in case a suite's scenes ever change
        "judge": judge.name,
        "scores": ObjectScores._fields,
    }
    drawn = {
        "weights": weights_id(pipe.transformer),
        "size": latent_shape(pipe),
        "steps": steps,
        "guidance": guidance,
        "dtype": _dtype(pipe),
    }
    if pipe.tokenizer_3 is None:  # named only then: with T5, the IDs of older runs stay valid
        drawn["t5"] = False
    jobs = []
    for method, name in ((REFERENCES, "references"), (GROUND_TRUTH, "images")):
        run = log.start({"method": method, **scenes})
        jobs.append(Job(method, None, run, (0,), renders(suite, name)))
    for method, rule in rules.items():
        run = log.start({"method": method, **scenes, **drawn, "rule": settings_of(rule)})
        jobs.append(Job(method, rule, run, seeds, artist(pipe, method, suite, steps, guidance)))
    return jobs


def weights_id(model: torch.nn.Module) -> str:
    """Eight hexadecimal digits that identify trained weights, the same in every precision.

    They depend on a few weights of every parameter, rounded to bfloat16.
    """
    checksum = 0
    for parameter in model.parameters():
        if not parameter.is_meta:
            few = parameter.detach().flatten()[:32].to(torch.bfloat16).float().cpu()
            checksum = zlib.crc32(few.numpy().tobytes(), checksum)
    return f"{checksum:08x}"


def evaluate(
    pipe: Pipeline, methods: Sequence[str], suite: Suite, **options: Any
) -> list[dict[str, Any]]:
    """Score methods on a suite: the rows of `evaluate_each`, which has the options, as a list."""
    return list(evaluate_each(pipe, methods, suite, **options))


def evaluate_each(
    pipe: Pipeline,
    methods: Sequence[str],
    suite: Suite,
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    device: str | None = None,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    judge: Judge | None = None,
    log: Log | None = None,
) -> Iterator[dict[str, Any]]:
    """Score methods on a suite: one row for each, after `ground-truth` and `token-grid ceiling`.

    Each row comes as soon as it is finished, so that a caller can save it. The work is batched over
    scenes and noise seeds, and split over the processes of `accelerate launch`: there, rows come
    when all methods are done, in the main process alone.

    Rows have the keys method, suite, scenes, mIoU, mIoU_present, in_mask, presence,
    presence_by_objects, colour_binding, leakage, box_iou, phrase_binding, quality, headline (the
    score to rank by: mIoU, or box_iou where masks are not silhouettes), interval (95 %, of the
    headline, by scene), mIoU_by_scene (or box_iou_by_scene), objects_by_scene, seed, seeds, model,
    steps, guidance, dtype, judge and settings; values that are not defined for a row are None.

    Args:
        pipe: the pipeline, in its own precision; it is moved to `device` and stays there. Float32
            gives every machine the same table; bfloat16 is faster on a GPU.
        methods: keys of `METHODS`.
        suite: from `build_suite`.
        seeds: noise seeds; every scene is drawn once for each.
        batch_size: pictures at a time; by default 64 on a GPU, 8 on a CPU.
        device: by default CUDA where there is one.
        steps, guidance: by default the tier's.
        judge: scores the pictures, see `judges`; by default the bundled oracle.
        log: with a file, it keeps the scores of every picture; pictures in it are not drawn again.

    Raises:
        ValueError: for an unknown method (with near names) or a count below 1, before any work.
    """
    # all rules now: a method that this model cannot run is refused before the first picture
    rules = {known(name, METHODS, "method"): METHODS[name](pipe) for name in methods}
    state = PartialState()
    device = device or best_device()
    batch_size = default_batch(device) if batch_size is None else batch_size
    steps, guidance = steps_and_guidance(pipe, steps, guidance)
    counts = {"batch_size": batch_size, "steps": steps, "methods": len(rules), "seeds": len(seeds)}
    for name, count in counts.items():
        check_count(name, count)
    log = Log() if log is None else log
    pipe.to(device)
    judge = (OracleJudge() if judge is None else judge).to(device)
    jobs = plan_jobs(pipe, rules, suite, seeds, steps, guidance, judge, log)
    fixed = {
        "suite": suite.name,
        "scenes": len(suite),
        "seed": suite.seed,
        "seeds": list(seeds),
        "model": tier(pipe).label,
        "steps": steps,
        "guidance": guidance,
        "dtype": _dtype(pipe),
        "judge": judge.name,
    }
    # as the main process has it: other machines may not see its log
    finished = broadcast_object_list([set(log.lines)])[0]
    work = [(job, part) for job in jobs for part in job.batches(len(suite), batch_size, finished)]
    mine = work[state.process_index :: state.num_processes]
    alone = state.num_processes == 1
    reference = None
    with tqdm(
        total=sum(len(part) for _, part in mine),
        unit="picture",
        smoothing=0.1,
        disable=not state.is_main_process,
    ) as bar:
        # one process yields a row after every method; several meet once, at the end
        for group in [[job] for job in jobs] if alone else [jobs]:
            fresh = []
            for job, part in mine:
                if job in group:
                    bar.set_description(f"{suite.name}, {job.method}")
                    lines = judged(job, part, suite, judge)
                    log.add(lines)
                    fresh += lines
                    bar.update(len(part))
            if not alone:
                log.merge(gather_object(fresh))
            for job in group if state.is_main_process else ():
                lines = log.of_run(job.run, job.seeds, len(suite))
                features = features_of(lines)
                if job.method == REFERENCES:
                    reference = features
                    continue
                scores = scores_of(lines)
                row = method_row(job.method, scores, features, reference, suite, fixed, job.rule)
                yield row
                if job.method == GROUND_TRUTH:
                    yield ceiling_row(pipe, suite, fixed, row["headline"])


def judged(job: Job, keys: Sequence[Key], suite: Suite, judge: Judge) -> list[dict[str, Any]]:
    """Draw a batch of a job and judge it: a line of the log for every picture."""
    images = job.pictures([(key.seed, key.scene) for key in keys])  # (B, 3, H, W)
    if job.method == REFERENCES:  # of other scenes: only their features count
        scores, features = None, judge.features(images)
    else:
        scores, features = score_suite(judge, images, suite, [key.scene for key in keys])
    return results(keys, scores, features)


def _dtype(pipe: Pipeline) -> str:
    return str(pipe.transformer.dtype).removeprefix("torch.")
