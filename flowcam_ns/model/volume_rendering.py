"""Volume rendering along rays: where to sample, and how much each sample contributes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TRANSMITTANCE_EPS = 1e-10


def geometric_depths(near: float, far: float, num_samples: int, like: Tensor) -> Float[Tensor, "samples"]:
    """Distances from `near` to `far` in equal ratios."""
    return torch.logspace(math.log10(near), math.log10(far), num_samples, dtype=like.dtype, device=like.device)


def compositing_weights(
    density: Float[Tensor, "*batch samples"], depths: Float[Tensor, "*#batch samples"], opaque_far: bool = False
) -> Float[Tensor, "*batch samples"]:
    """Share of each sample in its ray's colour, `alpha * transmittance`.

    A sample's thickness is the distance to the next one (the last thickness is repeated). Unless `opaque_far`, the
    shares of a ray sum to less than one and there is no background.
    """
    thickness = depths[..., 1:] - depths[..., :-1]
    thickness = torch.cat([thickness, thickness[..., -1:]], dim=-1)
    alpha = 1 - torch.exp(-density * thickness)
    if opaque_far:
        alpha = torch.cat([alpha[..., :-1], torch.ones_like(alpha[..., -1:])], dim=-1)
    clear = torch.cumprod(1 - alpha + TRANSMITTANCE_EPS, dim=-1)
    transmittance = torch.cat([torch.ones_like(clear[..., :1]), clear[..., :-1]], dim=-1)
    return alpha * transmittance
