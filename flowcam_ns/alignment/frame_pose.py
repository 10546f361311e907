"""The pose of one frame from points whose place in the world is known: robust, and quick enough to be asked each time.

Growth asks this of every frame, so it has no general problem under it: six unknowns, one small matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.alignment.lens import project, project_jacobians, rays
from flowcam_ns.alignment.linearize import MIN_DEPTH_RATIO
from flowcam_ns.alignment.pnp import solve_pnp
from flowcam_ns.alignment.robust import geman_mcclure
from flowcam_ns.alignment.two_view import essential_motion
from flowcam_ns.geometry import se3

FIRST_DAMPING = 1e-3
RANSAC_TRIALS = 300
CONFIDENT = 0.05
"""Weight from which a measurement takes part in the search by samples."""
SMALLEST_SAMPLE = 8
"""The search by samples needs at least so many points."""
EPIPOLAR_NOISE = 1.5 / 512
"""Distance (long sides) within which flow agrees with an essential matrix."""
MIN_EPIPOLAR, EPIPOLAR_SHARE = 16, 0.75
"""Least number, and least share, of the trustworthy flow vectors that must agree with one."""
MIN_SCALES, SAME_SCALE, SCALES_AGREE = 6, 0.2, 0.6
"""Points that tell how long the baseline is: how many at least, and which share of them must agree within (log)."""


@dataclass(frozen=True)
class Sightings:
    """Where a frame sees points of the world."""

    points: Float[Tensor, "n 4"]
    """Homogeneous: the last coordinate is 0 for points at infinity."""
    pixels: Float[Tensor, "n 2"]
    """Centred: relative to the image's middle, in units of its long side."""
    weight: Float[Tensor, "n"]
    """Proportional to 1 / variance."""

    @classmethod
    def of_flow(
        cls,
        points: Float[Tensor, "rows 2 points"],
        c2w: Float[Tensor, "rows 4 4"],
        inverse_depth: Float[Tensor, "rows points"],
        lens: Float[Tensor, "lens"],
        targets: Float[Tensor, "rows 2 points"],
        weight: Float[Tensor, "rows points"],
    ) -> Sightings:
        """Where flow takes the points of other frames, whose poses and depths are known; those of no weight left out.

        Pixels are centred.
        """
        ray = rays(points.double(), lens)
        depth = inverse_depth[:, None]
        at_unit_depth = torch.cat([ray, torch.ones_like(ray[:, :1])], dim=1)
        world = c2w[:, :3, :3] @ at_unit_depth + c2w[:, :3, 3:] * depth
        homogeneous = torch.cat([world, depth], dim=1).transpose(1, 2).flatten(0, 1)
        pixels = targets.double().transpose(1, 2).flatten(0, 1)
        kept = weight.flatten() > 0
        return cls(homogeneous[kept], pixels[kept], weight.flatten()[kept])


def refine_pose(
    seen: Sightings,
    lens: Float[Tensor, "lens"],
    T_cam_world: Float[Tensor, "4 4"],
    kernels: tuple[tuple[float, int], ...],
) -> Float[Tensor, "4 4"]:
    """Levenberg-Marquardt on one pose under robust kernels that narrow: (width in long sides, most steps)."""
    pose = T_cam_world
    for scale, steps in kernels:
        damping = FIRST_DAMPING
        cost, matrix, gradient = _normal_equations(seen, lens, pose, scale)
        for _ in range(steps):
            damped = matrix + torch.diag(damping * matrix.diagonal() + 1e-12)
            step, failed = torch.linalg.solve_ex(damped, -gradient)
            candidate = se3.exp(step) @ pose
            if int(failed) or not bool(torch.isfinite(candidate).all()):
                break
            found = _normal_equations(seen, lens, candidate, scale)
            if float(found[0]) < float(cost):
                small = float(cost) - float(found[0]) < 1e-3 * float(cost)
                pose, (cost, matrix, gradient) = candidate, found
                damping /= 5
                if small:
                    break
            else:
                damping *= 10
    return se3.orthonormalized(pose)


def sampled_pose(seen: Sightings, lens: Float[Tensor, "lens"], tolerance: float) -> Float[Tensor, "4 4"] | None:
    """The camera-from-world pose that most points agree with, from samples of four: needs no start; None if none.

    `tolerance` is the distance in long sides within which a point agrees.
    """
    chosen = (seen.points[:, 3].abs() > 1e-9) & (seen.weight > CONFIDENT)
    if int(chosen.sum()) < SMALLEST_SAMPLE:
        return None
    world = (seen.points[chosen, :3] / seen.points[chosen, 3:]).cpu().numpy()
    ray = rays(seen.pixels[chosen].T, lens).T.contiguous().cpu().numpy()
    cv2.setRNGSeed(0)
    pose = solve_pnp(world, ray, tolerance / float(lens[0].exp()), RANSAC_TRIALS, refine=False)
    return None if pose is None else torch.from_numpy(pose).to(seen.points)


def pose_from_two_views(
    points: Float[Tensor, "2 n"],
    targets: Float[Tensor, "2 n"],
    trusted: Bool[Tensor, "n"],
    known: Bool[Tensor, "n"],
    inverse_depth: Float[Tensor, "n"],
    lens: Float[Tensor, "lens"],
    T_known_world: Float[Tensor, "4 4"],
) -> Float[Tensor, "4 4"] | None:
    """The pose of a frame from the flow of one known frame, of whose points only a few have a depth.

    The flow of all of them tells rotation and direction (the essential matrix), those with a depth tell how far. The
    flow itself says whether it can be believed: unrelated pictures obey no essential matrix. What stands still, such as
    a logo burnt into both, obeys every one and is not asked.

    Args:
        points: pixels of the known frame, centred.
        targets: where the flow takes them.
        trusted: whose flow counts.
        known: whose depth counts.
        inverse_depth: of the points, in the known frame.
        lens: of both frames.
        T_known_world: pose of the known frame.
    """
    trusted = trusted & ((targets - points).norm(dim=0) > EPIPOLAR_NOISE)
    if int(trusted.sum()) < MIN_EPIPOLAR:
        return None
    ray_here, ray_there = rays(torch.stack([points, targets]).double(), lens)
    here, there = (ray[:, trusted].T.contiguous().cpu().numpy() for ray in (ray_here, ray_there))
    found = essential_motion(here, there, EPIPOLAR_NOISE / float(lens[0].exp()))
    if found is None or found[1].sum() < max(MIN_EPIPOLAR, EPIPOLAR_SHARE * len(here)):
        return None
    motion, inside = torch.from_numpy(found[0]).to(lens), torch.zeros_like(trusted)
    inside[trusted] = torch.from_numpy(found[1]).to(trusted.device)
    chosen = inside & known & (inverse_depth > 0)
    # With y = R r + d t in the new frame, the ray there gives the d of a unit baseline by least squares.
    far = motion[:3, :3] @ torch.cat([ray_here, torch.ones_like(ray_here[:1])])[:, chosen]
    seen = ray_there[:, chosen]
    a, b = far[:2] - seen * far[2:], motion[:2, 3:] - seen * motion[2, 3]
    at_unit = -(a * b).sum(0) / (b * b).sum(0).clamp(min=1e-12)
    ratio = at_unit / inverse_depth[chosen].to(at_unit)
    ratio = ratio[ratio > 0]
    if len(ratio) < MIN_SCALES:
        return None
    baseline = ratio.median()
    if float(((ratio / baseline).log().abs() < SAME_SCALE).double().mean()) < SCALES_AGREE:
        return None
    motion[:3, 3] *= baseline
    return motion @ T_known_world


def explained(seen: Sightings, lens: Float[Tensor, "lens"], T_cam_world: Float[Tensor, "4 4"], within: float) -> float:
    """Share of the weight of what a pose projects to within so many long sides of where it is seen."""
    y = _in_camera(seen, T_cam_world)
    pixels = project(y[:2] / y[2:].clamp(min=MIN_DEPTH_RATIO), lens).T
    near = ((pixels - seen.pixels).norm(dim=-1) < within) & (y[2] > 0)
    return float((seen.weight * near).sum() / seen.weight.sum().clamp(min=1e-12))


def _in_camera(seen: Sightings, T_cam_world: Float[Tensor, "4 4"]) -> Float[Tensor, "3 n"]:
    return T_cam_world[:3] @ seen.points.T


def _normal_equations(
    seen: Sightings, lens: Float[Tensor, "lens"], T_cam_world: Float[Tensor, "4 4"], scale: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "6 6"], Float[Tensor, "6"]]:
    """Robust cost, and its normal equations by (v, omega) of a motion applied after the pose."""
    y = _in_camera(seen, T_cam_world)
    z = y[2:].clamp(min=MIN_DEPTH_RATIO)
    ray = y[:2] / z
    pixels, by_ray, _ = project_jacobians(ray, lens, with_lens=False)
    residual = pixels - seen.pixels.T
    cost, weight = geman_mcclure((residual * residual).sum(0), scale)
    valid = seen.weight * (y[2] > MIN_DEPTH_RATIO)
    # A point behind the camera is as bad as one that is infinitely far off.
    total = (seen.weight * torch.where(y[2] > MIN_DEPTH_RATIO, cost, torch.full_like(cost, 0.5 * scale**2))).sum()
    a, b = ray
    w = seen.points[:, 3]
    zero = torch.zeros_like(a)
    inverse_z = w / z[0]
    # Derivatives of (x/z, y/z) by (v, omega): v enters times the homogeneous coordinate.
    by_motion = torch.stack(
        [
            torch.stack([inverse_z, zero, -a * inverse_z, -a * b, 1 + a * a, -b]),
            torch.stack([zero, inverse_z, -b * inverse_z, -1 - b * b, a * b, a]),
        ]
    )
    jacobian = torch.einsum("rpn,rkn->pkn", by_ray, by_motion)
    weighted = jacobian * (weight * valid)
    matrix = torch.einsum("pkn,pln->kl", weighted, jacobian)
    return total, matrix, torch.einsum("pkn,pn->k", weighted, residual)
