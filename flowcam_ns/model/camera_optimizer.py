"""The cameras that flow estimated, as nerfstudio's camera optimizer: they live in the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from flowcam_ns.geometry.camera import Camera


@dataclass(frozen=True)
class CameraUncertainty:
    """Standard deviations of estimated cameras; infinite where nothing is known."""

    position: Float[Tensor, "frames"]
    """World units."""
    rotation_deg: Float[Tensor, "frames"]
    focal: float
    """Px."""

    @classmethod
    def unknown(cls, frames: int) -> CameraUncertainty:
        """Nothing is known."""
        nothing = torch.full((frames,), torch.inf, dtype=torch.float64)
        return cls(nothing, nothing.clone(), float("inf"))


@dataclass(frozen=True)
class EstimatedCameras:
    """Poses of all frames of a clip and their common lens, as nerfstudio's copies of the cameras receive them."""

    c2w: Float[Tensor, "frames 4 4"]
    """OpenCV camera-to-world, float64, on the CPU."""
    camera: Camera
    posed: Bool[Tensor, "frames"]
    """False where a frame could not be posed; its row of `c2w` is a placeholder."""
    uncertainty: CameraUncertainty | None = None
    """Where the estimate tells it."""


@dataclass
class FlowCameraOptimizerConfig(CameraOptimizerConfig):
    """Camera poses from optical flow."""

    _target: type = field(default_factory=lambda: FlowCameraOptimizer)


class FlowCameraOptimizer(CameraOptimizer):
    """Holds every frame's pose and the lens in buffers; the datamanager bakes them into nerfstudio's cameras.

    nerfstudio composes a camera optimizer's corrections in three inconsistent ways (viewer, exporter, rays), which
    agree for the identity alone: so `forward` is the identity and cameras carry the poses themselves.
    """

    c2w: Tensor
    posed: Tensor
    lens: Tensor
    solved: Tensor
    position_std: Tensor
    rotation_std_deg: Tensor
    focal_std: Tensor

    def __init__(
        self, config: CameraOptimizerConfig, num_cameras: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(config=CameraOptimizerConfig(mode="off"), num_cameras=num_cameras, device=device, **kwargs)
        self.register_buffer("c2w", torch.eye(4, dtype=torch.float64).repeat(num_cameras, 1, 1))
        self.register_buffer("posed", torch.zeros(num_cameras, dtype=torch.bool))
        self.register_buffer("lens", torch.zeros(10, dtype=torch.float64))
        self.register_buffer("solved", torch.zeros((), dtype=torch.bool))
        unknown = CameraUncertainty.unknown(num_cameras)
        self.register_buffer("position_std", unknown.position)
        self.register_buffer("rotation_std_deg", unknown.rotation_deg)
        self.register_buffer("focal_std", torch.tensor(unknown.focal, dtype=torch.float64))

    @property
    def is_solved(self) -> bool:
        """Whether poses have been estimated."""
        return bool(self.solved)

    @torch.no_grad()
    def set_cameras(self, cameras: EstimatedCameras) -> None:
        """Store estimated cameras (final ones: marks the poses as solved)."""
        camera = cameras.camera
        lens = [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion]
        self.c2w.copy_(cameras.c2w)
        self.posed.copy_(cameras.posed)
        self.lens.copy_(torch.tensor(lens, dtype=torch.float64))
        uncertainty = cameras.uncertainty or CameraUncertainty.unknown(self.num_cameras)
        self.position_std.copy_(uncertainty.position)
        self.rotation_std_deg.copy_(uncertainty.rotation_deg)
        self.focal_std.fill_(uncertainty.focal)
        self.solved.fill_(True)

    def cameras(self) -> EstimatedCameras:
        """The stored cameras, on the CPU."""
        width, height, *rest = self.lens.tolist()
        camera = Camera(int(width), int(height), *rest)
        uncertainty = CameraUncertainty(
            self.position_std.cpu().clone(), self.rotation_std_deg.cpu().clone(), float(self.focal_std)
        )
        return EstimatedCameras(self.c2w.detach().cpu().clone(), camera, self.posed.cpu().clone(), uncertainty)

    def forward(self, indices: Int[Tensor, "camera_indices"]) -> Float[Tensor, "camera_indices 3 4"]:
        """Identity: the cameras already stand where flow put them."""
        return torch.eye(4, device=indices.device)[:3].repeat(indices.shape[0], 1, 1)

    def apply_to_camera(self, camera: Cameras) -> Float[Tensor, "num_cameras 3 4"]:
        """The camera's own pose."""
        return camera.camera_to_worlds
