"""Measuring methods on scenes with ground truth.

Start with `runner.py`, which draws every method's pictures of a suite (`suites.py`) and scores them
(`judges.py`, `metrics.py`) into rows (`tables.py`). `log.py` makes a run resumable, `failures.py`
shows the worst scenes, `measured.py` reads the committed tables. Taught in notebook 08.

A method is a line in `runner.METHODS`, a suite one in `suites.SUITES`. `measure.py` scores a few
pictures of one layout, `judge_models.py` has detectors and CLIP, `same_noun.py` splits twins, and
`ranks.py` compares rankings.
"""

from densenb.evaluation.judges import OracleJudge, score_suite
from densenb.evaluation.measure import measure
from densenb.evaluation.metrics import bootstrap_interval, iou
from densenb.evaluation.ranks import kendall_tau
from densenb.evaluation.runner import artist, latent_shape
from densenb.evaluation.suites import build_suite, shuffled_masks

__all__ = [
    "OracleJudge", "artist", "bootstrap_interval", "build_suite", "iou", "kendall_tau",
    "latent_shape", "measure", "score_suite", "shuffled_masks",
]  # fmt: skip
