"""A learning rate that rises, then falls along a cosine, in numbers that checkpoints can be loaded with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


@dataclass
class WarmCosineConfig(SchedulerConfig):
    """A short rise, then a cosine down."""

    _target: type = field(default_factory=lambda: WarmCosine)
    """target class to instantiate"""
    max_steps: int = 20_000
    """Step at which the cosine ends; give the run as many iterations."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises."""
    final_share: float = 0.03
    """Share of the learning rate that is left at the end."""


class WarmCosine(Scheduler):
    """nerfstudio's cosine puts NumPy numbers into the optimizer, which torch >= 2.6 refuses to load again."""

    config: WarmCosineConfig  # type: ignore[assignment]

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """Plain Python factors of the learning rate."""
        config = self.config

        def share(step: int) -> float:
            rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
            progress = min(1.0, step / max(config.max_steps, 1))
            return rise * (config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress)))

        return LambdaLR(optimizer, lr_lambda=share)
