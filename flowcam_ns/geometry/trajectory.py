"""Trajectories up to scale: Sim(3) alignment of two of them, and the world frame that a solve is handed over in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.geometry.se3 import from_rotation_translation, skew
from flowcam_ns.geometry.upright import up_from_surfaces

_ORIENTATION_TIE_BREAK = 1e-9
_HORIZON_PRIOR = 0.02
_ROLL_PENALTY = 5.0
_BULK_OF_POINTS = 0.8
_FAR_POINTS = 3.0
_ROLLING = 0.1


class Sim3(NamedTuple):
    """A similarity `y = scale * R x + t` with det(R) = +1 (no mirror)."""

    scale: Float[Tensor, ""]
    R: Float[Tensor, "3 3"]
    t: Float[Tensor, "3"]

    def apply_points(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the first world in the second."""
        return self.scale * points @ self.R.T + self.t

    def apply_c2w(self, c2w: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
        """Camera poses of the first world in the second; they stay rigid, only their centres are scaled."""
        return from_rotation_translation(self.R @ c2w[..., :3, :3], self.apply_points(c2w[..., :3, 3]))

    def inverse(self) -> Sim3:
        """The way back from the second world to the first."""
        return Sim3(1 / self.scale, self.R.T, -(self.t @ self.R) / self.scale)


def align_sim3(
    estimate_c2w: Float[Tensor, "frames 4 4"],
    truth_c2w: Float[Tensor, "frames 4 4"],
    mask: Bool[Tensor, "frames"] | None = None,
) -> Sim3:
    """The Sim(3) that carries the estimate onto the truth with the least squared distance of camera centres.

    Umeyama 1991, with det(R) = +1, in float64. Centres on a straight line (or in one place) leave a rotation open;
    there, and only there, the cameras' orientations decide. An estimate that stands still gets scale 1, as does a truth
    that does.

    Args:
        estimate_c2w: Estimated camera-to-world poses, any scale.
        truth_c2w: True poses; frames that are not finite are left out, on either side.
        mask: Frames to use; all when None.
    """
    estimate, truth = estimate_c2w.double(), truth_c2w.double()
    use = torch.isfinite(estimate).all(-1).all(-1) & torch.isfinite(truth).all(-1).all(-1)
    if mask is not None:
        use &= mask
    estimate, truth = estimate[use], truth[use]
    if len(estimate) == 0:
        return Sim3(torch.ones((), dtype=torch.float64), *_identity_motion())
    x, y = estimate[:, :3, 3], truth[:, :3, 3]
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    covariance = y.T @ x
    orientations = torch.einsum("fij,fkj->ik", truth[:, :3, :3], estimate[:, :3, :3])
    tie_break = _ORIENTATION_TIE_BREAK * covariance.norm().clamp(min=1e-30)
    R = closest_rotation(covariance + tie_break * orientations / len(x))
    spread_x, spread_y = x.square().sum(), y.square().sum()
    moving = spread_x > 1e-24 * mean_x.square().sum() and spread_x > 0 and spread_y > 0
    scale = (R * covariance).sum() / spread_x if moving else torch.ones_like(spread_x)
    scale = scale if scale > 0 else torch.ones_like(scale)
    return Sim3(scale, R, mean_y - scale * R @ mean_x)


def normalize_world(
    c2w: Float[Tensor, "frames 4 4"],
    points_world: Float[Tensor, "points 3"],
    mask: Bool[Tensor, "frames"] | None = None,
) -> Sim3:
    """The Sim(3) from a solve's arbitrary world to the one handed on: z up, centred on the scene, unit size.

    The cameras and the bulk of the points end within about one unit of the origin. A long tail of far points (a street)
    neither moves the centre nor shrinks the trajectory to a dot. Up is what the cameras say, corrected by level
    surfaces where there clearly are some.

    Args:
        c2w: OpenCV camera-to-world poses.
        points_world: Surface points; those that are not finite are left out, and none at all is fine.
        mask: Frames to use (the posed ones); all when None.
    """
    poses = c2w.double() if mask is None else c2w.double()[mask]
    points = points_world.double()
    points = points[torch.isfinite(points).all(-1)]
    if len(poses) == 0:
        return Sim3(torch.ones((), dtype=torch.float64), *_identity_motion())
    up = up_direction(poses)
    # Cameras that nobody rolls have level x axes about the right up; where theirs are not, up is little but a guess.
    is_sure = bool((poses[:, :3, 0] @ up).square().mean().sqrt() < _ROLLING)
    level = up_from_surfaces(up, points, is_sure)
    R = _rotation_between(up if level is None else level, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    cameras = poses[:, :3, 3]
    middle = cameras.median(0).values
    centre = middle
    if len(points) > 0:
        distance = (points - middle).norm(dim=-1)
        near = points[distance <= _FAR_POINTS * distance.median()]
        centre = 0.5 * (middle + near.median(0).values)
    radius = (cameras - centre).norm(dim=-1).max()
    if len(points) > 0:
        distance = (points - centre).norm(dim=-1)
        bulk = torch.minimum(distance.quantile(_BULK_OF_POINTS), _FAR_POINTS * distance.median())
        radius = torch.maximum(radius, bulk)
    scale = 1 / radius if radius > 0 else torch.ones_like(radius)
    return Sim3(scale, R, -scale * R @ centre)


def up_direction(c2w: Float[Tensor, "frames 4 4"]) -> Float[Tensor, "3"]:
    """The world's up as the cameras tell it: unit vector, for cameras held upright.

    The cameras' x axes are level, so up is what they are orthogonal to, as far as they turn; where they hardly turn,
    the robust mean of the cameras' own up axes (-y) decides. The mean alone would tilt a world seen from one side
    and from above.
    """
    level, upward, forward = c2w[:, :3, 0], -c2w[:, :3, 1], c2w[:, :3, 2]
    mean_up = _robust_mean_direction(upward)
    scatter = level.T @ level / len(level)
    # The more the camera rolls about its axis, the less its x axes say.
    trust_mean = _HORIZON_PRIOR + _ROLL_PENALTY * torch.linalg.eigvalsh(scatter)[0]
    up = torch.linalg.eigh(scatter - trust_mean * torch.outer(mean_up, mean_up)).eigenvectors[:, 0]
    # A camera that looks straight down has no upward axis to speak of: then up is where it comes from.
    side = up @ (mean_up - 0.1 * forward.mean(0))
    return up if side >= 0 else -up


def _robust_mean_direction(directions: Float[Tensor, "frames 3"]) -> Float[Tensor, "3"]:
    """Unit geometric median (a few Weiszfeld steps), which a minority of tilted frames cannot move far."""
    mean = directions.mean(0)
    for _ in range(10):
        weights = 1 / (directions - mean).norm(dim=-1).clamp(min=1e-3)
        mean = (weights[:, None] * directions).sum(0) / weights.sum()
    return mean / mean.norm().clamp(min=1e-9)


def _rotation_between(a: Float[Tensor, "3"], b: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that turns unit vector a into unit vector b."""
    cosine = a @ b
    if cosine < -1 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=a.dtype))
    K = skew(torch.linalg.cross(a, b))
    return torch.eye(3, dtype=a.dtype) + K + K @ K / (1 + cosine)


def closest_rotation(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation that maximises trace(R^T M). By SVD, which resolves gaps down to rounding; no gradients."""
    U, _, Vh = torch.linalg.svd(matrix)
    sign = torch.ones(3, dtype=matrix.dtype)
    sign[2] = torch.sign(torch.det(U) * torch.det(Vh))
    return (U * sign) @ Vh


def _identity_motion() -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
