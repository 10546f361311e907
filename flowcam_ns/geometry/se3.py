"""Rigid motions: 4x4 matrices, their inverses, and the exponential map used by the solvers.

Rotations go through roma; a tangent vector is (v, omega): translation part first, then rotation vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry.precision import full_precision

OPENCV_TO_OPENGL = (1.0, -1.0, -1.0)


def identity(count: int, like: Float[Tensor, "..."]) -> Float[Tensor, "count 4 4"]:
    """`count` identity motions with the dtype and device of `like`."""
    return torch.eye(4, dtype=like.dtype, device=like.device).repeat(count, 1, 1)


def from_rotation_translation(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Stack a rotation and a translation into homogeneous matrices."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1.0
    return torch.cat([top, bottom], dim=-2)


@full_precision
def inverse(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rigid motions in closed form (no linear solve)."""
    rotation_t = T[..., :3, :3].transpose(-1, -2)
    return from_rotation_translation(rotation_t, -(rotation_t @ T[..., :3, 3:])[..., 0])


@full_precision
def between(
    T_world_a: Float[Tensor, "*#batch 4 4"], T_world_b: Float[Tensor, "*#batch 4 4"]
) -> Float[Tensor, "*batch 4 4"]:
    """The motion T(a <- b) between two poses."""
    return inverse(T_world_a) @ T_world_b


@full_precision
def transform(T: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Apply rigid motions to points (broadcasting)."""
    return (T[..., :3, :3] @ points[..., None])[..., 0] + T[..., :3, 3]


def exp(tangent: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Retraction of a tangent vector (v, omega): rotation by omega, translation by v.

    This is the retraction of SO(3) x R^3, first-order equal to the SE(3) exponential and as good inside a
    Gauss-Newton solver, without the left Jacobian. Safe at zero.
    """
    return from_rotation_translation(roma.rotvec_to_rotmat(tangent[..., 3:]), tangent[..., :3])


def interpolated(
    T: Float[Tensor, "known 4 4"], at: Sequence[int], wanted: Sequence[int]
) -> Float[Tensor, "wanted 4 4"]:
    """Motions at `wanted` times between known ones at the ascending times `at`: even turns and steps in between."""
    times = torch.tensor(at, dtype=T.dtype, device=T.device)
    now = torch.tensor(wanted, dtype=T.dtype, device=T.device)
    before = (torch.searchsorted(times, now, right=True) - 1).clamp(0, max(len(at) - 2, 0))
    after = (before + 1).clamp(max=len(at) - 1)
    share = ((now - times[before]) / (times[after] - times[before]).clamp(min=1e-12)).clamp(0, 1)
    first, second = T[before], T[after]
    turn = roma.rotmat_to_rotvec(first[:, :3, :3].transpose(-1, -2) @ second[:, :3, :3])
    rotation = first[:, :3, :3] @ roma.rotvec_to_rotmat(share[:, None] * turn)
    return from_rotation_translation(rotation, torch.lerp(first[:, :3, 3], second[:, :3, 3], share[:, None]))


def skew(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Cross-product matrices: `skew(a) @ b == cross(a, b)`."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*v.shape[:-1], 3, 3)


def orthonormalized(T: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid motions with their rotation projected back onto SO(3) (after many multiplications)."""
    return from_rotation_translation(cast(Tensor, roma.special_procrustes(T[..., :3, :3])), T[..., :3, 3])


def rotation_angle_deg(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Rotation angle in degrees, accurate near zero."""
    return torch.rad2deg(roma.rotmat_to_rotvec(R).norm(dim=-1))


def opencv_to_opengl(c2w: Float[Tensor, "*batch rows 4"]) -> Float[Tensor, "*batch rows 4"]:
    """Switch camera axes between OpenCV (y down, z forward) and OpenGL (y up, z back); its own inverse.

    The one place where axes change on the way to and from nerfstudio (DESIGN.md section 5).
    """
    flip = torch.tensor([*OPENCV_TO_OPENGL, 1.0], dtype=c2w.dtype, device=c2w.device)
    return c2w * flip
