"""How far the estimated motion is from explaining the flow, between neighbours and over longer gaps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.geometry import se3
from flowcam_ns.model import scene_flow
from flowcam_ns.model.clip import Clip, chained_flow
from flowcam_ns.model.motion import Matches, MotionOutput

PUBLISHED_WEIGHT = 6000.0
PUBLISHED_CLAMP = 0.2
PUBLISHED_LIMIT = 10.0
FAR_OFF = 0.5
"""Flow error (fraction of the image) beyond which the soft loss levels off."""


def published_flow_loss(motion: MotionOutput) -> Float[Tensor, ""]:
    """6000 times the mean squared flow error, both flows clamped, all rays included; without the outer limit."""
    induced = motion.flow_from_pose.clamp(-PUBLISHED_CLAMP, PUBLISHED_CLAMP)
    return F.mse_loss(induced, motion.flow.clamp(-PUBLISHED_CLAMP, PUBLISHED_CLAMP)) * PUBLISHED_WEIGHT


def soft_flow_loss(motion: MotionOutput, clip: Clip, softness: float) -> Float[Tensor, ""]:
    """Mean length of the unexplained flow, both ways between neighbours, weighed by the given flow's confidence.

    The motion must carry the later frame's surfaces to where the flow ends, and its inverse the earlier frame's back.
    """
    return flow_loss_of_motion(motion, clip, motion.relative, softness)


def flow_loss_of_motion(
    matches: Matches, clip: Clip, relative: Float[Tensor, "batch pairs 4 4"], softness: float
) -> Float[Tensor, ""]:
    """`soft_flow_loss` for any motions T(t <- t + 1): what they leave unexplained, given the surfaces."""
    K = clip.intrinsics
    there = scene_flow.pose_induced_flow(matches.later, relative, K[:, 1:], matches.uv) - matches.flow
    partner_uv = matches.uv + matches.flow
    back = scene_flow.pose_induced_flow(matches.partner_surfaces, se3.inverse(relative), K[:, :-1], partner_uv)
    weights = torch.ones_like(matches.weights) if matches.flow_confidence is None else matches.flow_confidence
    residual = torch.stack([there, back + matches.flow], dim=1)
    return weighted_mean(soft_length(residual, softness), weights[:, None, ..., 0])


def wide_flow_loss(motion: MotionOutput, clip: Clip, gaps: tuple[int, ...], softness: float) -> Float[Tensor, ""]:
    """The same over longer gaps: chained motions must carry surfaces to where the neighbours' flows, chained, end.

    Over a longer baseline a false surface shows more clearly, and errors of chained motions add up.
    """
    total = motion.flow.new_zeros(())
    gaps = tuple(gap for gap in gaps if gap <= clip.num_pairs)
    for gap in gaps:
        ends, confidence = chained_flow(clip, motion.uv[:, gap - 1 :], gap)
        T_earlier_later = se3.between(motion.c2w[:, :-gap], motion.c2w[:, gap:])
        later = motion.surfaces.frames(gap, None)
        uv = motion.uv[:, gap - 1 :]
        induced = scene_flow.pose_induced_flow(later, T_earlier_later, clip.intrinsics[:, :-gap], uv)
        total = total + weighted_mean(soft_length(induced - (ends - uv), softness * gap), confidence) / gap
    return total / max(len(gaps), 1)


def soft_length(residual: Float[Tensor, "*batch 2"], softness: float) -> Float[Tensor, "*batch"]:
    """Length of a flow error: quadratic below `softness`, then linear, level beyond `FAR_OFF` (image fractions)."""
    length = softness * (torch.sqrt(1 + residual.square().sum(-1) / softness**2) - 1)
    return FAR_OFF * torch.tanh(length / FAR_OFF)


def weighted_mean(values: Float[Tensor, "batch *rays"], weights: Float[Tensor, "batch *#rays"]) -> Float[Tensor, ""]:
    """Mean of `values` over each clip of a batch, then over the clips; 0 for a clip without any weight.

    Clip by clip, so that a batch spread over several processes has the same loss as a whole one.
    """
    weights = weights.expand_as(values)
    per_clip = (weights * values).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp(min=1e-6)
    return per_clip.mean()
