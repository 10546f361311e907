"""Sizes and switches of the FlowCam network: the same code builds the published one and a small one for a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class NetworkConfig:
    """What the network is made of; the defaults are the published network (arXiv 2306.00180)."""

    encoder: Literal["resnet34", "small"] = "resnet34"
    """resnet34: the published encoder, features at full size. small: a thin U-Net, features at a quarter of it."""
    encoder_width: int = 512
    """Channels inside the encoder's head (resnet34) or of its widest level (small)."""
    feature_channels: int = 64
    """Channels per pixel that the field reads, the pixel's own RGB (the last three) included."""
    ray_frequencies: int = 5
    """Frequencies of the positional encoding of the ray direction that the encoder sees."""
    flow_input_scale: float = 4.0
    """Optical flow (in fractions of the image) is multiplied by this before the encoder reads it."""
    field: Literal["residual", "mlp"] = "residual"
    """residual: the published field. mlp: plain layers of the same width, which tiny-cuda-nn can run."""
    field_implementation: Literal["torch", "tcnn"] = "torch"
    """What runs the plain layers; tcnn falls back to torch where tiny-cuda-nn is missing. Weights of one are not those
    of the other."""
    field_width: int = 64
    """Hidden units of the radiance field."""
    field_blocks: int = 2
    """Residual blocks of the field's first, per-view part."""
    point_encoding: Literal["xyz", "log"] = "xyz"
    """How the field sees a point in a camera's frame. log: direction and logarithm of the distance, in which near
    and far surfaces are equally easy to tell apart."""
    density_activation: Literal["relu", "softplus"] = "relu"
    """What turns the field's output into a density; relu (the published one) can die, softplus cannot."""
    density_bias: float = 0.0
    """Added to the raw density: where the surfaces lie before any training."""
    floor_prior: float = 0.0
    """How strongly the untrained density grows beyond a guessed wall and floor (0: not at all)."""
    learned_confidence: bool = True
    """Weigh correspondences by a learned confidence; otherwise only by what is known of the flow."""
    confidence_width: int = 128
    """Hidden units of the network that weighs correspondences."""
    confidence_by_depth: bool = False
    """Also weigh a correspondence by 1 / z^2: the error of a surface point grows with its distance."""
    pose_steps: int = 0
    """Gauss-Newton steps on the flow that the motion leaves unexplained, after Procrustes (published: none)."""
    pose_search: int = 0
    """Steps of a search before those: also from motions along the three axes, both ways; 0 starts from Procrustes."""
    depth_spread: float = 0.3
    """Standard deviation of the surfaces' depths, as a share, that those steps count with; 0 holds the surfaces."""
    flow_noise: float = 0.0005
    """Standard deviation of the flow that those steps count with, as a fraction of the image's width."""
    joint_steps: int = 0
    """Steps after those that move all motions of a clip together, so that their lengths agree (published: none)."""
    joint_reach: int = 4
    """Longest frame gap whose flow, chained from neighbours', counts in those steps: 1, 2, 4, ... up to this."""
    num_samples: int = 64
    """Samples along a ray."""
    near: float = 1.0
    """Distance of the first sample."""
    far: float = 8.0
    """Distance of the last sample."""
    opaque_far: bool = False
    """Let the last sample absorb what light is left: every ray has a surface (in the published network it need not)."""
    num_context_views: int = 2
    """Frames that a target is re-rendered from: the first, the last, the middle one of the clip, in that order."""
    own_context: bool = True
    """Whether a target frame may be its own context, as in the published network; otherwise the next view steps in."""
    authors_conventions: bool = True
    """Follow the published conventions where others are as good or better: pixel coordinates are indices over the size
    and lookups align corners (otherwise centres lie at +0.5); rays in a frame's own camera look its features up at
    every sample (otherwise once a ray); projections into a context camera use the target's intrinsics, also behind the
    camera (otherwise the context's own, and views that a point lies behind are left out)."""


def small_config(num_context_views: int = 2) -> NetworkConfig:
    """A network that trains on one video in minutes on a CPU."""
    return NetworkConfig(
        encoder="small",
        encoder_width=48,
        feature_channels=35,
        ray_frequencies=1,
        flow_input_scale=20.0,
        field_width=32,
        field_blocks=1,
        point_encoding="log",
        density_activation="softplus",
        density_bias=-1.0,
        floor_prior=2.0,
        confidence_width=32,
        confidence_by_depth=True,
        pose_steps=2,
        pose_search=4,
        joint_steps=4,
        num_samples=16,
        near=0.5,
        far=12.0,
        opaque_far=True,
        num_context_views=num_context_views,
        own_context=False,
        authors_conventions=False,
    )
