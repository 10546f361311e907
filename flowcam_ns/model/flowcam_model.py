"""The nerfstudio Model: a field over posed frames, its cameras and depths in the checkpoint, outputs for every tool."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn

from flowcam_ns.alignment.result import CameraInformation
from flowcam_ns.model.blend_field import BlendField, BlendFieldConfig
from flowcam_ns.model.blend_views import BlendViews
from flowcam_ns.model.camera_optimizer import EstimatedCameras, FlowCameraOptimizer, FlowCameraOptimizerConfig
from flowcam_ns.model.camera_types import can_render
from flowcam_ns.model.checkpoint import locate, read_checkpoint
from flowcam_ns.model.image_scores import ImageScores, nearest_frame_copy
from flowcam_ns.model.latent_views import LatentViews
from flowcam_ns.model.network_stage import NetworkStage, NetworkStageConfig
from flowcam_ns.model.refinement_config import JointRefinementConfig
from flowcam_ns.model.scene import TRUSTED, ContextScene
from flowcam_ns.model.scene_depth import SceneDepth
from flowcam_ns.model.view import View, ViewRenderer
from flowcam_ns.model.view_outputs import pose_of_rays, surface_outputs

if TYPE_CHECKING:
    from flowcam_ns.model.joint_refinement import JointRefinement, Refined

BAND_MARGIN = 12
"""Rows beyond a band that its pixels may depend on; even, because the image network halves its input."""

TINY_VIEW = 4096
"""Rays of views below which time goes mostly into what does not depend on their number."""


@dataclass
class FlowCamModelConfig(ModelConfig):
    """A field that renders views of a video from the video's own frames and the cameras that flow gave them."""

    _target: type = field(default_factory=lambda: FlowCamModel)
    """target class to instantiate"""
    views: Literal["blend", "latent"] = "blend"
    """What renders views. blend: the frames' own colours, by visibility. latent: the paper's field, which decodes them
    from the network's features (as coarse as these; --pipeline.model.network.long-side), through the solved cameras."""
    blend: BlendFieldConfig = field(default_factory=BlendFieldConfig)
    """The field where views are blended."""
    refinement: JointRefinementConfig = field(default_factory=JointRefinementConfig)
    """Poses and lens are refined while the field trains."""
    network: NetworkStageConfig = field(default_factory=NetworkStageConfig)
    """The paper's network, beside the field or in the place of the bundle adjustment."""
    checkpoint: Optional[Path] = None  # noqa: UP045
    """A trained network to start from (a file in the format of FlowCam's authors, or `small`, which is shipped): the
    bundle adjustment starts from its poses, and it is adapted to this video beside the field. Its own sizes replace
    `network.layers`."""
    camera_optimizer: FlowCameraOptimizerConfig = field(default_factory=FlowCameraOptimizerConfig)
    """Poses from flow."""
    enable_collider: bool = False
    """Near and far planes come from the solved depths, not from a collider."""
    eval_num_rays_per_chunk: int = 8192
    """Rays rendered at once outside of training."""

    @property
    def network_every(self) -> int:
        """Steps of the field to one of the network; 0 if it is not trained beside the field."""
        return self.network.steps_between(self.checkpoint is not None or self.views == "latent")

    @property
    def uses_network(self) -> bool:
        """Whether a run needs the network at all."""
        return self.network.paper or self.network_every > 0 or self.views == "latent"

    def adopt_checkpoint(self) -> None:
        """Take over what the checkpoint says of its network, so that config.yml holds it. Raises FlowCamError."""
        if self.checkpoint is not None:
            self.checkpoint = locate(self.checkpoint)
            trained = read_checkpoint(self.checkpoint)
            self.network.layers, self.network.long_side = trained.layers, trained.long_side


class FlowCamModel(Model):
    """Renders rays of one camera at a time from the frames of the clip."""

    config: FlowCamModelConfig

    def populate_modules(self) -> None:
        """Build the field and the buffers that the pose solve fills."""
        super().populate_modules()
        metadata: dict[str, Any] = self.kwargs["metadata"]
        frame_count: int = metadata["frame_count"]
        self.camera_optimizer: FlowCameraOptimizer = self.config.camera_optimizer.setup(
            num_cameras=frame_count, device=self.kwargs.get("device", "cpu")
        )
        self.scene_depth = SceneDepth(frame_count)
        self.field = BlendField(self.config.blend)
        self.network = NetworkStage(self.config.network) if self.config.uses_network else None
        self.views: ViewRenderer = BlendViews(self.field)
        if self.config.views == "latent" and self.network is not None:
            self.views = LatentViews(self.network, self.field)
        self.refinement: JointRefinement | None = None
        self.scores = ImageScores()
        self.view_speed: float | None = None
        """Rays per second of the last view that was not tiny."""

    def adopt(
        self,
        cameras: EstimatedCameras,
        inverse_depth: Float[Tensor, "frames h w"],
        confidence: Float[Tensor, "frames h w"],
        information: CameraInformation | None = None,
        foreign: Bool[Tensor, "frames small_h small_w"] | None = None,
    ) -> None:
        """Take solved cameras and dense depths; rendering works from here on, and refinement with `information`.

        Colours that are `foreign` to the scene go into no view.
        """
        self.camera_optimizer.set_cameras(cameras)
        self.scene_depth.set_depth(inverse_depth, confidence, foreign)
        self.rebuild_scene()
        if information is not None:
            from flowcam_ns.model.joint_refinement import JointRefinement

            self.refinement = JointRefinement(self.config.refinement, information, cameras)

    def refine_cameras(self, step: int) -> Refined | None:
        """A step of poses and lens, where one is due before this training step and flow's information is at hand."""
        if self.refinement is None or step not in self.config.refinement.steps:
            return None
        refined = self.refinement.step(self.field)
        self.camera_optimizer.set_cameras(refined.cameras)
        if self.network is not None:
            self.network.move_cameras(refined.cameras.c2w, refined.cameras.camera)
        return refined

    def rebuild_scene(self) -> None:
        """Hand the field its frames, from the buffers (after a solve or a checkpoint)."""
        frames, view = self.kwargs["metadata"]["frames"], self.kwargs["metadata"]["render_size"]
        self.field.set_scene(self.scene_of_size(*frames.own_size_within(self.config.blend.context_scale * max(view))))

    def scene_of_size(self, width: int, height: int) -> ContextScene:
        """The frames as a field reads them, resized to `width` x `height` px."""
        metadata: dict[str, Any] = self.kwargs["metadata"]
        estimated = self.camera_optimizer.cameras()
        inverse_depth, confidence = self.scene_depth.depth()
        usable = estimated.posed.clone()
        usable[list(metadata["held_out"])] = False
        masks = metadata["frames"].masks(width, height, self.scene_depth.foreign)
        return ContextScene(
            images=torch.from_numpy(metadata["frames"].images(width, height)),
            c2w=estimated.c2w,
            camera=estimated.camera.scaled_to(width, height),
            inverse_depth=inverse_depth,
            confidence=confidence,
            usable=usable,
            masks=None if masks is None else torch.from_numpy(masks),
        )

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The blend field's weights, the network's, or both: what is used; poses are solved, not descended."""
        groups = {"fields": list(self.field.parameters())} if self.config.views == "blend" else {}
        if self.network is not None:
            groups["network"] = list(self.network.parameters())
        return groups

    def get_outputs(self, ray_bundle: RayBundle | Cameras) -> dict[str, Tensor | list]:
        """Render a bundle of rays of one camera."""
        assert isinstance(ray_bundle, RayBundle)
        view = self._view_of(ray_bundle)
        return {**self._render(ray_bundle, view, self._plan(ray_bundle, view))}

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render the image of one camera; grey where cameras of its type cannot be rendered."""
        renderable = can_render(camera)
        bundle = camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)
        if not renderable:
            return self._blank(bundle)
        started = time.perf_counter()
        outputs = self.get_outputs_for_camera_ray_bundle(bundle)
        if len(bundle) >= TINY_VIEW and self.views.ready:
            self.view_speed = len(bundle) / max(time.perf_counter() - started, 1e-6)
        return outputs

    @torch.no_grad()
    def get_outputs_for_camera_ray_bundle(self, camera_ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Render an image of rays in bands; what the view is blended from is chosen once, so that no seams show."""
        device = camera_ray_bundle.origins.device
        height, width = camera_ray_bundle.origins.shape[:2]
        bundle = camera_ray_bundle.to(self.device)
        view = self._view_of(bundle)
        plan = self._plan(bundle, view)
        band = max(self.config.eval_num_rays_per_chunk // width // 2 * 2, 2)
        pieces: list[dict[str, Tensor]] = []
        for top in range(0, height, band):
            # The field's image network sees a few rows beyond the band, or bands would show.
            first, last = max(top - BAND_MARGIN, 0), min(top + band + BAND_MARGIN, height)
            rendered = self._render(bundle[first:last], view, plan)
            pieces.append({name: value[top - first :][:band] for name, value in rendered.items()})
        return {name: torch.cat([piece[name] for piece in pieces]).to(device) for name in pieces[0]}

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """Colour with alpha; exported points need an alpha over 0.5, so that depths nobody vouches for make none."""
        alpha = outputs["accumulation"] * (outputs["confidence"] * (0.5 / TRUSTED)).clamp(max=1)
        return torch.cat([outputs[output_name], alpha], dim=-1)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """PSNR of a batch of rays."""
        rgb, truth = _without_masked(outputs["rgb"].detach(), batch)
        error = (rgb - truth).square().mean()
        return {"psnr": -10 * torch.log10(error.clamp(min=1e-10))}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """What a rendered window of a frame is trained for; masked pixels count as right."""
        return self.views.losses(*_without_masked(outputs["rgb"], batch))

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Scores of a held-out frame, and those of simply showing the nearest frame in its place; masked pixels count
        as right in both.
        """
        rendered = outputs["rgb"].to(self.device)
        scored, truth = _without_masked(rendered, batch)
        scores = self.scores(scored, truth)
        scene = self.field.scene
        images = {"img": torch.cat([truth, rendered], dim=1)}
        if scene is not None:
            height, width = truth.shape[:2]
            copy = nearest_frame_copy(scene, int(batch["frame_index"]), (height, width)).to(truth)
            copied, _ = _without_masked(copy, batch)
            scores |= {f"nearest_{name}": value for name, value in self.scores(copied, truth).items()}
        for name in ("accumulation", "depth", "confidence"):
            shown = outputs[name] / outputs[name].max().clamp(min=1e-6) if name == "depth" else outputs[name]
            images[name] = shown.expand(*shown.shape[:-1], 3)
        images["flow"] = outputs["flow"]
        return scores, images

    def _view_of(self, bundle: RayBundle) -> View:
        """Pose and frame of the one camera that cast these rays."""
        frames = bundle.metadata.get("frame_index")
        origins, directions = bundle.origins, bundle.directions
        if frames is not None:
            frame = int(frames.flatten()[0])
            return View(self.camera_optimizer.c2w[frame].to(origins), frame)
        if directions.ndim == 2:
            directions, origins = directions[None], origins[None]
        return View(pose_of_rays(origins, directions), None)

    def _plan(self, bundle: RayBundle, view: View) -> Any:
        """What all rays of a view share, whatever pieces it is rendered in; None before anything can be rendered."""
        return self.views.plan(bundle.directions, view, self.training) if self.views.ready else None

    def _render(self, bundle: RayBundle, view: View, plan: Any) -> dict[str, Tensor]:
        if plan is None:
            return self._blank(bundle)
        outputs = self.views.render(bundle.origins, bundle.directions, view, plan)
        if not self.training:
            outputs |= self._geometry(bundle, view, outputs["depth"])
            # nerfstudio's TSDF fusion leaves out what has depth 0.
            outputs["trusted_depth"] = outputs["depth"] * (outputs["confidence"] >= TRUSTED)
        return outputs

    @torch.no_grad()
    def _geometry(self, bundle: RayBundle, view: View, depth: Float[Tensor, "rays 1"]) -> dict[str, Tensor]:
        """Flow to the nearest context frame (colour wheel) and normals (0..1) of what the rays hit."""
        assert self.field.scene is not None
        points = bundle.origins + bundle.directions * depth
        nearest, _ = self.field.contexts_of(view.pose[:3, 3], view.pose[:3, 2], 1, view.frame)
        outputs = surface_outputs(
            points.reshape(-1, 3), view.pose, self.field.scene, int(nearest[0]), self.field.depth_rays
        )
        return {name: value.reshape(points.shape) for name, value in outputs.items()}

    def _blank(self, bundle: RayBundle) -> dict[str, Tensor]:
        """What can be shown where nothing can be rendered, as before poses are known: the same outputs, grey."""
        grey = torch.full_like(bundle.directions, 0.5)
        zero = torch.zeros_like(grey[..., :1])
        outputs = {"rgb": grey, "depth": zero + 1, "accumulation": zero, "confidence": zero.clone()}
        if self.training:
            return outputs
        return outputs | {"trusted_depth": zero.clone()} | {n: grey.clone() for n in ("contexts", "flow", "normals")}


def _without_masked(rgb: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A rendering whose masked pixels show the truth, and the truth."""
    truth = batch["image"].to(rgb.device)
    return torch.where(batch["mask"].to(rgb.device), rgb, truth) if "mask" in batch else rgb, truth
