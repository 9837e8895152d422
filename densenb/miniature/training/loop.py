"""One training loop for every part: Accelerate, EMA, a warm-up/stable/decay rate, safe restarts."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

SAVE_EVERY = 50.0  # seconds: an interrupted run loses at most these


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate over `steps`: linear warm-up, constant, then linear decay to zero.

    With `minutes`, `steps` is replaced by what fits into them, measured on the run's own first
    steps; the log says what it became, so that the run can be repeated by steps.
    """

    steps: int
    rate: float
    warmup: int = 200
    decay: float = 0.3  # share of the steps; 0 for a run that another run will continue
    minutes: float | None = None

    def scale(self, step: int) -> float:
        left = self.steps - step
        tail = max(self.decay * self.steps, 1.0)
        return min(1.0, (step + 1) / max(self.warmup, 1), left / tail if self.decay else 1.0)


def step_generator(device: torch.device, seed: int, rank: int, step: int) -> torch.Generator:
    """The random stream of one step on one process. It depends on nothing that happened before,
    so a resumed run draws what the uninterrupted one would have drawn."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) * 64 + rank)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Loop:
    """Train `model`, whose forward returns a loss, on what `batch(step, generator)` draws.

    `state` is a file on local disk with everything needed to resume; it is replaced atomically, at
    most every `SAVE_EVERY` seconds. The averaged (EMA) weights are in `.ema` afterwards.
    """

    def __init__(
        self,
        name: str,
        accelerator: Accelerator,
        model: nn.Module,
        batch: Callable[[int, torch.Generator], tuple],
        schedule: Schedule,
        state: Path,
        seed: int = 0,
        ema: float = 0.999,
    ):
        self.name, self.accelerator, self.batch = name, accelerator, batch
        self.schedule, self.state, self.seed, self.decay = schedule, state, seed, ema
        self.step = 0
        self.ema = copy.deepcopy(model).to(accelerator.device).requires_grad_(False)
        self.raw = model
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=schedule.rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=accelerator.device.type == "cuda",
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if state.exists():
            self._resume()

    def _resume(self) -> None:
        saved = torch.load(self.state, map_location=self.accelerator.device, weights_only=True)
        self.raw.load_state_dict(saved["model"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self.accelerator.print(f"{self.name}: resumed at step {self.step}")

    def save(self) -> None:
        """Replace the state file; a kill in the middle leaves the old one whole."""
        if not self.accelerator.is_main_process:
            return
        self.state.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.state.with_suffix(".new")
        whole = {"model": self.raw, "ema": self.ema, "optimizer": self.optimizer}
        torch.save({k: v.state_dict() for k, v in whole.items()} | {"step": self.step}, fresh)
        os.replace(fresh, self.state)

    @torch.no_grad()
    def _average(self) -> None:
        rate = min(self.decay, (1 + self.step) / (10 + self.step))
        own, average = list(self.raw.parameters()), list(self.ema.parameters())
        torch._foreach_lerp_(average, [p.detach() for p in own], 1 - rate)

    def train_step(self) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate * self.schedule.scale(self.step)
        process = self.accelerator.process_index
        generator = step_generator(self.accelerator.device, self.seed, process, self.step)
        with self.accelerator.autocast():
            loss = self.model(*self.batch(self.step, generator))
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._average()
        return loss.detach()

    def _fit_steps(self, started: float, warm: tuple[int, float]) -> None:
        """Set the schedule's length by the rate since `warm` (step, time), the same everywhere."""
        now = time.monotonic()
        rate = (self.step - warm[0]) / (now - warm[1])
        left = 60 * self.schedule.minutes - (now - started)
        steps = broadcast_object_list([max(self.step + 1, self.step + int(rate * left))])[0]
        self.schedule = dataclasses.replace(self.schedule, steps=steps, minutes=None)
        self.accelerator.print(f"{self.name}: {rate:.1f} steps/s, so {steps} steps", flush=True)

    def run(self, until: float = 1.0, log_every: int = 200) -> nn.Module:
        """Train up to a share `until` of the schedule, printing loss, rate and ETA."""
        started = saved = time.monotonic()
        first, losses, warm = self.step, [], None
        while self.step < (end := round(until * self.schedule.steps)):
            losses.append(self.train_step())
            if self.schedule.minutes and self.step - first in (80, 280):
                losses[-1].item()  # wait for the device, which runs behind
                if warm:
                    self._fit_steps(started, warm)
                warm = (self.step, time.monotonic())
            due = time.monotonic() - saved > SAVE_EVERY
            if due or self.step % log_every == 0 or self.step == end:
                mean = torch.stack(losses).mean().item()
                if not torch.isfinite(torch.tensor(mean)):
                    raise FloatingPointError(f"{self.name}: loss is {mean} at step {self.step}")
                losses.clear()
                spent = time.monotonic() - started
                rate = (self.step - first) / spent
                self.accelerator.print(
                    f"{self.name}: step {self.step}/{self.schedule.steps}, loss {mean:.4f}, "
                    f"{rate:.1f} steps/s, {_clock(spent)} spent, "
                    f"{_clock((end - self.step) / rate)} to go",
                    flush=True,
                )
            if due:  # the loss was just found finite
                self.save()
                saved = time.monotonic()
        self.save()
        return self.ema
