"""How good a trajectory is: the figures of pose-estimation papers, in one place, with their formulas.

T_i = (R_i, c_i) are camera-to-world poses, hats mark the estimate; n is the number of frames with a known truth.

- ATE: root mean square of `|S(c^_i) - c_i|` over the frames, S the right-handed Sim(3) of `align_sim3`; relative ATE
  is ATE divided by the true trajectory's RMS radius, `sqrt(mean |c_i - mean c|^2)`.
- Pair errors, over all n (n - 1) / 2 pairs, free of any alignment: the rotation error is the angle of
  `R^_ij^T R_ij` with `R_ij = R_i^T R_j`; the translation-direction error is the angle between `R^_i^T (c^_j - c^_i)`
  and `R_i^T (c_j - c_i)`. The pair error e is the larger of the two. Where the truth has no baseline there is no
  direction to be wrong in: the rotation alone counts. Where only the estimate has none, the direction is as wrong as
  can be: 180 degrees.
- AUC@T: area under the recall curve `recall(x) = share of pairs with e <= x` for x in 0..T, divided by T. The curve is
  a step function, so the area is exactly `mean(max(0, 1 - e / T))`. A pair with an unposed frame is never recalled.
- Rotation error of a frame: angle between R_i and the estimate after the one rotation of the world that fits all
  orientations best (chordal mean), which is defined for straight trajectories too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowcam_ns.geometry.camera import Camera
from flowcam_ns.geometry.se3 import identity, rotation_angle_deg
from flowcam_ns.geometry.trajectory import align_sim3, closest_rotation

AUC_THRESHOLDS_DEG = (5.0, 10.0, 30.0)

_NO_BASELINE = 1e-6
"""Baselines below this share of the trajectory's RMS radius count as none."""


@dataclass(frozen=True)
class PoseScores:
    """Scores of one trajectory against its truth; NaN where a figure is not defined."""

    frames: int
    """Frames with a known true pose."""
    posed: int
    """Those of them that have an estimated pose."""
    ate: float
    """RMSE of the camera centres after Sim(3) alignment over the posed frames, in the truth's unit."""
    ate_relative: float
    """`ate` divided by the true trajectory's RMS radius."""
    max_position_relative: float
    """The largest distance of one camera centre from its true place, divided by the same radius."""
    auc_5: float
    """AUC@5 degrees over all pairs, 0 to 1."""
    auc_10: float
    """AUC@10 degrees."""
    auc_30: float
    """AUC@30 degrees."""
    mean_pair_rotation_deg: float
    """Mean rotation error over all posed pairs."""
    mean_rotation_deg: float
    """Mean rotation error over the posed frames."""
    max_rotation_deg: float
    """Largest rotation error of a posed frame."""
    focal_error_percent: float
    """|estimated - true| / true focal length, in percent."""

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON, None where a figure is not defined."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


@dataclass(frozen=True)
class FrameErrors:
    """Errors of every frame after alignment; NaN for frames without truth or without pose."""

    position: Float[Tensor, "frames"]
    """Distance of the camera centre from its true place, in the truth's unit."""
    rotation_deg: Float[Tensor, "frames"]
    radius: float
    """RMS radius of the true trajectory over the frames compared."""


def score_trajectory(
    estimate_c2w: Float[Tensor, "frames 4 4"],
    truth_c2w: Float[Tensor, "frames 4 4"],
    posed: Bool[Tensor, "frames"] | None = None,
    camera: Camera | None = None,
    truth_camera: Camera | None = None,
) -> PoseScores:
    """All scores of an estimated trajectory (formulas at the top of this file).

    Args:
        estimate_c2w: Estimated camera-to-world poses, in any world and scale, with the same camera axes as the truth.
        truth_c2w: True poses; frames with a NaN have no known truth and are left out.
        posed: Frames that were posed; all finite ones when None.
        camera: Estimated lens, for the focal error.
        truth_camera: True lens.
    """
    known = _is_finite(truth_c2w)
    estimate, truth = estimate_c2w[known].double().cpu(), truth_c2w[known].double().cpu()
    posed = _is_finite(estimate) & (True if posed is None else posed.cpu()[known.cpu()])
    errors = frame_errors(estimate, truth, posed)
    position, rotation = errors.position[posed], errors.rotation_deg[posed]
    pair_rotation, pair_direction = pair_errors_deg(estimate[posed], truth[posed])
    pair_error = torch.maximum(pair_rotation, pair_direction)
    pairs = len(truth) * (len(truth) - 1) // 2
    auc_5, auc_10, auc_30 = (auc(pair_error, threshold, pairs) for threshold in AUC_THRESHOLDS_DEG)
    ate = float(position.square().mean().sqrt())
    radius = errors.radius if errors.radius > 0 else float("nan")
    return PoseScores(
        frames=len(truth),
        posed=int(posed.sum()),
        ate=ate,
        ate_relative=ate / radius,
        max_position_relative=_max(position) / radius,
        auc_5=auc_5,
        auc_10=auc_10,
        auc_30=auc_30,
        mean_pair_rotation_deg=float(pair_rotation.mean()),
        mean_rotation_deg=float(rotation.mean()),
        max_rotation_deg=_max(rotation),
        focal_error_percent=focal_error_percent(camera, truth_camera),
    )


def frame_errors(
    estimate_c2w: Float[Tensor, "frames 4 4"],
    truth_c2w: Float[Tensor, "frames 4 4"],
    posed: Bool[Tensor, "frames"] | None = None,
) -> FrameErrors:
    """Position and rotation error of every frame after alignment (formulas at the top of this file)."""
    estimate, truth = estimate_c2w.double(), truth_c2w.double()
    use = _is_finite(estimate) & _is_finite(truth)
    if posed is not None:
        use = use & posed
    position = torch.full((len(truth),), float("nan"), dtype=torch.float64)
    rotation = position.clone()
    if not use.any():
        return FrameErrors(position, rotation, float("nan"))
    centres = truth[use, :3, 3]
    aligned = align_sim3(estimate, truth, use).apply_points(estimate[use, :3, 3])
    position[use] = (aligned - centres).norm(dim=-1)
    R, R_truth = estimate[use, :3, :3], truth[use, :3, :3]
    world = closest_rotation(torch.einsum("fij,fkj->ik", R_truth, R))
    rotation[use] = rotation_angle_deg(R_truth.transpose(-1, -2) @ (world @ R))
    radius = float((centres - centres.mean(0)).square().sum(-1).mean().sqrt())
    return FrameErrors(position, rotation, radius)


def pair_errors_deg(
    estimate_c2w: Float[Tensor, "frames 4 4"], truth_c2w: Float[Tensor, "frames 4 4"]
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """Rotation and translation-direction error in degrees of all pairs i < j (formulas at the top of this file)."""
    i, j = torch.triu_indices(len(truth_c2w), len(truth_c2w), offset=1)
    R, R_truth = estimate_c2w[:, :3, :3].double(), truth_c2w[:, :3, :3].double()
    rotation = rotation_angle_deg(
        (R[i].transpose(-1, -2) @ R[j]).transpose(-1, -2) @ R_truth[i].transpose(-1, -2) @ R_truth[j]
    )
    return rotation, _direction_error_deg(*(_baselines(c2w, i, j) for c2w in (estimate_c2w, truth_c2w)))


def auc(errors: Float[Tensor, "items"], threshold: float, count: int | None = None) -> float:
    """Exact area under the recall curve up to `threshold`, 0 to 1; items missing from `count` are never recalled."""
    count = len(errors) if count is None else count
    return float((1 - errors / threshold).clamp(min=0).sum()) / count if count > 0 else float("nan")


def focal_error_percent(camera: Camera | None, truth_camera: Camera | None) -> float:
    """Focal length error in percent (mean of fx and fy, at one and the same width); NaN when one is unknown."""
    if camera is None or truth_camera is None:
        return float("nan")
    truth_camera = truth_camera.scaled_to(camera.width, camera.height)
    truth = truth_camera.fx + truth_camera.fy
    return 100 * abs(camera.fx + camera.fy - truth) / truth


def constant_velocity_baseline(frames: int) -> Float[Tensor, "frames 4 4"]:
    """The trivial trajectory to print beside every score: equal steps straight ahead (+z), no rotation."""
    c2w = identity(frames, torch.zeros((), dtype=torch.float64))
    c2w[:, 2, 3] = torch.arange(frames, dtype=torch.float64)
    return c2w


def _baselines(
    c2w: Float[Tensor, "frames 4 4"], i: Tensor, j: Tensor
) -> tuple[Float[Tensor, "pairs 3"], Bool[Tensor, "pairs"]]:
    """c_j - c_i in camera i, and whether that is long enough to have a direction."""
    R, centres = c2w[:, :3, :3].double(), c2w[:, :3, 3].double()
    between = centres[j] - centres[i]
    radius = (centres - centres.mean(0)).square().sum(-1).mean().sqrt() if len(c2w) else 0.0
    return (R[i].transpose(-1, -2) @ between[..., None])[..., 0], between.norm(dim=-1) > _NO_BASELINE * radius


def _direction_error_deg(
    estimate: tuple[Float[Tensor, "pairs 3"], Bool[Tensor, "pairs"]],
    truth: tuple[Float[Tensor, "pairs 3"], Bool[Tensor, "pairs"]],
) -> Float[Tensor, "pairs"]:
    (a, a_moves), (b, b_moves) = estimate, truth
    angle = torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)))
    angle = torch.where(a_moves, angle, 180.0)
    return torch.where(b_moves, angle, 0.0)


def _is_finite(c2w: Float[Tensor, "frames 4 4"]) -> Bool[Tensor, "frames"]:
    return torch.isfinite(c2w).all(-1).all(-1)


def _max(values: Float[Tensor, "items"]) -> float:
    return float(values.max()) if len(values) else float("nan")
