"""Trajectories from bundle adjustment as a teacher: they make the network's surfaces and confidences right.

The bundle-adjusted poses stay what they are; the network's Procrustes poses are pulled towards them, up to scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model.clip import Clip
from flowcam_ns.model.flow_losses import flow_loss_of_motion
from flowcam_ns.model.motion import MotionOutput
from flowcam_ns.model.network_config import NetworkConfig

SOFT_DEGREES = 0.02
SHORTEST = 1e-6


@dataclass
class AlignmentLossConfig:
    """How strongly a solved trajectory teaches the network."""

    rotation_weight: float = 10.0
    """Weight of the rotation error between neighbours, in degrees."""
    translation_weight: float = 10.0
    """Weight of the translation error between neighbours, relative to the mean step, after a fit of scale."""
    flow_weight: float = 6000.0
    """Weight of the flow that the solved motion leaves unexplained, given the network's surfaces."""
    flow_softness: float = 0.0005
    """Flow error (fraction of the image) below which that loss is quadratic."""


def procrustes_alignment_loss(
    motion: MotionOutput, clip: Clip, solved_c2w: Float[Tensor, "batch frames 4 4"], config: AlignmentLossConfig
) -> dict[str, Float[Tensor, ""]]:
    """Weighted losses of a clip against its solved poses, in the network's units (see `world_to_network_scale`).

    `pose_rotation` and `pose_translation` compare neighbours' motions, the latter up to one positive scale a clip;
    `solved_flow` asks the surfaces to show the measured flow under the solved motions. Frames that could not be posed
    must not be in the clip.
    """
    solved_c2w = solved_c2w.to(motion.relative)
    solved = se3.between(solved_c2w[:, :-1], solved_c2w[:, 1:])
    return {
        "pose_rotation": config.rotation_weight * rotation_error_deg(motion.relative, solved).mean(),
        "pose_translation": config.translation_weight * relative_step_error(motion.relative, solved).mean(),
        "solved_flow": config.flow_weight * flow_loss_of_motion(motion, clip, solved, config.flow_softness),
    }


def rotation_error_deg(
    estimate: Float[Tensor, "*batch 4 4"], truth: Float[Tensor, "*batch 4 4"]
) -> Float[Tensor, "*batch"]:
    """Rotation error in degrees, smooth at zero (chordal: exact for small angles, bounded for large ones)."""
    chord = (estimate[..., :3, :3] - truth[..., :3, :3]).flatten(-2).square().sum(-1) / 2
    degrees_squared = chord * torch.rad2deg(chord.new_ones(())) ** 2
    return torch.sqrt(degrees_squared + SOFT_DEGREES**2) - SOFT_DEGREES


def relative_step_error(
    estimate: Float[Tensor, "batch pairs 4 4"], truth: Float[Tensor, "batch pairs 4 4"]
) -> Float[Tensor, "batch pairs"]:
    """Error of the steps between neighbours over their mean length, the truth scaled to the estimate, clip by clip.

    The scale compares lengths alone, so a reversed motion is an error and not a negative scale.
    """
    steps, true_steps = estimate[..., :3, 3], truth[..., :3, 3]
    lengths, true_lengths = steps.detach().norm(dim=-1), true_steps.norm(dim=-1)
    energy = true_lengths.square().sum(-1).clamp(min=SHORTEST**2)
    scale = ((lengths * true_lengths).sum(-1) / energy)[:, None, None]
    mean_step = (scale[..., 0] * true_lengths).mean(-1, keepdim=True).clamp(min=SHORTEST)
    return torch.sqrt((steps - scale * true_steps).square().sum(-1) + SHORTEST**2) / mean_step


def world_to_network_scale(inverse_depth: Float[Tensor, "..."], config: NetworkConfig) -> float:
    """Network units per world unit: what brings the solve's median depth to the middle of the network's range.

    Multiply the positions of solved poses with it. Inverse depths that are not positive (at infinity) count as far.
    """
    middle = (config.near * config.far) ** 0.5
    return float(middle * inverse_depth.float().clamp(min=0).median().clamp(min=SHORTEST))


def scaled_poses(c2w: Float[Tensor, "*batch 4 4"], scale: float) -> Float[Tensor, "*batch 4 4"]:
    """The same trajectory with positions in other units."""
    return torch.cat([torch.cat([c2w[..., :3, :3], c2w[..., :3, 3:] * scale], dim=-1), c2w[..., 3:, :]], dim=-2)
