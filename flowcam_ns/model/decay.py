"""Exponential decay of a learning rate that checkpoints can be loaded with."""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


@dataclass
class PlainDecayConfig(ExponentialDecaySchedulerConfig):
    """nerfstudio's exponential decay, in Python numbers."""

    _target: type = field(default_factory=lambda: PlainDecay)
    """target class to instantiate"""


class PlainDecay(ExponentialDecayScheduler):
    """nerfstudio's schedule puts NumPy numbers into the optimizer, which torch >= 2.6 refuses to load again."""

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """The same factors of the learning rate as plain floats."""
        theirs = super().get_scheduler(optimizer, lr_init)
        assert isinstance(theirs, LambdaLR)
        (factor,) = theirs.lr_lambdas
        for group in optimizer.param_groups:
            group["lr"] = lr_init
            group.pop("initial_lr", None)
        return LambdaLR(optimizer, lr_lambda=lambda step: float(factor(step)))
