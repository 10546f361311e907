"""Motion by reprojection: Gauss-Newton steps that make surfaces, moved, fall where the flow says they do.

Procrustes weighs errors of surface points in space, where those along the ray are largest, and is biased by them. In
the picture an error of depth only moves a point along its epipolar line. So a residual counts along that line as much
as the depth can be trusted, and across it as much as the flow can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model.surfaces import RaySurfaces, on_unit_plane

OUTLIER = 3.0
"""Standard deviations beyond which a residual counts less and less (Cauchy's kernel)."""
DAMPING = 1e-4
"""Share of the diagonal that is added to it."""
NEAREST = 1e-3
"""Network units: a surface that comes nearer to the other camera than this, or behind it, does not count."""
BEHIND = 100.0
"""Squared standard deviations that such a surface costs."""
SEARCH_RAYS = 512
"""Rays that a search looks at, where there are more: it only finds the valley."""


@dataclass(frozen=True)
class Reprojection:
    """Surfaces of the later frames' rays, and where the flow says that they are seen in the earlier frames."""

    points: Float[Tensor, "*batch rays 3"]
    """In the later cameras."""
    share: Float[Tensor, "*batch rays 1"]
    """How much of a translation a point makes: the ray's accumulation."""
    seen: Float[Tensor, "*batch rays 2"]
    """On the earlier cameras' planes at distance 1."""
    weights: Float[Tensor, "*batch rays"]
    """Confidences, not negative."""
    noise: Float[Tensor, "*batch 1"]
    """Standard deviation of `seen`."""
    depth_spread: float
    """Standard deviation of a depth as a share of it; 0 holds the surfaces."""

    @classmethod
    def of(
        cls,
        surfaces: RaySurfaces,
        K: Float[Tensor, "*batch 3 3"],
        ends: Float[Tensor, "*batch rays 2"],
        weights: Float[Tensor, "*batch rays"],
        depth_spread: float,
        flow_noise: float,
    ) -> Reprojection:
        """From where the flow ends: fractions of the earlier image, whose normalised pinhole matrix is `K`.

        `flow_noise` is a fraction of the image's width. All is float64 from here on.
        """
        K = K.double()
        return cls(
            points=surfaces.points.double(),
            share=surfaces.accumulation.double(),
            seen=on_unit_plane(ends.double(), K),
            weights=weights.double(),
            noise=flow_noise / K[..., 0, 0, None],
            depth_spread=depth_spread,
        )

    def thinned(self, rays: int) -> Reprojection:
        """Of some rays only, the same in every picture, where there are more."""
        count = self.points.shape[-2]
        if count <= rays:
            return self
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:rays].to(self.points.device)
        return replace(
            self,
            points=self.points[..., chosen, :],
            share=self.share[..., chosen, :],
            seen=self.seen[..., chosen, :],
            weights=self.weights[..., chosen],
        )

    def improved(self, motion: Float[Tensor, "*batch 4 4"]) -> tuple[Tensor, Float[Tensor, "*batch"]]:
        """The motion after one Gauss-Newton step, and the cost before it."""
        turned = self.points @ motion[..., :3, :3].transpose(-1, -2)
        moved = turned + self.share * motion[..., None, :3, 3]
        place, by_point = projected(moved)
        residual = (place - self.seen)[..., None]
        by_motion = torch.cat([by_point * self.share[..., None], -by_point @ se3.skew(turned)], dim=-1)
        by_depth = self.depth_spread * (by_point @ turned[..., None])

        # The inverse of noise^2 I + by_depth by_depth^T, in units of the noise, is I - along along^T.
        noise = self.noise[..., None, None]
        along = by_depth / torch.sqrt(noise**2 + by_depth.square().sum((-2, -1), keepdim=True))

        def weighed(x: Tensor) -> Tensor:
            return x - along * (along.transpose(-1, -2) @ x)

        errors = (residual.transpose(-1, -2) @ weighed(residual) / noise**2)[..., 0, 0]
        in_front = moved[..., 2] > NEAREST
        shares = self.weights / self.weights.sum(-1, keepdim=True).clamp(min=1e-12)
        cost = (shares * torch.log1p(torch.where(in_front, errors, BEHIND) / OUTLIER**2)).sum(-1)
        counted = shares * in_front / (1 + errors / OUTLIER**2)
        left = by_motion.transpose(-1, -2) * counted[..., None, None]
        matrix, gradient = (left @ weighed(by_motion)).sum(-3), (left @ weighed(residual)).sum(-3)
        change = damped_step(matrix, gradient[..., 0], DAMPING)
        rotation = roma.rotvec_to_rotmat(change[..., 3:]) @ motion[..., :3, :3]
        return se3.from_rotation_translation(rotation, motion[..., :3, 3] + change[..., :3]), cost

    def searched(self, motion: Float[Tensor, "*batch 4 4"], steps: int) -> Float[Tensor, "*batch 4 4"]:
        """The best of what some steps make of `motion` and of unturned motions along the axes, both ways.

        Then, of several pairs (the last of the batch's dimensions), the best of what steps make of that and of its
        neighbours' motions: a camera moves on as it did.
        """
        place = self.points[..., :2] / self.points[..., 2:].clamp(min=NEAREST)
        length = ((place - self.seen).norm(dim=-1) * self.points[..., 2]).median(dim=-1).values
        axes = torch.eye(3).to(length)
        moves = torch.cat([axes, -axes]).reshape(6, *[1] * length.ndim, 3) * length[..., None]
        unturned = se3.from_rotation_translation(axes.expand(*moves.shape, 3), moves)
        found = self._best_of(torch.cat([motion[None], unturned]), steps)
        if motion.ndim == 2 or motion.shape[-3] == 1:
            return found
        before = torch.cat([found[..., :1, :, :], found[..., :-1, :, :]], dim=-3)
        after = torch.cat([found[..., 1:, :, :], found[..., -1:, :, :]], dim=-3)
        return self._best_of(torch.stack([found, before, after]), steps)

    def _best_of(self, tried: Float[Tensor, "starts *batch 4 4"], steps: int) -> Float[Tensor, "*batch 4 4"]:
        """What some steps make of the starts, and of that what costs least."""
        for _ in range(steps):
            tried, _ = self.improved(tried)
        _, cost = self.improved(tried)
        best = cost.argmin(dim=0)
        return torch.gather(tried, 0, best[None, ..., None, None].expand(1, *tried.shape[1:]))[0]


def projected(points: Float[Tensor, "*points 3"]) -> tuple[Float[Tensor, "*points 2"], Float[Tensor, "*points 2 3"]]:
    """Where points fall on their camera's plane at distance 1, and its derivative; behind it, as if just before."""
    z = points[..., 2:].clamp(min=NEAREST)
    place = points[..., :2] / z
    return place, torch.cat([torch.eye(2).to(z).expand(*z.shape[:-1], 2, 2), -place[..., None]], dim=-1) / z[..., None]


def damped_step(
    matrix: Float[Tensor, "*batch n n"], gradient: Float[Tensor, "*batch n"], damping: float
) -> Float[Tensor, "*batch n"]:
    """The step that minimises a quadratic, with the share `damping` of its diagonal added to that."""
    diagonal = torch.diagonal(matrix, dim1=-2, dim2=-1)
    return -torch.linalg.solve(matrix + torch.diag_embed(damping * diagonal + 1e-12), gradient[..., None])[..., 0]


def refine_motion(
    relative: Float[Tensor, "*batch 4 4"], match: Reprojection, steps: int, search_steps: int
) -> Float[Tensor, "*batch 4 4"]:
    """Motions T(earlier <- later) after a search of `search_steps` (0: none) and some Gauss-Newton steps.

    The steps are differentiable in the surfaces and weights; the search only says from where they start.
    """
    with torch.autocast(relative.device.type, enabled=False):
        motion = relative.double()
        if search_steps > 0:
            with torch.no_grad():
                motion = match.thinned(SEARCH_RAYS).searched(motion, search_steps)
        for _ in range(steps):
            motion, _ = match.improved(motion)
    return motion.to(relative.dtype)
