"""What the flow bundle adjustment hands on: poses, lens and surface points in one world frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowcam_ns.geometry.camera import Camera


@dataclass(frozen=True)
class CameraInformation:
    """The cost 1/2 d^T `matrix` d of a change d of the cameras, as a share of twice the robust cost of all flow."""

    frames: Int[Tensor, "posed"]
    """The frames that were solved, ascending."""
    matrix: Float[Tensor, "unknowns unknowns"]
    """Depths eliminated. Unknowns: a tangent (v, omega) of each posed frame's pose, T <- T exp(v, omega) with v in
    units of the world that is handed on, then the lens (`lens.py`)."""


@dataclass
class Alignment:
    """A trajectory, its lens and the depths that go with it. The world is z-up, centred on the scene, of unit size.

    All tensors are on the CPU; poses float64, the rest float32.
    """

    camera: Camera
    """The lens at the size of the frames that were given."""
    c2w: Float[Tensor, "frames 4 4"]
    """OpenCV camera-to-world; rows of frames that were not posed hold the nearest posed frame's pose."""
    posed: Bool[Tensor, "frames"]
    points: Float[Tensor, "frames points 2"]
    """The pixels (of the given frames, centres at +0.5) whose depths were solved for."""
    inverse_depth: Float[Tensor, "frames points"]
    """1 / z in world units along the camera's z axis; at most 0 where the point lies at infinity."""
    inverse_depth_std: Float[Tensor, "frames points"]
    """Standard deviation of `inverse_depth`; infinite where the point was not observed."""
    reprojection_error: float
    """Median distance between measured and pose-induced flow, px of the given frames."""
    unposed_reasons: dict[int, str] = field(default_factory=dict)
    """Why a frame could not be posed."""
    focal_std: float = float("inf")
    """Standard deviation of the focal length, px."""
    lens_std: Mapping[str, float] = field(default_factory=dict)
    """Standard deviations of the rest of the lens, by the names of its fields: cx and cy in px, k1, k2, p1, p2."""
    rotation_std_deg: Float[Tensor, "frames"] | None = None
    position_std: Float[Tensor, "frames"] | None = None
    """World units."""
    foreign: Bool[Tensor, "frames h w"] | None = None
    """True where a frame shows what is not of the still scene (a logo, a thing that moves), as far as the solve found
    that; images smaller than the frames. None where there is nothing of the kind."""
    information: CameraInformation | None = None
    """What flow says about small changes of the cameras, where that was asked for."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock of each stage."""
    warnings: list[str] = field(default_factory=list)
