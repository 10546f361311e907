"""Labels of an image's pixels that fit and change seldom: semi-global matching over four directions.

Hirschmueller, "Stereo processing by semi-global matching and mutual information", PAMI 2008, equations 13 and 14.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int16
from torch import Tensor

STEP = 20
"""Cost of a label that is one off its neighbour's."""
JUMP = 200
"""Cost of any other change between pixels of like brightness."""
JUMP_AT_EDGES = 60
"""The same where brightness changes much."""
SOFT_EDGE = 4 / 255
"""Difference of brightness that halves the cost of a change."""
HIGHEST = 30_000
"""Beyond all costs of a path: what stands for labels that do not exist."""


def path_costs(costs: Int16[Tensor, "labels h w"], brightness: Float[Tensor, "h w"]) -> Int16[Tensor, "h labels w"]:
    """Sums over four directions of what the cheapest path along each to a pixel and label costs.

    `costs` are at most 1,000 each and `brightness` is in 0..1. The cheapest label of a pixel is the smoothed estimate.
    """
    down = costs.permute(1, 0, 2).contiguous()
    across = costs.permute(2, 0, 1).contiguous()
    total = torch.zeros_like(down)
    sideways = torch.zeros_like(across)
    change = _cost_of_change(brightness)
    change_sideways = _cost_of_change(brightness.T)
    for backwards in (False, True):
        _add_paths(total, down, change, backwards)
        _add_paths(sideways, across, change_sideways, backwards)
    return total + sideways.permute(2, 1, 0)


def best_labels(paths: Int16[Tensor, "h labels w"]) -> Float[Tensor, "h w"]:
    """The cheapest label of each pixel, to a fraction by the parabola through it and its neighbours."""
    labels = paths.shape[1]
    best = paths.argmin(1, keepdim=True)
    middle = best.clamp(1, labels - 2)
    before, at, after = (paths.gather(1, middle + k)[:, 0].float() for k in (-1, 0, 1))
    curvature = before + after - 2 * at
    shift = torch.where(curvature > 0, 0.5 * (before - after) / curvature.clamp(min=1e-3), 0.0).clamp(-0.5, 0.5)
    return best[:, 0] + torch.where(best[:, 0] == middle[:, 0], shift, 0.0)


def _cost_of_change(brightness: Float[Tensor, "rows columns"]) -> Int16[Tensor, "steps columns"]:
    """What a change of the label costs between each row and the next."""
    difference = (brightness[1:] - brightness[:-1]).abs()
    return (JUMP / (1 + difference / SOFT_EDGE)).clamp(min=JUMP_AT_EDGES).round().to(torch.int16)


def _add_paths(
    total: Int16[Tensor, "rows labels columns"],
    costs: Int16[Tensor, "rows labels columns"],
    change: Int16[Tensor, "steps columns"],
    backwards: bool,
) -> None:
    """Add the costs of the paths that run along the rows' direction, down or `backwards`."""
    rows, labels, columns = costs.shape
    order = range(rows - 1, -1, -1) if backwards else range(rows)
    padded = costs.new_full((labels + 2, columns), HIGHEST)
    before: Tensor | None = None
    for row in order:
        path = costs[row]
        if before is not None:
            least = before.amin(0)
            padded[1:-1] = before
            cheapest = torch.minimum(padded[:-2], padded[2:]).add_(STEP)
            torch.minimum(cheapest, before, out=cheapest)
            torch.minimum(cheapest, least + change[row if backwards else row - 1], out=cheapest)
            path = cheapest.sub_(least).add_(path)
        total[row] += path
        before = path
