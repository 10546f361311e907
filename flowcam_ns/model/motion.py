"""The camera motion of a clip: matched surface points in, poses and the flow they induce out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip, chained_flow
from flowcam_ns.model.clip_refinement import ClipReprojection, refine_clip
from flowcam_ns.model.motion_refinement import Reprojection, refine_motion
from flowcam_ns.model.network_config import NetworkConfig
from flowcam_ns.model.surfaces import RaySurfaces


@dataclass
class Matches:
    """Surfaces of a clip at its context rays (pixels, the same in every frame), paired by flow."""

    features: Float[Tensor, "batch frames channels fh fw"]
    surfaces: RaySurfaces
    """Every frame's rays, rendered from its own features in its own camera."""
    partner_surfaces: RaySurfaces
    """In frame t, where the flow of frame t + 1's rays ends."""
    uv: Float[Tensor, "batch pairs rays 2"]
    """The rays' pixels, fractions of the image."""
    flow: Float[Tensor, "batch pairs rays 2"]
    """The given backward flow at the rays."""
    weights: Float[Tensor, "batch pairs rays 1"]
    """Learned confidence of each match, in [0, 1]."""
    flow_confidence: Float[Tensor, "batch pairs rays 1"] | None
    """The given confidence of the flow."""

    @property
    def later(self) -> RaySurfaces:
        """Surfaces of frames 1..n: those that the partners are matched to."""
        return self.surfaces.frames(1, None)


@dataclass
class MotionOutput(Matches):
    """What follows from the matches in closed form."""

    relative: Float[Tensor, "batch pairs 4 4"]
    """T(t <- t + 1)."""
    inverse_depth_ratio: Float[Tensor, "batch pairs rays"]
    """How many times the network's the inverse depths of frames 1..n are under motions that were moved together."""
    c2w: Float[Tensor, "batch frames 4 4"]
    """In frame 0's camera."""
    flow_from_pose: Float[Tensor, "batch pairs rays 2"]
    """What `flow` would be if surfaces and motion were right."""


def solve_motion(matches: Matches, clip: Clip, config: NetworkConfig, together: bool) -> MotionOutput:
    """Steps 6 and 8 of the method: poses by weighted Procrustes (refined, if the config says so), and their flow.

    The config's joint steps are left out unless `together`.
    """
    later, partner = matches.later, matches.partner_surfaces
    trust = matches.weights
    if matches.flow_confidence is not None:
        trust = trust * matches.flow_confidence
    weights = trust
    if config.confidence_by_depth:
        weights = weights * scene_flow.depth_weights(later.points, partner.points)
    relative = scene_flow.relative_poses(later.points, partner.points, weights)
    if config.pose_steps > 0:
        ends = matches.uv + matches.flow
        match = Reprojection.of(
            later, clip.intrinsics[:, :-1], ends, trust[..., 0], config.depth_spread, config.flow_noise
        )
        relative = refine_motion(relative, match, config.pose_steps, config.pose_search)
    inverse = torch.ones_like(matches.weights[..., 0])
    if together and config.joint_steps > 0:
        match = _over_gaps(matches, clip, trust[..., 0], config)
        relative, inverse = refine_clip(relative, match, config.joint_steps)
    return MotionOutput(
        **{name: getattr(matches, name) for name in Matches.__dataclass_fields__},
        relative=relative,
        inverse_depth_ratio=inverse,
        c2w=scene_flow.chain(relative),
        flow_from_pose=scene_flow.pose_induced_flow(later, relative, clip.intrinsics[:, 1:], matches.uv),
    )


def _over_gaps(matches: Matches, clip: Clip, trust: Tensor, config: NetworkConfig) -> ClipReprojection:
    """Where the later frames' surfaces are seen, by the given flow and by flows chained over longer gaps."""
    ends, weights = {1: matches.uv + matches.flow}, {1: trust}
    gap = 2
    while gap <= min(config.joint_reach, clip.num_pairs):
        ends[gap], confidence = chained_flow(clip, matches.uv[:, gap - 1 :], gap)
        weights[gap] = matches.weights[:, gap - 1 :, :, 0] * confidence
        gap *= 2
    return ClipReprojection.of(matches.later, clip.intrinsics, ends, weights, config.depth_spread, config.flow_noise)
