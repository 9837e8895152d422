"""The step of a pass, found from its timestep without waiting for a GPU."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from densenb.modulation.baselines import HardMask
from densenb.modulation.dense_config import DenseConfig
from densenb.modulation.plan import Step
from densenb.sd3.dense_attention import MANY_TOKENS, chosen_backend
from densenb.sd3.forward_pass import find_step, place_in


@pytest.fixture
def scheduler():
    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(8)
    return made


def test_a_view_of_the_schedule_and_a_copy_of_it_are_the_same_step(scheduler):
    for index, timestep in enumerate(scheduler.timesteps):
        step = Step(index, 8, float(timestep) / 1000)
        assert place_in(scheduler.timesteps, timestep.expand(4)) == index
        assert place_in(scheduler.timesteps, timestep.expand(4).clone()) is None
        assert find_step(timestep.expand(4), scheduler) == step
        assert find_step(timestep.expand(4).clone(), scheduler) == step
        assert find_step(timestep.to(torch.bfloat16), scheduler).index == index


def test_a_view_of_many_timesteps_is_no_step(scheduler):
    assert place_in(scheduler.timesteps, scheduler.timesteps[2:4]) is None
    with pytest.raises(ValueError, match="have to share one"):
        find_step(scheduler.timesteps[2:4], scheduler)


def test_a_new_schedule_takes_the_place_of_the_old(scheduler):
    old = scheduler.timesteps[3].expand(2)
    scheduler.set_timesteps(4)
    assert find_step(scheduler.timesteps[3], scheduler).count == 4
    with pytest.raises(ValueError, match=r"not among the scheduler's 4.*set_timesteps"):
        find_step(old, scheduler)


@pytest.mark.parametrize(
    ("rule", "tokens", "backend"),
    [
        (DenseConfig(), MANY_TOKENS, "explicit"),
        (DenseConfig(), MANY_TOKENS + 1, "fused"),
        (DenseConfig(backend="fused"), 10, "fused"),
        (DenseConfig(backend="explicit"), 9999, "explicit"),
        (HardMask(), 9999, "explicit"),
    ],
)
def test_auto_takes_the_fused_backend_for_long_sequences(rule, tokens, backend):
    assert chosen_backend(rule, tokens) == backend
