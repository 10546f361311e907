"""What the lens adds to a row's share of the normal equations (`row_blocks.py`).

A flow vector's pixel depends on the lens twice: where the target's ray is seen, and which ray the source's pixel looks
along. The second way goes through the point y, like the pose and the depth: its derivative is B times that of the ray,
which is the same for all slots of a row. So only the first way is worked out for every flow vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.lens import LENS_SIZE

BY_RAY = torch.tensor([[0, 1], [1, 3], [2, 4]])
"""Where the second derivatives by the point (a row each) and x and y stand among the six numbers of a curvature."""


@dataclass(frozen=True)
class LensBlocks:
    """The lens against everything else, in float64 but for the coupling."""

    lens: Float[Tensor, "rows lens lens"]
    gradient: Float[Tensor, "rows lens"]
    with_point: Float[Tensor, "rows slots 12 lens"]
    """Sums of the second derivatives by the point, times its x, y, 1 and d in turn."""
    coupling: Float[Tensor, "rows lens points"]
    """With the inverse depths."""


def lens_blocks(
    seen: Float[Tensor, "rows 4 points"],
    ray_by_lens: Float[Tensor, "rows lens 2 points"],
    baseline: Float[Tensor, "rows slots 3 1"],
    by_point: Float[Tensor, "rows slots 2 3 points"],
    by_lens: Float[Tensor, "rows slots lens 2 points"],
    error: Float[Tensor, "rows slots 2 points"],
    curvature: Float[Tensor, "rows slots 9 points"],
    in_source: Float[Tensor, "rows 3 points"],
) -> LensBlocks:
    """The lens's blocks.

    Args:
        seen: every point's (x, y, 1, d).
        ray_by_lens: derivatives of the source's rays by the lens.
        baseline: R^T t of every slot.
        by_point: weighted derivatives of target pixels by the point, in the source's axes.
        by_lens: weighted derivatives of target pixels by the lens while the target's rays are held.
        error: weighted residuals.
        curvature: second derivatives by the point (six), then the first ones (three).
        in_source: second derivatives by the point and the inverse depth, of all slots together.
    """
    rows, slots, _, _, points = by_lens.shape
    x, y = by_point.unbind(2)
    mixed = x[:, :, :, None] * by_lens[:, :, None, :, 0]
    mixed.addcmul_(y[:, :, :, None], by_lens[:, :, None, :, 1])
    # All slots together: against the inverse depth, then against x and y of the source's ray.
    chosen = baseline.new_zeros(rows, 3, slots, 3)
    chosen[:, 0], chosen[:, 1, :, 0], chosen[:, 2, :, 1] = baseline[..., 0], 1, 1
    against = (chosen.flatten(2) @ mixed.view(rows, 3 * slots, -1)).view(rows, 3, LENS_SIZE, points)
    with_ray = against[:, 1:].transpose(1, 2)
    through_depth = (in_source[:, None, :2] * ray_by_lens).sum(2)

    whole = curvature.sum(1)
    through_ray = (whole[:, BY_RAY[:2]][:, None] * ray_by_lens[:, :, None]).sum(3)
    flat, by_source = torch.cat([by_lens, error[:, :, None]], dim=2).flatten(3), ray_by_lens.flatten(2)
    direct = (flat @ flat.transpose(-1, -2)).sum(1)
    crossed = with_ray.flatten(2) @ by_source.transpose(1, 2)
    twice = through_ray.flatten(2) @ by_source.transpose(1, 2)
    lens = direct[:, :-1, :-1] + crossed + crossed.transpose(1, 2) + twice
    gradient = direct[:, :-1, -1] + (by_source @ whole[:, 6:8].flatten(1)[..., None])[..., 0]

    first = (mixed.view(rows, -1, points) @ seen.transpose(1, 2)).view(rows, slots, 3, LENS_SIZE, 4)
    moved = (seen[:, :, None, None] * ray_by_lens[:, None]).flatten(3).flatten(1, 2)
    second = curvature[:, :, BY_RAY].view(rows, 3 * slots, -1) @ moved.transpose(1, 2)
    sums = first.permute(0, 1, 4, 2, 3) + second.view(rows, slots, 3, 4, LENS_SIZE).transpose(2, 3)
    return LensBlocks(lens.double(), gradient.double(), sums.double().flatten(2, 3), against[:, 0] + through_depth)
