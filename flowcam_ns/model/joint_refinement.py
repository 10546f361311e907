"""Poses and lens refined while the field trains: second-order steps on flow's and pictures' errors together.

Flow enters as the quadratic around the bundle adjustment's optimum, so that directions which flow knows well stay
stiff, and held-out frames, whose pictures are never looked at, follow their neighbours. Pictures enter as the field's
own errors on a part of the training frames. A step is taken if it lowers the errors on the other training frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from flowcam_ns.alignment.covariance import gauge_directions
from flowcam_ns.alignment.groups import strength
from flowcam_ns.alignment.lens import LENS_SIZE, camera_from_lens, lens_from_camera
from flowcam_ns.alignment.photometric import photometric_equations, unknowns_of
from flowcam_ns.alignment.problem import FlowState
from flowcam_ns.alignment.reduced_system import POSE_SIZE
from flowcam_ns.alignment.result import CameraInformation
from flowcam_ns.geometry import se3
from flowcam_ns.model.blend_field import BlendField
from flowcam_ns.model.camera_optimizer import EstimatedCameras
from flowcam_ns.model.photometric_view import brightness_error, photometric_view
from flowcam_ns.model.refinement_config import JointRefinementConfig

WATCHED_EVERY = 4
"""Every such training frame is kept out of a step and judges it."""
DAMPING = 1e-9
"""Added to the diagonal, relative to its mean."""
HELD = 1e9
"""The same, for what shall not move."""


@dataclass(frozen=True)
class Refined:
    """What a step came to."""

    cameras: EstimatedCameras
    """The old ones where the step was not taken."""
    taken: bool
    before: float
    """Mean absolute error of brightness on the training frames that judge."""
    after: float


class JointRefinement:
    """Steps from the cameras of one solve."""

    def __init__(
        self, config: JointRefinementConfig, information: CameraInformation, cameras: EstimatedCameras
    ) -> None:
        self.config = config
        self.information = information
        self.cameras = cameras
        self.moved = torch.zeros(len(information.matrix), dtype=torch.float64)
        """From the solve's optimum, in the unknowns of `information`."""

    def step(self, field: BlendField) -> Refined:
        """One step; the field's scene has the new cameras afterwards, if they are better.

        Raises FlowCamError where the field has no scene.
        """
        frames = self._training_frames(field)
        judges = frames[WATCHED_EVERY // 2 :: WATCHED_EVERY]
        used = [frame for frame in frames if frame not in judges]
        before = self._error(field, judges, self.cameras)
        change = self._solved(field, used)
        cameras = self._changed(change)
        old = self.cameras
        field.move_cameras(cameras.c2w, cameras.camera)
        after = self._error(field, judges, cameras)
        if not after < before:
            field.move_cameras(old.c2w, old.camera)
            return Refined(old, False, before, after)
        self.cameras, self.moved = cameras, self.moved + change
        return Refined(cameras, True, before, after)

    def _training_frames(self, field: BlendField) -> list[int]:
        assert field.scene is not None
        frames = field.scene.usable.cpu().nonzero()[:, 0]
        few = torch.linspace(0, len(frames) - 1, min(self.config.most_frames, len(frames))).round().long()
        return frames[few].tolist()

    def _error(self, field: BlendField, frames: list[int], cameras: EstimatedCameras) -> float:
        lens = lens_from_camera(cameras.camera)
        errors = [brightness_error(photometric_view(field, frame, lens, self.config.stride)) for frame in frames]
        return sum(errors) / max(len(errors), 1)

    def _solved(self, field: BlendField, frames: list[int]) -> Float[Tensor, "unknowns"]:
        """The step that minimises the weighted sum of both costs, linearised around the present cameras."""
        c2w, lens = self.cameras.c2w.double(), lens_from_camera(self.cameras.camera)
        posed = self.information.frames
        place = torch.full((len(c2w),), -1)
        place[posed] = torch.arange(len(posed))
        flow = self.information.matrix
        matrix, gradient, cost = torch.zeros_like(flow), torch.zeros_like(flow[0]), 0.0
        for frame in frames:
            view = photometric_view(field, frame, lens, self.config.stride)
            found = photometric_equations(view, c2w, lens)
            at = unknowns_of(place[view.frames], len(posed))
            matrix[at[:, None], at] += found.matrix
            gradient[at] += found.gradient
            cost += found.cost
        weight = self.config.weight / max(2 * cost, 1e-12)
        gauge = gauge_directions(FlowState(c2w[posed], c2w.new_zeros(len(posed), 0), lens))
        gauge = gauge / gauge.norm(dim=0).clamp(min=1e-12)
        # Flow alone says how firmly the world is held, however much the pictures count.
        typical = strength(flow)
        whole = flow + weight * matrix + typical * (gauge @ gauge.T)
        whole += DAMPING * typical * torch.eye(len(flow), dtype=flow.dtype)
        if not self.config.lens:
            whole[-LENS_SIZE:, -LENS_SIZE:] += HELD * typical * torch.eye(LENS_SIZE, dtype=flow.dtype)
        return torch.linalg.solve(whole, -(flow @ self.moved) - weight * gradient)

    def _changed(self, change: Float[Tensor, "unknowns"]) -> EstimatedCameras:
        c2w = self.cameras.c2w.double().clone()
        posed = self.information.frames
        c2w[posed] = se3.orthonormalized(c2w[posed] @ se3.exp(change[:-LENS_SIZE].view(-1, POSE_SIZE)))
        camera = self.cameras.camera
        if self.config.lens:
            lens = lens_from_camera(camera) + change[-LENS_SIZE:]
            camera = camera_from_lens(lens, camera.width, camera.height)
        return replace(self.cameras, c2w=c2w, camera=camera)
