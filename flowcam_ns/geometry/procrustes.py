"""Weighted Procrustes: the rigid motion that best carries one set of 3D points onto another, in closed form.

This is the step that turns scene flow into a camera motion (FlowCam, arXiv 2306.00180, section 3.2; the solution is
Kabsch 1976 / Umeyama 1991). Rotations come from roma, whose derivative stays finite where the best rotation is not
unique.
"""

from __future__ import annotations

from typing import cast

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.se3 import from_rotation_translation

PAPER_EPS = 1e-6
"""What the published system adds to the sum of weights before it divides by it (step 6 of its description)."""

_EMPTY_WEIGHT = 1e-12
"""A sum of weights below this counts as none at all."""


def weighted_procrustes(
    source: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    weights: Float[Tensor, "*batch points"] | None = None,
    eps: float = 0.0,
) -> Float[Tensor, "*batch 4 4"]:
    """Rigid motion `T` (target <- source) that minimises `sum_i w_i |R x_i + t - y_i|^2`, with det(R) = +1.

    Differentiable in all three arguments; memory grows linearly with the number of points. Half precision is lifted
    to float32 and autocast is switched off inside. Where the points leave the rotation open (collinear, coincident, no
    weight at all) one of the best rotations comes out (the identity when nothing is known) and gradients stay finite.

    Args:
        source: Points x_i in the source frame, any unit.
        target: Points y_i in the target frame, the same unit.
        weights: Confidences, not negative; all equal when None. Only their ratios matter while `eps` is 0.
        eps: Added to the sum of weights where the means are taken. `PAPER_EPS` gives the published system's motion:
            means weighted by w / (sum w + eps), a covariance with the raw w.
    """
    with torch.autocast(source.device.type, enabled=False):
        source, target = _at_least_float32(source), _at_least_float32(target)
        weights = torch.ones_like(source[..., 0]) if weights is None else weights.to(source.dtype)
        total = weights.sum(-1, keepdim=True)
        shares = weights / torch.where(total > _EMPTY_WEIGHT, total + eps, 1.0)
        mean_source = (shares[..., None] * source).sum(-2)
        mean_target = (shares[..., None] * target).sum(-2)
        # Shares instead of raw weights only rescale the covariance, which leaves the rotation as it is.
        weighted = (target - mean_target[..., None, :]) * shares[..., None]
        covariance = weighted.transpose(-1, -2) @ (source - mean_source[..., None, :])
        rotation = nearest_rotation(covariance)
        translation = mean_target - (rotation @ mean_source[..., None])[..., 0]
        return from_rotation_translation(rotation, translation)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation R (det +1) that maximises trace(R^T M), with finite gradients; the identity where M is zero.

    M is brought to unit size first, because roma damps its derivative by an absolute amount. The rotation does not
    depend on that size, so no gradient is owed to it.
    """
    size = matrix.detach().flatten(-2).norm(dim=-1)[..., None, None]
    known = size > torch.finfo(matrix.dtype).tiny * 1e4
    unit = torch.where(known, matrix / torch.where(known, size, 1.0), torch.eye(3).to(matrix))
    return cast(Tensor, roma.special_procrustes(unit))


def _at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x if x.dtype == torch.float64 else x.float()
