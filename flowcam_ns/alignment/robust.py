"""The robust cost: flow that disagrees with everything else must not pull."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def geman_mcclure(
    squared: Float[Tensor, "*batch"], scale: float
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Robust cost and weight of squared residuals: rho = s^2 u / (1 + u) / 2 with u = e^2 / s^2, w = 1 / (1 + u)^2."""
    u = squared / (scale * scale)
    return 0.5 * scale * scale * u / (1 + u), 1 / (1 + u) ** 2


def robust_cost(
    confidence: Float[Tensor, "rows slots points"],
    residual: Float[Tensor, "rows slots 2 points"],
    valid: Bool[Tensor, "rows slots points"],
    scale: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows slots points"]]:
    """Total robust cost (a residual that is not valid pays the most a residual can) and the weights."""
    rho, weight = geman_mcclure((residual * residual).sum(-2), scale)
    rho = torch.where(valid, rho, torch.full_like(rho, 0.5 * scale * scale))
    return (rho * confidence).sum(), weight * confidence * valid
