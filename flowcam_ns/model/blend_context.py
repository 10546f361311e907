"""Which frames a view is blended from, and how much each may count before anything is known about single pixels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROTATION_COST = 0.3
SHARPEST = 0.15
BACKUP = 0.05
"""Share of the weights that is dealt out among backups as well."""


def choose_contexts(
    origin: Float[Tensor, "3"],
    forward: Float[Tensor, "3"],
    c2w: Float[Tensor, "frames 4 4"],
    candidates: Bool[Tensor, "frames"],
    inverse_depth: float,
    count: int,
    backups: int = 0,
) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
    """The `count` cheapest frames and their weights (sum 1); the last `backups` of them weigh next to nothing, so that
    they show only what the others do not see.

    A frame costs the parallax between it and the view at the typical depth 1 / `inverse_depth`, plus a share of the
    angle between the two optical axes. A weight reaches zero where its frame is about to be replaced by the next one,
    so a path has no seams.
    """
    parallax = (c2w[:, :3, 3] - origin).norm(dim=-1) * inverse_depth
    angle = torch.acos((c2w[:, :3, 2] @ forward).clamp(-1 + 1e-6, 1 - 1e-6))
    cost = (parallax + ROTATION_COST * angle).masked_fill(~candidates, torch.inf)
    costs, order = torch.sort(cost)
    costs = costs[: int(candidates.sum())]
    count = min(count, len(costs))
    weight = _weights(costs, count)
    if 0 < backups < count:
        weight = BACKUP * weight
        weight[: count - backups] += (1 - BACKUP) * _weights(costs, count - backups)
    return order[:count], weight


def _weights(costs: Float[Tensor, "frames"], count: int) -> Float[Tensor, "contexts"]:
    """Weights of the first `count` of some frames, whose costs rise."""
    limit = costs[count] if len(costs) > count else costs[count - 1] * 1.5
    floor = SHARPEST * limit + 1e-9
    weight = (1 / (costs[:count] + floor) - 1 / (limit + floor)).clamp(min=0) + 1e-9 / floor
    return weight / weight.sum()


def frame_colours(frames: Int[Tensor, "contexts"], count: int) -> Float[Tensor, "contexts 3"]:
    """A hue for each of `count` frames, in the order of the clip from red over green to blue; neighbours differ in
    lightness."""
    place = frames.float() / max(count - 1, 1)
    hues = torch.stack([1 - 2 * place, 1 - (2 * place - 1).abs(), 2 * place - 1], dim=-1).clamp(0, 1)
    return hues * (0.6 + 0.4 * (frames % 2).float())[:, None]
