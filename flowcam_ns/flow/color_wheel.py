"""Flow as colour: hue is direction, saturation is length (the wheel of Baker et al., IJCV 2011)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

SECTORS = (15, 6, 4, 11, 13, 6)
"""Steps from red to yellow, green, cyan, blue, magenta and back: as many as the eye tells apart."""
HUES = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1))


def color_wheel() -> Float[Tensor, "hues 3"]:
    """RGB in [0, 1] of evenly spaced directions, from +x over +y."""
    corners = torch.tensor((*HUES, HUES[0]), dtype=torch.float32)
    parts = [
        torch.lerp(corners[k], corners[k + 1], torch.arange(steps)[:, None] / steps) for k, steps in enumerate(SECTORS)
    ]
    return torch.cat(parts)


def flow_to_rgb(flow: Float[Tensor, "*batch 2"], largest: float | None = None) -> Float[Tensor, "*batch 3"]:
    """Colours in [0, 1]: white where nothing moves, full colour at a length of `largest`, darker beyond.

    `largest` is in the units of `flow`; without it, the 99th percentile of the lengths. What isn't finite is black.
    """
    finite = torch.isfinite(flow).all(-1, keepdim=True)
    flow = torch.where(finite, flow, 0).float()
    length = flow.norm(dim=-1, keepdim=True)
    if largest is None:
        ranked = length.flatten().sort().values
        largest = float(ranked[int(0.99 * (len(ranked) - 1))]) if len(ranked) else 1.0
    radius = length / max(largest, 1e-9)
    wheel = color_wheel().to(flow.device)
    turn = torch.atan2(flow[..., 1], flow[..., 0]) / (2 * math.pi) % 1 * len(wheel)
    below = turn.floor().long() % len(wheel)
    between = (turn - turn.floor())[..., None]
    hue = torch.lerp(wheel[below], wheel[(below + 1) % len(wheel)], between)
    color = torch.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    return torch.where(finite, color, 0)
