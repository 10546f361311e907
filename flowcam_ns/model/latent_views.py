"""Views as the paper renders them: colours and densities decoded from the features of the nearest frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from flowcam_ns.errors import FlowCamError
from flowcam_ns.geometry import se3
from flowcam_ns.geometry.precision import full_precision
from flowcam_ns.model.alignment_loss import scaled_poses
from flowcam_ns.model.blend_context import choose_contexts, frame_colours
from flowcam_ns.model.blend_field import BlendField
from flowcam_ns.model.network_stage import NetworkStage
from flowcam_ns.model.scene import ContextScene
from flowcam_ns.model.surfaces import ContextView, project
from flowcam_ns.model.view import View, ViewRenderer

RAYS_AT_ONCE = 8192
"""Bounds the memory of large views."""


@dataclass(frozen=True)
class LatentPlan:
    """What a camera's view is decoded from."""

    frames: Int[Tensor, "contexts"]
    prior: Float[Tensor, "contexts"]
    """How near they are to the view; sums to 1."""
    views: list[ContextView]


class LatentViews(ViewRenderer):
    """Renders rays with the pixel-aligned field of a network (which keeps the weights), through the solved cameras.

    The network sees the frames at its own size, and so do its views: they are as coarse as its features. Masks and the
    lens's distortion are left out.
    """

    def __init__(self, stage: NetworkStage, field: BlendField) -> None:
        """`field` is asked for its scene alone: where the cameras are, and which frames may be read."""
        self.stage = stage
        self.field = field

    @property
    def ready(self) -> bool:
        """Whether cameras are known and the network has its video."""
        return self.field.scene is not None and not self.stage.needs_video

    def contexts_of(self, view: View) -> tuple[Int[Tensor, "contexts"], Float[Tensor, "contexts"]]:
        """The nearest frames that the network sees and that are not held out; FlowCamError where there is none."""
        scene, taught, layers = self._scene, self.stage.taught(), self.stage.config.layers
        candidates = torch.zeros_like(scene.usable)
        part = slice(taught.start, taught.start + len(taught.video.frames))
        candidates[part] = scene.usable[part]
        if view.frame is not None:
            candidates[view.frame] = False
        if not bool(candidates.any()):
            raise FlowCamError("a view needs the features of at least one frame that is neither held out nor itself")
        pose = view.pose.float()
        typical = taught.scale / (layers.near * layers.far) ** 0.5
        c2w = scene.c2w.to(pose)
        return choose_contexts(
            pose[:3, 3], pose[:3, 2], c2w, candidates.to(pose.device), typical, layers.num_context_views
        )

    def plan(self, directions: Float[Tensor, "*rays 3"], view: View, training: bool) -> LatentPlan:
        """The view's contexts and their features."""
        frames, prior = self.contexts_of(view)
        taught = self.stage.taught()
        pose = view.pose.float().expand(len(frames), 4, 4)
        T_context_camera = scaled_poses(se3.between(self._scene.c2w.to(pose)[frames], pose), taught.scale)
        images, flow = taught.video.with_own_flow(frames - taught.start)
        K = taught.video.intrinsics.expand(len(frames), 3, 3)
        features = self.stage.network.encode_frames(images, flow, K)
        views = [
            ContextView(*parts) for parts in zip(features[:, None], T_context_camera[:, None], K[:, None], strict=True)
        ]
        return LatentPlan(frames, prior, views)

    def render(
        self, origins: Float[Tensor, "*rays 3"], directions: Float[Tensor, "*rays 3"], view: View, plan: LatentPlan
    ) -> dict[str, Float[Tensor, "*rays channels"]]:
        """Volume rendering; the confidence is the share of the contexts whose picture holds the surface."""
        rays = _in_camera(directions.reshape(-1, 3), view.pose.float())
        pieces = [rays] if torch.is_grad_enabled() else rays.split(RAYS_AT_ONCE)
        rendered = [self._render(piece, plan) for piece in pieces]
        outputs = {name: torch.cat([piece[name] for piece in rendered]) for name in rendered[0]}
        return {name: value.reshape(*directions.shape[:-1], -1) for name, value in outputs.items()}

    def losses(self, rgb: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> dict[str, Tensor]:
        """The paper's loss of a frame re-rendered from others: squared error of colour."""
        return {"rgb": self.stage.config.training.losses.rgb_weight * mse_loss(rgb, truth)}

    @property
    def _scene(self) -> ContextScene:
        assert self.field.scene is not None
        return self.field.scene

    def _render(self, rays: Float[Tensor, "rays 3"], plan: LatentPlan) -> dict[str, Tensor]:
        surfaces = self.stage.network.renderer.render_from_views(rays[None], plan.views)
        held = torch.cat([_holds(view, surfaces.points) for view in plan.views])
        shares = plan.prior[:, None] * held.to(plan.prior)
        outputs = {
            "rgb": surfaces.rgb[0],
            "depth": surfaces.depth[0] / self.stage.taught().scale,
            "accumulation": surfaces.accumulation[0],
            "confidence": shares.sum(0)[:, None],
        }
        if not torch.is_grad_enabled():
            outputs["rgb"] = outputs["rgb"].clamp(0, 1)
            outputs["contexts"] = shares.T @ frame_colours(plan.frames, len(self._scene)).to(shares)
        return outputs


@full_precision
def _in_camera(rays: Float[Tensor, "rays 3"], pose: Float[Tensor, "4 4"]) -> Float[Tensor, "rays 3"]:
    return rays @ pose[:3, :3]


@torch.no_grad()
def _holds(view: ContextView, points: Float[Tensor, "1 rays 3"]) -> Bool[Tensor, "1 rays"]:
    """Which points of the camera's frame lie in the picture of a context."""
    seen = se3.transform(view.T_context_camera[:, None], points)
    uv = project(seen, view.K)
    return ((uv > 0) & (uv < 1)).all(-1) & (seen[..., 2] > 0)
