"""The method as small tensor functions. Neither diffusers nor transformers is imported; a few
constructors read a pipeline's configuration.

Start with `formulas.py`, which notebooks 03 to 05 teach, then `dense_config.py`, which applies them
to a joint row. `rule.py` and `plan.py` define the interface they share with `baselines.py` and
`first_transfer.py`. `stages.py` names the settings of the course.
"""

from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig, modulate, query_weight
from densenb.modulation.first_transfer import (
    RELAPSES,
    REPAIRS,
    Transfer,
    leftover_noise,
    segment_factor,
    segment_mask,
)
from densenb.modulation.formulas import (
    MAX_STRENGTH,
    area_weight,
    fixed_bias,
    push_pull,
    region_strength,
    same_region,
    schedule,
    value_range,
)
from densenb.modulation.plan import Plan, Step
from densenb.modulation.rule import Rule
from densenb.modulation.stages import STAGES

__all__ = [
    "DenseConfig", "HardMask", "MAX_STRENGTH", "Plan", "RELAPSES", "REPAIRS", "Rule", "STAGES",
    "Step", "Transfer", "area_weight", "fixed_bias", "leftover_noise", "modulate", "push_pull",
    "query_weight", "region_strength", "same_region", "schedule", "segment_factor", "segment_mask",
    "value_range",
]  # fmt: skip
