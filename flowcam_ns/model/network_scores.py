"""How good a network's motion of a clip is, beside two trivial answers: no motion, and constant velocity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.geometry.metrics import constant_velocity_baseline, score_trajectory
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.motion import MotionOutput

RIGHT_ANGLE = 90.0
"""Expected direction error, in degrees, of an answer that names no direction."""


def flow_error_px(motion: MotionOutput, clip: Clip) -> Float[Tensor, ""]:
    """Median distance in px between given and pose-induced flow, over the rays whose flow can be trusted."""
    height, width = clip.size
    error = (motion.flow_from_pose - motion.flow) * motion.flow.new_tensor([width, height])
    length = error.norm(dim=-1)
    if motion.flow_confidence is not None:
        trusted = motion.flow_confidence[..., 0] > 0.5
        length = length[trusted] if bool(trusted.any()) else length
    return length.median()


def pose_errors(estimate: Float[Tensor, "frames 4 4"], truth: Float[Tensor, "frames 4 4"]) -> dict[str, float]:
    """Errors of a clip's poses: rotation and direction of neighbours' motion in degrees, and ATE over the radius.

    Each with those of "no motion" (`still_`) and of a straight line at even speed (`constant_`). Empty where the truth
    is not known.
    """
    estimate, truth = estimate.detach().cpu().double(), truth.detach().cpu().double()
    if not bool(torch.isfinite(truth).all()):
        return {}
    count = len(truth)
    answers = {"": estimate, "constant_": constant_velocity_baseline(count)}
    scores: dict[str, float] = {}
    for prefix, poses in answers.items():
        rotation, direction = _neighbour_errors(poses, truth)
        scores[f"{prefix}rotation_deg"], scores[f"{prefix}direction_deg"] = rotation, direction
        ate = score_trajectory(poses, truth, torch.ones(count, dtype=torch.bool)).ate_relative
        scores[f"{prefix}ate"] = float(ate)
    scores["still_rotation_deg"], _ = _neighbour_errors(se3.identity(count, truth), truth)
    scores["still_direction_deg"], scores["still_ate"] = RIGHT_ANGLE, 1.0
    return scores


def _neighbour_errors(estimate: Float[Tensor, "frames 4 4"], truth: Float[Tensor, "frames 4 4"]) -> tuple[float, float]:
    """Mean rotation error and mean angle between the directions of motion of neighbours, degrees."""
    motion, true_motion = (se3.between(poses[:-1], poses[1:]) for poses in (estimate, truth))
    rotation = se3.rotation_angle_deg(motion[:, :3, :3].transpose(1, 2) @ true_motion[:, :3, :3])
    cosine = torch.cosine_similarity(motion[:, :3, 3], true_motion[:, :3, 3], dim=-1, eps=1e-12)
    return float(rotation.mean()), float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean())
