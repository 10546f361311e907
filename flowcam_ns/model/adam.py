"""Optimizers as nerfstudio's configs want them, in one line each."""

from __future__ import annotations

from typing import Any

from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import SchedulerConfig


def adam(
    lr: float, scheduler: SchedulerConfig | None = None, eps: float = 1e-8, max_norm: float | None = None
) -> dict[str, Any]:
    """Adam for one group of parameters."""
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=eps, max_norm=max_norm), "scheduler": scheduler}
